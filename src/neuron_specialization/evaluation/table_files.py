"""The tables as CSV: every score, and means over directions and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.evaluation.means import Means
from neuron_specialization.evaluation.tables import DirectionGroup, ScoreTable
from neuron_specialization.storage.files import atomic_text

if TYPE_CHECKING:
    import pandas as pd


def write_scores_csv(path: str | Path, table: ScoreTable) -> None:
    """Write one row per system, seed, test set and direction; a missing score is a row with empty cells."""
    import pandas as pd

    fields = ["system", "seed", "testset", "direction", "group", "tier", "branch", "segments"]
    for metric in table.metrics:
        fields += [metric, f"{metric}_low", f"{metric}_high"]
        fields += ["length_ratio"] if metric == "bleu" else []
    fields += ["confidence", "detokenizer", "hypothesis_sha256", "reference_sha256"]
    fields += [f"{metric}_signature" for metric in table.metrics]
    if any(table.alternatives(testset) for testset in table.testsets):
        fields += [f"{metric}_alternative" for metric in table.metrics]
        fields += ["alternative_text", "compares_with_paper"]
    rows = [
        {"system": system, **_score_row(table, run, testset, row)}
        for testset in table.testsets
        for system, runs in table.runs.items()
        for run in runs
        for row in table.directions
    ]
    # as objects: a column of whole numbers with a gap stays one
    _write(path, pd.DataFrame(rows, columns=fields, dtype=object))


def _score_row(table: ScoreTable, run: str, testset: str, row: DirectionGroup) -> dict[str, Any]:
    seed = table.seed_of(run)
    cells: dict[str, Any] = {"seed": "" if seed is None else seed, "testset": testset, **vars(row)}
    score = table.scores.get((run, testset, row.direction))
    if score is None:
        return cells
    ratio = table.length_ratio(run, testset, row.direction)
    cells["length_ratio"] = "" if ratio is None else ratio
    for key in ("segments", "detokenizer", "hypothesis_sha256", "reference_sha256"):
        cells[key] = score.get(key, "")
    for metric, result in score["metrics"].items():
        cells[metric] = _rounded(result["score"])
        cells[f"{metric}_low"], cells[f"{metric}_high"] = _rounded(result["low"]), _rounded(result["high"])
        cells[f"{metric}_signature"] = result["signature"]
        cells["confidence"] = result["confidence"] if result["confidence"] is not None else ""
    if "alternative" in score:
        for metric, result in score["alternative"]["metrics"].items():
            cells[f"{metric}_alternative"] = _rounded(result["score"])
        cells["alternative_text"] = score["alternative"]["text"]
        cells["compares_with_paper"] = score["compares_with_paper"]
    return cells


def write_summary_csv(path: str | Path, means: Means) -> None:
    """Write the means over sets of directions, a row each; where directions are missing the mean is empty."""
    _write(path, means.frame)


def write_directions_csv(path: str | Path, means: Means) -> None:
    """Write the means over seeds of each direction, a row each (``means.summarise_directions``)."""
    _write(path, means.frame.drop(columns=["directions", "expected"]))


def _write(path: str | Path, frame: pd.DataFrame) -> None:
    with atomic_text(path) as handle:
        frame.to_csv(handle, index=False, float_format="%.4f", lineterminator="\n")


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
