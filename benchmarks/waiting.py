"""Processes that train together on a CPU wait for each other: gloo's way against some bytes through a socket.

Two processes compute for some milliseconds, then meet; what passes until both go on is the wait, the little
by which they come at different times included. An update by Muon has six barriers and two such sums.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from neuron_specialization.fairseq_plugin.local_group import LocalGroup

PROCESSES = 2
MEETINGS = 200
COMPUTED_SECONDS = 5e-3
# tokens, sentences, loss and the like
NUMBERS = 6


def milliseconds(meet: Callable[[], object]) -> float:
    """The mean wait of this process."""
    matrix = torch.randn(64, 64)
    waited = []
    for _ in range(MEETINGS):
        begun = time.perf_counter()
        while (come := time.perf_counter()) - begun < COMPUTED_SECONDS:
            matrix @ matrix
        meet()
        waited.append(time.perf_counter() - come)
    return 1000 * statistics.fmean(waited)


def one_process(rank: int, folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    group, numbers = LocalGroup.gathered(Path(folder)), torch.zeros(NUMBERS, dtype=torch.float64)
    ways: dict[str, Callable[[], object]] = {
        "gloo barrier": distributed.barrier,
        "barrier": group.barrier,
        "gloo sum": lambda: distributed.all_reduce(numbers),
        "sum": lambda: group.add_up(numbers),
    }
    waits: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, meet in ways.items():
            group.barrier()
            waits[name].append(milliseconds(meet))
    if rank == 0:
        rows = [
            common.Row(
                f"{PROCESSES} computing processes, {what}, waited by the clock against gloo",
                common.shown(common.ratio(waits[ours], waits[f"gloo {ours}"])),
            )
            for ours, what in (("barrier", "a barrier"), ("sum", f"a sum of {NUMBERS} numbers"))
        ]
        details = {f"milliseconds, {name}": common.spread(found) for name, found in waits.items()}
        common.write_result("waiting", rows, details, threads=PROCESSES)
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a Python that ends in the usual way


def main() -> None:
    options = common.arguments(__doc__, threads=PROCESSES).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spawn(one_process, args=(folder, options.rounds), nprocs=PROCESSES)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
