"""COMET, an optional metric, run in an environment of its own (envs/comet.yaml) through comet_runner.py.

A model is named (then unbabel-comet downloads it into Hugging Face's cache) or given as a path (then
nothing is downloaded). A path is a checkpoint ``…/checkpoints/model.ckpt`` with its ``hparams.yaml`` two
folders up, or the folder that holds both; the encoder that hparams.yaml names must be in the local cache,
or be a path itself. COMET scores run from about 0 to 1 and do not compare across models.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import comet_runner
from neuron_specialization.evaluation.detokenize import detokenize
from neuron_specialization.evaluation.scoring import Bootstrap, interval, read_texts
from neuron_specialization.storage.files import read_lines, sha256_of

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"
# names the interpreter where no --python is given
PYTHON_VARIABLE = "NEURON_SPECIALIZATION_COMET_PYTHON"
_INSTALL = "conda env create -f envs/comet.yaml -p .comet, then --python .comet/bin/python"


@dataclass(frozen=True)
class CometJob:
    """One direction's texts: S segments each."""

    direction: str
    source: list[str]
    hypothesis: list[str]
    reference: list[str]
    checksums: Mapping[str, str]


def read_job(
    direction: Direction,
    hypothesis: str | Path,
    source: str | Path,
    reference: str | Path,
    detokenizer: str = "none",
) -> CometJob:
    """Read the three texts of a direction; all are detokenised.

    Raises:
        ScoringError: one is missing, or they differ in length.
    """
    texts = read_texts(hypothesis, reference)
    sources = read_lines(source)
    if len(sources) != len(texts.references):
        raise ScoringError(
            f"the source has {len(sources)} segments, the reference {len(texts.references)}", where=source
        )
    checksums = {
        "hypothesis_sha256": texts.hypothesis_sha256,
        "reference_sha256": texts.reference_sha256,
        "source_sha256": sha256_of(source),
    }
    return CometJob(
        str(direction),
        detokenize(sources, direction.source, detokenizer),
        detokenize(texts.hypotheses, direction.target, detokenizer),
        detokenize(texts.references, direction.target, detokenizer),
        checksums,
    )


def checkpoint_of(model: str) -> Path | None:
    """The checkpoint a model's path means; None where the model is a name.

    Raises:
        ScoringError: a path without a checkpoint or without its hparams.yaml.
    """
    path = Path(model)
    if not path.exists():
        if model.endswith(".ckpt") or path.is_absolute() or model.startswith("."):
            raise ScoringError("the COMET checkpoint is missing", where=model)
        return None
    # links are not followed: in Hugging Face's cache a file is a link to a blob, which has nothing beside it
    checkpoint = (path / "checkpoints" / "model.ckpt" if path.is_dir() else path).absolute()
    hparams = checkpoint.parents[1] / "hparams.yaml"
    for needed in (checkpoint, hparams):
        if not needed.is_file():
            raise ScoringError(
                "this is not a COMET model: a file is missing",
                where=needed,
                hint="give the folder that holds hparams.yaml and checkpoints/model.ckpt",
            )
    return checkpoint


def find_python(python: str | None) -> str:
    """The interpreter of COMET's environment: as given, or from NEURON_SPECIALIZATION_COMET_PYTHON.

    Raises:
        ScoringError: there is none.
    """
    chosen = python or os.environ.get(PYTHON_VARIABLE)
    if not chosen:
        raise ScoringError("COMET runs in an environment of its own, and none is named", hint=_INSTALL)
    if not Path(chosen).exists():
        raise ScoringError("the Python of COMET's environment is missing", where=chosen, hint=_INSTALL)
    return chosen


def run_comet(
    jobs: Sequence[CometJob],
    *,
    model: str = DEFAULT_MODEL,
    python: str | None = None,
    gpus: int = 0,
    batch_size: int = 16,
) -> tuple[list[list[float]], str]:
    """Score with COMET, loading the model once.

    Returns:
        (for every job the scores of its S segments, the signature of package and model)

    Raises:
        ScoringError: the environment, the package or the model is missing, or COMET failed.
    """
    interpreter = find_python(python)
    checkpoint = checkpoint_of(model)
    with tempfile.TemporaryDirectory(prefix="comet-") as folder:
        output = Path(folder) / "scores.json"
        request = {
            "model": model if checkpoint is None else None,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "gpus": gpus,
            "batch_size": batch_size,
            "output": str(output),
            "jobs": [
                {"source": job.source, "hypothesis": job.hypothesis, "reference": job.reference}
                for job in jobs
            ],
        }
        # -I: neither this package's folder, whose comet.py would hide the real one, nor PYTHONPATH
        done = subprocess.run(
            [interpreter, "-I", comet_runner.__file__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            # a progress bar in another encoding is no reason to lose the scores
            errors="replace",
            check=False,
        )
        if done.returncode == comet_runner.NOT_INSTALLED:
            raise ScoringError(
                f"unbabel-comet cannot be imported: {done.stderr.strip()}", where=interpreter, hint=_INSTALL
            )
        if done.returncode or not output.is_file():
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise ScoringError(f"COMET failed (exit status {done.returncode}):\n{last}", where=interpreter)
        result = json.loads(output.read_text(encoding="utf-8"))
    for job, scores in zip(jobs, result["jobs"], strict=True):
        if len(scores) != len(job.reference):
            raise ScoringError(
                f"COMET scored {len(scores)} of {len(job.reference)} segments", where=job.direction
            )
    name = Path(model).name if checkpoint else model
    weights = sha256_of(result["checkpoint"])[:16]
    return result["jobs"], f"comet:{result['version']}|model:{name}|checkpoint:{weights}"


def comet_score(
    job: CometJob, scores: Sequence[float], signature: str, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return what a score file holds of COMET; the interval is of the mean over resampled segments."""
    low = high = confidence = None
    if bootstrap.samples:
        import numpy as np

        values = np.asarray(scores)
        drawn = np.random.default_rng(bootstrap.seed).choice(
            len(values), size=(bootstrap.samples, len(values)), replace=True
        )
        low, high = interval(values[drawn].mean(axis=1).tolist(), bootstrap.confidence)
        confidence = bootstrap.confidence
        signature = f"{signature}|bs:{bootstrap.samples}|seed:{bootstrap.seed}"
    return {
        "direction": job.direction,
        "segments": len(scores),
        "bootstrap": {"samples": bootstrap.samples, "seed": bootstrap.seed},
        **job.checksums,
        "metrics": {
            "comet": {
                "score": fmean(scores),
                "signature": signature,
                "low": low,
                "high": high,
                "confidence": confidence,
                "verbose": "",
            }
        },
        "segment_scores": [round(score, 6) for score in scores],
    }
