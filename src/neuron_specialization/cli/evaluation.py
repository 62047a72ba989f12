"""The command that puts scores and comparisons into tables."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.storage.files import atomic_text, write_json


@click.command()
@click.option(
    "--tables",
    required=True,
    type=click.Path(path_type=Path),
    help="Holds scores.csv and summary.csv, as the command tables writes them.",
)
@click.option(
    "--comparison",
    "comparisons",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Of two systems, as compare writes it; may be given several times, the main one first.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for the tables.")
def evaluation_tables(tables: Path, comparisons: tuple[Path, ...], output: Path) -> None:
    """Make evaluation.csv, .json, .md and .tex: scores, differences, intervals, significance."""
    from neuron_specialization.evaluation.significance import read_comparison
    from neuron_specialization.reporting.scores import read_evaluation, score_tables
    from neuron_specialization.reporting.table import to_csv, to_json, to_latex, to_markdown

    made = score_tables(read_evaluation(tables, [read_comparison(path) for path in comparisons]))
    for suffix, render in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        with atomic_text(output / f"evaluation.{suffix}") as handle:
            handle.write(render(made))
    write_json(output / "evaluation.json", to_json(made))
    click.echo(f"written: {output}/evaluation.csv, .json, .md, .tex")
