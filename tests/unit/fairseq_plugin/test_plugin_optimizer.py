"""The fused Adam makes fairseq's updates; the dropout pool drops what it says and repeats after a resume.

Muon orthogonalises what it should and leaves the rest to Adam.
"""

from __future__ import annotations

import math

import pytest
import torch
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer

from neuron_specialization.fairseq_plugin.muon import (
    HIDDEN_MATRICES,
    SMALLEST,
    SPREAD,
    Muon,
    mark_hidden_matrices,
    orthogonalised,
)
from neuron_specialization.fairseq_plugin.optimizer import FusedAdam
from neuron_specialization.transformer.fast_dropout import POOL_ELEMENTS, REFRESH_EVERY, DropoutPool


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


def singular_values(matrices: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrices.double())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_orthogonalised_matrices_have_equal_singular_values(bfloat16: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 24, 96, generator=generator) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    values = singular_values(orthogonalised(matrices, bfloat16=bfloat16))
    assert values.min() > 1 - SPREAD - 0.05 and values.max() < 1 + SPREAD + 0.05
    # the same rotations: U and V of the product with the given matrix's are the identity's
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ orthogonalised(matrices, bfloat16=bfloat16) @ v.mT
    assert torch.allclose(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)), atol=0.05)


@pytest.mark.parametrize("first", [0.01, 0.3, 0.9])
def test_small_singular_values_grow_as_far(first: float) -> None:
    """However unequal they are: from SMALLEST of the norm on, and smaller ones by the same factor or more."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 48, 48, dtype=torch.float64, generator=generator)
    u, v = torch.linalg.qr(drawn).Q
    values = torch.cat([torch.tensor([1.0]), torch.linspace(first, SMALLEST / 10, 47)]).double()
    matrix = (u * (values / values.norm())) @ v.mT
    found = (u.mT @ orthogonalised(matrix.unsqueeze(0))[0] @ v).diagonal()
    reached = values >= SMALLEST * values.norm()
    assert (found[reached] - 1).abs().max() < SPREAD
    assert (found[~reached] > 50 * values[~reached] / values.norm()).all()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 24, 100, 128])
def test_one_singular_value_stays_in_bounds(rows: int, bfloat16: bool) -> None:
    """All of the norm in it, all entries rounded the same way: the most that rounding can lift it."""
    for value in torch.linspace(0.5, 1.0, 23):
        matrices = value.expand(1, rows, 4 * rows + 3).contiguous()
        largest = singular_values(orthogonalised(matrices, bfloat16=bfloat16)).max()
        assert abs(largest - 1) < SPREAD + 0.05


def test_what_no_gradient_reaches_is_not_moved() -> None:
    matrices = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1))
    matrices[:, 5] = 0  # rows of neurons that a mask takes out
    matrices[1] = 0
    result = orthogonalised(matrices)
    assert not result[:, 5].any() and not result[1].any()
    assert result.isfinite().all()


def muon_and_adam(**options: float) -> tuple[Muon, FusedAdam, list[torch.Tensor], list[torch.Tensor]]:
    """Two optimizers over equal parameters: a marked layer of each shape, its biases, an embedding."""
    made: list[tuple[list[torch.Tensor], torch.nn.Module]] = []
    for _ in range(2):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.Linear(8, 32), torch.nn.Linear(32, 8), torch.nn.LayerNorm(8)
        )
        embedding = torch.nn.Embedding(40, 8)
        mark_hidden_matrices(layers)
        made.append(([*layers.parameters(), embedding.weight], layers))
    given = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.0} | options
    return Muon(made[0][0], **given), FusedAdam(made[1][0], **given), made[0][0], made[1][0]


def step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def is_hidden_matrix(parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and parameter.shape[0] != 40  # 40: the embedding


def test_muon_is_for_matrices_of_layers_and_adam_for_the_rest() -> None:
    muon, adam, ours, theirs = muon_and_adam()
    before = [parameter.detach().clone() for parameter in ours]
    for seed in range(3):
        step(muon, ours, seed)
        step(adam, theirs, seed)
    for parameter, other, start in zip(ours, theirs, before, strict=True):
        assert torch.equal(parameter, other) != is_hidden_matrix(parameter)
        moved = (parameter - start).square().mean().sqrt()
        assert 0 < moved < 0.03  # three updates of a size like Adam's


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_muon_is_torchs_muon(weight_decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's polynomials; it computes in bfloat16, one matrix at a time: equal within its rounding."""
    monkeypatch.setattr(
        "neuron_specialization.fairseq_plugin.muon.COEFFICIENTS", [(3.4445, -4.7750, 2.0315)] * 5
    )
    options = {"lr": 0.01, "weight_decay": weight_decay}
    _, _, ours, _ = muon_and_adam()
    others = {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": weight_decay}
    muon = Muon(ours, lr=0.02, lr_ratio=0.5, bfloat16=True, **others)
    matrices = [number for number, parameter in enumerate(ours) if is_hidden_matrix(parameter)]
    assert len(matrices) == 3
    start = {number: ours[number].detach().clone() for number in matrices}
    theirs = {number: matrix.clone().requires_grad_() for number, matrix in start.items()}
    reference = torch.optim.Muon(theirs.values(), adjust_lr_fn="match_rms_adamw", momentum=0.95, **options)
    for seed in range(5):
        step(muon, ours, seed)
        for number, parameter in theirs.items():
            parameter.grad = ours[number].grad
        reference.step()
    for number, parameter in theirs.items():
        way = torch.linalg.vector_norm(parameter - start[number])
        assert torch.linalg.vector_norm(ours[number] - parameter) < 0.03 * way


def test_fairseqs_copies_in_single_precision_keep_the_marks() -> None:
    _, _, parameters, _ = muon_and_adam()
    copies = FP16Optimizer.build_fp32_params(None, parameters, flatten=False)
    kept, marked = (
        [getattr(p, "param_group", None) == HIDDEN_MATRICES for p in each] for each in (copies, parameters)
    )
    assert kept == marked and sum(marked) == 3


def test_muon_goes_on_from_its_state() -> None:
    def run(interrupted: bool) -> list[torch.Tensor]:
        optimizer, _, parameters, _ = muon_and_adam()
        for seed in range(4):
            if interrupted and seed == 2:
                state = optimizer.state_dict()
                optimizer = Muon(parameters, lr=0.5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
                optimizer.load_state_dict(state)
            step(optimizer, parameters, seed)
        return parameters

    for whole, resumed in zip(run(False), run(True), strict=True):
        assert torch.equal(whole, resumed)


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
