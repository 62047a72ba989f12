"""Commands that make tables: of scores, and of scores with their comparisons."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import PATH, first_seed_option, groups_option, name_list, parse_groups
from neuron_specialization.errors import ConfigError
from neuron_specialization.evaluation.means import summarise, summarise_directions
from neuron_specialization.evaluation.table_files import (
    write_directions_csv,
    write_scores_csv,
    write_summary_csv,
)
from neuron_specialization.evaluation.tables import read_scores
from neuron_specialization.storage.files import atomic_text, write_json


@click.command()
@click.option(
    "--scores",
    required=True,
    multiple=True,
    type=PATH,
    help="Holds SYSTEM/TESTSET/DIRECTION.json; given several times, their metrics are put together.",
)
@groups_option
@click.option("--systems", callback=name_list, help="Which, in this order; default: all that are there.")
@click.option("--testsets", callback=name_list, help="Which, in this order; default: all that are there.")
@click.option(
    "--controls", callback=name_list, help="Systems to give differences to; default: continued and baseline."
)
@click.option(
    "--missing",
    type=click.Choice(["error", "show"]),
    default="error",
    show_default=True,
    help="Refuse missing scores, or show them as gaps.",
)
@first_seed_option
@click.option(
    "--released",
    callback=name_list,
    help="Systems that were not trained here: their one run stands for every seed.",
)
@click.option("--output", required=True, type=PATH, help="Folder for the tables.")
def tables(
    scores: tuple[Path, ...],
    groups: str,
    systems: list[str],
    testsets: list[str],
    controls: list[str],
    missing: str,
    seed: int | None,
    released: list[str],
    output: Path,
) -> None:
    """Make scores.csv, directions.csv, summary.csv and summary.md of all scores, and print the table."""
    from rich.console import Console

    from neuron_specialization.evaluation.table_text import print_tables, write_summary_markdown

    table = read_scores(
        scores,
        parse_groups(groups),
        systems=systems or None,
        testsets=testsets or None,
        allow_missing=missing == "show",
        seed=seed,
        released=released,
    )
    chosen = controls or None
    unknown = sorted(set(controls) - set(table.systems))
    if unknown:
        raise ConfigError(f"--controls: no system is called {', '.join(unknown)}")
    means, by_direction = summarise(table, chosen), summarise_directions(table, chosen)
    write_scores_csv(output / "scores.csv", table)
    write_directions_csv(output / "directions.csv", by_direction)
    write_summary_csv(output / "summary.csv", means)
    write_summary_markdown(output / "summary.md", table, means)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100  # a log is read in terminals of any width: metrics one below the other
    print_tables(console, table, means, by_direction)
    click.echo(f"written: {output}/scores.csv, directions.csv, summary.csv, summary.md")


@click.command()
@click.option(
    "--tables",
    required=True,
    type=PATH,
    help="Holds scores.csv and summary.csv, as the command tables writes them.",
)
@click.option(
    "--comparison",
    "comparisons",
    type=PATH,
    multiple=True,
    help="Of two systems, as compare writes it; may be given several times, the main one first.",
)
@click.option("--output", required=True, type=PATH, help="Folder for the tables.")
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
