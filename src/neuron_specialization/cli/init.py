"""The command that writes the workflow into a folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from neuron_specialization.cli.options import FOLDER


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--update",
    is_flag=True,
    help="Replace rules and docs of another version; configurations and profiles stay as they are.",
)
def init(folder: Path, update: bool) -> None:
    """Write the workflow into FOLDER: Snakefile, rules, configurations, profiles, docs. Run it there."""
    from neuron_specialization.workflow_files import write_workflow

    done = write_workflow(folder, update=update)
    click.echo(f"{folder}: {len(done.written)} files written, {len(done.kept)} kept")
    click.echo(
        f"next: cd {shlex.quote(str(folder))} && snakemake -n --cores all --configfile configs/smoke.yaml"
    )
