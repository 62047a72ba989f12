"""Commands of the method: count activations, select neurons, compare masks."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import FILE, FOLDER, direction_list, name_list
from neuron_specialization.cli.printing import print_kept, print_table
from neuron_specialization.errors import MaskError
from neuron_specialization.storage.files import sha256_of, write_json
from neuron_specialization.storage.layer_tensors import present_directions


@click.command()
@click.option("--checkpoint", type=FILE, required=True, help="The trained baseline (model.pt or fairseq's).")
@click.option("--data-bin", required=True, help="Binarised text; shards joined by ':'.")
@click.option(
    "--langs", callback=name_list, help="All languages in the model's order; default: the checkpoint's."
)
@click.option("--directions", callback=direction_list, help="E.g. en-de,de-en; default: the checkpoint's.")
@click.option("--split", default="valid", show_default=True, help="Which text.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Batch size, an upper bound.",
)
@click.option(
    "--count-padding", is_flag=True, help="Count padding positions too, as the reference does (float32)."
)
@click.option(
    "--precision",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="float64: counts independent of batches and machine. float32: quicker on most GPUs.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--output", type=FOLDER, required=True, help="Folder for <direction>.safetensors.")
@click.option(
    "--allow-unsafe-pickle",
    is_flag=True,
    help="Load a checkpoint that could run code; only if you trust its maker.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was counted as JSON.")
def activations(
    checkpoint: Path,
    data_bin: str,
    langs: list[str],
    directions: list[str],
    split: str,
    max_tokens: int,
    count_padding: bool,
    precision: Any,
    device: str,
    output: Path,
    allow_unsafe_pickle: bool,
    as_json: bool,
) -> None:
    """Count how often each neuron fires, for all directions in one process."""
    from neuron_specialization.activations.counting import count_activations
    from neuron_specialization.activations.counts import write_activations
    from neuron_specialization.activations.texts import open_texts
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint
    from neuron_specialization.training.devices import require_gpus

    started = time.monotonic()
    if device.partition(":")[0] == "cuda":
        require_gpus(1, who="counting", where="--device, which the workflow takes from the profile")
    model = load_checkpoint(checkpoint, unsafe=allow_unsafe_pickle)
    directions = directions or model.directions
    if not directions:
        raise MaskError(
            "the checkpoint names no directions", where=checkpoint, hint="give --directions en-de,de-en"
        )
    texts = open_texts(model, data_bin, directions, split=split, languages=langs)
    metadata = {
        "model_sha256": sha256_of(checkpoint),
        "split": split,
        "padding": "counted" if count_padding else "excluded",
        "precision": "float32" if count_padding else precision,
    }
    if count_padding:
        # without padding the counts do not depend on it, and equal counts should be equal files
        metadata["max_tokens"] = str(max_tokens)
    progress = Progress("activations", sum(sum(text.positions.values()) for text in texts))
    found: dict[str, Any] = {}
    for name, counts in count_activations(
        model,
        texts,
        max_tokens=max_tokens,
        count_padding=count_padding,
        precision=precision,
        device=device,
        on_batch=progress.advance,
    ):
        write_activations(output / f"{name}.safetensors", counts, {**metadata, "direction": name})
        found[name] = {
            "sentences": counts.sentences,
            "skipped": counts.skipped,
            "positions": dict(counts.positions),
            "active": {layer: int(vector.sum()) for layer, vector in counts.layers.items()},
        }
        counted = sum(counts.positions.values())
        progress.note(
            f"{name}: {counts.sentences:,} sentences, {counted:,} positions ({len(found)}/{len(texts)})"
        )
        if counts.skipped:
            why = "longer than the model's positions" + (
                " or in no batch of fairseq's" if count_padding else ""
            )
            click.echo(f"warning: {name}: {counts.skipped} sentences left out ({why})", err=True)
    if as_json:
        ordered = {name: found[name] for name in directions}
        report = {"output": str(output), "seconds": round(time.monotonic() - started, 3), **metadata}
        click.echo(json.dumps({**report, "directions": ordered}, indent=2))


@click.command()
@click.option("--activations", "activation_folder", type=FOLDER, help="Folder of activation counts.")
@click.option("--like", type=FOLDER, help="Folder of the masks that --spec names as like.")
@click.option(
    "--models", type=FOLDER, help="Folder of <direction>/model.pt, each fine-tuned on its direction."
)
@click.option("--spec", metavar="JSON", help="Selection, directions and seed (config.MaskSpec).")
@click.option("--k", type=float, help="Instead of --spec: percentage of all activations that is kept.")
@click.option(
    "--tie-break",
    type=click.Choice(["index", "torch-sort"]),
    help="With --k. Equal counts at the cut: the lower index (the default), or the reference's order.",
)
@click.option("--packed", is_flag=True, help="One bit a neuron instead of one byte.")
@click.option("--directions", callback=direction_list, help="With --k. Default: all in the folder.")
@click.option("--output", type=FOLDER, required=True, help="Folder for <direction>.safetensors.")
@click.option("--json", "as_json", is_flag=True, help="Print the shares kept as JSON.")
def masks(
    activation_folder: Path | None,
    like: Path | None,
    models: Path | None,
    spec: str | None,
    k: float | None,
    tie_break: Any,
    packed: bool,
    directions: list[str],
    output: Path,
    as_json: bool,
) -> None:
    """Select the neurons each direction keeps: by activity (--k), or as a configuration says (--spec)."""
    from neuron_specialization.config import MaskSpec, parse_spec
    from neuron_specialization.masks.making import Origins, make_masks
    from neuron_specialization.storage.layer_masks import write_masks

    if (spec is None) == (k is None):
        raise click.UsageError("give either --k or --spec")
    if spec is not None:
        if tie_break or directions:
            given = "--tie-break" if tie_break else "--directions"
            raise click.UsageError(f"{given} belongs to --k; a --spec says it itself")
        chosen = parse_spec(MaskSpec, spec)
    else:
        if activation_folder is None:
            raise click.UsageError("--k selects by activity: give --activations")
        values = {
            "selection": {"k": k, "tie_break": tie_break or "index"},
            "directions": directions or present_directions(activation_folder),
        }
        chosen = parse_spec(MaskSpec, json.dumps(values), "selection")
    results = make_masks(chosen, Origins(activation_folder, like, models))
    for name, result in results.items():
        write_masks(output / f"{name}.safetensors", result.layers, result.metadata, packed=packed)
    if as_json:
        shares = {
            name: {layer: round(x, 6) for layer, x in result.kept.items()} for name, result in results.items()
        }
        settings = chosen.selection.model_dump(exclude={"finetuning"})
        click.echo(json.dumps({"output": str(output), **settings, "kept": shares}, indent=2))
    else:
        print_kept(results)


@click.command()
@click.option("--masks", "mask_folder", type=FOLDER, required=True, help="Folder of masks.")
@click.option("--output", type=FILE, required=True, help="JSON file.")
@click.option("--directions", callback=direction_list, help="Default: all in the folder.")
@click.option("--pivot", help="Language the directions share; default: the one most of them have.")
@click.option(
    "--permutations",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Of the test of family structure; fewer where all arrangements are fewer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON too.")
def overlap(
    mask_folder: Path,
    output: Path,
    directions: list[str],
    pivot: str | None,
    permutations: int,
    as_json: bool,
) -> None:
    """Sparsity of the masks, their overlap (IoU) within and across branches, a test of family structure."""
    from neuron_specialization.masks.overlap import likely_pivot
    from neuron_specialization.masks.overlap import overlap as describe
    from neuron_specialization.storage.layer_masks import read_mask_folder

    names = directions or present_directions(mask_folder)
    found = read_mask_folder(mask_folder, names)
    result = describe(found, pivot or likely_pivot(names), permutations=permutations)
    write_json(output, result)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print_kept(found)
    for group, values in result["groups"].items():
        click.echo()
        within, across = values["within"], values["across"]
        rows = [
            [layer, _number(within["iou"][layer]), _number(across["iou"][layer])]
            for layer in result["neurons"]
        ]
        rows.append(["mean", _number(within["mean"]), _number(across["mean"])])
        header = [f"IoU {group}", f"within ({within['pairs']} pairs)", f"across ({across['pairs']} pairs)"]
        print_table(header, rows)
        test = values["structure"]["tests"]["all"]
        if test["p"] is not None:
            how = "all" if test["exact"] else f"seed {test['seed']},"
            click.echo(
                f"family structure: within − across {test['difference']:+.3f}, p = {test['p']:.4f} "
                f"({how} {test['arrangements']:,} arrangements of the branches)"
            )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


class Progress:
    """How far a stage is, on standard error: redrawn on a terminal outside CI, else a line every 10 s.

    Args:
        title: of the stage.
        total: units of work.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = self.shown = time.monotonic()
        self.live = sys.stderr.isatty() and not os.environ.get("CI")

    def advance(self, units: int) -> None:
        """Some more units are done."""
        self.done += units
        now = time.monotonic()
        if now - self.shown < (0.2 if self.live else 10):
            return
        self.shown = now
        speed = self.done / (now - self.started)
        left = (self.total - self.done) / speed
        line = f"{self.title}: {self.done / self.total:.0%}, {speed:,.0f} positions/s, {left:.0f} s left"
        click.echo(f"\r\x1b[K{line}" if self.live else line, err=True, nl=not self.live)

    def note(self, text: str) -> None:
        """Write a line that stays."""
        click.echo(("\r\x1b[K" if self.live else "") + f"{self.title}: {text}", err=True)
