"""Gradients averaged through shared memory are those of gloo; where none can be shared, all are told so."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel
from fairseq.optim.fp16_optimizer import FP16Optimizer
from torch import distributed, multiprocessing

from neuron_specialization.fairseq_plugin import muon as muon_module
from neuron_specialization.fairseq_plugin import shared_gradients
from neuron_specialization.fairseq_plugin.muon import HIDDEN_MATRICES, FairseqMuon, mark_hidden_matrices
from neuron_specialization.fairseq_plugin.optimizer import FairseqFusedAdam
from neuron_specialization.fairseq_plugin.shared_gradients import SharedGradients

CONFIG = Namespace(lr=[1e-3], adam_betas="(0.9, 0.98)", adam_eps=1e-6, weight_decay=0.0)
SHAPES = [(7, 3), (5,), (), (2, 4, 3)]


def parameters_of(rank: int, update: int) -> list[torch.Tensor]:
    """Parameters with the gradients of one process; one parameter has none at some updates."""
    generator = torch.Generator().manual_seed(100 * rank + update)
    parameters = [torch.zeros(shape, requires_grad=True) for shape in SHAPES]
    for number, parameter in enumerate(parameters):
        if number != 1 or update != rank:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def holding(parameters: list[torch.Tensor]) -> Namespace:
    """As much of a module as an optimizer asks for."""
    return Namespace(parameters=lambda: parameters)


def by_gloo(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    sums = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    for one in sums:
        one /= distributed.get_world_size()
        distributed.all_reduce(one)
    return [one.detach() for one in sums]


def gradients(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    return [p.grad.clone() for p in parameters if p.grad is not None]


def one_process(rank: int, processes: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes
    )
    averages(rank, processes)
    statistics(rank)
    in_a_row(rank)
    # given, not measured: what a busy machine measures changes from one optimizer to the next
    for products in ("fp32", "bf16"):
        shared_work(rank, products)
    one_choice(rank)
    for dtype in (torch.bfloat16, torch.float16):
        for kind in (FairseqFusedAdam, FairseqMuon):
            mixed_precision(rank, dtype, kind)
    refusals(rank, folder)
    Path(folder, f"done{rank}").touch()
    # All has been seen. A thread of gloo that lets go of its last tensor while Python ends aborts the process
    # (seen in a core file; ending the process group does not end the threads): so no such end.
    distributed.barrier()
    os._exit(0)


def averages(rank: int, processes: int) -> None:
    """Three updates, the gradients changed in place in between, as clipping does."""
    kept = parameters_of(rank, 0)
    shared = SharedGradients.agreed(kept)
    assert shared is not None
    for update in range(3):
        expected = by_gloo(parameters_of(rank, update))
        for parameter, fresh in zip(kept, parameters_of(rank, update), strict=True):
            parameter.grad = fresh.grad
        row = shared.average()
        assert torch.equal(row, torch.cat([gradient.flatten() for gradient in gradients(kept)]))
        for found, wanted in zip(gradients(kept), expected, strict=True):
            if processes == 2:
                assert torch.equal(found, wanted)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
        for parameter in kept:
            assert parameter.grad is not None
            parameter.grad *= rank + 2


def statistics(rank: int) -> None:
    """Once gradients are shared, the few numbers that fairseq's trainer sums in every update are, too."""
    parameters = parameters_of(rank, 0)
    FairseqFusedAdam(CONFIG, parameters).all_reduce_grads(holding(parameters))
    called = []
    distributed.all_reduce, stock = lambda *given, **named: called.append(1), distributed.all_reduce
    for update in range(3):
        data = {"loss": torch.tensor(0.1 * (rank + 1) + update), "tokens": 7 * rank + update}
        summed = distributed_utils.all_reduce_dict(data, torch.device("cpu"), None)
        processes = range(distributed.get_world_size())
        assert float(summed["loss"]) == pytest.approx(sum(0.1 * (one + 1) + update for one in processes))
        assert summed["tokens"] == sum(7 * one + update for one in processes)
    assert called == []
    # single precision, a maximum, many numbers: as ever
    distributed_utils.all_reduce(torch.ones(2), None)
    distributed_utils.all_reduce(torch.ones(2).double(), None, op="max")
    distributed_utils.all_reduce(torch.ones(10_000).double(), None)
    assert len(called) == 3
    distributed.all_reduce = stock


def in_a_row(rank: int) -> None:
    """The optimizer scales and clips averaged gradients as fairseq does one by one."""
    ours, theirs = (Namespace(params=parameters_of(rank, 1)) for _ in range(2))
    for made in (ours, theirs):
        made.optimizer = FairseqFusedAdam(CONFIG, made.params)
        made.optimizer.all_reduce_grads(holding(made.params))
    theirs.optimizer._row = None  # as where no memory is shared
    for max_norm in (0.0, 100.0, 0.5):
        for made in (ours, theirs):
            made.optimizer.multiply_grads(torch.tensor(0.7))
            made.norm = made.optimizer.clip_grad_norm(max_norm)
        torch.testing.assert_close(ours.norm, theirs.norm)
        for found, wanted in zip(gradients(ours.params), gradients(theirs.params), strict=True):
            torch.testing.assert_close(found, wanted)
    ours.optimizer.zero_grad()
    assert gradients(ours.params) == []
    # the next update has gradients of its own
    for parameter in ours.params:
        parameter.grad = torch.ones_like(parameter)
    ours.optimizer.multiply_grads(3.0)
    assert all(bool((gradient == 3).all()) for gradient in gradients(ours.params))


