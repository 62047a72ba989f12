"""How much of a layer each direction keeps, and how alike the neurons of two directions are.

Intersection over union (IoU) of two masks of one layer: directions that share the pivot on the same
side are compared by their other language, as upstream's notebook does, within a branch (Germanic with
Germanic) and across branches::

    en→de ── en→nl   within        de→en ── nl→en   within
    en→de ── en→es   across        de→en ── es→en   across
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.directions import UNKNOWN_BRANCH, Direction, branch_of
from neuron_specialization.errors import MaskError
from neuron_specialization.masks.structure import PERMUTATIONS, SEED, describe, sharing
from neuron_specialization.storage.layer_masks import LayerMasks


def iou_matrix(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pairwise IoU of masks: bool[n, d_ff] → float64[n, n] in [0, 1], 1 on the diagonal.

    Two masks that keep nothing (no layer has such) are taken as equal.
    """
    ones = masks.astype(np.float64)
    both = ones @ ones.T
    kept = ones.sum(axis=1)
    either = kept[:, None] + kept[None, :] - both
    result: NDArray[np.float64] = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return result


def likely_pivot(directions: Sequence[str]) -> str | None:
    """The language that more directions have than any other, if most have it; else None."""
    counts = Counter(code for name in directions for code in name.split("-")).most_common(2)
    if not counts or counts[0][1] == counts[1][1]:
        return None
    code, count = counts[0]
    return code if 2 * count > len(directions) else None


def overlap(
    masks: Mapping[str, LayerMasks],
    pivot: str | None,
    branch: Callable[[str], str] = branch_of,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> dict[str, Any]:
    """Describe the masks of all directions of a selection.

    Args:
        masks: direction → masks, all of equal layers (see ``layer_masks.read_mask_folder``).
        pivot: the language most directions share, or None: then two directions are of one branch when
            both their sources and their targets are.
        branch: language → branch; ``other`` means that it is not known, and such languages enter no mean.
        permutations, seed: of the test of family structure (see ``structure.family_test``).

    Returns:
        JSON-ready: ``pivot``; ``neurons`` {layer: d_ff}; ``directions`` {direction: {group, branch,
        kept {layer: share}, kept_mean}}; ``groups`` {group: {directions, matrix {layer: [[IoU]]},
        within and across {pairs, iou {layer: mean, or None without a pair}, mean}, structure (see
        ``structure.describe``), sharing {layer: neurons by who keeps them (``structure.sharing``)}}}.
    """
    if not masks:
        raise MaskError("no masks to compare")
    layers = next(iter(masks.values())).shapes
    described: dict[str, Any] = {}
    grouped: dict[str, list[str]] = {}
    for name, mask in masks.items():
        direction = Direction.parse(name)
        group = direction.group(pivot)
        kept = mask.kept
        described[name] = {
            "group": group,
            "branch": _branch(direction, pivot, branch),
            "kept": {layer: round(share, 6) for layer, share in kept.items()},
            "kept_mean": round(sum(kept.values()) / len(kept), 6),
        }
        grouped.setdefault(group, []).append(name)
    return {
        "pivot": pivot,
        "neurons": dict(layers),
        "directions": described,
        "groups": {
            group: _group(
                names, masks, [described[name]["branch"] for name in names], list(layers), permutations, seed
            )
            for group, names in grouped.items()
        },
    }


def _branch(direction: Direction, pivot: str | None, branch: Callable[[str], str]) -> str:
    if other := direction.other(pivot):
        return branch(other)
    both = (branch(direction.source), branch(direction.target))
    return UNKNOWN_BRANCH if UNKNOWN_BRANCH in both else "-".join(both)


def _group(
    names: list[str],
    masks: Mapping[str, LayerMasks],
    branches: list[str],
    layers: list[str],
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    labels = np.array(branches)
    known = labels != UNKNOWN_BRANCH
    # each pair once; pairs with a language of unknown branch are neither within nor across
    pairs = np.triu(known[:, None] & known[None, :], k=1)
    same = labels[:, None] == labels[None, :]
    stacked = {layer: np.stack([masks[name].layers[layer] for name in names]) for layer in layers}
    matrices = {layer: iou_matrix(rows) for layer, rows in stacked.items()}
    return {
        "directions": names,
        "matrix": {layer: matrix.round(6).tolist() for layer, matrix in matrices.items()},
        "within": _means(matrices, pairs & same),
        "across": _means(matrices, pairs & ~same),
        "structure": describe(
            matrices, names, branches, unknown=UNKNOWN_BRANCH, permutations=permutations, seed=seed
        ),
        "sharing": {layer: sharing(rows, branches) for layer, rows in stacked.items()},
    }


def _means(matrices: Mapping[str, NDArray[np.float64]], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    count = int(chosen.sum())
    means = {layer: round(float(m[chosen].mean()), 6) if count else None for layer, m in matrices.items()}
    mean = round(float(np.mean([m[chosen].mean() for m in matrices.values()])), 6) if count else None
    return {"pairs": count, "iou": means, "mean": mean}
