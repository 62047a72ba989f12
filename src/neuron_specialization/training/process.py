"""The trainer as a child process: started so that it never outlives us unnoticed, read until it ends."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO

from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.locks import FileLock
from neuron_specialization.training.progress import (
    EXPLODED,
    LAST_LINES,
    MetricsFile,
    ProgressDisplay,
    Record,
    TrainerLog,
)

# How long a trainer may take to end after it was asked to, before it is killed.
GRACE_SECONDS = 60.0

_PR_SET_PDEATHSIG = 1


@dataclass
class Outcome:
    """How a trainer ended.

    Attributes:
        exit_code: as subprocess gives it: negative is a signal. Of several processes: of the first to fail.
        log: what was read from its log.
        last_words: the end of what that process said.
        log_path: the file that has all of it.
        signal_received: the signal that asked us to stop, by name.
        diverged: why it was stopped for its loss, in words.
    """

    exit_code: int
    log: TrainerLog
    log_path: Path
    last_words: list[str] = field(default_factory=list)
    signal_received: str | None = None
    diverged: str | None = None

    @property
    def exit_text(self) -> str:
        if self.exit_code < 0:
            return f"signal {signal.Signals(-self.exit_code).name}"
        return f"exit status {self.exit_code}"


def run_trainer(
    commands: Sequence[Sequence[str]],
    *,
    environment: dict[str, str],
    log_path: Path,
    lock: FileLock,
    metrics: MetricsFile,
    display: ProgressDisplay,
    keep_open: Sequence[int] = (),
) -> Outcome:
    """Run a trainer to its end; append all it says to ``log_path``, and its metrics to ``metrics``.

    The children inherit the lock, so that no second trainer starts while one lives; they are told to end when
    we die (Linux), and when we are: SIGTERM, SIGINT and SIGHUP are passed on to them. A process that fails
    takes the others with it.

    Args:
        commands: program and arguments of each process of the trainer; the first one's output is read, the
            others' goes to files beside the log, ``train.<rank>.log``.
        environment: their environment variables.
        log_path: its standard output and error, appended.
        lock: of the run; held.
        metrics: where its records go.
        display: shows them.
        keep_open: further descriptors (GPU locks) that it inherits.

    Raises:
        TrainingError: it cannot be started.
    """
    log = TrainerLog()
    outcome = Outcome(exit_code=0, log=log, log_path=log_path)
    paths = [
        log_path,
        *(log_path.with_suffix(f".{rank}{log_path.suffix}") for rank in range(1, len(commands))),
    ]
    seconds_before, started = metrics.seconds, time.monotonic()
    descriptors = (lock.descriptor, *keep_open)
    with contextlib.ExitStack() as stack:
        log_file = stack.enter_context(log_path.open("a", encoding="utf-8"))
        log_file.write(f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(commands[0])}\n")
        log_file.flush()
        over = threading.Event()
        children: list[subprocess.Popen[str]] = []
        for rank, command in enumerate(commands):
            output: IO[str] | int = subprocess.PIPE
            if rank:
                output = stack.enter_context(paths[rank].open("a", encoding="utf-8"))
            children.append(_start(command, environment, descriptors, output))
            stack.enter_context(_ended(children[-1]))
        stack.callback(over.set)
        child = children[0]
        with _forwarding(children, outcome, lock, over), _failing_together(children, over) as failed:
            lock.describe(trainer=child.pid)
            assert child.stdout is not None
            for line in child.stdout:
                log_file.write(line)
                log_file.flush()
                record = log.read(line)
                if record is None:
                    continue
                record = replace(record, seconds=round(seconds_before + time.monotonic() - started, 3))
                metrics.add(record)
                display.show(record)
                if outcome.diverged is None and (reason := divergence(record)) is not None:
                    outcome.diverged = reason
                    _ask_to_end(children, over)
            codes = [child.wait() for child in children]
            first = next((rank for rank in [*failed, *range(len(codes))] if codes[rank]), 0)
            outcome.exit_code, outcome.log_path = codes[first], paths[first]
    outcome.last_words = _last_lines(outcome.log_path) if first else list(log.tail)
    return outcome


def _last_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]


@contextlib.contextmanager
def _failing_together(
    children: Sequence[subprocess.Popen[str]], over: threading.Event
) -> Iterator[list[int]]:
    """End all processes when one has failed: the others would wait for it for half an hour.

    Yields a list that gets the rank of the one that failed first.
    """
    failed: list[int] = []
    left = threading.Event()

    def watch() -> None:
        while not left.wait(0.5):
            failed.extend(rank for rank, child in enumerate(children) if child.poll())
            if failed:
                _ask_to_end(children, over)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    if len(children) > 1:
        watcher.start()
    try:
        yield failed
    finally:
        left.set()
        if watcher.is_alive():
            watcher.join()


def divergence(record: Record) -> str | None:
    """Say why a loss shows that training has diverged, or None."""
    if not math.isfinite(record.loss):
        return f"the {_KINDS[record.kind]} loss is {record.loss} at update {record.update:,}"
    if record.loss > EXPLODED:
        return (
            f"the {_KINDS[record.kind]} loss is {record.loss:,.1f} bits a token at update {record.update:,}"
        )
    return None


_KINDS = {"train": "training", "valid": "validation"}


def _start(
    command: Sequence[str], environment: dict[str, str], descriptors: Sequence[int], output: IO[str] | int
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            pass_fds=tuple(descriptors),
            # out of the terminal's reach: one Ctrl-C is one signal, passed on by us
            start_new_session=True,
            preexec_fn=_end_with_parent(os.getpid()),
        )
    except OSError as error:
        raise TrainingError(
            f"the trainer cannot be started: {error.strerror}", where=command[0], hint="make env"
        ) from None


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """A function for the child, run before its program: have the kernel send SIGTERM when the parent dies."""
    if not sys.platform.startswith("linux"):
        return None  # there the lock alone keeps a second trainer out
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before we could ask
            os.kill(os.getpid(), signal.SIGTERM)

    return request


@contextlib.contextmanager
def _ended(child: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens, leave no trainer behind."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                _kill(child)
                child.wait()
        if child.stdout is not None:
            child.stdout.close()


@contextlib.contextmanager
def _forwarding(
    children: Sequence[subprocess.Popen[str]], outcome: Outcome, lock: FileLock, over: threading.Event
) -> Iterator[None]:
    """Pass SIGTERM, SIGINT and SIGHUP on to the children as SIGTERM; note which it was, also in the lock."""

    def forward(number: int, _: FrameType | None) -> None:
        outcome.signal_received = signal.Signals(number).name
        _ask_to_end(children, over)
        with contextlib.suppress(OSError):  # a full disk is no reason not to end
            lock.describe(stopping=outcome.signal_received)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    previous = {
        number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ask_to_end(children: Sequence[subprocess.Popen[str]], over: threading.Event) -> None:
    """SIGTERM, and SIGKILL for what is left when the grace period ends before all is ``over``."""
    for child in children:
        child.terminate()

    def insist() -> None:
        if not over.wait(GRACE_SECONDS):
            for child in children:
                _kill(child)

    threading.Thread(target=insist, daemon=True).start()


def _kill(child: subprocess.Popen[str]) -> None:
    """SIGKILL to a trainer process and all that it started: it leads a group of its own.

    Also when it has ended itself: what it started may still hold its output, which we read to the end.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
