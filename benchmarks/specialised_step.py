"""A training step of a specialised model against the dense step of the same model on the same batches.

Of three models: a small one of the shape that the aims were set for, with masks of its own, which the
workflow makes first (some minutes); the demonstration's, with its masks; and a larger one with random masks
that keep 70 %. Batches of one direction and mixed ones; and the reference's way: a mask of W1's shape
multiplied into W1 at every step. What leaving neurons out can save at most is what a dense model saves that
has only as many as the masks keep. A step is fairseq's Trainer.train_step: forward, backward, gradient norm,
Adam.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
from trainer import ADAM, batches_of, demo_recipe, experiment, make_trainer

from neuron_specialization.config import Recipe


@dataclass(frozen=True)
class Size:
    """A model to measure.

    Attributes:
        label: how the table names it; in braces the model's settings.
        max_tokens: padded tokens of a batch.
        products: precisions measured.
        aims: batching → the ratio aimed at.
        model: settings that differ from the demonstration's.
        changes: settings of an experiment made for it, YAML; none: the demonstration's data and masks.
        kept: with random masks, the share of neurons they keep.
    """

    label: str
    max_tokens: int
    products: Sequence[str]
    aims: dict[str, float]
    model: dict[str, int] | None = None
    changes: str | None = None
    kept: float | None = None


SMALL_AIMS = {"single-direction": 0.95, "mixed": 1.0}
SIZES = {
    "d128": Size(
        "d {d_model}, ffn {d_ff}, {encoder_layers} + {decoder_layers}, 4,000 pieces, its own masks",
        max_tokens=2048,
        products=("fp32", "bf16"),
        aims=SMALL_AIMS,
        changes="vocabulary: {size: 4000}\nmodel: {encoder_layers: 3, decoder_layers: 3}\n",
    ),
    "demo": Size(
        "d {d_model}, ffn {d_ff}, the demo's {encoder_layers} + {decoder_layers}, 8,000 pieces and masks",
        max_tokens=1024,
        products=("fp32", "bf16"),
        aims=SMALL_AIMS,
    ),
    "d512": Size(
        "d {d_model}, ffn {d_ff}, {encoder_layers} + {decoder_layers}, 70 % kept",
        max_tokens=2048,
        products=("fp32",),
        aims={"single-direction": 0.85, "mixed": 0.9},
        model={"d_model": 512, "d_ff": 2048, "heads": 8, "encoder_layers": 6, "decoder_layers": 6},
        kept=0.7,
    ),
}
KINDS = {
    "specialised": "specialised step",
    "narrower": "… step of a dense model with only as many neurons",
    "weight mask": "reference's weight mask",
}


@dataclass(frozen=True)
class Setting:
    """What a size is measured with: the recipe, its binarised text, and the masks' folder."""

    recipe: Recipe
    data_bin: Path
    masks: Path


def random_masks(folder: Path, directions: list[str], model: dict[str, Any], kept: float) -> Path:
    """Write masks that keep a share of the neurons, at random."""
    import numpy as np

    from neuron_specialization.storage.layer_masks import write_masks

    generator = np.random.default_rng(0)
    for direction in directions:
        layers = {
            f"{side}.layers.{index}": generator.permutation(model["d_ff"]) < kept * model["d_ff"]
            for side in ("encoder", "decoder")
            for index in range(model[f"{side}_layers"])
        }
        write_masks(folder / f"{direction}.safetensors", layers, {"direction": direction})
    return folder


def setting(name: str, size: Size, options: Any, products: str, scratch: Path) -> Setting:
    """Make what a size is measured with, as far as it is not there."""
    folder: Path = options.demo
    if size.changes is not None:
        folder = experiment(f"specialised_step_{name}", size.changes, "masks", options.cores, scratch)
    given = ADAM | {"products": products}
    recipe = demo_recipe(folder, model=size.model, max_tokens=size.max_tokens, **given)
    masks = folder / "masks/k95"
    if size.kept is not None:
        # four from English and four into it, as there are in a batch of this size
        recipe = recipe.model_copy(update={"directions": recipe.directions[:4] + recipe.directions[9:13]})
        masks = random_masks(scratch / "masks", recipe.directions, recipe.model.model_dump(), size.kept)
    return Setting(recipe, folder / "binarized", masks)


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


def steps(trainer: Any, batches: list[Any]) -> common.Sample:
    """Time a training step on each batch."""
    return common.timed(lambda: [trainer.train_step([batch]) for batch in batches])


def dense_steps(trainer: Any, batches: list[Any]) -> common.Sample:
    """The same without the masks, of the very same model in the same memory."""
    model = trainer.model
    directions, model.mask_directions = model.mask_directions, []
    masks = {fc1: fc1.masks for fc1 in model.masked_layers().values()}
    try:
        for fc1 in masks:
            fc1.masks = None
        return steps(trainer, batches)
    finally:
        model.mask_directions = directions
        for fc1, mask in masks.items():
            fc1.masks = mask


