"""Ways to choose neurons other than by activity: pure functions over masks, counts and weights.

All give the same kind of mask, bool[d_ff] a layer with at least one neuron, so that systems differ in
*which* neurons a direction keeps and in nothing else.

- random: as many neurons as another mask keeps, in every layer of every direction: the control.
- magnitude: after LaSS (Lin et al., "Learning Language Specific Sub-network for Multilingual Machine
  Translation", ACL 2021, section 3.2): fine-tune the joint model on one direction, prune what has the
  smallest weights. LaSS ranks single weights of all of the Transformer's matrices and prunes the lowest α %.
  Here whole neurons are ranked, layer by layer, by the sum of magnitudes of their incoming weights (their row
  of W1), and attention and embeddings stay shared: the masks are comparable with the method's own.
- family: one mask for all directions of a branch on the same side of the pivot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.directions import UNKNOWN_BRANCH, Direction, branch_of
from neuron_specialization.errors import MaskError
from neuron_specialization.storage.layer_masks import BoolVector

Layers = Mapping[str, BoolVector]


def side_of(layer: str) -> str:
    """``encoder.layers.0`` → ``encoder``."""
    return layer.partition(".")[0]


def only_side(layers: Layers, sides: str) -> dict[str, BoolVector]:
    """Keep the masks of one side (``both``: of both); those of the other become all ones.

    Args:
        layers: layer name → bool[d_ff].
        sides: which layers stay masked: ``encoder``, ``decoder`` or ``both``.
    """
    return {
        name: mask.copy() if sides in ("both", side_of(name)) else np.ones_like(mask)
        for name, mask in layers.items()
    }


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a source of random numbers of its own for a seed and names (direction, layer).

    A direction's draw thus depends neither on which others there are nor on their order.
    """
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])


def drawn(layers: Layers, seed: int, direction: str) -> dict[str, BoolVector]:
    """Draw masks of a direction that keep as many neurons of each layer as the given ones.

    Args:
        layers: layer name → bool[d_ff].
        seed: of the draw.
        direction: such as ``de-en``.

    Returns:
        Layer name → bool[d_ff]; every set of that size is equally likely.
    """
    result = {}
    for name, mask in layers.items():
        chosen = generator(seed, direction, name).choice(mask.size, size=int(mask.sum()), replace=False)
        result[name] = np.zeros(mask.size, dtype=np.bool_)
        result[name][chosen] = True
    return result


def permuted(layers: Layers, seed: int) -> dict[str, BoolVector]:
    """Rename the neurons of each layer by a random permutation, the same for every direction.

    What two directions share is exactly as large as before; which neurons it is has become random.
    """
    return {
        name: mask[generator(seed, "permutation", name).permutation(mask.size)]
        for name, mask in layers.items()
    }


def row_magnitudes(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum of magnitudes of each neuron's incoming weights: W1 [d_ff, d] → float64[d_ff]."""
    return np.asarray(np.abs(weight.astype(np.float64)).sum(axis=1))


def largest(scores: NDArray[np.float64], count: int) -> BoolVector:
    """Keep the ``count`` neurons of the highest score; of equal ones the lower index.

    Raises:
        MaskError: a score that is no number, or a count out of 1 … d_ff.
    """
    if not np.isfinite(scores).all():
        raise MaskError("a neuron's weights are not finite numbers", cause="the fine-tuning diverged")
    if not 1 <= count <= scores.size:
        raise MaskError(f"{count} of {scores.size} neurons cannot be kept")
    mask = np.zeros(scores.size, dtype=np.bool_)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def count_of(width: int, percent: float) -> int:
    """Return the fewest neurons that are at least ``percent`` % of ``width``, exactly."""
    share = Fraction(repr(float(percent))) / 100 * width
    return -(-share.numerator // share.denominator)


def combined(masks: Sequence[BoolVector], how: str) -> BoolVector:
    """Combine the masks of several directions for one layer: their ``union`` or ``intersection``.

    Where no neuron is kept by all, the intersection is the neuron kept by most of them (of several, that of
    the lowest index): a layer of width 0 is no layer.

    Args:
        masks: n of bool[d_ff].
        how: ``union`` or ``intersection``.
    """
    votes = np.sum(masks, axis=0)
    if how == "union":
        return np.asarray(votes > 0)
    if how != "intersection":
        raise MaskError(f"masks are combined by union or intersection, not by {how!r}")
    result = np.asarray(votes == len(masks))
    if not result.any():
        result[int(votes.argmax())] = True
    return result


def families(directions: Sequence[str], pivot: str | None) -> dict[str, str]:
    """Return direction → family: those of one branch on the same side of the pivot, such as ``en→Germanic``.

    A direction between two languages other than the pivot is of the family of both branches; a language of
    unknown branch is a family of its own.
    """

    def name(code: str) -> str:
        branch = branch_of(code)
        return code if code == pivot or branch == UNKNOWN_BRANCH else branch

    parsed = {text: Direction.parse(text) for text in directions}
    return {text: f"{name(one.source)}→{name(one.target)}" for text, one in parsed.items()}


def members(directions: Sequence[str], pivot: str | None) -> dict[str, list[str]]:
    """Return family → its directions, both in the order of ``directions``."""
    found: dict[str, list[str]] = {}
    for direction, family in families(directions, pivot).items():
        found.setdefault(family, []).append(direction)
    return found
