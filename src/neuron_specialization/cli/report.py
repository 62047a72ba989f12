"""The command that writes the report page."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import EXISTING_FOLDER, PATH
from neuron_specialization.storage.files import atomic_text


@click.command()
@click.option(
    "--results",
    required=True,
    type=EXISTING_FOLDER,
    help="results/EXPERIMENT.",
)
@click.option("--config", "settings", required=True, help="The configuration: JSON, or a YAML file.")
@click.option(
    "--command",
    default="snakemake --cores all",
    show_default=True,
    envvar="NEURON_SPECIALIZATION_COMMAND",
    help="How the workflow is run, for the commands on the page.",
)
@click.option("--output", required=True, type=PATH, help="HTML file.")
def report(results: Path, settings: str, command: str, output: Path) -> None:
    """Write the report: one page with the answer, tables, figures and provenance, that loads nothing."""
    from neuron_specialization.config import Config, load_config, parse_spec
    from neuron_specialization.reporting.page import build_page

    as_json = settings.lstrip().startswith("{")
    config = parse_spec(Config, settings, "configuration") if as_json else load_config(settings)
    page = build_page(results, config, command)
    with atomic_text(output) as handle:
        handle.write(page)
    click.echo(f"written: {output} ({len(page.encode()) / 1e6:.1f} MB)")
