"""Score tables with differences, intervals and significance marks, out of the tables and the comparisons.

A system that was trained under several seeds is one column, mean ± standard deviation; its differences
are taken seed by seed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation.scoring import decimals, label
from neuron_specialization.evaluation.significance import Comparison, DirectionResult, GroupResult
from neuron_specialization.evaluation.tables import ALL, in_group, set_name
from neuron_specialization.reporting.table import Cell, Column, Row, Table, fixed, number_cell, text_cell
from neuron_specialization.run_names import split_run

LEVELS = ((0.01, "**"), (0.05, "*"))
# more differences than these are in the files and, system by system, in a table of their own
_WIDE = 3


@dataclass(frozen=True)
class Score:
    """A mean over seeds: ``values`` one a seed; empty where there is a gap.

    ``present`` of the ``expected`` directions are there, or of one direction's seeds.
    """

    values: list[float]
    present: int = 1
    expected: int = 1
    sd: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Evaluation:
    """All scores and comparisons of an experiment.

    Attributes:
        testsets, systems, metrics: names, in order; systems without seeds.
        directions: direction → its group, tier and branch, in order.
        sets: (group, tier, branch) of every mean, in order.
        scores: (testset, metric, system, direction) → score.
        means: (testset, metric, system, group, tier, branch) → mean score.
        segments: (testset, direction) → segments.
        signatures: (testset, metric) → signatures.
        comparisons: (testset, system, control) → a comparison a seed.
        lengths: (testset, system, direction) → length ratio (ScoreTable.length_ratio), one a seed.
    """

    testsets: list[str]
    systems: list[str]
    metrics: list[str]
    directions: dict[str, dict[str, str]]
    sets: list[tuple[str, str, str]]
    scores: dict[tuple[str, str, str, str], Score]
    means: dict[tuple[str, str, str, str, str, str], Score]
    segments: dict[tuple[str, str], int]
    signatures: dict[tuple[str, str], list[str]]
    comparisons: dict[tuple[str, str, str], list[Comparison]]
    lengths: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def pairs(self, testset: str) -> list[tuple[str, str]]:
        """(system, control) of every comparison on a test set, those with the main control first."""
        return [(system, control) for of, system, control in self.comparisons if of == testset]


def read_evaluation(folder: str | Path, comparisons: Iterable[Comparison]) -> Evaluation:
    """Read ``scores.csv`` and ``summary.csv`` of R/tables, and take the comparisons with them.

    Raises:
        ScoringError: a table is missing or has no row.
    """
    folder = Path(folder)
    rows, summary = _rows(folder / "scores.csv"), _rows(folder / "summary.csv")
    metrics = [key.removesuffix("_signature") for key in rows[0] if key.endswith("_signature")]
    found: dict[tuple[str, str, str, str], list[float | None]] = {}
    signatures: dict[tuple[str, str], dict[str, None]] = {}
    lengths: dict[tuple[str, str, str], list[float | None]] = {}
    for row in rows:
        place = (row["testset"], row["system"], row["direction"])
        lengths.setdefault(place, []).append(_number(row.get("length_ratio")))
        for metric in metrics:
            key = (row["testset"], metric, row["system"], row["direction"])
            found.setdefault(key, []).append(_number(row.get(metric)))
            if row.get(f"{metric}_signature"):
                signatures.setdefault((row["testset"], metric), {})[row[f"{metric}_signature"]] = None
    by_pair: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        # runs of several seeds (ns@223) are one pair of systems
        system, control = (split_run(run)[0] for run in (comparison.system, comparison.control))
        pair = (comparison.testset, system, control)
        by_pair.setdefault(pair, []).append(comparison)
    return Evaluation(
        testsets=list(dict.fromkeys(row["testset"] for row in rows)),
        systems=list(dict.fromkeys(row["system"] for row in rows)),
        metrics=metrics,
        directions={row["direction"]: {key: row[key] for key in ("group", "tier", "branch")} for row in rows},
        sets=list(dict.fromkeys((row["group"], row["tier"], row["branch"]) for row in summary)),
        scores={key: _over_seeds(values) for key, values in found.items()},
        means={_mean_key(row): _mean(row) for row in summary},
        segments={
            (row["testset"], row["direction"]): int(row["segments"]) for row in rows if row["segments"]
        },
        signatures={key: sorted(names) for key, names in signatures.items()},
        comparisons=by_pair,
        lengths={key: known for key, values in lengths.items() if (known := _complete(values))},
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _complete(values: Sequence[float | None]) -> list[float]:
    """The values, none if one is missing: no mean is over fewer."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _over_seeds(values: Sequence[float | None]) -> Score:
    known = _complete(values)
    present = sum(value is not None for value in values)
    return Score(known, present, len(values), _deviation(known), len(values))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise ScoringError(
            "the score tables are missing", where=path, hint="make them: snakemake --cores all tables"
        ) from None
    if not rows:
        raise ScoringError("the table has no row", where=path)
    return rows


