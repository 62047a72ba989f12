"""Commands that tell what trainings cost and how well each direction is modelled."""

from __future__ import annotations

import json
from pathlib import Path

import click

from neuron_specialization.cli.options import FOLDER, first_seed_option, groups_option, name_list
from neuron_specialization.errors import ConfigError


@click.command()
@click.option("--training", type=FOLDER, required=True, help="Holds RUN/model.json and metrics.jsonl.")
@click.option("--masks", type=FOLDER, required=True, help="Holds SELECTION/DIRECTION.safetensors.")
@click.option("--benchmarks", type=FOLDER, required=True, help="Holds RUN.tsv, Snakemake's measurements.")
@click.option(
    "--runs", required=True, metavar="JSON", help='E.g. [{"run": "ns", "init": "baseline", "masks": "k95"}].'
)
@first_seed_option
@click.option("--output", type=FOLDER, required=True, help="Folder for costs.csv and costs.md.")
def costs(training: Path, masks: Path, benchmarks: Path, runs: str, seed: int | None, output: Path) -> None:
    """Tabulate parameters, masks, updates, tokens, time, memory and energy of every training."""
    from neuron_specialization.evaluation.costs import (
        cost_of,
        parse_runs,
        write_costs_csv,
        write_costs_markdown,
    )

    found = [cost_of(run, training, masks, benchmarks, seed) for run in parse_runs(runs)]
    write_costs_csv(output / "costs.csv", found)
    write_costs_markdown(output / "costs.md", found)
    click.echo((output / "costs.md").read_text(encoding="utf-8"), nl=False)


@click.command()
@click.option("--training", type=FOLDER, required=True, help="Holds RUN/model.json and metrics.jsonl.")
@click.option("--runs", callback=name_list, required=True, help="E.g. baseline,ns,ns@223.")
@groups_option
@click.option(
    "--pairs",
    metavar="JSON",
    help='Whose gaps are tabulated: [["ns", "continued"], …]; default: all against continued and baseline.',
)
@first_seed_option
@click.option("--output", type=FOLDER, required=True, help="Folder for perplexity.csv and interference.csv.")
def perplexity(
    training: Path, runs: list[str], groups: str, pairs: str | None, seed: int | None, output: Path
) -> None:
    """Tabulate each direction's perplexity over training, and the gaps between systems trained alike."""
    from neuron_specialization.cli.options import parse_groups
    from neuron_specialization.evaluation.perplexity import (
        interference,
        read_losses,
        write_interference_csv,
        write_perplexity_csv,
    )

    directions = parse_groups(groups)
    found = read_losses(training, runs)
    gaps = interference(found, directions, None if pairs is None else _parsed_pairs(pairs))
    write_perplexity_csv(output / "perplexity.csv", found, directions, seed)
    write_interference_csv(output / "interference.csv", gaps)
    for run in found:
        if not run.losses:
            click.echo(
                f"warning: {run.run}: no losses by direction: trained by `implementation: stock`, or by an "
                "earlier version",
                err=True,
            )
    for gap in gaps:
        if gap.direction == gap.tier == gap.branch == "all":
            deviation = "" if gap.sd is None else f" ± {gap.sd:.4f}"
            click.echo(f"{gap.system} − {gap.control}, {gap.group}: {-gap.gap:+.4f}{deviation} bits a token")


def _parsed_pairs(text: str) -> list[tuple[str, str]]:
    try:
        return [(str(system), str(control)) for system, control in json.loads(text)]
    except (ValueError, TypeError):
        raise ConfigError(
            "--pairs is not a list of two systems each", hint='for example [["ns", "continued"]]'
        ) from None
