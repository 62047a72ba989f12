"""Dropout that does not spend a tenth of a CPU training step on random numbers.

On CPU drawing one Bernoulli number an element costs more than the arithmetic it guards. Here
a pool of scaled keep-masks is drawn once in a while and every call takes a slice of it
at a random place. The pool and the places follow from (seed, update), so a resumed run draws what
an uninterrupted one would. On other devices and in other precisions torch's own dropout is used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POOL_ELEMENTS = 1 << 22
REFRESH_EVERY = 64  # updates a pool serves: the cost of drawing it vanishes, no pattern lives long


class DropoutPool:
    """A pool of Bernoulli(1-p) numbers divided by 1-p.

    Args:
        p: the probability that an element is dropped.
        seed: the run's seed.
    """

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed = p, seed
        self._generation = -1
        self._pool = torch.empty(0)

    def set_update(self, update: int) -> None:
        """Draw a new pool when the update belongs to another generation."""
        generation = update // REFRESH_EVERY
        if self.p > 0 and generation != self._generation:
            generator = torch.Generator().manual_seed((self.seed << 20) + generation)
            # a new tensor, not an in-place draw: a live graph may still hold slices of the old pool
            self._pool = (
                torch.empty(POOL_ELEMENTS).bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)
            )
            self._generation = generation

    def mask_like(self, x: Tensor) -> Tensor:
        """A mask of x's shape: a slice of the pool at a place torch's generator chooses."""
        count = x.numel()
        if count >= POOL_ELEMENTS:
            return torch.empty_like(x).bernoulli_(1 - self.p).div_(1 - self.p)
        if self._generation < 0:
            self.set_update(0)
        start = int(torch.randint(POOL_ELEMENTS - count, ()))
        return self._pool[start : start + count].view(x.shape)

    def _torch_dropout(self, x: Tensor) -> bool:
        return x.device.type != "cpu" or x.dtype != torch.float32

    def dropout(self, x: Tensor) -> Tensor:
        """Dropout of x."""
        if self.p == 0:
            return x
        return F.dropout(x, self.p) if self._torch_dropout(x) else x * self.mask_like(x)

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + dropout(x)`` in one pass."""
        if self.p == 0:
            return residual + x
        if self._torch_dropout(x):
            return residual + F.dropout(x, self.p)
        return torch.addcmul(residual, x, self.mask_like(x))
