"""Is one system better than another? Paired tests in each direction, and over groups of directions.

In each direction, for each metric, with sacrebleu's p-values (``resampling``):

- paired bootstrap resampling (Koehn, 2004) and
- paired approximate randomisation (Riezler and Maxwell, 2005),

with Holm's correction over the directions, and a bootstrap interval of the difference. For a group of
directions, the mean difference with the interval and p-value of a bootstrap that draws the same segments
in every direction: test sets here are parallel over languages, so the directions are not independent.

The tests see one training run of each system. They say whether another test set would show the
difference again, not whether another seed would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation.detokenize import detokenize
from neuron_specialization.evaluation.scoring import (
    BOOTSTRAP_SEED,
    build_metric,
    interval,
    read_texts,
    unavailable_metrics,
)
from neuron_specialization.evaluation.tables import DirectionGroup, direction_sets
from neuron_specialization.machine import usable_cores
from neuron_specialization.storage.files import read_json

# below it a p-value counts as a difference
LEVEL = 0.05


@dataclass(frozen=True)
class Settings:
    """What is computed: metrics, resamples, randomisation trials, confidence and seed."""

    metrics: tuple[str, ...] = ("bleu", "chrf++")
    samples: int = 1000
    trials: int = 10_000
    confidence: float = 0.95
    seed: int = BOOTSTRAP_SEED
    detokenizer: str = "none"

    def __post_init__(self) -> None:
        if self.samples < 2 or self.trials < 2:
            raise ScoringError("a test needs at least 2 resamples and 2 trials", hint="use 1000 and 10000")
        if not 0 < self.confidence < 1:
            raise ScoringError(f"confidence {self.confidence} is not between 0 and 1")
        if self.seed < 1:
            # sacrebleu takes 0 for "no seed"
            raise ScoringError(f"the seed is {self.seed}", hint="use a positive number")


@dataclass(frozen=True)
class DirectionResult:
    """A comparison in one direction by one metric; ``delta`` = system − control.

    ``low`` and ``high`` bound the bootstrap interval of the difference; p-values are two-sided, those
    ending in ``_holm`` corrected over the directions (None until then).
    """

    direction: str
    metric: str
    segments: int
    score: float
    control_score: float
    delta: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float
    signature: str
    p_bootstrap_holm: float | None = None
    p_randomisation_holm: float | None = None


@dataclass(frozen=True)
class GroupResult:
    """The means over a set of directions, their difference, its bootstrap interval and p-value."""

    group: str
    tier: str
    branch: str
    metric: str
    directions: int
    better: int
    score: float
    control_score: float
    delta: float
    low: float
    high: float
    p: float

    @property
    def place(self) -> tuple[str, str, str]:
        """The set: group, tier, branch."""
        return self.group, self.tier, self.branch


@dataclass(frozen=True)
class Comparison:
    """All results of a system against a control on a test set.

    ``settings.metrics`` are those compared; ``skipped`` has those that could not be, and why.
    """

    system: str
    control: str
    testset: str
    settings: Settings
    directions: list[DirectionResult]
    groups: list[GroupResult]
    skipped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the comparison's file holds."""
        return asdict(self)


@dataclass(frozen=True)
class PairedFiles:
    """The texts of one direction: two translations of the same source, and the reference."""

    direction: str
    hypothesis: Path
    control: Path
    reference: Path


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m p-values times m − i, made monotone, at most 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = largest
    return corrected


def enough(drawn: int, directions: int) -> int:
    """As many resamples or trials as a direction needs to come out significant after Holm's correction.

    The smallest p-value of n is 1/(n + 1), the smallest corrected one that times the directions: of 1,000
    none of 51 directions could be below LEVEL, whatever the difference. ``drawn`` where these are enough;
    else 100 a direction, with which there can be less than 0.01, up to 20,000, or as many as are needed.
    """
    if directions / (drawn + 1) < LEVEL:
        return drawn
    return max(min(100 * directions, 20_000), round(directions / LEVEL))


