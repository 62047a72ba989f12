"""Commands that score translations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from neuron_specialization import scoring
from neuron_specialization.detokenize import DETOKENIZERS
from neuron_specialization.directions import Direction
from neuron_specialization.files import write_json


def print_score(result: dict[str, Any]) -> None:
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
@click.option("--hypothesis", type=click.Path(path_type=Path), help="Translation, one segment a line.")
@click.option("--reference", type=click.Path(path_type=Path), help="Reference, one segment a line.")
@click.option(
    "--fairseq-output",
    type=click.Path(path_type=Path),
    help="generate-<subset>.txt of fairseq-generate (may be .gz) instead of the two.",
)
@click.option("--direction", required=True, help="E.g. de-en.")
@click.option("--system", help="Name of the system, recorded in the output.")
@click.option("--testset", help="Name of the test set, recorded in the output.")
@click.option("--metrics", default="bleu,chrf++", show_default=True, help="Of bleu, chrf++, spbleu.")
@click.option(
    "--detokenize",
    "--detokenizer",
    "detokenizer",
    type=click.Choice(DETOKENIZERS),
    default="none",
    show_default=True,
    help="Applied to both texts first; moses gives the paper's scores on its tokenised text.",
)
@click.option(
    "--bootstrap", default=1000, show_default=True, help="Resamples for the interval; 0: no interval."
)
@click.option("--confidence", default=0.95, show_default=True, help="Of the interval.")
@click.option("--seed", default=scoring.BOOTSTRAP_SEED, show_default=True, help="Of the resampling.")
@click.option(
    "--spbleu-model",
    type=click.Path(path_type=Path),
    help="SentencePiece model of spBLEU; default: where sacrebleu keeps it. Never downloaded.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the score as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the score as JSON.")
def score(
    hypothesis: Path | None,
    reference: Path | None,
    fairseq_output: Path | None,
    direction: str,
    system: str | None,
    testset: str | None,
    metrics: str,
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
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
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
        print_score(result)
