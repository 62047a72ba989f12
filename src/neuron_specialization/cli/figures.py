"""The command that draws figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import PATH, json_list, name_list, parse_groups
from neuron_specialization.errors import ConfigError, MaskError
from neuron_specialization.storage.files import read_json


@click.command()
@click.option("--training", type=PATH, help="Holds SYSTEM/metrics.jsonl: training curves.")
@click.option(
    "--systems", callback=name_list, help="Whose curves, in this order; default: all that are there."
)
@click.option(
    "--overlap",
    "overlaps",
    type=PATH,
    multiple=True,
    help="SELECTION/overlap.json: sparsity and overlap of the masks; may be given several times.",
)
@click.option(
    "--activity",
    type=PATH,
    help="SELECTION/overlap.json, with --activations: the activity behind the masks, and where they cut.",
)
@click.option(
    "--activations",
    type=PATH,
    help="Holds DIRECTION.safetensors, the counts.",
)
@click.option(
    "--comparison",
    "comparisons",
    type=PATH,
    multiple=True,
    help="Of two systems, as compare writes it: differences by direction; may be given several times.",
)
@click.option("--groups", help="With --comparison: every direction with its group, tier and branch.")
@click.option(
    "--sweep",
    help='Scores against k: [{"system": …, "k": …, "overlap": FILE, "comparisons": [FILE, …]}, …].',
)
@click.option("--perplexity", type=PATH, help="perplexity.csv: by direction, over training.")
@click.option("--output", required=True, type=PATH, help="Folder for the figures.")
def figures(
    training: Path | None,
    systems: list[str],
    overlaps: tuple[Path, ...],
    activity: Path | None,
    activations: Path | None,
    comparisons: tuple[Path, ...],
    groups: str | None,
    sweep: str | None,
    perplexity: Path | None,
    output: Path,
) -> None:
    """Draw training curves, mask analyses and score differences, each as SVG and PNG."""
    if not (training or overlaps or activity or comparisons or sweep or perplexity):
        raise click.UsageError(
            "give --training, --overlap, --activity, --comparison, --sweep or --perplexity"
        )
    if (activity is None) != (activations is None):
        raise click.UsageError("--activity and --activations go together")
    if comparisons and groups is None:
        raise click.UsageError("--comparison needs --groups")
    written = []
    if training is not None:
        from neuron_specialization.figures.training import plot_training
        from neuron_specialization.training.curves import read_runs

        written += plot_training(read_runs(training, systems or None), output)
    for path in overlaps:
        written += _mask_figures(path, output)
    if activity is not None and activations is not None:
        from neuron_specialization.figures.activity import plot_activity, plot_neurons, read_rates

        overlap, selection = read_json(activity), activity.resolve().parent.name
        rates = read_rates(activations, list(overlap["directions"]))
        written += plot_activity(rates, overlap, selection, output)
        written += plot_neurons(rates, overlap, selection, output)
    if comparisons and groups is not None:
        from neuron_specialization.evaluation.significance import read_comparison
        from neuron_specialization.figures.scores import plot_deltas

        for path in comparisons:
            written += plot_deltas(read_comparison(path), parse_groups(groups), output)
    if sweep is not None:
        from neuron_specialization.figures.scores import plot_sweep

        written += plot_sweep(_sweep_points(sweep), output)
    if perplexity is not None:
        from neuron_specialization.figures.perplexity import plot_perplexity

        written += plot_perplexity(perplexity, output)
    for path in written:
        click.echo(path)


def _mask_figures(path: Path, output: Path) -> list[Path]:
    from neuron_specialization.figures.masks import plot_masks
    from neuron_specialization.figures.structure import plot_clusters, plot_sharing

    overlap, selection = read_json(path), path.resolve().parent.name
    written = plot_masks(overlap, selection, output)
    if "structure" not in next(iter(overlap["groups"].values())):
        raise MaskError(
            "the overlap file is of an older version: it has no test of family structure",
            where=path,
            hint=f"make it again: neuron-specialization overlap --masks {path.parent} --output {path}",
        )
    return written + plot_clusters(overlap, selection, output) + plot_sharing(overlap, selection, output)


def _sweep_points(text: str) -> list[Any]:
    from neuron_specialization.evaluation.significance import read_comparison
    from neuron_specialization.figures.scores import SweepPoint

    try:
        return [
            SweepPoint(
                row["system"],
                float(row["k"]),
                read_json(row["overlap"]),
                [read_comparison(path) for path in row["comparisons"]],
            )
            for row in json_list(text)
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"--sweep is not a list of systems, their k and files: {error}") from None
