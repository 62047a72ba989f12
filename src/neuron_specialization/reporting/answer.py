"""The answer in words, out of the comparisons: does the method help, where, and how sure is that?

Every sentence is made from numbers; none says more than they do. What one training run of each system cannot
say is said, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from neuron_specialization.evaluation.scoring import decimals, label
from neuron_specialization.evaluation.significance import LEVEL, Comparison, GroupResult
from neuron_specialization.evaluation.tables import ALL, set_name
from neuron_specialization.masks.structure import least_p
from neuron_specialization.reporting.scores import p_of
from neuron_specialization.reporting.table import fixed
from neuron_specialization.run_names import split_run

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Effect:
    """The mean difference over a set of directions by one metric, over all seeds.

    Attributes:
        metric, group, tier, branch: of what.
        delta: mean over seeds.
        low, high: of one seed the bootstrap interval; of several the t interval over the seeds. As wide as
            the comparisons' ``confidence`` says.
        verdict: what the p-value says at 0.05.
        p: of one seed the bootstrap's, of several that of a t test over the seeds.
        score, control_score: means over seeds.
        directions: in the set.
        better: in how many of them the system scores higher; None of several seeds.
        seeds: how many runs.
    """

    metric: str
    group: str
    tier: str
    branch: str
    delta: float
    low: float
    high: float
    verdict: Verdict
    p: float
    score: float
    control_score: float
    directions: int
    better: int | None
    seeds: int


@dataclass(frozen=True)
class Answer:
    """A headline, what it is worth (for its colour), the sentences under it, and the differences alone."""

    headline: str
    verdict: Verdict | Literal["mixed"]
    sentences: list[str]
    differences: str = ""


def effects(comparisons: Sequence[Comparison], metric: str) -> list[Effect]:
    """The effect on every set of directions by a metric; ``comparisons`` are of one pair, one a seed."""
    found = []
    for first in (row for row in comparisons[0].groups if row.metric == metric):
        rows = [
            row
            for comparison in comparisons
            for row in comparison.groups
            if (row.metric, row.place) == (metric, first.place)
        ]
        found.append(_effect(rows, comparisons[0].settings.confidence))
    return found


def _effect(rows: Sequence[GroupResult], confidence: float) -> Effect:
    first, deltas = rows[0], [row.delta for row in rows]
    delta = fmean(deltas)
    if len(rows) == 1:
        low, high, p = first.low, first.high, first.p
    else:
        low, high, p = _over_seeds(deltas, confidence)
    verdict: Verdict = "unclear" if p >= LEVEL else "better" if delta > 0 else "worse"
    return Effect(
        *(first.metric, *first.place),
        delta=delta,
        low=low,
        high=high,
        verdict=verdict,
        p=p,
        score=fmean(row.score for row in rows),
        control_score=fmean(row.control_score for row in rows),
        directions=first.directions,
        better=first.better if len(rows) == 1 else None,
        seeds=len(rows),
    )


def _over_seeds(deltas: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Bounds of Student's t interval of a mean, and the two-sided p-value of "it is zero"."""
    from scipy.special import stdtr, stdtrit

    delta, error, freedom = fmean(deltas), stdev(deltas) / math.sqrt(len(deltas)), len(deltas) - 1
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    if not error:
        return delta, delta, 0.0 if delta else 1.0
    return delta - half, delta + half, 2 * float(stdtr(freedom, -abs(delta) / error))


def overall(found: Sequence[Effect]) -> Effect:
    """The effect over all directions (of the only group where there is one)."""
    whole = [effect for effect in found if effect.tier == effect.branch == ALL]
    return next((effect for effect in whole if effect.group == ALL), whole[-1])


def answer(comparisons: Sequence[Comparison], unequal: str = "") -> Answer:
    """Answer for one system against one control on one test set.

    Args:
        comparisons: one a seed, at least one.
        unequal: how the training of the two differs beside the masks, where it does: a sentence. A difference
            is then no verdict on the masks, and the headline says so.
    """
    system, control = (split_run(name)[0] for name in (comparisons[0].system, comparisons[0].control))
    metrics = comparisons[0].settings.metrics
    by_metric = {metric: effects(comparisons, metric) for metric in metrics}
    wholes = {metric: overall(found) for metric, found in by_metric.items()}
    headline, verdict = _headline(system, control, wholes)
    if unequal:
        headline = f"{headline} Their training differs, too."
        verdict = "unclear" if verdict == "unclear" else "mixed"
    sentences = [unequal] if unequal else []
    sentences += [_numbers(wholes[metric], comparisons[0].settings.confidence) for metric in metrics]
    sentences += [_directions(comparisons, metrics), _where(by_metric)]
    sentences += [
        f"Not compared by {label(metric)}: {reason}." for metric, reason in comparisons[0].skipped.items()
    ]
    sentences.append(_certainty(list(wholes.values())))
    differences = [
        f"{label(metric)} {fixed(effect.delta, decimals(metric), signed=True)}"
        for metric, effect in wholes.items()
    ]
    return Answer(headline, verdict, sentences, ", ".join(differences))


