"""The tables as CSV: every score, and means over directions and seeds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuron_specialization.files import atomic_text
from neuron_specialization.tables import DirectionGroup, Mean, ScoreTable


def write_scores_csv(path: str | Path, table: ScoreTable) -> None:
    """Write one row per system, seed, test set and direction; a missing score is a row with empty cells."""
    fields = ["system", "seed", "testset", "direction", "group", "tier", "branch", "segments"]
    for metric in table.metrics:
        fields += [metric, f"{metric}_low", f"{metric}_high"]
        fields += ["length_ratio"] if metric == "bleu" else []
    fields += ["confidence", "detokenizer", "hypothesis_sha256", "reference_sha256"]
    fields += [f"{metric}_signature" for metric in table.metrics]
    if any(table.alternatives(testset) for testset in table.testsets):
        fields += [f"{metric}_alternative" for metric in table.metrics]
        fields += ["alternative_text", "compares_with_paper"]
    with atomic_text(path) as handle:
        writer = csv.DictWriter(handle, fields, restval="", lineterminator="\n")
        writer.writeheader()
        for testset in table.testsets:
            for system, runs in table.runs.items():
                for run in runs:
                    for row in table.directions:
                        writer.writerow({"system": system, **_score_row(table, run, testset, row)})


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


def write_summary_csv(path: str | Path, means: Sequence[Mean]) -> None:
    """Write the means over sets of directions, a row each; where directions are missing the mean is empty."""
    controls = _controls(means)
    fields = ["testset", "group", "tier", "branch", "metric", "system", "mean", "sd", "seeds"]
    with atomic_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*fields, "directions", "expected", *_delta_fields(controls)])
        for mean in means:
            place = [mean.testset, mean.group, mean.tier, mean.branch, mean.metric, mean.system]
            writer.writerow(
                [*place, *_values(mean), mean.present, mean.expected, *_delta_values(mean, controls)]
            )


def write_directions_csv(path: str | Path, means: Sequence[tuple[str, Mean]]) -> None:
    """Write the means over seeds of each direction, a row each (``tables.summarise_directions``)."""
    controls = _controls([mean for _, mean in means])
    fields = ["testset", "direction", "group", "tier", "branch", "metric", "system", "mean", "sd", "seeds"]
    with atomic_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*fields, *_delta_fields(controls)])
        for direction, mean in means:
            place = [mean.testset, direction, mean.group, mean.tier, mean.branch, mean.metric, mean.system]
            writer.writerow([*place, *_values(mean), *_delta_values(mean, controls)])


def _controls(means: Sequence[Mean]) -> list[str]:
    return list(dict.fromkeys(control for mean in means for control in mean.deltas))


def _values(mean: Mean) -> list[str]:
    return [_rounded(mean.mean), _rounded(mean.sd), str(mean.seeds)]


def _delta_fields(controls: Sequence[str]) -> list[str]:
    return [field for control in controls for field in (f"delta_{control}", f"delta_{control}_sd")]


def _delta_values(mean: Mean, controls: Sequence[str]) -> list[str]:
    return [_rounded(values.get(control)) for control in controls for values in (mean.deltas, mean.delta_sds)]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
