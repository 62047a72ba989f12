"""Which neurons a direction keeps, by its activations: the smallest set that makes up 95 % of them.

The method (upstream ``get_ns_masks.py``), for one FFN layer of one direction::

    counts a_i   how often neuron i fired        sorted        cumulative    95 % of 100 = 95
    n0  10 ┐                                    n2   50   →     50
    n1   3 │      sort descending               n3   34   →     84
    n2  50 ├──────────────────────────────►     n0   10   →     94
    n3  34 │      (ties: see below)             n1    3   →     97   ≥ 95  ◄── the prefix ends here
    n4   3 ┘                                    n4    3   →    100
                                                        mask = {n0, n1, n2, n3}

The smallest prefix of the descending order whose sum reaches k % of the total is kept. Neurons
that never fired are thus masked whatever k is, save that a layer in which nothing fired keeps one
neuron: a layer of width 0 is no layer.

Ties at the cut: ``index`` keeps the lower index, so that a smaller k always keeps a subset;
``torch-sort`` takes the order of ``torch.sort(descending=True)`` on the CPU, which is what the
reference's masks were cut from.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError
from neuron_specialization.storage.layer_masks import BoolVector

TieBreak = Literal["index", "torch-sort"]


def select(counts: NDArray[np.int64], k: float, tie_break: TieBreak = "index") -> BoolVector:
    """Keep the smallest prefix of the descending order that makes up ``k`` % of all activations.

    Args:
        counts: int64[d_ff] ≥ 0, activations per neuron.
        k: percentage in (0, 100]; read as the decimal number it is written as, compared exactly.
        tie_break: ``index`` or ``torch-sort`` (see the module's head).

    Returns:
        bool[d_ff], True = kept; at least one neuron.

    Raises:
        MaskError: counts of another dtype or shape, a negative count, or k out of range.
    """
    if not 0 < k <= 100:
        raise MaskError(f"k = {k} is not a percentage in (0, 100]")
    if counts.dtype != np.int64 or counts.ndim != 1 or counts.size == 0:
        raise MaskError(f"activation counts are int64[d_ff], not {counts.dtype}{list(counts.shape)}")
    if counts.min() < 0:
        raise MaskError("an activation count is negative", cause="the activation file is damaged")
    if int(counts.max()) * counts.size >= 2**63:
        raise MaskError("activation counts too large to add up", cause="the activation file is damaged")
    order: NDArray[Any]
    if tie_break == "index":
        order = np.argsort(-counts, kind="stable")
    elif tie_break == "torch-sort":
        import torch

        # Unstable on purpose: the order of equal counts is what parity with the reference needs.
        order = torch.sort(torch.from_numpy(counts.copy()), descending=True).indices.numpy()
    else:
        raise MaskError(f"tie_break is index or torch-sort, not {tie_break!r}")
    sums = np.cumsum(counts[order])
    # ⌈total·k/100⌉ in integers: sums are integers, so reaching it is reaching the fraction.
    share = Fraction(repr(float(k))) / 100
    target = -(-int(sums[-1]) * share.numerator // share.denominator)
    kept = int(np.searchsorted(sums, target, side="left")) + 1
    mask = np.zeros(counts.size, dtype=np.bool_)
    mask[order[:kept]] = True
    return mask
