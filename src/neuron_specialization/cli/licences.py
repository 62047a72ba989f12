"""The command that lists licences."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import EXISTING_FILE, PATH
from neuron_specialization.storage.files import atomic_text


@click.command()
@click.option(
    "--lock",
    multiple=True,
    type=EXISTING_FILE,
    help="List what this requirements file pins; may be repeated. [all that is installed]",
)
@click.option("--output", type=PATH, help="Markdown file. [standard output]")
def licences(lock: tuple[Path, ...], output: Path | None) -> None:
    """List the licences of the installed packages, as they state them."""
    from neuron_specialization.licences import installed_licences, licence_page, pinned_packages

    wanted = {name for path in lock for name in pinned_packages(path.read_text(encoding="utf-8"))}
    page = licence_page(installed_licences(wanted if lock else None))
    if output is None:
        click.echo(page, nl=False)
        return
    with atomic_text(output) as handle:
        handle.write(page)
    click.echo(f"written: {output}")
