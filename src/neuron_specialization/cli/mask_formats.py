"""Commands that read and write the reference implementation's masks and activations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import FILE, FOLDER, direction_list
from neuron_specialization.directions import Direction
from neuron_specialization.errors import MaskError
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_tensors import present_directions

directions_option = click.option(
    "--directions", callback=direction_list, help="E.g. en-de,de-en; default: all in the folder."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print what was read or written as JSON.")


@click.command("import-activations")
@click.option("--activations", "folder", type=FOLDER, required=True, help="Has <direction>/activations.pkl.")
@directions_option
@click.option("--output", type=FOLDER, required=True, help="Folder for <direction>.safetensors.")
@click.option(
    "--allow-unsafe-pickle",
    is_flag=True,
    help="Let the files run any code they hold: only if you trust their maker.",
)
@json_option
def import_activations(
    folder: Path, directions: list[str], output: Path, allow_unsafe_pickle: bool, as_json: bool
) -> None:
    """Read the reference's activation counts (activations.pkl)."""
    from neuron_specialization.formats.reference_masks import import_activations as read
    from neuron_specialization.storage.layer_tensors import write_layers

    names = directions or sorted(path.parent.name for path in folder.glob("*/activations.pkl"))
    if not names:
        raise MaskError("no <direction>/activations.pkl in the folder", where=folder)
    found: dict[str, Any] = {}
    for name in names:
        source = folder / name / "activations.pkl"
        layers = read(source, unsafe=allow_unsafe_pickle)
        metadata = {
            "direction": str(Direction.parse(name)),
            "imported_from_sha256": sha256_of(source),
            # upstream counts every position of its batches
            "padding": "counted",
        }
        write_layers(output / f"{name}.safetensors", layers, metadata)
        found[name] = {layer: int(counts.sum()) for layer, counts in layers.items()}
    _report(found, output, as_json)


@click.command("import-masks")
@click.option("--masks", "folder", type=FOLDER, required=True, help="The reference's: <direction>.pt.")
@directions_option
@click.option("--checkpoint", type=FILE, help="The model they are for: masks that do not fit are refused.")
@click.option("--packed", is_flag=True, help="One bit a neuron instead of one byte.")
@click.option("--output", type=FOLDER, required=True, help="Folder for <direction>.safetensors.")
@json_option
def import_masks(
    folder: Path, directions: list[str], checkpoint: Path | None, packed: bool, output: Path, as_json: bool
) -> None:
    """Read the reference's expanded masks ([d_ff, d] per layer)."""
    from neuron_specialization.formats.reference_masks import import_masks as read
    from neuron_specialization.storage.layer_masks import LayerMasks, check_shapes, write_masks

    shapes = _widths(checkpoint)[0] if checkpoint else None
    made: dict[str, LayerMasks] = {}
    for name in directions or present_directions(folder, ".pt"):
        source = folder / f"{name}.pt"
        layers, _ = read(source)
        metadata = {"direction": name, "method": "imported", "imported_from_sha256": sha256_of(source)}
        made[name] = LayerMasks(layers, metadata)
        shapes = shapes or made[name].shapes
        check_shapes(made[name].shapes, shapes, source)
    for name, masks in made.items():
        write_masks(output / f"{name}.safetensors", masks.layers, masks.metadata, packed=packed)
    _report({name: _rounded(masks.kept) for name, masks in made.items()}, output, as_json)


@click.command("export-masks")
@click.option("--masks", "folder", type=FOLDER, required=True, help="Ours: <direction>.safetensors.")
@directions_option
@click.option("--d-model", type=click.IntRange(min=1), help="Columns of fc1's weight …")
@click.option("--checkpoint", type=FILE, help="… or the model to take them from.")
@click.option("--output", type=FOLDER, required=True, help="Folder for <direction>.pt.")
@json_option
def export_masks(
    folder: Path,
    directions: list[str],
    d_model: int | None,
    checkpoint: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write masks as the reference does: bool[d_ff, d] per layer, one file a direction."""
    from neuron_specialization.formats.reference_masks import export_masks as write
    from neuron_specialization.storage.layer_masks import read_mask_folder

    shapes = None
    if checkpoint is not None and d_model is None:
        shapes, d_model = _widths(checkpoint)
    elif checkpoint is not None or d_model is None:
        raise click.UsageError("give either --d-model or --checkpoint")
    masks = read_mask_folder(folder, directions or present_directions(folder), shapes=shapes)
    for name, mask in masks.items():
        write(output / f"{name}.pt", mask.layers, d_model)
    _report({name: _rounded(mask.kept) for name, mask in masks.items()}, output, as_json)


def _widths(checkpoint: Path) -> tuple[dict[str, int], int]:
    """Layer name → d_ff, and d."""
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint

    model = load_checkpoint(checkpoint)
    return model.layer_widths, model.d_model


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {layer: round(share, 6) for layer, share in shares.items()}


def _report(found: dict[str, Any], output: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"output": str(output), "directions": found}, indent=2))
    else:
        click.echo(f"{output}: {len(found)} directions")
