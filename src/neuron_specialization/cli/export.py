"""The export command: a checkpoint becomes model directories, a bundle, or checkpoints for fairseq."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from neuron_specialization.cli.options import PATH, direction_list

if TYPE_CHECKING:
    from neuron_specialization.export.bundle import Dtype
    from neuron_specialization.export.exportable import Reading
    from neuron_specialization.export.model_directory import InputFormat


@click.command()
@click.option(
    "--checkpoint", type=PATH, required=True, help="model.pt, or a checkpoint of fairseq or the reference."
)
@click.option(
    "--masks", type=PATH, help="Folder of <direction>.safetensors: the system is a specialised one."
)
@click.option("--vocabulary", type=PATH, required=True, help="Folder with spm.model and dict.txt.")
@click.option(
    "--directions",
    callback=direction_list,
    help="E.g. de-en,en-de [default: all the model was trained for].",
)
@click.option(
    "--format",
    "target",
    type=click.Choice(["ctranslate2", "bundle", "fairseq"]),
    default="ctranslate2",
    show_default=True,
    help="A model for each direction; all in one bundle; or a checkpoint for stock fairseq for each.",
)
@click.option(
    "--quantization",
    default="float32",
    show_default=True,
    help="How weights are stored: float32, int8, int16, float16, bfloat16, int8_float32, …;"
    " a bundle: float32 or float16.",
)
@click.option(
    "--input-format",
    type=click.Choice(["text", "pieces"]),
    default="text",
    show_default=True,
    help="pieces: without spm.model, for text that is segmented already.",
)
@click.option("--system", help="The system's name, recorded in the models [default: the checkpoint's].")
@click.option("--manifest", type=PATH, help="corpus/manifest.json: data and licence in the model card.")
@click.option("--scores", type=PATH, help="The system's folder of scores, for the model card.")
@click.option("--output", type=PATH, required=True, help="The system's folder of models, or the bundle.")
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let --checkpoint run code when it is loaded.")
def export(
    checkpoint: Path,
    masks: Path | None,
    vocabulary: Path,
    directions: list[str],
    target: str,
    quantization: str,
    input_format: InputFormat,
    system: str | None,
    manifest: Path | None,
    scores: Path | None,
    output: Path,
    allow_unsafe_pickle: bool,
) -> None:
    """Make models that need neither fairseq nor torch.

    With masks (--masks, or in the checkpoint) one for each direction, OUTPUT/<direction>, narrowed to its
    neurons without changing what it computes; without, one for all, OUTPUT/dense. --format bundle: one
    folder OUTPUT for all directions, their shared weights stored once.
    """
    if target == "fairseq" and quantization != "float32":
        raise click.UsageError("--format fairseq writes float32")
    if target == "bundle" and quantization not in ("float32", "float16"):
        raise click.UsageError(
            "--format bundle stores float32 or float16; translate --compute-type int8 computes with less"
        )
    reading: Reading = {
        "masks": masks,
        "directions": directions or None,
        "system": system,
        "input_format": input_format,
        "unsafe": allow_unsafe_pickle,
        "manifest": manifest,
        "scores": scores,
    }

    def progress(name: str) -> None:
        click.echo(f"exported {output if target == 'bundle' else output / name}")

    if target == "bundle":
        from neuron_specialization.export.bundle import write_bundle

        dtype = cast("Dtype", quantization)
        write_bundle(checkpoint, vocabulary, output, dtype=dtype, progress=progress, **reading)
    elif target == "fairseq":
        from neuron_specialization.export.fairseq_export import export_fairseq

        export_fairseq(checkpoint, vocabulary, output, progress=progress, **reading)
    else:
        from neuron_specialization.export.ctranslate2_export import export_system

        export_system(checkpoint, vocabulary, output, quantization=quantization, progress=progress, **reading)
