"""Do masks follow language families? A permutation test, a clustering, and who shares which neurons.

Pure functions over similarities and masks; ``overlap`` calls them on a selection.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 10_000
SEED = 12345
# who keeps a neuron, from the most general to the most special
SHARES = ("all", "several branches", "one branch", "one direction", "none")

_PORTION = 2_000


@dataclass(frozen=True)
class FamilyTest:
    """Whether directions of one branch are more alike than directions of different ones.

    Attributes:
        difference: mean similarity within branches − mean similarity across them.
        p: share of the arrangements of the branches over the directions that give at least as large a
            difference (one-sided); None where there is nothing to arrange.
        arrangements: how many were tried.
        exact: whether these were all there are; else they were drawn at random, and the arrangement found
            counts as one of them (Phipson and Smyth, 2010).
        seed: of the drawing, None where exact.
    """

    difference: float | None
    p: float | None
    arrangements: int
    exact: bool
    seed: int | None


def arrangements(labels: Sequence[str]) -> int:
    """In how many different ways the labels can be ordered: n! / ∏ (count of each)!."""
    return math.factorial(len(labels)) // math.prod(map(math.factorial, Counter(labels).values()))


def least_p(branches: Sequence[str], test: Mapping[str, Any]) -> float:
    """The smallest p-value that a test over these branches can give, however clear the structure.

    Branches of one size can change their names: the arrangement found then counts several times among all.
    """
    same = math.prod(math.factorial(n) for n in Counter(Counter(branches).values()).values())
    tried = int(test["arrangements"])
    return same / tried if test["exact"] else 1 / (tried + 1)


def family_test(
    similarity: NDArray[np.float64],
    branches: Sequence[str],
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> FamilyTest:
    """Permutation test of the family structure: all arrangements if there are few enough, else random ones.

    Args:
        similarity: float64[n, n], symmetric; the diagonal is not used.
        branches: the branch of each of the n directions.
        permutations: how many arrangements to try at most.
        seed: of the drawing.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(branches))}
    codes = np.array([names[name] for name in branches], dtype=np.int64)
    observed = _difference(similarity, codes[None])
    if observed is None:
        return FamilyTest(None, None, 0, True, None)
    total = arrangements(branches)
    exact = total <= permutations
    source = _all_arrangements(codes) if exact else _random_arrangements(codes, permutations, seed)
    at_least = tried = 0
    while rows := list(islice(source, _PORTION)):
        differences = _difference(similarity, np.array(rows))
        assert differences is not None
        # equal arrangements of equal blocks differ by rounding only
        at_least += int((differences >= observed[0] - 1e-12).sum())
        tried += len(rows)
    p = at_least / tried if exact else (at_least + 1) / (tried + 1)
    return FamilyTest(float(observed[0]), p, tried, exact, None if exact else seed)


