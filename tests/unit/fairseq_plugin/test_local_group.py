"""Processes of one machine meet: here threads, with the same sockets between them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch

from neuron_specialization.fairseq_plugin.local_group import LocalGroup

PROCESSES = 3


@pytest.fixture
def groups() -> list[LocalGroup]:
    pairs = [socket.socketpair() for _ in range(PROCESSES - 1)]
    first = LocalGroup([mine for mine, _ in pairs], first=True)
    return [first, *(LocalGroup([theirs], first=False) for _, theirs in pairs)]


@pytest.mark.parametrize("last", range(PROCESSES))
def test_nobody_passes_before_the_last_has_come(groups: list[LocalGroup], last: int) -> None:
    others = [group for number, group in enumerate(groups) if number != last]
    with ThreadPoolExecutor(PROCESSES) as pool:
        for _ in range(3):
            waiting = [pool.submit(group.barrier) for group in others]
            assert not wait(waiting, timeout=0.05).done
            groups[last].barrier()
            for one in waiting:
                one.result(timeout=10)


@pytest.mark.parametrize("shape", [(2, 5), (4,), ()])
def test_sums(groups: list[LocalGroup], shape: tuple[int, ...]) -> None:
    numbers = torch.randn(PROCESSES, *shape, dtype=torch.float64)
    found = numbers.clone()
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(lambda number: groups[number].add_up(found[number]), range(PROCESSES)))
    for one in found:
        torch.testing.assert_close(one, numbers.sum(0))
        assert torch.equal(one, found[0])


@pytest.mark.parametrize(("ended", "left"), [(0, 1), (0, 2), (1, 0), (2, 0)])
def test_a_process_that_has_ended_is_noticed(groups: list[LocalGroup], ended: int, left: int) -> None:
    for peer in groups[ended]._peers:
        peer.close()
    if ended == 2:
        groups[1]._peers[0].sendall(bytes(8))  # a barrier's number, of the one that the first asks before
    with pytest.raises(ConnectionError):
        groups[left].barrier()
