"""The processes of a training on one machine: waiting for each other, and adding up a few numbers.

gloo's barrier and its sum of a handful of numbers take two milliseconds each where every core computes
(``benchmarks/waiting.py``): threads of its own must be woken first, in each process. An update needs half a
dozen of them. Some bytes through a socket wake a process in a tenth of the time.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, distributed

# of more numbers a sum in the first process is not the quick way
MOST_NUMBERS = 1024
# how long a process may take to call at the first one's after all have agreed to
_PATIENCE_SECONDS = 60.0


class LocalGroup:
    """All processes of a training, which are on one machine; the first is the others' meeting point.

    Args:
        peers: of the first process: a connection to each of the others, in their order; of another: one, to
            the first.
        first: whether this is the first process.
    """

    def __init__(self, peers: Sequence[socket.socket], *, first: bool) -> None:
        self._peers, self._first = peers, first

    @classmethod
    def gathered(cls, folder: Path) -> Self:
        """Connect the processes; every one must call this, and all must see ``folder``.

        Raises:
            OSError: a process could not be reached.
        """
        if distributed.get_rank():
            offered: list[str | None] = [None]
            distributed.broadcast_object_list(offered)
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(str(offered[0]))
            peer.sendall(distributed.get_rank().to_bytes(4))
            return cls([peer], first=False)
        with tempfile.TemporaryDirectory(prefix="neuron-specialization-", dir=folder) as place:
            path = f"{place}/socket"
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(path)
                door.listen(distributed.get_world_size())
                door.settimeout(_PATIENCE_SECONDS)
                distributed.broadcast_object_list([path])
                callers = {}
                for _ in range(distributed.get_world_size() - 1):
                    caller, _ = door.accept()  # which waits without a limit, unlike the door
                    callers[int.from_bytes(_received(caller, 4))] = caller
        return cls([callers[rank] for rank in sorted(callers)], first=True)

    def barrier(self) -> None:
        """Return when all processes have called this.

        Raises:
            ConnectionError: another process has ended.
        """
        self.add_up(torch.zeros(1, dtype=torch.float64))

    def add_up(self, numbers: Tensor) -> None:
        """Replace the numbers by their sum over all processes; every one must call this.

        Args:
            numbers: float64, contiguous, on the CPU; as many in every process.

        Raises:
            ConnectionError: another process has ended.
        """
        own = numbers.view(-1).numpy().data.cast("B")
        if self._first:
            for peer in self._peers:
                other = torch.frombuffer(_received(peer, own.nbytes), dtype=numbers.dtype)
                numbers += other.view(numbers.shape)
            for peer in self._peers:
                peer.sendall(own)
        else:
            self._peers[0].sendall(own)
            own[:] = _received(self._peers[0], own.nbytes)


def _received(peer: socket.socket, count: int) -> bytearray:
    received = bytearray()
    while len(received) < count:
        part = peer.recv(count - len(received))
        if not part:
            raise ConnectionError("another process of this training has ended")
        received += part
    return received


def summing_by(processes: LocalGroup, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return fairseq's ``all_reduce``, the few numbers of every update excepted: these our processes sum.

    Args:
        processes: all of the training.
        otherwise: fairseq's own, for everything else.
    """

    def all_reduce(tensor: Tensor, group: Any, op: str = "sum") -> Any:
        few = tensor.dtype == torch.float64 and tensor.device.type == "cpu" and tensor.numel() <= MOST_NUMBERS
        if not (few and op == "sum" and tensor.is_contiguous()):
            return otherwise(tensor, group, op)
        processes.add_up(tensor)
        return tensor

    return all_reduce