@dataclass(frozen=True)
class PairedTests:
    """The two p-values of a direction and metric, and the difference on every resample."""

    p_bootstrap: float
    p_randomisation: float
    differences: list[float]


def paired_tests(
    metric: Any,
    system: tuple[Sequence[Sequence[float]], float],
    control: tuple[Sequence[Sequence[float]], float],
    settings: Settings,
) -> PairedTests:
    """Run sacrebleu's paired bootstrap and paired approximate randomisation.

    The p-values are those of ``sacrebleu --paired-bs`` and ``--paired-ar`` for the same seed (see
    ``resampling``), with one exception: sacrebleu counts only trials beyond the difference found, here the
    randomisation counts those that tie with it, too. Translations with the same statistics in every segment
    get 1 from both tests, where sacrebleu gives them 1/(trials + 1), its most significant value.

    Args:
        metric: of sacrebleu.
        system, control: sufficient statistics of the S segments, and the score.
        settings: samples, trials, seed.
    """
    import numpy as np

    from neuron_specialization.evaluation import resampling

    tables = [np.asarray(statistics, dtype=np.float64) for statistics, _ in (system, control)]
    if np.array_equal(tables[0], tables[1]):
        return PairedTests(1.0, 1.0, [0.0] * settings.samples)
    scores = system[1], control[1]
    sums = resampling.bootstrap_sums(tables, settings.samples, settings.seed)
    differences = resampling.corpus_scores(metric, sums[0]) - resampling.corpus_scores(metric, sums[1])
    return PairedTests(
        resampling.bootstrap_p_value(metric, sums[0], sums[1], *scores),
        resampling.randomisation_p_value(
            metric, tables[0], tables[1], settings.trials, settings.seed, *scores
        ),
        differences.tolist(),
    )


def compare_direction(
    files: PairedFiles, settings: Settings
) -> tuple[list[DirectionResult], dict[str, list[float]]]:
    """Compare two translations of one direction.

    Returns:
        (a result a metric, uncorrected; metric → the difference on every resample)

    Raises:
        ScoringError: a translation is missing or short.
    """
    direction = Direction.parse(files.direction)
    texts = read_texts(files.hypothesis, files.reference)
    control_texts = read_texts(files.control, files.reference)
    hypotheses, controls, references = (
        detokenize(lines, direction.target, settings.detokenizer)
        for lines in (texts.hypotheses, control_texts.hypotheses, texts.references)
    )
    results, differences = [], {}
    for name in settings.metrics:
        metric = build_metric(name, direction)
        ours, theirs = (
            metric._extract_corpus_statistics(lines, [references]) for lines in (hypotheses, controls)
        )
        score, control_score = (float(metric._aggregate_and_compute(table).score) for table in (ours, theirs))
        tests = paired_tests(metric, (ours, score), (theirs, control_score), settings)
        differences[name] = tests.differences
        low, high = interval(tests.differences, settings.confidence)
        results.append(
            DirectionResult(
                direction=files.direction,
                metric=name,
                segments=len(references),
                score=score,
                control_score=control_score,
                delta=score - control_score,
                low=low,
                high=high,
                p_bootstrap=tests.p_bootstrap,
                p_randomisation=tests.p_randomisation,
                signature=_signature(metric, settings),
            )
        )
    return results, differences


def _signature(metric: Any, settings: Settings) -> str:
    signature = metric.get_signature()
    for key, value in (("bs", settings.samples), ("ar", settings.trials), ("seed", settings.seed)):
        signature.update(key, value)
    return str(signature.format())


def bootstrap_p_value(values: Sequence[float]) -> float:
    """Two-sided p-value of "the difference is zero": twice the smaller share of resamples beyond zero.

    One is added to both counts, so that it is never zero (Davison and Hinkley, 1997, section 4.2).
    """
    below = sum(value <= 0 for value in values)
    above = sum(value >= 0 for value in values)
    return min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1))


