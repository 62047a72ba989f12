"""A training step of a specialised model against the dense step of the same model on the same batches.

At the demonstration's size with its own masks, and at d 512, ffn 2048 with random masks that keep 70 %;
batches of one direction and mixed ones; and the reference's way: a mask of W1's shape multiplied into W1 at
every step. What leaving neurons out can save at most is what a dense model saves that has only as many as the
masks keep. A step is fairseq's Trainer.train_step: forward, backward, gradient norm, Adam.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
from trainer import ADAM, batches_of, demo_recipe, make_trainer

LARGE = {"d_model": 512, "d_ff": 2048, "heads": 8}
AIMS = {"d128": {"single-direction": 0.95, "mixed": 1.0}, "d512": {"single-direction": 0.85, "mixed": 0.9}}


def random_masks(folder: Path, directions: list[str], model: dict[str, Any], kept: float) -> Path:
    """Write masks that keep a share of the neurons, at random."""
    import numpy as np

    from neuron_specialization.masks.layer_masks import write_masks

    generator = np.random.default_rng(0)
    for direction in directions:
        layers = {
            f"{side}.layers.{index}": generator.permutation(model["d_ff"]) < kept * model["d_ff"]
            for side in ("encoder", "decoder")
            for index in range(model[f"{side}_layers"])
        }
        write_masks(folder / f"{direction}.safetensors", layers, {"direction": direction})
    return folder


def reference_ffn(masks: dict[tuple[int, int], Any]) -> Callable[..., Any]:
    """The FFN with the reference's weight mask, bool[d_ff, d], of each layer and direction."""
    from neuron_specialization.transformer.fused_ffn import Neurons, Part, fused_ffn

    def call(ffn: Any, layer: Any, x: Any) -> Any:
        fc1, fc2 = layer.fc1, layer.fc2
        key = (id(fc1), ffn.direction)
        if key not in masks:
            masks[key] = fc1.masks[ffn.direction].unsqueeze(1).expand_as(fc1.weight).clone()
        whole = [Part(0, x.numel() // x.shape[-1], Neurons(None, fc1.out_features, None))]
        return fused_ffn(
            x, fc1.weight * masks[key], fc1.bias, fc2.weight, fc2.bias, whole, bfloat16=ffn.bfloat16
        )

    return call


def measure(
    size: str, options: Any, scratch: Path, **training: Any
) -> tuple[list[common.Row], dict[str, Any], dict[str, list[common.Sample]]]:
    large = size == "d512"
    layers = {"encoder_layers": options.large_layers, "decoder_layers": options.large_layers}
    model = LARGE | layers if large else {}
    recipe = demo_recipe(options.demo, model=model, max_tokens=2048 if large else 1024, **(ADAM | training))
    if large:
        recipe = recipe.model_copy(update={"directions": recipe.directions[:4] + recipe.directions[9:13]})
        masks = random_masks(scratch / "masks", recipe.directions, model, 0.7)
    else:
        masks = options.masks or options.demo / "masks/k95"
    count = options.large_batches if large else options.batches
    ways: dict[str, Callable[[], common.Sample]] = {}
    details: dict[str, Any] = {
        "kept": shares_kept(masks),
        "batches": count,
        "size": recipe.model.model_dump(),
    }
    for batching in ("single-direction", "mixed"):
        specific = recipe.model_copy(
            update={"training": recipe.training.model_copy(update={"batching": batching})}
        )
        # the task offers reading masks; its own model is made with them, and one without
        masked = make_trainer(specific, options.demo / "binarized", scratch, masks)
        dense = make_trainer(specific, options.demo / "binarized", scratch)
        width = round(statistics.mean(details["kept"].values()) * specific.model.d_ff)
        narrow = make_trainer(
            specific.model_copy(update={"model": specific.model.model_copy(update={"d_ff": width})}),
            *(options.demo / "binarized", scratch),
        )
        batches = list(batches_of(masked, count))
        details[f"directions a batch, {batching}"] = round(
            sum(directions_in(masked.model, batch) for batch in batches) / len(batches), 1
        )

        def run(trainer: Any, batches: list[Any] = batches, patched: Any = None) -> common.Sample:
            from neuron_specialization.fairseq_plugin.feed_forward import FusedFfn

            original = FusedFfn.__call__
            try:
                if patched is not None:
                    FusedFfn.__call__ = patched  # type: ignore[method-assign]
                return common.timed(lambda: [trainer.train_step([batch]) for batch in batches])
            finally:
                FusedFfn.__call__ = original  # type: ignore[method-assign]

        ways[f"dense, {batching}"] = partial(run, dense)
        ways[f"specialised, {batching}"] = partial(run, masked)
        ways[f"narrower, {batching}"] = partial(run, narrow)
        if batching == "single-direction":
            ways["weight mask, single-direction"] = partial(run, masked, patched=reference_ffn({}))
    for way in ways.values():
        way()  # a round to warm up
    samples = common.interleave(ways, options.rounds)
    rows = []
    for name in ways:
        kind, batching = name.split(", ")
        if kind == "dense":
            continue
        cpu = [[s.cpu for s in samples[key]] for key in (name, f"dense, {batching}")]
        wall = [[s.wall for s in samples[key]] for key in (name, f"dense, {batching}")]
        found = common.ratio(*cpu)
        details[f"{name}: processor time"], details[f"{name}: wall time"] = found, common.ratio(*wall)
        aim = AIMS[size][batching] if kind == "specialised" else None
        what = {
            "specialised": "specialised step",
            "narrower": "… step of a dense model with only as many neurons",
            "weight mask": "reference's weight mask",
        }[kind]
        label = (
            f"d 512, ffn 2048, {options.large_layers} + {options.large_layers}, 70 % kept"
            if large
            else "d 128, ffn 512, the demo's masks"
        )
        precision = "" if recipe.training.products == "fp32" else ", bfloat16 products"
        rows.append(
            common.Row(
                f"{what} / dense step, {batching}, {label}{precision}",
                common.shown(found),
                f"≤ {aim:.2f}" if aim else "",
                found["median"] <= aim if aim else None,
            )
        )
    return rows, details, {f"{size}, {name}": taken for name, taken in samples.items()}


def shares_kept(folder: Path) -> dict[str, float]:
    """Mean share of neurons kept, a layer."""
    from neuron_specialization.masks.layer_masks import read_masks

    kept = [read_masks(path).kept for path in sorted(folder.glob("*.safetensors"))]
    return {name: round(sum(one[name] for one in kept) / len(kept), 3) for name in kept[0]}


def directions_in(model: Any, batch: dict[str, Any]) -> int:
    """How many directions a batch holds."""
    net = batch["net_input"]
    return len(set(model.directions_of(net["src_tokens"], net["prev_output_tokens"]).tolist()))


def main() -> None:
    parser = common.arguments(__doc__, demo=True)
    parser.add_argument("--masks", type=Path, help="folder of masks; default: the demonstration's k95")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--large-batches", type=int, default=3)
    parser.add_argument("--large-layers", type=int, default=6, help="of encoder and decoder, at d 512")
    parser.add_argument("--sizes", nargs="+", choices=list(AIMS), default=list(AIMS))
    parser.add_argument("--products", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    common.as_trainer(options.threads)
    for size in options.sizes:
        rows: list[common.Row] = []
        details: dict[str, Any] = {}
        samples: dict[str, list[common.Sample]] = {}
        for products in options.products if size == "d128" else ["fp32"]:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(size, options, Path(folder), products=products)
            rows += found[0]
            details[f"{size}, {products}"] = found[1]
            samples |= {f"{products}, {name}": taken for name, taken in found[2].items()}
        common.write_result(
            f"specialised_step_{size}", rows, details, threads=options.threads, samples=samples
        )


if __name__ == "__main__":
    main()
