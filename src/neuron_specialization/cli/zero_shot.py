"""Commands for zero-shot directions: masks and test text, put together from those with the pivot."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import FOLDER, direction_list
from neuron_specialization.cli.printing import print_kept
from neuron_specialization.directions import Direction

directions_option = click.option(
    "--directions", callback=direction_list, required=True, help="Zero-shot ones, e.g. de-es,es-de."
)
pivot_option = click.option("--pivot", default="en", show_default=True, help="Between the two languages.")


@click.command("compose-masks")
@click.option("--masks", "folder", type=FOLDER, required=True, help="Holds the masks with the pivot.")
@directions_option
@pivot_option
@click.option("--packed", is_flag=True, help="One bit a neuron instead of one byte.")
@click.option("--output", type=FOLDER, help="Folder for <direction>.safetensors; default: that of --masks.")
def compose_masks(folder: Path, directions: list[str], pivot: str, packed: bool, output: Path | None) -> None:
    """Put masks together: encoder part of <src>-<pivot>, decoder part of <pivot>-<tgt>.

    Takes masks of any method, and those of the reference.
    """
    from neuron_specialization.masks.zero_shot import compose_zero_shot
    from neuron_specialization.storage.layer_masks import write_masks

    made = compose_zero_shot(folder, directions, pivot)
    for name, mask in made.items():
        path = (output or folder) / f"{name}.safetensors"
        write_masks(path, mask.layers, mask.metadata, packed=packed)
    print_kept(made)


@click.command("pair-by-pivot")
@click.option(
    "--texts", "folder", type=FOLDER, required=True, help="Holds PAIR.LANGUAGE; gets those of --directions."
)
@directions_option
@pivot_option
def pair_by_pivot(folder: Path, directions: list[str], pivot: str) -> None:
    """Put test text of zero-shot directions together from that of the pairs with the pivot.

    Refused where the pivot's text of two languages differs: the test set is not parallel over languages.
    """
    from neuron_specialization.corpora.zero_shot import pair_by_pivot as put_together

    pairs = list(dict.fromkeys(Direction.parse(name).pair for name in directions))
    put_together(folder, pairs, pivot)
    click.echo(f"{folder}: {', '.join(pairs)}")
