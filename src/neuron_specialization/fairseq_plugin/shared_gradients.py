"""Averaging gradients over the processes of one machine through memory that they share.

On a CPU fairseq adds them up by gloo, whose processes talk over sockets even on one machine. Here each
process writes its gradients into a place of its own, all wait for each other (local_group.py), and each adds
up its part of all the gradients. The results are those of gloo, of two processes to the last bit. Between
two averages the same memory serves to share other work of the update (``complete``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, distributed

from neuron_specialization.fairseq_plugin.local_group import LocalGroup

MEMORY = Path("/dev/shm")
# of more than this the sum itself takes longer than its way, and a copy for each process is a lot to ask for
MOST_BYTES = 1 << 30
_FLOAT_BYTES = 4


class SharedGradients:
    """The gradients of every process of a training on one machine.

    Args:
        memory: float32[processes + 1, numbers], the same memory in every process; last row: results.
        parameters: float32, on the CPU, in the same order in every process.
        group: the processes.
    """

    def __init__(self, memory: Tensor, parameters: Sequence[Tensor], group: LocalGroup) -> None:
        rank = distributed.get_rank()
        self.group = group
        self._memory, self._rank = memory, rank
        self._parameters = parameters
        self._own = _views(memory[rank], parameters)
        # read by this process only: what follows (clipping) changes gradients in place
        self._result = torch.empty_like(memory[-1])
        self._gradients = _views(self._result, parameters)
        part = self.share(memory.shape[1])
        self._parts = memory[:-1, part].unbind()
        self._part_of_average = memory[-1, part]

    @property
    def _processes(self) -> int:
        # each has a row of the memory; the last is for the results
        return len(self._memory) - 1

    @classmethod
    def agreed(cls, parameters: Sequence[Tensor]) -> Self | None:
        """Shared memory for these parameters; every process must call this, and all get the same answer.

        Returns:
            None where it cannot be: one process, processes of several machines, a GPU, other numbers than
            float32, or too many for the shared memory there is (a container often has 64 MB).
        """
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return None
        if not parameters or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
            return None
        memory = _common_memory(
            distributed.get_world_size() + 1, sum(parameter.numel() for parameter in parameters)
        )
        return cls(memory, parameters, LocalGroup.gathered(MEMORY)) if memory is not None else None

    def average(self) -> Tensor:
        """Replace the gradients of every process by their average; what has no gradient counts as 0.

        Returns:
            float32[numbers], the same gradients in a row: each parameter's is a view of it.
        """
        for parameter, place in zip(self._parameters, self._own, strict=True):
            if parameter.grad is None:
                place.zero_()
        own = [place for place, p in zip(self._own, self._parameters, strict=True) if p.grad is not None]
        torch._foreach_copy_(own, [p.grad for p in self._parameters if p.grad is not None])
        self.group.barrier()
        total = self._part_of_average
        torch.add(self._parts[0], self._parts[1], out=total)
        for part in self._parts[2:]:
            total += part
        total /= self._processes
        self.group.barrier()
        # nobody writes there again before all have come to the next update's first barrier
        self._result.copy_(self._memory[-1])
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._result

    def share(self, count: int, rank: int | None = None) -> slice:
        """The part of so many pieces of work that is this process's, or that of another rank."""
        rank = self._rank if rank is None else rank
        return slice(count * rank // self._processes, count * (rank + 1) // self._processes)

    def complete(self, results: Tensor) -> None:
        """Fill in what the other processes have worked out; every process must call this.

        Args:
            results: float32[count, …], contiguous, no more numbers than the parameters have; this process's
                share of the first dimension is there.
        """
        # between two averages nobody needs the places that the gradients were written to
        own = results[self.share(len(results))]
        self._memory[self._rank, : own.numel()] = own.view(-1)
        self.group.barrier()
        for rank in range(self._processes):
            if rank != self._rank:
                others = results[self.share(len(results), rank)]
                others.view(-1).copy_(self._memory[rank, : others.numel()])
        self.group.barrier()


def _views(row: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    parts = row.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def _common_memory(rows: int, numbers: int) -> Tensor | None:
    """float32[rows, numbers], the same memory in every process; None in all of them where it cannot be."""
    size = rows * numbers * _FLOAT_BYTES
    if size > MOST_BYTES:
        return None
    first = distributed.get_rank() == 0
    offered = [_new_file(size) if first else None]
    distributed.broadcast_object_list(offered)
    path = offered[0]
    memory = None
    if path is not None and path.exists():
        memory = torch.from_file(str(path), shared=True, size=rows * numbers).view(rows, numbers)
    # a path of this name on another machine would not be this memory
    mark = torch.rand((), generator=torch.Generator().manual_seed(int.from_bytes(os.urandom(4))))
    if memory is not None and first:
        memory[-1, 0] = mark
    distributed.broadcast(mark, 0)
    together = torch.tensor(float(memory is not None and bool(memory[-1, 0] == mark)))
    distributed.all_reduce(together, distributed.ReduceOp.MIN)
    if path is not None and first:
        path.unlink()  # the mappings keep it, and it ends with the last process, however that ends
    return memory if together else None


def _new_file(size: int) -> Path | None:
    """A file in memory with room for so many bytes; None where there is none."""
    path = None
    try:
        descriptor, name = tempfile.mkstemp(prefix="neuron-specialization-", dir=MEMORY)
        path = Path(name)
        try:
            # reserved now: a write into memory that is not there would end the process without a word
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError:
        if path is not None:
            path.unlink()
        return None
    return path
