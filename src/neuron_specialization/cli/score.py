"""Commands that score translations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import (
    EXISTING_FILE,
    EXISTING_FOLDER,
    PATH,
    detokenizer_option,
    interval_options,
    name_list,
)
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import published, scoring
from neuron_specialization.storage.files import write_json


def _print_score(result: dict[str, Any]) -> None:
    """Print a score as a person reads it: value, interval, signature."""
    names = [str(result[key]) for key in ("system", "testset") if result[key]]
    click.echo(" ".join([*names, result["direction"], f"({result['segments']} segments)"]))
    _print_metrics(result["metrics"])
    if "alternative" in result:
        first = result["compares_with_paper"] == "metrics"
        click.echo(
            f"  these {'compare' if first else 'do not compare'} with the paper's scores. The same text"
        )
        click.echo(f"  {result['alternative']['text']}:")
        _print_metrics(result["alternative"]["metrics"])


def _print_metrics(metrics: dict[str, Any]) -> None:
    for name, metric in metrics.items():
        interval = ""
        if metric["low"] is not None:
            interval = f"  [{metric['low']:.2f}, {metric['high']:.2f}] {metric['confidence']:.0%}"
        click.echo(
            f"  {scoring.LABELS[name]:<7}{metric['score']:6.2f}{interval}  {metric['verbose']}".rstrip()
        )
        click.echo(f"         {metric['signature']}")


@click.command()
@click.option("--hypothesis", type=PATH, help="Translation, one segment a line.")
@click.option("--reference", type=PATH, help="Reference, one segment a line.")
@click.option(
    "--fairseq-output",
    type=PATH,
    help="generate-<subset>.txt of fairseq-generate (may be .gz) instead of the two.",
)
@click.option("--direction", required=True, help="E.g. de-en.")
@click.option("--system", help="Name of the system, recorded in the output.")
@click.option("--testset", help="Name of the test set, recorded in the output.")
@click.option(
    "--metrics",
    callback=name_list,
    default="bleu,chrf++",
    show_default=True,
    help="Of bleu, chrf++, spbleu.",
)
@detokenizer_option("Applied to both texts first; moses gives the paper's scores on its tokenised text.")
@interval_options
@click.option(
    "--spbleu-model",
    type=PATH,
    help="SentencePiece model of spBLEU; default: where sacrebleu keeps it. Never downloaded.",
)
@click.option("--output", type=PATH, help="Write the score as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the score as JSON.")
def score(
    hypothesis: Path | None,
    reference: Path | None,
    fairseq_output: Path | None,
    direction: str,
    system: str | None,
    testset: str | None,
    metrics: list[str],
    detokenizer: str,
    bootstrap: int,
    confidence: float,
    seed: int,
    spbleu_model: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score one translation: BLEU, chrF++, spBLEU, with signatures and bootstrap intervals."""
    parsed = Direction.parse(direction)
    if fairseq_output is not None:
        if hypothesis or reference:
            raise click.UsageError("give --fairseq-output or --hypothesis and --reference, not both")
        texts = scoring.read_fairseq_texts(fairseq_output, parsed)
    elif hypothesis is None or reference is None:
        raise click.UsageError("give --hypothesis and --reference, or --fairseq-output")
    else:
        texts = scoring.read_texts(hypothesis, reference)
    result = scoring.score_all(
        texts,
        parsed,
        metrics=metrics,
        detokenizer=detokenizer,
        bootstrap=scoring.Bootstrap(bootstrap, confidence, seed),
        spbleu_model=spbleu_model,
        system=system,
        testset=testset,
    )
    if detokenizer == "none" and scoring.looks_tokenized(texts.references):
        click.echo(
            "warning: the reference looks tokenised; scores of such text compare with no other", err=True
        )
    if result["empty_hypotheses"]:
        click.echo(
            f"warning: {result['empty_hypotheses']} of {result['segments']} hypotheses are empty", err=True
        )
    for reason in result.get("skipped", {}).values():
        click.echo(f"warning: {reason}", err=True)
    if output is not None:
        write_json(output, result)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print_score(result)


