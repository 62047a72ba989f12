"""``muon``: the hidden matrices go along the orthogonalised momentum, everything else by Adam.

Muon (K. Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) replaces the update of a matrix
by the nearest matrix whose singular values are equal, so that no direction of it is left behind. The update
is then scaled to the size of Adam's (J. Liu and others, 2025, arXiv:2502.16982, section 2.2): one learning
rate can serve both kinds of parameters. Embeddings, biases and norms are not matrices of that kind: Adam.

``torch.optim.Muon`` (what the tests compare with) takes one matrix after the other, and always in bfloat16,
which is many times slower than float32 on a processor that has no products of it. Here matrices of a shape
go together, in either, and the processes of a machine share them out.
"""

# no `from __future__ import annotations`: fairseq reads the types of MuonConfig's fields
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from torch import Tensor, distributed, nn

from neuron_specialization.fairseq_plugin.optimizer import FairseqFusedAdam, FusedAdam
from neuron_specialization.fairseq_plugin.shared_gradients import SharedGradients
from neuron_specialization.transformer.products import bfloat16_is_faster

# what fairseq's copies in single precision keep of a parameter's attributes is this one (FP16Optimizer)
HIDDEN_MATRICES = "hidden_matrices"

MOMENTUM = 0.95
# Newton-Schulz: p(x) = a·x + b·x³ + c·x⁵, in each step the polynomial that brings what the steps before it
# have left of [SMALLEST, 1] closest to 1 (N. Amsel and others, 2025, arXiv:2505.16932); all but the last
# take x / 1.02, since a value that rounding lifts over the interval's end would grow without bound. Four
# steps take the interval into 1 ± SPREAD; Jordan's one polynomial needs five for a wider spread.
SMALLEST, SPREAD = 0.003, 0.22
COEFFICIENTS = (
    (8.2193, -23.3375, 16.6266),
    (3.9681, -2.8404, 0.5161),
    (3.4599, -2.4914, 0.4779),
    (2.5359, -1.8730, 0.4411),
)
# root mean square of an entry of Adam's usual update (Liu and others, section 2.2)
ADAMS_SIZE = 0.2


def mark_hidden_matrices(*stacks: nn.Module) -> None:
    """Mark the weights of the linear layers in these stacks of layers for the optimizer."""
    for stack in stacks:
        for module in stack.modules():
            if isinstance(module, nn.Linear):
                setattr(module.weight, "param_group", HIDDEN_MATRICES)  # noqa: B010 (no attribute of a Tensor)


def orthogonalised(matrices: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Return the matrices with their singular values made about equal.

    Newton-Schulz iteration (COEFFICIENTS): singular values from SMALLEST of the matrix's norm on end within
    1 ± SPREAD, those that are 0 stay 0.

    Args:
        matrices: float[n, rows, columns], rows ≤ columns.
        bfloat16: compute in it; what that loses is less than the spread.

    Returns:
        The same shape and dtype.
    """
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x = matrices / (norms + 1e-7)
    x = x.bfloat16() if bfloat16 else x
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Muon(FusedAdam):
    """Muon for the parameters that ``mark_hidden_matrices`` has marked, Adam for the others.

    Nesterov's momentum, decoupled weight decay as Adam's.

    Args:
        params, adam: as FusedAdam's; the weight decay holds for all.
        lr_ratio: learning rate of the matrices over that of the rest.
        bfloat16: orthogonalise in it.
    """

    supports_flat_params = False

    def __init__(self, params: Any, *, lr_ratio: float = 1.0, bfloat16: bool = False, **adam: Any) -> None:
        super().__init__(params, **adam)
        self._lr_ratio, self._bfloat16 = lr_ratio, bfloat16
        # processes that have averaged gradients through memory they share also share this work
        self.shared: SharedGradients | None = None

    def update(self, group: dict[str, Any], given: list[tuple[Tensor, Tensor]]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        others = []
        for parameter, gradient in given:
            if getattr(parameter, "param_group", None) == HIDDEN_MATRICES:
                by_shape[tuple(sorted(parameter.shape))].append((parameter, gradient))
            else:
                others.append((parameter, gradient))
        super().update(group, others)
        for alike in by_shape.values():
            self._orthogonal_update(group, alike)

    def _orthogonal_update(self, group: dict[str, Any], given: list[tuple[Tensor, Tensor]]) -> None:
        """Matrices of one shape or its transpose, together."""
        parameters, gradients = (list(column) for column in zip(*given, strict=True))
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        part = slice(None) if self.shared is None else self.shared.share(len(given))
        directions = gradients[0].new_empty(len(given), *sorted(gradients[0].shape))
        if own := list(zip(gradients[part], momenta[part], strict=True)):
            ahead = torch.stack(
                [_wide(torch.lerp(gradient, momentum, MOMENTUM)) for gradient, momentum in own]
            )
            directions[part] = orthogonalised(ahead, bfloat16=self._bfloat16)
        if self.shared is not None:
            self.shared.complete(directions)
        lr = self._lr_ratio * group["lr"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"] * lr)
        size = ADAMS_SIZE * max(parameters[0].shape) ** 0.5
        torch._foreach_add_(
            parameters,
            [
                direction if parameter.shape == direction.shape else direction.T
                for parameter, direction in zip(parameters, directions, strict=True)
            ],
            alpha=-size * lr,
        )


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


@dataclass
class MuonConfig(FairseqAdamConfig):
    muon_products: ChoiceEnum(["fp32", "bf16", "auto"]) = field(  # type: ignore[valid-type]
        default="fp32", metadata={"help": "numbers to orthogonalise in; auto: bf16 where that is faster"}
    )
    muon_lr_ratio: float = field(
        default=1.0, metadata={"help": "learning rate of the hidden matrices over that of the rest"}
    )


@register_optimizer("muon", dataclass=MuonConfig)
class FairseqMuon(FairseqFusedAdam):
    """Options of ``adam``, which hold for what is no hidden matrix, and its own."""

    def build(self, params: Any) -> Muon:
        parameters = list(params)
        bfloat16 = _bfloat16(str(self.cfg.muon_products), parameters)
        ratio = float(self.cfg.muon_lr_ratio)
        self._muon = Muon(parameters, lr_ratio=ratio, bfloat16=bfloat16, **self.optimizer_config)
        return self._muon

    def all_reduce_grads(self, module: Any) -> None:
        super().all_reduce_grads(module)
        self._muon.shared = self._shared


def _bfloat16(products: str, parameters: list[Tensor]) -> bool:
    """One choice for all processes: with different ones their models would drift apart."""
    if products != "auto":
        return products == "bf16"
    if any(parameter.is_cuda for parameter in parameters):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    faster = torch.tensor(float(bfloat16_is_faster()))
    if distributed.is_initialized():
        distributed.broadcast(faster, 0)
    return bool(faster)