def patched_steps(trainer: Any, batches: list[Any], ffn: Any) -> common.Sample:
    """The same with another FFN in the place of the fused one."""
    from neuron_specialization.fairseq_plugin.feed_forward import FusedFfn

    original = FusedFfn.__call__
    try:
        FusedFfn.__call__ = ffn  # type: ignore[method-assign]
        return steps(trainer, batches)
    finally:
        FusedFfn.__call__ = original  # type: ignore[method-assign]


def ways_of(
    found: Setting, batching: str, count: int, scratch: Path
) -> tuple[dict[str, Callable[[], common.Sample]], float]:
    """The ways to make the steps of a batching, and the directions a batch has on average."""
    training = found.recipe.training.model_copy(update={"batching": batching})
    recipe = found.recipe.model_copy(update={"training": training})
    masked = make_trainer(recipe, found.data_bin, scratch, found.masks)
    width = round(statistics.mean(shares_kept(found.masks).values()) * recipe.model.d_ff)
    narrow_model = recipe.model.model_copy(update={"d_ff": width})
    narrow = make_trainer(recipe.model_copy(update={"model": narrow_model}), found.data_bin, scratch)
    batches = list(batches_of(masked, count))
    ways: dict[str, Callable[[], common.Sample]] = {
        f"dense, {batching}": partial(dense_steps, masked, batches),
        f"specialised, {batching}": partial(steps, masked, batches),
        f"narrower, {batching}": partial(steps, narrow, batches),
    }
    if batching == "single-direction":
        ways[f"weight mask, {batching}"] = partial(patched_steps, masked, batches, reference_ffn({}))
    return ways, sum(directions_in(masked.model, batch) for batch in batches) / len(batches)


def measure(
    name: str, options: Any, products: str, scratch: Path
) -> tuple[list[common.Row], dict[str, Any], dict[str, list[common.Sample]]]:
    """Measure a size at one precision: rows of the table, details, and all timings."""
    size = SIZES[name]
    found = setting(name, size, options, products, scratch)
    count = options.large_batches if size.kept is not None else options.batches
    ways: dict[str, Callable[[], common.Sample]] = {}
    details: dict[str, Any] = {
        "kept": shares_kept(found.masks),
        "batches": count,
        "size": found.recipe.model.model_dump(),
    }
    for batching in size.aims:
        these, directions = ways_of(found, batching, count, scratch)
        ways |= these
        details[f"directions a batch, {batching}"] = round(directions, 1)
    for way in ways.values():
        way()  # a round to warm up
    samples = common.interleave(ways, options.rounds)
    label = size.label.format(**details["size"])
    rows = []
    for way_name in ways:
        kind, batching = way_name.split(", ")
        if kind == "dense":
            continue
        both = (way_name, f"dense, {batching}")
        ratio = common.ratio(*([sample.cpu for sample in samples[key]] for key in both))
        details[f"{way_name}: processor time"] = ratio
        details[f"{way_name}: wall time"] = common.ratio(
            *([one.wall for one in samples[key]] for key in both)
        )
        aim = size.aims[batching] if kind == "specialised" else None
        precision = "" if products == "fp32" else ", bfloat16 products"
        rows.append(
            common.Row(
                f"{KINDS[kind]} / dense step, {batching}, {label}{precision}",
                common.shown(ratio),
                f"≤ {aim:.2f}" if aim else "",
                ratio["median"] <= aim if aim else None,
            )
        )
    return rows, details, samples


def shares_kept(folder: Path) -> dict[str, float]:
    """Mean share of neurons kept, a layer."""
    from neuron_specialization.storage.layer_masks import read_masks

    kept = [read_masks(path).kept for path in sorted(folder.glob("*.safetensors"))]
    return {name: round(sum(one[name] for one in kept) / len(kept), 3) for name in kept[0]}


def directions_in(model: Any, batch: dict[str, Any]) -> int:
    """How many directions a batch holds."""
    net = batch["net_input"]
    return len(set(model.directions_of(net["src_tokens"], net["prev_output_tokens"]).tolist()))


def main() -> None:
    parser = common.arguments(__doc__, demo=True)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--large-batches", type=int, default=3, help="at d 512")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--cores", type=int, default=2, help="of the training that d128 needs first")
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    common.as_trainer(options.threads)
    for name in options.sizes:
        rows: list[common.Row] = []
        details: dict[str, Any] = {}
        samples: dict[str, list[common.Sample]] = {}
        for products in SIZES[name].products:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, options, products, Path(folder))
            rows += found[0]
            details[f"{name}, {products}"] = found[1]
            samples |= {f"{products}, {way}": taken for way, taken in found[2].items()}
        common.write_result(
            f"specialised_step_{name}", rows, details, threads=options.threads, samples=samples
        )


if __name__ == "__main__":
    main()
