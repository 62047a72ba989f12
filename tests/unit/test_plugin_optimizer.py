"""The fused Adam makes fairseq's updates; the dropout pool drops what it says and repeats after a resume."""

from __future__ import annotations

import math

import pytest
import torch
from fairseq.optim.adam import Adam

from neuron_specialization.fairseq_plugin.optimizer import FusedAdam
from neuron_specialization.fast_dropout import POOL_ELEMENTS, REFRESH_EVERY, DropoutPool


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fused_adam_is_fairseq_adam(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(3)]
    made = []
    for kind in (Adam, FusedAdam):
        parameters = [tensor.clone().requires_grad_() for tensor in start]
        optimizer = kind(parameters, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=weight_decay)
        generator = torch.Generator().manual_seed(1)
        for step in range(12):
            for number, parameter in enumerate(parameters):
                gradient = torch.randn(5, 3, dtype=torch.float64, generator=generator) * 10 ** (-number)
                # a parameter may be without a gradient at some step: its own count of steps then differs
                parameter.grad = None if number == 2 and step % 3 == 0 else gradient
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.step()
        made.append(parameters)
    for theirs, ours in zip(*made, strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-12, atol=1e-14)


def test_fused_adam_goes_on_from_its_state() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        parameter = torch.ones(4, requires_grad=True)
        optimizer = FusedAdam([parameter], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
        for step in range(6):
            if interrupted and step == 3:
                state = optimizer.state_dict()
                optimizer = FusedAdam([parameter], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
                optimizer.load_state_dict(state)
            parameter.grad = torch.full((4,), float(step) - 2)
            optimizer.step()
        return parameter.detach()

    assert torch.equal(run(False), run(True))


def test_dropout_keeps_the_share_and_the_mean() -> None:
    pool = DropoutPool(0.1, seed=3)
    pool.set_update(0)
    torch.manual_seed(0)
    x = torch.ones(400, 500)
    dropped = pool.dropout(x)
    share = float((dropped == 0).float().mean())
    assert math.isclose(share, 0.1, abs_tol=0.003)
    assert torch.allclose(dropped[dropped != 0], torch.tensor(1 / 0.9))
    assert math.isclose(float(dropped.mean()), 1.0, abs_tol=0.005)
    assert not torch.equal(dropped, pool.dropout(x))  # another place of the pool each time
    assert torch.equal(DropoutPool(0.0, 1).dropout(x), x)


def test_dropout_plus_residual_is_one_operation() -> None:
    pool = DropoutPool(0.5, seed=0)
    residual, x = torch.randn(30, 8), torch.randn(30, 8, requires_grad=True)
    torch.manual_seed(1)
    together = pool.add(residual, x)
    torch.manual_seed(1)
    assert torch.equal(together, residual + pool.dropout(x))
    together.sum().backward()
    assert x.grad is not None and set(x.grad.unique().tolist()) == {0.0, 2.0}


def test_a_resumed_run_draws_the_same_pool() -> None:
    def draw(updates: list[int]) -> torch.Tensor:
        pool = DropoutPool(0.3, seed=9)
        for update in updates:
            pool.set_update(update)
        torch.manual_seed(5)
        return pool.mask_like(torch.empty(1000))

    late = 5 * REFRESH_EVERY + 7
    assert torch.equal(draw([*range(0, late + 1, 16), late]), draw([late]))
    assert not torch.equal(draw([late]), draw([late + REFRESH_EVERY]))


def test_more_elements_than_the_pool_holds() -> None:
    mask = DropoutPool(0.25, seed=0).mask_like(torch.empty(POOL_ELEMENTS + 1))
    assert mask.shape == (POOL_ELEMENTS + 1,)
    assert math.isclose(float((mask == 0).float().mean()), 0.25, abs_tol=0.002)
