"""Gradients averaged through shared memory are those of gloo; where none can be shared, all are told so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from neuron_specialization.fairseq_plugin import shared_gradients
from neuron_specialization.fairseq_plugin.shared_gradients import SharedGradients

SHAPES = [(7, 3), (5,), (), (2, 4, 3)]


def parameters_of(rank: int, update: int) -> list[torch.Tensor]:
    """Parameters with the gradients of one process; one parameter has none at some updates."""
    generator = torch.Generator().manual_seed(100 * rank + update)
    parameters = [torch.zeros(shape, requires_grad=True) for shape in SHAPES]
    for number, parameter in enumerate(parameters):
        if number != 1 or update != rank:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


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
    refusals(rank, folder)
    Path(folder, f"done{rank}").touch()


def averages(rank: int, processes: int) -> None:
    """Three updates, the gradients changed in place in between, as clipping does."""
    kept = parameters_of(rank, 0)
    shared = SharedGradients.agreed(kept)
    assert shared is not None
    for update in range(3):
        expected = by_gloo(parameters_of(rank, update))
        for parameter, fresh in zip(kept, parameters_of(rank, update), strict=True):
            parameter.grad = fresh.grad
        shared.average()
        for found, wanted in zip(gradients(kept), expected, strict=True):
            if processes == 2:
                assert torch.equal(found, wanted)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
        for parameter in kept:
            assert parameter.grad is not None
            parameter.grad *= rank + 2


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
