"""Corpus scores of many resamples at once, with sacrebleu's numbers.

sacrebleu's paired tests call a function for every resample and every trial: 22,000 times a direction and
metric. Here the same formulas run over arrays. Draws, order of operations and precision (float32 in
the bootstrap, float64 in approximate randomisation) are sacrebleu's, so that p-values are equal to
its own, count for count (test_resampling.py compares them), save for trials of the randomisation that tie
with what was found (`randomisation_p_value`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistics = NDArray[Any]

# rows of the draws that are held at a time: bounds memory on test sets of any size
_ROWS = 2_000_000
# of a score, which is at most 100
_ROUNDING = 1e-9
# sacrebleu's
_LOG_OF_ZERO = -9999999999


def corpus_scores(metric: Any, sums: Statistics) -> Statistics:
    """Score summed sufficient statistics as ``metric._compute_score_from_stats`` does, row by row.

    Args:
        metric: sacrebleu's BLEU or CHRF; another metric is called once a row.
        sums: float32 or float64 [R, statistics], whole numbers.

    Returns:
        The scores [R]: float64 for BLEU, the dtype of ``sums`` for chrF, as sacrebleu's.
    """
    from sacrebleu.metrics import BLEU, CHRF

    if type(metric) is BLEU and metric.smooth_method == "exp" and not metric.effective_order:
        return _bleu(sums, metric.max_ngram_order)
    if type(metric) is CHRF and not metric.eps_smoothing:
        return _chrf(sums, metric.order, metric.beta)
    return np.array([metric._compute_score_from_stats(row).score for row in sums])


def _bleu(sums: Statistics, orders: int) -> Statistics:
    lengths = sums[:, :2].astype(np.int64).tolist()
    correct, total = sums[:, 2 : 2 + orders], sums[:, 2 + orders : 2 + 2 * orders]
    precisions = np.zeros((len(sums), orders))
    smoothing = np.ones(len(sums), sums.dtype)
    counted = np.ones(len(sums), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for n in range(orders):
            counted &= total[:, n] > 0
            none = correct[:, n] == 0
            smoothing[counted & none] *= 2
            smoothed = 100 / (smoothing * total[:, n])
            precision = np.where(none, smoothed, 100 * correct[:, n] / total[:, n])
            precisions[counted, n] = precision[counted]
    # math's functions and Python's sum: NumPy's may differ in the last bit, which would part equal scores
    scores = []
    for (system, reference), row, found in zip(
        lengths, precisions.tolist(), (correct.sum(axis=1) > 0).tolist(), strict=True
    ):
        penalty = 1.0
        if system < reference:
            penalty = math.exp(1 - reference / system) if system else 0.0
        mean = sum([math.log(value) if value else _LOG_OF_ZERO for value in row]) / orders
        scores.append(penalty * math.exp(mean) if found else 0.0)
    return np.array(scores)


def _chrf(sums: Statistics, orders: int, beta: float) -> Statistics:
    dtype = sums.dtype.type
    factor = dtype(beta**2)
    precision, recall = np.zeros(len(sums), dtype), np.zeros(len(sums), dtype)
    effective = np.zeros(len(sums), dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(orders):
            hypothesis, reference, match = sums[:, 3 * i], sums[:, 3 * i + 1], sums[:, 3 * i + 2]
            both = (hypothesis > 0) & (reference > 0)
            precision += np.where(both, match / hypothesis, dtype(0))
            recall += np.where(both, match / reference, dtype(0))
            effective += both
        precision, recall = precision / effective, recall / effective
        scores = (1 + factor) * precision * recall / (factor * precision + recall)
    result: Statistics = np.where((effective > 0) & (precision + recall > 0), 100 * scores, dtype(0))
    return result


def bootstrap_sums(tables: Sequence[Statistics], samples: int, seed: int) -> list[Statistics]:
    """Summed statistics of ``samples`` resamples, the same segments for every table.

    Args:
        tables: system → float64[S, statistics], whole numbers.
        samples: number of resamples.
        seed: of the drawing; the draws are those of sacrebleu's tests and intervals.

    Returns:
        system → float64[samples, statistics].
    """
    generator = np.random.default_rng(seed)
    segments = len(tables[0])
    parts: list[list[Statistics]] = [[] for _ in tables]
    for rows in _portions(samples, segments):
        drawn = generator.choice(segments, size=(rows, segments), replace=True)
        drawn += np.arange(rows)[:, None] * segments
        counts = np.bincount(drawn.ravel(), minlength=rows * segments).reshape(rows, segments)
        for part, table in zip(parts, tables, strict=True):
            part.append(counts.astype(np.float64) @ table)
    return [np.concatenate(part) for part in parts]


def bootstrap_p_value(
    metric: Any, sums: Statistics, control_sums: Statistics, score: float, control_score: float
) -> float:
    """The p-value of sacrebleu's paired bootstrap from the resamples' sums (float64[R, statistics])."""
    # sacrebleu sums in float32; whole numbers, exact below 2^24
    ours, theirs = (corpus_scores(metric, table.astype(np.float32)) for table in (sums, control_sums))
    differences = np.abs(ours - theirs)
    return _share(differences - differences.mean() > abs(control_score - score))


def randomisation_p_value(
    metric: Any,
    statistics: Statistics,
    control_statistics: Statistics,
    trials: int,
    seed: int,
    score: float,
    control_score: float,
) -> float:
    """The p-value of paired approximate randomisation, with sacrebleu's trials.

    A trial that comes out as far apart as the systems are counts against them (Riezler and Maxwell,
    2005). sacrebleu counts only those beyond. That is the same as long as no trial ties; of systems
    that differ in few segments most trials do, and sacrebleu's p-value is then its smallest, whatever the
    difference.

    Args:
        metric: of sacrebleu.
        statistics, control_statistics: float64[S, statistics], whole numbers.
        trials: how many times the systems' segments change places at random.
        seed: of the drawing.
        score, control_score: the two corpus scores.
    """
    generator = np.random.default_rng(seed)
    total = statistics.sum(axis=0) + control_statistics.sum(axis=0)
    change = control_statistics - statistics
    base = statistics.sum(axis=0)
    differences = []
    # one call of the generator: its stream of bits does not continue over calls of any length
    selected = generator.integers(2, size=(trials, len(statistics)), dtype=bool)
    start = 0
    for rows in _portions(trials, len(statistics)):
        first = base + selected[start : start + rows].astype(np.float64) @ change
        ours, theirs = corpus_scores(metric, first), corpus_scores(metric, total - first)
        differences.append(np.abs(ours - theirs))
        start += rows
    # equal scores that were summed in another order may differ in their last bits
    beyond = np.concatenate(differences) >= abs(control_score - score) - _ROUNDING
    return _share(beyond)


def _share(beyond: Statistics) -> float:
    return (int(beyond.sum()) + 1) / (len(beyond) + 1)


def _portions(rows: int, columns: int) -> list[int]:
    size = max(1, _ROWS // max(1, columns))
    return [min(size, rows - start) for start in range(0, rows, size)]
