"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from neuron_specialization.storage.layer_masks import LayerMasks


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns aligned: the first to the left, numbers to the right."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        click.echo("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def print_kept(results: Mapping[str, LayerMasks]) -> None:
    """Print the share of neurons each direction keeps, per layer."""
    layers = list(next(iter(results.values())).layers)
    short = [layer.replace("coder.layers.", "c") for layer in layers]
    rows = []
    for name, result in results.items():
        kept = result.kept
        mean = sum(kept.values()) / len(kept)
        rows.append([name, *(f"{kept[layer]:.3f}" for layer in layers), f"{mean:.3f}"])
    print_table(["neurons kept", *short, "mean"], rows)
