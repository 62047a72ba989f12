"""The command that looks at the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from neuron_specialization.cli.options import EXISTING_FOLDER, PATH

_SIGNS = {"ok": "ok", "advice": "note", "missing": "MISSING"}


@click.command()
@click.option("--config", type=PATH, help="A configuration to check. [config.yaml]")
@click.option(
    "--folder",
    type=EXISTING_FOLDER,
    default=Path(),
    help="Where results will go. [here]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(config: Path | None, folder: Path, as_json: bool) -> None:
    """Check Python, torch, fairseq, devices, memory, disk, SLURM and the configuration; say what to do.

    Exit status 1: something that is needed is missing.
    """
    from neuron_specialization import doctor as examination

    checks = examination.examine(config, folder)
    if as_json:
        click.echo(json.dumps(examination.as_json(checks), indent=2, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            found = check.found.replace("\n", "\n" + " " * (width + 10))
            click.echo(f"{_SIGNS[check.status]:7}  {check.name:{width}} {found}")
            if check.do:
                click.echo(" " * (width + 10) + f"→ {check.do}")
    if not examination.is_ready(checks):
        sys.exit(1)
