"""The command that tests whether one system is better than another."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from neuron_specialization.cli.options import PATH, detokenizer_option, groups_option, name_list, parse_groups
from neuron_specialization.directions import Direction
from neuron_specialization.evaluation.scoring import BOOTSTRAP_SEED, label
from neuron_specialization.evaluation.significance import Comparison, PairedFiles, Settings, enough
from neuron_specialization.evaluation.significance import compare as compare_systems
from neuron_specialization.storage.files import write_json


@click.command()
@click.argument("system")
@click.argument("control")
@click.option(
    "--translations",
    required=True,
    type=PATH,
    help="Holds SYSTEM/TESTSET/DIRECTION.txt of both.",
)
@click.option("--texts", required=True, type=PATH, help="Holds the references, PAIR.LANGUAGE.")
@click.option("--testset", required=True, help="That of the translations and the references.")
@groups_option
@click.option("--metrics", callback=name_list, default="bleu,chrf++", show_default=True)
@detokenizer_option("As in score.")
@click.option("--samples", default=1000, show_default=True, help="Bootstrap resamples.")
@click.option("--trials", default=10_000, show_default=True, help="Approximate randomisation trials.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the intervals.")
@click.option("--seed", default=BOOTSTRAP_SEED, show_default=True)
@click.option("--processes", type=click.IntRange(min=1), help="Directions at a time; default: all CPUs.")
@click.option("--output", type=PATH, help="Write the comparison as JSON.")
def compare(
    system: str,
    control: str,
    translations: Path,
    texts: Path,
    testset: str,
    groups: str,
    metrics: list[str],
    detokenizer: str,
    samples: int,
    trials: int,
    confidence: float,
    seed: int,
    processes: int | None,
    output: Path | None,
) -> None:
    """Test whether SYSTEM differs from CONTROL: paired bootstrap, paired approximate randomisation, Holm."""
    rows = parse_groups(groups)
    files = [
        PairedFiles(
            row.direction,
            translations / system / testset / f"{row.direction}.txt",
            translations / control / testset / f"{row.direction}.txt",
            texts / f"{Direction.parse(row.direction).pair}.{Direction.parse(row.direction).target}",
        )
        for row in rows
    ]
    settings = Settings(tuple(metrics), samples, trials, confidence, seed, detokenizer)
    for option, drawn in (("samples", samples), ("trials", trials)):
        needed = enough(drawn, len(rows))
        if needed > drawn:
            click.echo(
                f"warning: with --{option} {drawn} no direction can be significant: the smallest p-value is"
                f" {1 / (drawn + 1):.1g}, which Holm's correction multiplies by {len(rows)} directions;"
                f" --{option} {needed}",
                err=True,
            )
    with click.progressbar(length=len(files), label="comparing", file=sys.stderr) as bar:
        result = compare_systems(
            *(system, control, testset, files, rows, settings),
            processes=processes,
            progress=bar.update,
        )
    if output is not None:
        write_json(output, result.as_json())
    for metric, reason in result.skipped.items():
        click.echo(f"warning: not compared by {label(metric)}: {reason}", err=True)
    _print(result)


def _print(result: Comparison) -> None:
    from rich.console import Console

    from neuron_specialization.evaluation.table_text import print_comparison

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    print_comparison(console, result)
