"""The ``train`` command."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Literal

import click

from neuron_specialization.cli.options import PATH
from neuron_specialization.errors import FileError


@click.command()
@click.option(
    "--recipe", "recipe_json", required=True, metavar="JSON", help="What is trained (config.Recipe)."
)
@click.option("--data-bin", type=PATH, required=True, help="Binarised data.")
@click.option("--init", type=PATH, help="The model.pt to go on from.")
@click.option("--masks", type=PATH, help="Folder of <direction>.safetensors.")
@click.option("--output", type=PATH, required=True, help="The system's folder.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="0 trains on the CPU.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads a process."
)
@click.option(
    "--launcher",
    type=click.Choice(["spawn", "srun"]),
    default="spawn",
    show_default=True,
    help="srun: SLURM starts the processes, on the nodes of the job this runs in.",
)
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes that share the GPUs."
)
@click.option("--trainer", metavar="COMMAND", help="Take this instead of fairseq-train (same arguments).")
@click.option(
    "--discard-unfinished", is_flag=True, help="Delete unfinished runs that were started with other settings."
)
@click.option(
    "--discard-checkpoints", is_flag=True, help="Delete the live checkpoints once the model is published."
)
def train(
    recipe_json: str,
    data_bin: Path,
    init: Path | None,
    masks: Path | None,
    output: Path,
    gpus: int,
    threads: int,
    launcher: Literal["spawn", "srun"],
    nodes: int,
    trainer: str | None,
    discard_unfinished: bool,
    discard_checkpoints: bool,
) -> None:
    """Train one system to its end; resume it if it was interrupted.

    Writes model.pt (the best checkpoint), model.json and metrics.jsonl. Live checkpoints are kept in
    checkpoints/<fingerprint>/, beside the trainer's full log.
    """
    from neuron_specialization.config import parse_recipe
    from neuron_specialization.training.arguments import DEFAULT_TRAINER, Resources
    from neuron_specialization.training.train import train as run

    try:
        facts = run(
            parse_recipe(recipe_json),
            data_bin,
            output,
            init=init,
            masks=masks,
            resources=Resources(gpus=gpus, threads=threads, nodes=nodes, launcher=launcher),
            trainer=shlex.split(trainer) if trainer else DEFAULT_TRAINER,
            stream=sys.stderr,
            discard_unfinished=discard_unfinished,
        )
    except OSError as error:
        # here, so that a broken pipe to the trainer is not taken for a reader of ours that went away
        error.filename = error.filename or str(output)
        raise FileError.of(error) from None
    if discard_checkpoints:
        shutil.rmtree(output / "checkpoints")
    loss = facts["valid_loss"]
    click.echo(
        f"{output / 'model.pt'}: best of {facts['updates']:,} updates"
        + (f", validation loss {loss:.3f}" if loss is not None else "")
        + f", {facts['parameters']:,} parameters"
    )