def _headline(system: str, control: str, wholes: dict[str, Effect]) -> tuple[str, Verdict | Literal["mixed"]]:
    by_verdict: dict[Verdict, list[str]] = {"better": [], "worse": [], "unclear": []}
    for metric, effect in wholes.items():
        by_verdict[effect.verdict].append(label(metric))
    better, worse, unclear = (listed(by_verdict[key]) for key in ("better", "worse", "unclear"))
    if better and worse:
        return f"Mixed: {system} is better than {control} by {better}, worse by {worse}.", "mixed"
    if better and unclear:
        return f"In part: {system} is better than {control} by {better}; not clearly by {unclear}.", "mixed"
    if better:
        return f"Yes: {system} is better than {control} by {better}.", "better"
    if worse:
        doubt = f"; by {unclear} the difference is not clear" if unclear else ""
        return f"No: {system} is worse than {control} by {worse}{doubt}.", "worse"
    return f"No difference found between {system} and {control} by {unclear}.", "unclear"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def interval_text(effect: Effect, confidence: float) -> str:
    """``−0.15, 95 % interval −0.30 to 0.00, p = 0.052``."""
    places = decimals(effect.metric)
    text = f"{fixed(effect.delta, places, signed=True)}, {confidence * 100:.0f} % interval "
    text += f"{fixed(effect.low, places, signed=True)} to {fixed(effect.high, places, signed=True)}"
    return f"{text}, {p_text(effect.p)}"


def p_text(p: float) -> str:
    """``p = 0.052``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _numbers(effect: Effect, confidence: float) -> str:
    places = decimals(effect.metric)
    count = (
        f"mean of {effect.seeds} seeds"
        if effect.better is None
        else f"higher in {effect.better} of {effect.directions} directions"
    )
    return (
        f"{label(effect.metric)}, mean over {effect.directions} directions: {fixed(effect.score, places)} "
        f"against {fixed(effect.control_score, places)}; difference "
        f"{interval_text(effect, confidence)}; {count}."
    )


def _directions(comparisons: Sequence[Comparison], metrics: Sequence[str]) -> str:
    parts = []
    for metric in metrics:
        rows = [row for item in comparisons for row in item.directions if row.metric == metric]
        significant = [row for row in rows if (p := p_of(row)) is not None and p < LEVEL]
        gains = sum(row.delta > 0 for row in significant)
        names = f" ({', '.join(row.direction for row in significant)})" if 0 < len(significant) <= 6 else ""
        parts.append(
            f"{label(metric)} finds {gains} higher and {len(significant) - gains} lower of {len(rows)}{names}"
        )
    of_seeds = ", all seeds counted," if len(comparisons) > 1 else ""
    return (
        f"Direction by direction{of_seeds} with both paired tests and Holm's correction (p < {LEVEL}): "
        + "; ".join(parts)
        + "."
    )


def _where(by_metric: dict[str, list[Effect]]) -> str:
    parts = []
    sets = 0
    for metric, found in by_metric.items():
        subsets = [effect for effect in found if effect is not overall(found)]
        sets = len(subsets)
        for verdict, word in (("better", "higher"), ("worse", "lower")):
            names = [
                f"{set_name(e.group, e.tier, e.branch)} ({fixed(e.delta, decimals(metric), signed=True)})"
                for e in subsets
                if e.verdict == verdict
            ]
            if names:
                parts.append(f"{label(metric)} {word} in {'; '.join(names)}")
    if not sets:
        return ""
    if not parts:
        return f"Where: none of {sets} subsets by direction group, tier or branch differs by itself."
    return (
        f"Where: {'. '.join(parts)}. ({sets} overlapping subsets, each tested by itself at {LEVEL}: single "
        "ones may be chance.)"
    )


def _certainty(wholes: Sequence[Effect]) -> str:
    smallest = listed(
        [f"{fixed((e.high - e.low) / 2, decimals(e.metric))} {label(e.metric)}" for e in wholes]
    )
    seeds = wholes[0].seeds
    if seeds == 1:
        return (
            "How sure: each system was trained once. Intervals and p-values say what another test set of "
            "this kind would show, not what another seed would; differences between seeds can be as large "
            "as these. More seeds (seeds: in the configuration) would tell. Mean differences below about "
            f"{smallest} cannot be told from zero on this test set."
        )
    return (
        f"How sure: {seeds} seeds, each system trained once with each; intervals are Student's t over the "
        f"seeds (half widths {smallest})."
    )


def context(system: str, control: str, comparisons: Sequence[Comparison]) -> str:
    """One sentence on another pair: what the control itself gained."""
    parts = []
    for metric in comparisons[0].settings.metrics:
        effect = overall(effects(comparisons, metric))
        parts.append(f"{label(metric)} {interval_text(effect, comparisons[0].settings.confidence)}")
    return f"For comparison, {system} against {control}: {'; '.join(parts)}."


def family_sentences(
    overlaps: Mapping[str, Mapping[str, Any]], by_construction: Collection[str] = ()
) -> list[str]:
    """For each selection: whether directions of one branch keep more of the same neurons.

    Args:
        overlaps: selection → overlap.json.
        by_construction: selections whose masks are made one a branch: of them a test says nothing.
    """
    sentences = []
    for selection, overlap in overlaps.items():
        if selection in by_construction:
            sentences.append(f"The masks {selection} follow language families by construction: one a branch.")
            continue
        parts = []
        for group, content in overlap["groups"].items():
            test = content.get("structure", {}).get("tests", {}).get("all")
            if test is None or test["p"] is None:
                continue
            points = fixed(100 * test["difference"], 1, signed=True)
            how = "all" if test["exact"] else "random"
            verdict = "yes" if test["p"] < LEVEL and test["difference"] > 0 else "not shown"
            least = least_p(content["structure"]["branches"], test)
            smallest = ", the smallest there can be" if test["p"] <= least * (1 + 1e-6) else ""
            if least >= LEVEL:
                smallest = f", of which the smallest there can be is {least:.3f}: too few directions to tell"
            parts.append(
                f"{group}: {verdict} (IoU within branches less IoU across {points} points, "
                f"{p_text(test['p'])} of {how} {test['arrangements']:,} arrangements{smallest})"
            )
        if parts:
            sentences.append(f"Do the masks {selection} follow language families? {'; '.join(parts)}.")
    return sentences
