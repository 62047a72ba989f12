"""Scores and p-values over arrays: sacrebleu's own, bit for bit."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import Result, _paired_ar_test, _paired_bs_test

from neuron_specialization.evaluation import resampling
from neuron_specialization.evaluation.significance import Settings, paired_tests

SENTENCE = "the a small house stands near an old river and nobody knows why it was built there"
WORDS = SENTENCE.split()


def corpus(segments: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """(system, control, references): some segments are equal in both, some empty, some without a match."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(segments)]

    def corrupted(rate: float) -> list[str]:
        lines = [
            " ".join(draw.choice(WORDS) if draw.random() < rate else word for word in line.split())
            for line in references
        ]
        return [draw.choice(["", "§ § §"]) if draw.random() < 0.05 else line for line in lines]

    system = corrupted(0.3)
    control = [a if draw.random() < 0.4 else b for a, b in zip(system, corrupted(0.35), strict=True)]
    return system, control, references


METRICS = {
    "bleu": BLEU,
    "chrf++": lambda: CHRF(word_order=2),
    "chrf": CHRF,
    # smoothing that is not written over arrays: scored one by one
    "bleu-floor": lambda: BLEU(smooth_method="floor"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_sacrebleus_bit_for_bit(name: str, dtype: Any) -> None:
    metric = METRICS[name]()
    system, _, references = corpus(60, 3)
    statistics = np.array(metric._extract_corpus_statistics(system, [references]), dtype=dtype)
    draw = np.random.default_rng(5)
    # single segments (orders without a match, or without an n-gram) and more, up to the whole corpus
    resamples = [statistics[draw.integers(60, size=size)].sum(0) for size in [*range(2, 60)] * 4]
    sums = np.stack([*statistics, *resamples])
    expected = np.array([metric._compute_score_from_stats(row).score for row in sums.copy()])
    found = resampling.corpus_scores(metric, sums)
    assert (found == expected).all()
    assert (found == 0).any() and (found > 0).any()


@pytest.mark.parametrize("name", ["bleu", "chrf++"])
@pytest.mark.parametrize(("segments", "seed"), [(80, 1), (80, 2), (200, 4)])
def test_p_values_are_sacrebleus(name: str, segments: int, seed: int) -> None:
    metric = METRICS[name]()
    system, control, references = corpus(segments, seed)
    ours, theirs = (metric._extract_corpus_statistics(lines, [references]) for lines in (system, control))
    scores = [float(metric._aggregate_and_compute(table).score) for table in (ours, theirs)]
    found = paired_tests(
        metric, (ours, scores[0]), (theirs, scores[1]), Settings(samples=150, trials=250, seed=seed)
    )
    baseline = {name: (np.array(theirs), Result(scores[1]))}
    for test, number, p_value in (
        (_paired_bs_test, 150, found.p_bootstrap),
        (_paired_ar_test, 250, found.p_randomisation),
    ):
        _, results = test(baseline, "", system, [references], {name: metric}, number, seed=seed)
        assert p_value == results[name].p_value
    assert len(found.differences) == 150


@pytest.mark.parametrize("name", ["bleu", "chrf++"])
@pytest.mark.parametrize("differing", [0, 1, 3, 5])
def test_few_differing_segments_prove_little(name: str, differing: int) -> None:
    """The randomisation's p-value is the share of all 2^n exchanges that are as far apart, ties included."""
    metric = METRICS[name]()
    system, _, references = corpus(40, 3)
    worse = [i for i, line in enumerate(system) if len(line.split()) > 6][:differing]
    control = ["§" if i in worse else line for i, line in enumerate(system)]
    ours, theirs = (
        np.array(metric._extract_corpus_statistics(lines, [references]), dtype=np.float64)
        for lines in (system, control)
    )
    exchanges = np.array(list(itertools.product([0, 1], repeat=differing)))
    first = ours.sum(0) + exchanges @ (theirs - ours)[worse]
    apart = resampling.corpus_scores(metric, first) - resampling.corpus_scores(
        metric, ours.sum(0) + theirs.sum(0) - first
    )
    exact = float((np.abs(apart) >= abs(apart[0]) - 1e-9).mean())
    scores = [
        float(resampling.corpus_scores(metric, table.sum(0, keepdims=True))[0]) for table in (ours, theirs)
    ]
    found = resampling.randomisation_p_value(metric, ours, theirs, 4000, 5, *scores)
    assert exact == 2 / 2 ** max(1, differing)
    assert found == pytest.approx(exact, abs=0.02)


def test_draws_do_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large test set is drawn in portions; the draws and the p-value stay the same."""
    system, control, references = corpus(30, 1)
    metric = BLEU()
    tables = [
        np.array(metric._extract_corpus_statistics(lines, [references]), dtype=np.float64)
        for lines in (system, control)
    ]
    scores = [float(resampling.corpus_scores(metric, table.sum(0, keepdims=True))[0]) for table in tables]
    whole = resampling.bootstrap_sums(tables, 50, 9)
    p_value = resampling.randomisation_p_value(metric, *tables, 50, 9, *scores)
    monkeypatch.setattr(resampling, "_ROWS", 100)
    for a, b in zip(whole, resampling.bootstrap_sums(tables, 50, 9), strict=True):
        assert (a == b).all()
    assert resampling.randomisation_p_value(metric, *tables, 50, 9, *scores) == p_value
