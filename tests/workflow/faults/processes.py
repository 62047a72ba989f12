"""The processes of a run, found by a mark in their environment, whichever parent was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# every process of a run inherits it; its value is the run's own
MARK = "NEURON_SPECIALIZATION_FAULT_RUN"


@dataclass(frozen=True)
class Process:
    """A process of a run: ``kind`` is snakemake, wrapper, trainer, another command's name, or shell."""

    pid: int
    kind: str
    command: tuple[str, ...]

    @property
    def rank(self) -> int | None:
        """Which of several trainer processes it is."""
        if "--distributed-rank" not in self.command:
            return None
        return int(self.command[self.command.index("--distributed-rank") + 1])

    @property
    def system(self) -> str | None:
        """The system that a wrapper or trainer trains."""
        for flag in ("--save-dir", "--output"):
            if self.kind in ("wrapper", "trainer") and flag in self.command:
                path = Path(self.command[self.command.index(flag) + 1])
                return path.parts[path.parts.index("training") + 1]
        return None

    def __str__(self) -> str:
        name = f"{self.kind} {self.system}" if self.system else self.kind
        return name if self.rank is None else f"{name}#{self.rank}"


def kind_of(command: tuple[str, ...]) -> str:
    """What a process is, by its command line."""
    if "-m" not in command[:-1]:
        return "shell"
    module, following = command[command.index("-m") + 1], command[command.index("-m") + 2 :]
    if module == "snakemake":
        return "snakemake"
    if module == "neuron_specialization.training.fairseq_train":
        return "trainer"
    if module == "neuron_specialization" and following:
        return "wrapper" if following[0] == "train" else following[0]
    return "shell"


def processes(mark: str) -> list[Process]:
    """The living processes of a run; those that ended and were not waited for are left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = tuple((folder / "cmdline").read_bytes().decode(errors="replace").split("\0"))[:-1]
            if not command:  # a zombie
                continue
        except OSError:
            continue  # it has ended, or is another user's
        found.append(Process(int(folder.name), kind_of(command), command))
    return sorted(found, key=lambda process: process.pid)


def send(victims: Iterable[Process], number: signal.Signals) -> None:
    """Signal processes; one that has just ended is left in peace."""
    for process in victims:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def end_all(mark: str) -> None:
    """Leave nothing of a run behind."""
    while living := processes(mark):
        send(living, signal.SIGKILL)
        time.sleep(0.1)


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true, saying ``what``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