@click.command()
@click.option(
    "--outputs",
    type=EXISTING_FOLDER,
    help="Holds SYSTEM/DIRECTION/generate-test.txt or SYSTEM.DIRECTION.generate-test.txt, .gz or not.",
)
@click.option(
    "--recorded",
    type=EXISTING_FILE,
    help="CSV of recorded scores: alone, the table is made of them; with --outputs, the two are compared.",
)
@click.option("--processes", type=click.IntRange(min=1), help="How many at a time; default: all CPUs.")
@click.option("--directions", is_flag=True, help="Also print the scores of every direction.")
@click.option("--output", type=PATH, help="Write scores and table as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print scores and table as JSON.")
def published_table(
    outputs: Path | None,
    recorded: Path | None,
    processes: int | None,
    directions: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the paper's table (EC30: high, medium, low, all; from and into English)."""
    if outputs is None and recorded is None:
        raise click.UsageError("give --outputs, --recorded, or both")
    known = published.read_recorded(recorded) if recorded is not None else []
    if outputs is not None:
        scores = _score_with_progress(outputs, processes)
        rules = published.RULES
    else:
        scores, rules = known, ("paper",)  # recorded scores are rounded: nothing exact can be made of them
    tables = {rule: published.paper_table(scores, rule) for rule in rules}
    result = _published_json(scores, tables)
    if output is not None:
        write_json(output, result)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        if directions:
            _print_directions(scores)
        for rule, cells in tables.items():
            _print_paper_table(rule, cells)
        for metric, signature in sorted(
            {pair for score in scores for pair in (score.signatures or {}).items()}
        ):
            click.echo(f"{scoring.LABELS[metric]}: {signature}")
    unused = published.outside_the_table(scores)
    if unused:
        click.echo(f"warning: not in the table, which is EC30's: {', '.join(unused)}", err=True)
    if outputs is not None and recorded is not None:
        differing = published.differences(scores, known)
        if differing:
            raise ScoringError(
                f"{len(differing)} differences from the recorded scores:\n  " + "\n  ".join(differing),
                where=recorded,
            )
        click.echo(f"{len(scores)} outputs: all scores equal the recorded ones", err=True)


def _score_with_progress(outputs: Path, processes: int | None) -> list[published.PublishedScore]:
    found = published.find_outputs(outputs)
    with click.progressbar(length=len(found), label="scoring", file=sys.stderr) as bar:
        return published.score_outputs(found, processes=processes, progress=bar.update)


def _published_json(
    scores: list[published.PublishedScore], tables: dict[published.Rule, list[published.Cell]]
) -> dict[str, Any]:
    return {
        "scores": [
            {
                "system": score.system,
                "direction": str(score.direction),
                **score.values,
                "bleu_verbose": score.bleu_verbose,
                "signatures": score.signatures,
                "segments": score.segments,
                "recorded": score.rounded,
            }
            for score in scores
        ],
        "tables": {
            rule: [{**vars(cell), "text": cell.text()} for cell in cells] for rule, cells in tables.items()
        },
    }


def _print_directions(scores: list[published.PublishedScore]) -> None:
    for score in scores:
        name = f"{score.system} {score.direction}"
        decimals = published.RECORDED_DECIMALS if score.rounded else dict.fromkeys(score.values, 4)
        values = [f"{scoring.LABELS[m]} {value:.{decimals[m]}f}" for m, value in score.values.items()]
        click.echo(f"{name:<20} {'  '.join(values)}  {score.bleu_verbose}".rstrip())
    click.echo()


_RULE_TITLES = {
    "paper": "Each direction rounded to 1 decimal first (COMET: 4), then averaged: the paper's rule",
    "exact": "Averaged at full precision: this project's rule",
}


def _print_paper_table(rule: published.Rule, cells: list[published.Cell]) -> None:
    texts = {(cell.system, cell.metric, cell.tier, cell.column): cell.text() for cell in cells}
    width = max(6, *(len(text) + 1 for text in texts.values()))
    click.echo(_RULE_TITLES[rule])
    names = [
        (system, metric) for system in dict.fromkeys(c.system for c in cells) for metric in published.METRICS
    ]
    names = [name for name in names if (*name, "all", "Avg") in texts]
    first = max(len(f"{system} {scoring.LABELS[metric]}") for system, metric in names) + 1
    group_width = width * len(published.COLUMNS)
    click.echo(" " * first + "".join(f"{tier.capitalize():>{group_width}}" for tier in published.TIERS))
    click.echo(
        " " * first + "".join(f"{column:>{width}}" for _ in published.TIERS for column in published.COLUMNS)
    )
    for system, metric in names:
        numbers = [texts[system, metric, t, c] for t in published.TIERS for c in published.COLUMNS]
        click.echo(
            f"{system + ' ' + scoring.LABELS[metric]:<{first}}" + "".join(f"{n:>{width}}" for n in numbers)
        )
    click.echo()
