"""``fused_adam``: fairseq's Adam as one fused kernel call.

fairseq adds ε to √v without bias correction and corrects in the step size; torch's kernel corrects v
first. The two agree exactly in arithmetic when the kernel gets ε/√(1-β2^t), so the numbers are fairseq's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor

from neuron_specialization.fairseq_plugin.local_group import summing_by
from neuron_specialization.fairseq_plugin.shared_gradients import SharedGradients

_ALL_REDUCE = distributed_utils.all_reduce


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay, the update of ``fairseq.optim.adam.Adam``."""

    supports_memory_efficient_fp16 = False
    supports_flat_params = True

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            self.update(group, [(p, p.grad) for p in group["params"] if p.grad is not None])
        return loss

    def update(self, group: dict[str, Any], given: list[tuple[Tensor, Tensor]]) -> None:
        """Update these parameters of a group, given with their gradients."""
        by_step: dict[int, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
        for parameter, gradient in given:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            by_step.setdefault(state["step"], []).append(
                (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
            )
        for step, entries in by_step.items():
            self._apply(group, step, entries)

    def _apply(
        self, group: dict[str, Any], step: int, entries: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    ) -> None:
        parameters, gradients, means, squares = (list(column) for column in zip(*entries, strict=True))
        devices = {parameter.device for parameter in parameters}
        # one for all: the kernel only reads it
        steps = {device: torch.full((), float(step), device=device) for device in devices}
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"] * group["lr"])
        torch._fused_adam_(
            parameters,
            gradients,
            means,
            squares,
            [],
            [steps[parameter.device] for parameter in parameters],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FairseqFusedAdam(FairseqAdam):
    """Same options as ``adam``."""

    def __init__(self, cfg: Any, params: Any) -> None:
        super(FairseqAdam, self).__init__(cfg)
        self._optimizer = self.build(params)
        # how processes of one machine average gradients; found out at the first update
        self._shared: SharedGradients | None = None
        self._asked = False
        # all gradients in a row, between their averaging and the next update
        self._row: Tensor | None = None

    def build(self, params: Any) -> FusedAdam:
        return FusedAdam(params, **self.optimizer_config)

    def _agree(self, module: Any) -> None:
        self._asked = True
        parameters = list(self.params)
        # In mixed precision they are copies in float32, which get the gradients of the module's own only
        # after these were averaged: to average the copies' would leave each process with its own gradients.
        if {id(parameter) for parameter in parameters} <= {id(one) for one in module.parameters()}:
            self._shared = SharedGradients.agreed(parameters)
        if self._shared is not None:
            # the trainer, which adds up tokens and losses in every update, looks for it there
            distributed_utils.all_reduce = summing_by(self._shared.group, _ALL_REDUCE)

    def all_reduce_grads(self, module: Any) -> None:
        """As fairseq's; the processes of one machine through shared memory."""
        if not self._asked:
            self._agree(module)
        if self._shared is None:
            super().all_reduce_grads(module)
        else:
            self._row = self._shared.average()

    def multiply_grads(self, c: Any) -> None:
        """As fairseq's; in one go where they lie in a row."""
        if self._row is None:
            super().multiply_grads(c)
        else:
            self._row.mul_(c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """As fairseq's; in one go where they lie in a row."""
        if self._row is None or aggregate_norm_fn is not None:
            clipped: Tensor = super().clip_grad_norm(max_norm, aggregate_norm_fn)
            return clipped
        norm: Tensor = torch.linalg.vector_norm(self._row)
        if max_norm > 0:
            self._row.mul_((max_norm / (norm + 1e-6)).clamp_(max=1))
        return norm

    def zero_grad(self) -> None:
        self._row = None
        super().zero_grad()