def muon(parameters: list[torch.Tensor], products: str) -> FairseqMuon:
    return FairseqMuon(Namespace(**vars(CONFIG), muon_products=products, muon_lr_ratio=0.5), parameters)


def shared_work(rank: int, products: str) -> None:
    """Each process orthogonalises a part of the matrices; the update is that of one which does all."""
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 24), (24, 8), (8, 8), (8, 8), (8, 8), (8,)]
    start = [torch.randn(shape) for shape in shapes]
    made = []
    for together in (True, False):
        parameters = [one.clone().requires_grad_() for one in start]
        for parameter in parameters[:-1]:
            setattr(parameter, "param_group", HIDDEN_MATRICES)  # noqa: B010
        optimizer = muon(parameters, products)
        for update in range(3):
            generator = torch.Generator().manual_seed(10 * rank + update)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.all_reduce_grads(holding(parameters))
            if not together:
                optimizer._muon.shared = None
            optimizer.step()
        made.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    torch.testing.assert_close(made[0], made[1])
    of_first = made[0].clone()
    distributed.broadcast(of_first, 0)
    assert torch.equal(made[0], of_first)


def one_choice(rank: int) -> None:
    """Where a machine's processes measure different speeds, all compute as the first one says."""
    for first in (True, False):
        muon_module.bfloat16_is_faster = lambda first=first: first is (rank == 0)
        assert muon([torch.zeros(3, 3, requires_grad=True)], "auto")._muon._bfloat16 is first


def mixed_precision(rank: int, dtype: torch.dtype, kind: type[FairseqFusedAdam]) -> None:
    """fairseq's float32 copies get their gradients after these were averaged: the processes stay equal."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)).to(dtype)
    mark_hidden_matrices(model)
    wrapped = LegacyDistributedDataParallel(model, distributed.group.WORLD)
    parameters = list(model.parameters())
    copies = FP16Optimizer.build_fp32_params(None, parameters, flatten=False)
    config = Namespace(
        optimizer=None,
        common=Namespace(
            bf16=dtype == torch.bfloat16,
            model_parallel_size=1,
            fp16_init_scale=128,
            fp16_scale_tolerance=0.0,
            threshold_loss_scale=None,
            min_loss_scale=1e-4,
        ),
        optimization=Namespace(update_freq=[1]),
        distributed_training=Namespace(distributed_world_size=distributed.get_world_size()),
    )
    inner = muon(copies, "fp32") if kind is FairseqMuon else FairseqFusedAdam(CONFIG, copies)
    optimizer = FP16Optimizer(config, parameters, inner, copies)
    start = torch.cat([copy.detach().flatten() for copy in copies])
    for update in range(3):
        generator = torch.Generator().manual_seed(10 * rank + update)
        given = torch.randn(16, 8, generator=generator).to(dtype)
        optimizer.zero_grad()
        optimizer.backward(wrapped(given).float().square().sum())
        optimizer.all_reduce_grads(wrapped)
        optimizer.multiply_grads(1 / 16)
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
    reached = torch.cat([copy.detach().flatten() for copy in copies])
    assert (reached - start).abs().max() > 1e-3
    of_first = reached.clone()
    distributed.broadcast(of_first, 0)
    assert torch.equal(reached, of_first)


def refusals(rank: int, folder: str) -> None:
    """Whatever keeps one process from the memory, all are told that there is none."""
    memory = shared_gradients.MEMORY
    shared_gradients.MEMORY = Path(folder, "nowhere")  # no such memory on this machine
    assert SharedGradients.agreed(parameters_of(rank, 0)) is None
    shared_gradients.MEMORY = memory
    assert SharedGradients.agreed([p.double() for p in parameters_of(rank, 0)]) is None
    assert SharedGradients.agreed([]) is None
    reserve = shared_gradients.os.posix_fallocate
    shared_gradients.os.posix_fallocate = full
    assert SharedGradients.agreed(parameters_of(rank, 0)) is None
    shared_gradients.os.posix_fallocate = reserve
    if rank == 1:  # another machine: a file of this name, and not this memory
        opened = torch.from_file
        torch.from_file = lambda path, shared, size: opened(
            f"{folder}/other", shared=True, size=size, dtype=torch.float32
        ).zero_()
    assert SharedGradients.agreed(parameters_of(rank, 0)) is None


def full(descriptor: int, offset: int, length: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_of_one_machine(processes: int, tmp_path: Path) -> None:
    before = set(shared_gradients.MEMORY.iterdir())
    multiprocessing.start_processes(
        one_process, args=(processes, str(tmp_path)), nprocs=processes, start_method="spawn"
    )
    assert len(list(tmp_path.glob("done*"))) == processes
    left = set(shared_gradients.MEMORY.iterdir()) - before
    assert not [path for path in left if path.name.startswith("neuron-specialization")]


def test_one_process_shares_nothing() -> None:
    assert SharedGradients.agreed([torch.zeros(3, requires_grad=True)]) is None