def _mean_key(row: Mapping[str, str]) -> tuple[str, str, str, str, str, str]:
    return (row["testset"], row["metric"], row["system"], row["group"], row["tier"], row["branch"])


def _mean(row: Mapping[str, str]) -> Score:
    return Score(
        [float(row["mean"])] if row["mean"] else [],
        int(row["directions"]),
        int(row["expected"]),
        float(row["sd"]) if row.get("sd") else None,
        int(row.get("seeds") or 1),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def mark(p: float | None) -> str:
    """The significance mark of a p-value."""
    return next((text for level, text in LEVELS if p is not None and p < level), "")


def p_of(row: DirectionResult | GroupResult) -> float | None:
    """The p-value that decides on a mark: of a direction the larger of its two corrected ones."""
    if isinstance(row, GroupResult):
        return row.p
    if row.p_bootstrap_holm is None or row.p_randomisation_holm is None:
        return None
    return max(row.p_bootstrap_holm, row.p_randomisation_holm)


def score_tables(evaluation: Evaluation) -> list[Table]:
    """Of each test set and metric: the means over sets of directions, and every direction."""
    tables = []
    for testset in evaluation.testsets:
        for metric in evaluation.metrics:
            if len(evaluation.systems) > 3:
                tables.append(_systems_table(evaluation, testset, metric))
            tables.append(_means_table(evaluation, testset, metric))
            tables.append(_directions_table(evaluation, testset, metric))
        if any(of == testset for of, _, _ in evaluation.lengths):
            tables.append(_lengths_table(evaluation, testset))
    return tables


def _means_table(evaluation: Evaluation, testset: str, metric: str) -> Table:
    pairs = evaluation.pairs(testset)
    shown = pairs if len(pairs) <= _WIDE else []
    rows, records = [], []
    for group, tier, branch in evaluation.sets:
        scores = {
            system: evaluation.means.get((testset, metric, system, group, tier, branch))
            for system in evaluation.systems
        }
        expected = max((score.expected for score in scores.values() if score), default=0)
        if not expected:
            continue
        cells = [text_cell(set_name(group, tier, branch)), number_cell(expected, 0)]
        cells += [_score_cell(score, metric) for score in scores.values()]
        record: dict[str, Any] = {"testset": testset, "metric": metric}
        record |= {"group": group, "tier": tier, "branch": branch, "directions": expected}
        record |= _score_record(scores)
        for pair in pairs:
            found = _results(evaluation, (testset, *pair), partial(_group, metric, (group, tier, branch)))
            if pair in shown:
                cells.append(_difference_cell(found, scores[pair[0]], scores[pair[1]], metric))
            record |= _difference_record(pair, found)
        rows.append(Row(cells, emphasis=tier == branch == ALL, section=group))
        records.append(record)
    return Table(
        f"means {testset} {metric}",
        f"{label(metric)} on {testset}: means over directions",
        _columns("directions", evaluation, shown),
        rows,
        _notes(evaluation, testset, of_groups=True) + _sizes(evaluation, testset, "directions"),
        evaluation.signatures.get((testset, metric), []),
        records,
    )


def _systems_table(evaluation: Evaluation, testset: str, metric: str) -> Table:
    """A system a row: its mean over all directions and each group, with the differences to its control."""
    controls = dict(reversed(evaluation.pairs(testset)))
    wholes = [item for item in evaluation.sets if item[1:] == (ALL, ALL)]
    wholes.sort(key=lambda item: item[0] != ALL)
    rows, records = [], []
    for system in evaluation.systems:
        control = controls.get(system, "")
        cells = [text_cell(system), text_cell(control or "–")]
        record: dict[str, Any] = {"testset": testset, "metric": metric, "system": system, "control": control}
        for where in wholes:
            score, base_score = (
                evaluation.means.get((testset, metric, name, *where)) for name in (system, control)
            )
            found = _results(evaluation, (testset, system, control), partial(_group, metric, where))
            cells.append(_score_cell(score, metric))
            cells.append(_difference_cell(found, score, base_score, metric) if control else number_cell(None))
            name = set_name(*where)
            record[name] = round(fmean(score.values), 4) if score and score.values else None
            record |= {
                key.replace(f"delta_{system}_{control}", f"{name}_delta"): value
                for key, value in _difference_record((system, control), found).items()
            }
        rows.append(Row(cells))
        records.append(record)
    columns = [Column("system", "text"), Column("control", "text")]
    for where in wholes:
        columns += [Column(set_name(*where)), Column(f"{set_name(*where)}\nΔ to control")]
    return Table(
        f"systems {testset} {metric}",
        f"{label(metric)} on {testset}: systems",
        columns,
        rows,
        _notes(evaluation, testset, of_groups=True),
        evaluation.signatures.get((testset, metric), []),
        records,
    )


def _lengths_table(evaluation: Evaluation, testset: str) -> Table:
    """A system a row: how long its translations are, on which BLEU's brevity penalty rests."""
    groups = list(dict.fromkeys(where["group"] for where in evaluation.directions.values()))
    groups += [ALL] if len(groups) > 1 else []
    rows, records = [], []
    for system in evaluation.systems:
        record: dict[str, Any] = {"testset": testset, "metric": "length_ratio", "system": system}
        for group in groups:
            found = [
                evaluation.lengths.get((testset, system, direction), [])
                for direction, where in evaluation.directions.items()
                if in_group(where["group"], group)
            ]
            record[group] = round(fmean(ratio for one in found for ratio in one), 4) if all(found) else None
        rows.append(Row([text_cell(system), *(number_cell(record[group], 3) for group in groups)]))
        records.append(record)
    return Table(
        f"lengths {testset}",
        f"Length of the translations on {testset}",
        [Column("system", "text"), *map(Column, groups)],
        rows,
        [
            "Tokens of the translation over those of the reference, as BLEU counts them: means over "
            "directions and seeds. Below 1, BLEU is multiplied by exp(1 − 1/ratio)."
        ],
        [],
        records,
    )


def _directions_table(evaluation: Evaluation, testset: str, metric: str) -> Table:
    pairs = evaluation.pairs(testset)
    control = pairs[0][1] if pairs else None
    shown = [pair for pair in pairs if pair[1] == control] if len(pairs) <= _WIDE else []
    rows, records = [], []
    for direction, where in evaluation.directions.items():
        scores = {
            system: evaluation.scores.get((testset, metric, system, direction))
            for system in evaluation.systems
        }
        segments = evaluation.segments.get((testset, direction))
        cells = [text_cell(direction), number_cell(segments, 0)]
        cells += [_score_cell(score, metric) for score in scores.values()]
        record: dict[str, Any] = {"testset": testset, "metric": metric, "direction": direction, **where}
        record |= {"segments": segments} | _score_record(scores)
        for pair in pairs:
            found = _results(evaluation, (testset, *pair), partial(_direction, metric, direction))
            if pair in shown:
                cells.append(_difference_cell(found, scores[pair[0]], scores[pair[1]], metric))
            record |= _difference_record(pair, found)
        rows.append(Row(cells, section=where["group"]))
        records.append(record)
    return Table(
        f"directions {testset} {metric}",
        f"{label(metric)} on {testset}: every direction",
        _columns("direction", evaluation, shown, count="segments"),
        rows,
        _notes(evaluation, testset, of_groups=False) + _sizes(evaluation, testset, "segments"),
        evaluation.signatures.get((testset, metric), []),
        records,
    )


def _columns(
    first: str, evaluation: Evaluation, pairs: Sequence[tuple[str, str]], count: str = "n"
) -> list[Column]:
    return [
        Column(first, "text"),
        Column(count),
        *(Column(system) for system in evaluation.systems),
        *(Column(f"Δ {system}\n− {control}") for system, control in pairs),
    ]


def _results(
    evaluation: Evaluation,
    key: tuple[str, str, str],
    find: Callable[[Comparison], DirectionResult | GroupResult | None],
) -> list[DirectionResult | GroupResult]:
    return [row for item in evaluation.comparisons.get(key, []) if (row := find(item)) is not None]


def _group(metric: str, where: tuple[str, str, str], comparison: Comparison) -> GroupResult | None:
    return next((row for row in comparison.groups if (row.metric, row.place) == (metric, where)), None)


def _direction(metric: str, direction: str, comparison: Comparison) -> DirectionResult | None:
    return next(
        (row for row in comparison.directions if (row.metric, row.direction) == (metric, direction)), None
    )


def _score_cell(score: Score | None, metric: str) -> Cell:
    if score is None:
        return number_cell(None)
    if not score.values:
        return number_cell(None, extra=f" ({score.present}/{score.expected})" if score.expected > 1 else "")
    spread = f" ± {fixed(score.sd, decimals(metric))}" if score.sd is not None else ""
    return number_cell(fmean(score.values), decimals(metric), extra=spread)


def _difference_cell(
    found: Sequence[DirectionResult | GroupResult], score: Score | None, control: Score | None, metric: str
) -> Cell:
    places = decimals(metric)
    if len(found) == 1:
        bounds = ", ".join(fixed(bound, places, signed=True) for bound in (found[0].low, found[0].high))
        return number_cell(
            found[0].delta, places, signed=True, mark=mark(p_of(found[0])), extra=f" [{bounds}]"
        )
    if found:
        deltas = [row.delta for row in found]
        significant = sum(bool(mark(p_of(row))) for row in found)
        extra = f" ± {fixed(stdev(deltas), places)} ({significant}/{len(found)})"
        return number_cell(fmean(deltas), places, signed=True, extra=extra)
    if score is None or control is None or not score.values or not control.values:
        return number_cell(None)
    return number_cell(fmean(score.values) - fmean(control.values), places, signed=True)


def _score_record(scores: Mapping[str, Score | None]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for system, score in scores.items():
        record[system] = round(fmean(score.values), 4) if score and score.values else None
        if score and score.sd is not None:
            record[f"{system}_sd"] = round(score.sd, 4)
            record[f"{system}_seeds"] = score.seeds
    return record


def _difference_record(
    pair: tuple[str, str], found: Sequence[DirectionResult | GroupResult]
) -> dict[str, Any]:
    name = f"delta_{pair[0]}_{pair[1]}"
    if not found:
        return {}
    record: dict[str, Any] = {name: round(fmean(row.delta for row in found), 4)}
    if len(found) > 1:
        record[f"{name}_sd"] = round(stdev(row.delta for row in found), 4)
        record[f"{name}_significant"] = sum(bool(mark(p_of(row))) for row in found)
        return record | {f"{name}_seeds": len(found)}
    (row,) = found
    record |= {f"{name}_low": round(row.low, 4), f"{name}_high": round(row.high, 4)}
    if isinstance(row, GroupResult):
        return record | {f"{name}_p": row.p, f"{name}_better": row.better}
    for key in ("p_bootstrap", "p_randomisation", "p_bootstrap_holm", "p_randomisation_holm"):
        record[f"{name}_{key}"] = getattr(row, key)
    return record


def _notes(evaluation: Evaluation, testset: str, *, of_groups: bool) -> list[str]:
    notes = []
    found = [item for (of, _, _), items in evaluation.comparisons.items() if of == testset for item in items]
    if any(score.seeds > 1 for score in evaluation.scores.values()):
        notes.append(
            "±: standard deviation over seeds; of a difference, taken seed by seed, with the number of seeds "
            "under which it is significant (p < 0.05)."
        )
    if found:
        settings = found[0].settings
        tests = (
            "p of a bootstrap of the mean that draws the same segments in every direction, not corrected "
            "over the rows"
            if of_groups
            else "the larger p of paired bootstrap and paired approximate randomisation "
            f"({settings.trials:,} trials), Holm-corrected over the directions"
        )
        notes.append(
            f"Brackets: {settings.confidence:.0%} bootstrap interval of the difference "
            f"({settings.samples:,} resamples). * p < 0.05, ** p < 0.01: {tests}."
        )
    if of_groups:
        notes.append(
            "A mean is given only where every direction of its row has a score; – (k/n): k of n have."
        )
    return notes


def _sizes(evaluation: Evaluation, testset: str, counted: str) -> list[str]:
    """What n counts, and how large the test set is; nothing of one without a score."""
    sizes = sorted({n for (of, _), n in evaluation.segments.items() if of == testset})
    if not sizes:
        return []
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return [f"n: {counted}; {size} segments a direction."]
