"""The test of family structure, the clustering and the counts of shared neurons, on cases done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.masks.structure import (
    SHARES,
    FamilyTest,
    adjusted_rand,
    arrangements,
    cluster,
    describe,
    family_test,
    sharing,
)

BRANCHES = ["Germanic", "Germanic", "Slavic", "Slavic"]


def blocks(branches: list[str], within: float = 0.8, across: float = 0.4) -> np.ndarray:
    labels = np.array(branches)
    matrix = np.where(labels[:, None] == labels[None, :], within, across)
    np.fill_diagonal(matrix, 1)
    return matrix


def test_exact_on_four_directions() -> None:
    """6 arrangements of aabb; the two that keep the true pairs (aabb, bbaa) give the difference: p = 2/6."""
    test = family_test(blocks(BRANCHES), BRANCHES)
    assert (test.arrangements, test.exact, test.seed) == (6, True, None)
    assert test.difference == pytest.approx(0.4)
    assert test.p == pytest.approx(2 / 6)
    assert family_test(blocks(BRANCHES), BRANCHES, permutations=6) == test


def test_exact_against_the_structure() -> None:
    """Where directions of one branch are least alike, every arrangement is at least as good."""
    assert family_test(blocks(BRANCHES, within=0.1), BRANCHES).p == 1.0


def test_exact_counts_unequal_branches() -> None:
    """aab: three arrangements, one with the alike pair together."""
    branches = ["Germanic", "Germanic", "Slavic"]
    similarity = np.array([[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]])
    test = family_test(similarity, branches)
    assert (test.arrangements, test.p) == (3, pytest.approx(1 / 3))
    assert test.difference == pytest.approx(0.9 - 0.25)


def test_random_arrangements_agree_with_all() -> None:
    branches = ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    noise = np.random.default_rng(0).normal(0, 0.3, (9, 9))
    similarity = blocks(branches, 0.6, 0.55) + (noise + noise.T) / 2
    assert arrangements(branches) == 1680
    exact = family_test(similarity, branches)
    drawn = family_test(similarity, branches, permutations=1679, seed=3)
    assert exact.exact and not drawn.exact and drawn.seed == 3
    assert exact.p is not None and drawn.p is not None and 0.01 < exact.p < 0.9
    assert drawn.p == pytest.approx(exact.p, abs=4 * (exact.p * (1 - exact.p) / 1679) ** 0.5)
    assert drawn == family_test(similarity, branches, permutations=1679, seed=3)
    # never zero, however clear
    clear = family_test(blocks(branches), branches, permutations=100)
    assert clear.p == 1 / 101


@pytest.mark.parametrize("branches", [["a", "a"], ["a", "b"], ["a"], []])
def test_nothing_to_test(branches: list[str]) -> None:
    test = family_test(np.ones((len(branches), len(branches))), branches)
    assert test == FamilyTest(None, None, arrangements=0, exact=True, seed=None)


def test_adjusted_rand() -> None:
    assert adjusted_rand([1, 1, 2, 2], BRANCHES) == pytest.approx(1)
    assert adjusted_rand([1, 2, 1, 2], BRANCHES) == pytest.approx(-0.5)
    # by hand: 1 pair together in both, of 4 in the first and 4 in the second, of 15
    found = adjusted_rand([1, 1, 2, 2, 2, 3], ["a", "b", "b", "b", "c", "c"])
    assert found == pytest.approx((1 - 4 * 4 / 15) / (4 - 4 * 4 / 15))
    assert adjusted_rand([1, 1, 1], ["a", "a", "a"]) is None
    assert adjusted_rand([1], ["a"]) is None


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.randoms())
def test_adjusted_rand_does_not_depend_on_names_or_order(labels: list[int], random: object) -> None:
    other = [label % 2 for label in labels]
    renamed = [f"cluster {9 - label}" for label in labels]
    assert adjusted_rand(labels, other) == adjusted_rand(renamed, other) == adjusted_rand(other, labels)


def test_clustering_finds_the_branches() -> None:
    found = cluster(blocks(BRANCHES), BRANCHES)
    assert found is not None and found.adjusted_rand == pytest.approx(1)
    assert found.cophenetic == pytest.approx(1)
    assert [join[2] for join in found.linkage] == pytest.approx([0.2, 0.2, 0.6])
    crossed = cluster(blocks(["a", "b", "a", "b"]), BRANCHES)
    assert crossed is not None and crossed.adjusted_rand == pytest.approx(-0.5)
    assert cluster(np.ones((2, 2)), BRANCHES[:2]) is None
    alike = cluster(np.ones((3, 3)), BRANCHES[:3])  # no distances, so nothing that could correlate
    assert alike is not None and alike.cophenetic is None


def test_sharing_by_hand() -> None:
    masks = np.array(
        [
            [1, 1, 1, 1, 0, 1, 0, 0],
            [1, 1, 0, 0, 0, 1, 0, 0],
            [1, 0, 0, 1, 0, 1, 1, 0],
            [1, 0, 0, 0, 0, 0, 0, 1],
        ],
        dtype=bool,
    )
    counts = sharing(masks, BRANCHES)
    # in turn: all; one branch; one direction; several branches; none; several branches; one direction twice
    assert counts == {"all": 1, "several branches": 2, "one branch": 1, "one direction": 3, "none": 1}
    assert list(counts) == list(SHARES)
    alone = sharing(np.eye(3, dtype=bool), ["a", "b", "c"])
    assert alone == dict.fromkeys(SHARES, 0) | {"one direction": 3}


def test_description_leaves_out_unknown_branches() -> None:
    names = ["en-de", "en-nl", "en-xx", "en-cs", "en-pl"]
    branches = ["Germanic", "Germanic", "other", "Slavic", "Slavic"]
    matrix = blocks(branches)
    found = describe(
        {"encoder.layers.0": matrix, "decoder.layers.0": blocks(branches, 0.3, 0.3)},
        names,
        branches,
        unknown="other",
    )
    assert found["directions"] == ["en-de", "en-nl", "en-cs", "en-pl"]
    assert list(found["tests"]) == ["all", "encoder", "decoder", "encoder.layers.0", "decoder.layers.0"]
    assert found["tests"]["encoder"]["p"] == pytest.approx(2 / 6, abs=1e-6)
    assert found["tests"]["decoder"]["p"] == 1.0
    assert found["tests"]["all"]["difference"] == pytest.approx(0.2)
    assert found["clusterings"]["encoder"]["adjusted_rand"] == pytest.approx(1)
