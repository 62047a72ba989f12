"""The command that scores with COMET."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import (
    FOLDER,
    PATH,
    detokenizer_option,
    direction_list,
    interval_options,
)
from neuron_specialization.directions import Direction
from neuron_specialization.evaluation import comet as scorer
from neuron_specialization.evaluation.scoring import Bootstrap
from neuron_specialization.storage.files import write_json


@click.command()
@click.option(
    "--translations",
    required=True,
    type=FOLDER,
    help="Holds DIRECTION.txt, one segment a line.",
)
@click.option(
    "--texts",
    required=True,
    type=FOLDER,
    help="Holds PAIR.LANGUAGE: the sources and references, e.g. R/corpus/heldout.",
)
@click.option(
    "--directions",
    callback=direction_list,
    required=True,
    help="E.g. de-en,en-de; the model is loaded once for all.",
)
@click.option("--system", required=True, help="Name of the system, recorded in the output.")
@click.option("--testset", required=True, help="Name of the test set, recorded in the output.")
@click.option(
    "--model",
    default=scorer.DEFAULT_MODEL,
    show_default=True,
    help="Name (downloaded by COMET) or path (nothing is downloaded).",
)
@detokenizer_option("Applied to the three texts first, as in score.")
@click.option("--python", help=f"Python of COMET's environment; default: ${scorer.PYTHON_VARIABLE}.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(min=0), help="For COMET.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Segments.")
@interval_options
@click.option("--output", required=True, type=PATH, help="Folder for DIRECTION.json of each.")
def comet(
    translations: Path,
    texts: Path,
    directions: list[str],
    system: str,
    testset: str,
    model: str,
    detokenizer: str,
    python: str | None,
    gpus: int,
    batch_size: int,
    bootstrap: int,
    confidence: float,
    seed: int,
    output: Path,
) -> None:
    """Score a system's translations of a test set with COMET, in COMET's own environment (envs/comet.yaml).

    Writes score files like those of `score`; `tables --scores R/scores --scores R/comet` puts both together.
    """
    resampling = Bootstrap(bootstrap, confidence, seed)
    jobs = []
    for name in directions:
        direction = Direction.parse(name)
        source, reference = (
            texts / f"{direction.pair}.{language}" for language in (direction.source, direction.target)
        )
        hypothesis = translations / f"{direction}.txt"
        jobs.append(scorer.read_job(direction, hypothesis, source, reference, detokenizer))
    scores, signature = scorer.run_comet(jobs, model=model, python=python, gpus=gpus, batch_size=batch_size)
    for job, values in zip(jobs, scores, strict=True):
        result = {
            "system": system,
            "testset": testset,
            "detokenizer": detokenizer,
            **scorer.comet_score(job, values, signature, resampling),
        }
        write_json(output / f"{job.direction}.json", result)
        metric = result["metrics"]["comet"]
        interval = "" if metric["low"] is None else f"  [{metric['low']:.4f}, {metric['high']:.4f}]"
        click.echo(f"{system} {testset} {job.direction}  COMET {metric['score']:.4f}{interval}")
    click.echo(signature)
