"""Commands that print what is in a file: masks, activations, a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import EXISTING_FILE
from neuron_specialization.errors import first_few

_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group()
def inspect() -> None:
    """Print the essentials of a file of masks, of activations, or of a checkpoint."""


@inspect.command()
@click.argument("file", type=EXISTING_FILE)
@_json
def masks(file: Path, as_json: bool) -> None:
    """The masks of one direction: which method made them, how many neurons they keep."""
    from neuron_specialization.storage.layer_masks import read_masks

    found = read_masks(file)
    layers = {
        layer: {"neurons": width, "kept": found.neurons[layer], "share": found.kept[layer]}
        for layer, width in found.shapes.items()
    }
    neurons, kept = (sum(row[key] for row in layers.values()) for key in ("neurons", "kept"))
    total = {"neurons": neurons, "kept": kept, "share": kept / neurons}
    if as_json:
        _print_json({"file": str(file), "metadata": dict(found.metadata), "layers": layers, "all": total})
        return
    _print_facts(file, found.metadata)
    rows = [
        [layer, f"{row['neurons']:,}", f"{row['kept']:,}", f"{row['share']:.1%}"]
        for layer, row in [*layers.items(), ("all", total)]
    ]
    _print_table(["layer", "neurons", "kept", "share"], rows, total=True)


@inspect.command()
@click.argument("file", type=EXISTING_FILE)
@_json
def activations(file: Path, as_json: bool) -> None:
    """The counts of one direction: positions, dead neurons, how few neurons make up 95 % of the activity."""
    from neuron_specialization.activations.counts import read_activations
    from neuron_specialization.masks.selection import select

    layers, metadata = read_activations(file)
    positions = _positions(metadata)
    facts: dict[str, dict[str, Any]] = {}
    for layer, counts in layers.items():
        total = int(counts.sum())
        of_side = positions.get(layer.partition(".")[0])
        facts[layer] = {
            "neurons": int(counts.size),
            "never_active": int((counts == 0).sum()),
            "neurons_of_95_percent": int(select(counts, 95.0).sum()) if total else 0,
            "mean_rate": total / (counts.size * of_side) if of_side else None,
            "highest_rate": int(counts.max()) / of_side if of_side else None,
        }
    if as_json:
        _print_json({"file": str(file), "metadata": metadata, "layers": facts})
        return
    _print_facts(file, metadata)
    rows = [
        [
            layer,
            f"{row['neurons']:,}",
            f"{row['never_active']:,}",
            f"{row['neurons_of_95_percent']:,}",
            _share(row["mean_rate"]),
            _share(row["highest_rate"]),
        ]
        for layer, row in facts.items()
    ]
    _print_table(["layer", "neurons", "never active", "make up 95 %", "mean rate", "highest rate"], rows)


@inspect.command()
@click.argument("file", type=EXISTING_FILE)
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let the file run any code it holds.")
@_json
def checkpoint(file: Path, allow_unsafe_pickle: bool, as_json: bool) -> None:
    """A model: its shape, languages, directions, where it comes from. Nothing in the file is run."""
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint

    found = load_checkpoint(file, unsafe=allow_unsafe_pickle)
    facts = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "kind": found.kind,
        "parameters": found.parameter_count,
        "encoder_layers": found.encoder_layers,
        "decoder_layers": found.decoder_layers,
        "d_model": found.d_model,
        "d_ff": found.d_ff,
        "heads": found.heads,
        "vocabulary": found.vocabulary_size,
        "embeddings": found.embeddings,
        "updates": found.updates,
        "valid_loss": found.valid_loss,
        "languages": found.languages,
        "directions": found.directions,
        "masks": {direction: sorted(layers) for direction, layers in found.masks.items()},
        "mask_files": found.mask_files,
        "provenance": found.provenance,
    }
    if as_json:
        _print_json(facts)
        return
    shown = {
        **{key: facts[key] for key in ("kind", "bytes", "parameters")},
        "layers": f"{found.encoder_layers} encoder, {found.decoder_layers} decoder",
        **{key: facts[key] for key in ("d_model", "d_ff", "heads", "vocabulary", "embeddings")},
        **{key: facts[key] for key in ("updates", "valid_loss")},
        "languages": ", ".join(found.languages) or None,
        "directions": _listed(found.directions),
        "masks in the file": f"{len(found.masks)} directions" if found.masks else None,
        "masks in other files": f"{len(found.mask_files)} directions" if found.mask_files else None,
        **_provenance(found.provenance),
    }
    _print_facts(file, {key: value for key, value in shown.items() if value is not None})


def _provenance(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the model was made from, a line each; its whole recipe is in ``--json``."""
    shown: dict[str, Any] = {}
    for key, value in facts.items():
        if key == "recipe":
            shown["recipe"] = "see --json"
        elif isinstance(value, dict):
            shown |= {f"{key}: {name}": item for name, item in value.items()}
        else:
            shown[key] = value
    return shown


def _positions(metadata: Mapping[str, str]) -> dict[str, int]:
    """Side → positions, as far as the file tells."""
    try:
        found = json.loads(metadata.get("positions", "{}"))
        return {str(side): int(number) for side, number in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _listed(names: Sequence[str], limit: int = 24) -> str | None:
    return f"{len(names)}: {first_few(names, limit)}" if names else None


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 120
    return console


def _print_facts(file: Path, facts: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    # Text: what stands in a file is printed as it is, never as markup
    shown.add_row("file", Text(_printable(file)))
    for key, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        shown.add_row(Text(_printable(key)), Text(_printable(text)))
    _console().print(shown)


def _printable(value: Any) -> str:
    """Text without control characters, which a hostile file could steer a terminal with."""
    return "".join(c if c.isprintable() else "�" for c in str(value))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, total: bool = False) -> None:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        shown.add_column(name, justify="right" if place else "left", no_wrap=True)
    for place, row in enumerate(rows):
        if total and place == len(rows) - 1:
            shown.add_section()
        shown.add_row(*row, style="bold" if total and place == len(rows) - 1 else None)
    _console().print(shown)