def _difference(similarity: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Mean within − mean across for each row of labels, int64[R, n]; None without a pair of either kind."""
    upper = np.triu(np.ones(similarity.shape, dtype=bool), k=1)
    same = (labels[:, :, None] == labels[:, None, :]) & upper
    within = int(same[0].sum())
    across = int(upper.sum()) - within
    if not within or not across:
        return None
    inside = (same * similarity).sum(axis=(1, 2))
    outside = similarity[upper].sum() - inside
    result: NDArray[np.float64] = inside / within - outside / across
    return result


def _all_arrangements(codes: NDArray[np.int64]) -> Iterator[list[int]]:
    counts = Counter(codes.tolist())
    row: list[int] = []

    def extend() -> Iterator[list[int]]:
        if len(row) == len(codes):
            yield row.copy()
            return
        for code in sorted(counts):
            if counts[code]:
                counts[code] -= 1
                row.append(code)
                yield from extend()
                row.pop()
                counts[code] += 1

    return extend()


def _random_arrangements(codes: NDArray[np.int64], number: int, seed: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return (generator.permutation(codes) for _ in range(number))


@dataclass(frozen=True)
class Clustering:
    """A hierarchical clustering (average linkage on 1 − IoU) against the branches.

    Attributes:
        linkage: float64[n − 1, 4] as SciPy's: the two clusters joined, their distance, the new size.
        cophenetic: correlation of the tree's distances with the distances it was made from.
        clusters: the tree cut into as many clusters as there are branches (fewer where distances tie).
        adjusted_rand: agreement of these clusters with the branches: 1 equal, about 0 by chance.
    """

    linkage: list[list[float]]
    cophenetic: float | None
    clusters: list[int]
    adjusted_rand: float | None


def cluster(similarity: NDArray[np.float64], branches: Sequence[str]) -> Clustering | None:
    """Cluster directions by their masks; None with fewer than three.

    Args:
        similarity: float64[n, n] in [0, 1], symmetric.
        branches: the branch of each direction.
    """
    from scipy.cluster.hierarchy import cophenet, fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(branches) < 3:
        return None
    condensed = squareform(1 - similarity, checks=False)  # which does not look at the diagonal
    tree = linkage(condensed, "average")
    correlation = None
    if np.ptp(condensed) > 0:
        correlation = float(cophenet(tree, condensed)[0])
    clusters = fcluster(tree, len(set(branches)), "maxclust").tolist()
    return Clustering(tree.tolist(), correlation, clusters, adjusted_rand(clusters, branches))


def adjusted_rand(first: Sequence[Any], second: Sequence[Any]) -> float | None:
    """Adjusted Rand index of two partitions (Hubert and Arabie, 1985).

    None where both are trivial (all together, or all apart): any agreement is chance.
    """
    together = sum(math.comb(n, 2) for n in Counter(zip(first, second, strict=True)).values())
    of_first = sum(math.comb(n, 2) for n in Counter(first).values())
    of_second = sum(math.comb(n, 2) for n in Counter(second).values())
    pairs = math.comb(len(first), 2)
    if not pairs:
        return None
    expected = of_first * of_second / pairs
    largest = (of_first + of_second) / 2
    return None if largest == expected else (together - expected) / (largest - expected)


def sharing(masks: NDArray[np.bool_], branches: Sequence[str]) -> dict[str, int]:
    """Count the neurons of a layer by who keeps them.

    Args:
        masks: bool[n, d_ff], a direction a row.
        branches: the branch of each direction.

    Returns:
        Neurons kept by all directions; by several branches, not all directions; by several directions of one
        branch; by one direction; by none. They add up to d_ff. A neuron that every direction keeps is
        "all", whether or not these are of one branch.
    """
    keeping = masks.sum(axis=0)
    names = list(dict.fromkeys(branches))
    per_branch = np.stack([masks[[b == name for b in branches]].any(axis=0) for name in names])
    kept_by_branches = per_branch.sum(axis=0)
    everyone = keeping == len(masks)
    one = (keeping == 1) & ~everyone
    return {
        "all": int(everyone.sum()),
        "several branches": int((~everyone & (kept_by_branches > 1)).sum()),
        "one branch": int((~everyone & (kept_by_branches == 1) & (keeping > 1)).sum()),
        "one direction": int(one.sum()),
        "none": int((keeping == 0).sum()),
    }


def describe(
    matrices: Mapping[str, NDArray[np.float64]],
    names: Sequence[str],
    branches: Sequence[str],
    *,
    unknown: str,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> dict[str, Any]:
    """Test and cluster the directions of a group: over all layers, the encoder's, the decoder's, and each.

    Args:
        matrices: layer → float64[n, n], IoU of every two directions.
        names: the n directions.
        branches: their branches.
        unknown: the branch of languages that are not known; such directions are left out.
        permutations, seed: of the test.

    Returns:
        JSON-ready: ``directions``, ``branches``, ``tests`` {``all``, ``encoder``, ``decoder``, layer: test},
        ``clusterings`` {``all``, ``encoder``, ``decoder``: clustering, or None with under three directions}.
    """
    known = [i for i, branch in enumerate(branches) if branch != unknown]
    kept = [branches[i] for i in known]
    parts: dict[str, list[str]] = {"all": list(matrices)}
    for side in ("encoder", "decoder"):
        layers = [layer for layer in matrices if layer.startswith(side)]
        if layers:
            parts[side] = layers
    means = {
        part: np.mean([matrices[layer][np.ix_(known, known)] for layer in layers], axis=0)
        for part, layers in parts.items()
    }
    each = {layer: matrix[np.ix_(known, known)] for layer, matrix in matrices.items()}
    tests = {
        part: _rounded(vars(family_test(matrix, kept, permutations, seed)))
        for part, matrix in (means | each).items()
    }
    clusterings = {part: cluster(matrix, kept) for part, matrix in means.items()}
    return {
        "directions": [names[i] for i in known],
        "branches": kept,
        "tests": tests,
        "clusterings": {
            part: _rounded(vars(found)) if found is not None else None for part, found in clusterings.items()
        },
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to nine decimals: what differs beyond is this machine's arithmetic."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 9)
        return [rounded(item) for item in value] if isinstance(value, list) else value

    return {key: rounded(value) for key, value in values.items()}