def compare(
    system: str,
    control: str,
    testset: str,
    files: Sequence[PairedFiles],
    groups: Sequence[DirectionGroup],
    settings: Settings,
    *,
    processes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Compare two systems in every direction and over every group of directions.

    Args:
        system, control, testset: names, recorded.
        files: the texts of every direction of ``groups``.
        groups: the directions with group, tier and branch.
        settings: metrics, samples, trials, confidence, seed.
        processes: directions at a time; None takes every CPU this process may use.
        progress: called with 1 for each direction that is done.

    Raises:
        ScoringError: a direction's texts are missing or short, or no metric can be computed. One that cannot
            be in some direction (its tokenizer or model is not here) is skipped for all: means are over all
            directions or not at all.
    """
    absent = {row.direction for row in groups} - {item.direction for item in files}
    if absent:
        raise ScoringError(
            f"no texts of {', '.join(sorted(absent))}: means are over all directions or not at all"
        )
    skipped = unavailable_metrics(settings.metrics, [Direction.parse(row.direction) for row in groups])
    if len(skipped) == len(settings.metrics):
        raise ScoringError("no metric could be computed:\n" + "\n".join(skipped.values()))
    settings = replace(settings, metrics=tuple(name for name in settings.metrics if name not in skipped))
    results: list[DirectionResult] = []
    differences: dict[str, Mapping[str, Sequence[float]]] = {}
    processes = min(processes or usable_cores(), len(files))
    with ProcessPoolExecutor(processes) as pool:
        compared = pool.map(partial(compare_direction, settings=settings), files)
        for item, (found, resampled) in zip(files, compared, strict=True):
            results += found
            differences[item.direction] = resampled
            if progress is not None:
                progress(1)
    corrected = [
        row for name in settings.metrics for row in _corrected([r for r in results if r.metric == name])
    ]
    return Comparison(
        system,
        control,
        testset,
        settings,
        corrected,
        _group_results(groups, corrected, differences, settings),
        skipped,
    )


def _corrected(results: Sequence[DirectionResult]) -> list[DirectionResult]:
    bootstrap = holm([row.p_bootstrap for row in results])
    randomisation = holm([row.p_randomisation for row in results])
    return [
        DirectionResult(**(vars(row) | {"p_bootstrap_holm": bs, "p_randomisation_holm": ar}))
        for row, bs, ar in zip(results, bootstrap, randomisation, strict=True)
    ]


def _group_results(
    groups: Sequence[DirectionGroup],
    results: Sequence[DirectionResult],
    differences: Mapping[str, Mapping[str, Sequence[float]]],
    settings: Settings,
) -> list[GroupResult]:
    by_direction = {(row.metric, row.direction): row for row in results}
    found = []
    for metric in settings.metrics:
        for group, tier, branch, rows in direction_sets(groups):
            of_set = [by_direction[metric, row.direction] for row in rows]
            resampled = [
                sum(values) / len(rows)
                for values in zip(*(differences[row.direction][metric] for row in rows), strict=True)
            ]
            low, high = interval(resampled, settings.confidence)
            found.append(
                GroupResult(
                    *(group, tier, branch, metric, len(rows), sum(row.delta > 0 for row in of_set)),
                    score=fmean(row.score for row in of_set),
                    control_score=fmean(row.control_score for row in of_set),
                    delta=fmean(row.delta for row in of_set),
                    low=low,
                    high=high,
                    p=bootstrap_p_value(resampled),
                )
            )
    return found


def read_comparison(path: str | Path) -> Comparison:
    """Read what ``compare --output`` wrote.

    Raises:
        ScoringError: the file is not a comparison.
    """
    content = read_json(path)
    try:
        settings = content["settings"] | {"metrics": tuple(content["settings"]["metrics"])}
        return Comparison(
            content["system"],
            content["control"],
            content["testset"],
            Settings(**settings),
            [DirectionResult(**row) for row in content["directions"]],
            [GroupResult(**row) for row in content["groups"]],
            content.get("skipped", {}),
        )
    except (KeyError, TypeError, AttributeError):
        raise ScoringError(
            "not a comparison of two systems, or one of an older version",
            where=path,
            hint="make it again: neuron-specialization compare … --output FILE",
        ) from None
