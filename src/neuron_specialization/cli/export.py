"""The export command: a checkpoint becomes model directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--checkpoint", type=PATH, required=True, help="model.pt, or a checkpoint of fairseq or the reference."
)
@click.option(
    "--masks", type=PATH, help="Folder of <direction>.safetensors: the system is a specialised one."
)
@click.option("--vocabulary", type=PATH, required=True, help="Folder with spm.model and dict.txt.")
@click.option("--directions", help="E.g. de-en,en-de [default: all the model was trained for].")
@click.option(
    "--quantization",
    default="float32",
    show_default=True,
    help="How weights are stored: float32, int8, int16, float16, bfloat16, int8_float32, …",
)
@click.option(
    "--input-format",
    type=click.Choice(["text", "pieces"]),
    default="text",
    show_default=True,
    help="pieces: without spm.model, for text that is segmented already.",
)
@click.option("--system", help="The system's name, recorded in the models [default: the checkpoint's].")
@click.option("--output", type=PATH, required=True, help="The system's folder of models.")
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let --checkpoint run code when it is loaded.")
def export(
    checkpoint: Path,
    masks: Path | None,
    vocabulary: Path,
    directions: str | None,
    quantization: str,
    input_format: Any,
    system: str | None,
    output: Path,
    allow_unsafe_pickle: bool,
) -> None:
    """Make CTranslate2 models that need neither fairseq nor torch.

    With --masks one for each direction, OUTPUT/<direction>, narrowed to its neurons without changing what
    it computes; without, one for all, OUTPUT/dense.
    """
    from neuron_specialization.export import export_system

    export_system(
        checkpoint,
        vocabulary,
        output,
        masks=masks,
        directions=[name.strip() for name in directions.split(",")] if directions else None,
        quantization=quantization,
        system=system,
        input_format=input_format,
        unsafe=allow_unsafe_pickle,
        progress=lambda name: click.echo(f"exported {output / name}"),
    )
