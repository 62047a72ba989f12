"""Several processes of one trainer: read as one, and ended together."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from neuron_specialization.storage.locks import FileLock
from neuron_specialization.training import process as trainer_process
from neuron_specialization.training.process import Outcome, run_trainer
from neuron_specialization.training.progress import MetricsFile, ProgressDisplay

# a rank that computes in C without coming back to Python, as one in a CUDA call that waits for the others
BUSY = """
import hashlib, os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)
"""
# torch.multiprocessing.spawn, as far as processes go: a rank that is nobody's child that we know
STARTS_A_RANK = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {BUSY!r}, sys.argv[1]]).wait()
"""


def run(tmp_path: Path, *programs: str) -> Outcome:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    try:
        return run_trainer(
            [[sys.executable, "-c", program] for program in programs],
            environment=dict(os.environ),
            log_path=tmp_path / "train.log",
            lock=lock,
            metrics=MetricsFile(tmp_path / "metrics.jsonl"),
            display=ProgressDisplay(io.StringIO(), "test", 10),
        )
    finally:
        lock.release()


def test_each_process_has_its_log(tmp_path: Path) -> None:
    outcome = run(tmp_path, "print('first')", "print('second')", "print('third')")
    assert outcome.exit_code == 0
    logs = {path.name: path.read_text() for path in tmp_path.glob("train*.log")}
    assert sorted(logs) == ["train.1.log", "train.2.log", "train.log"]
    assert "first" in logs["train.log"] and "second" not in logs["train.log"]
    assert logs["train.1.log"] == "second\n"


@pytest.mark.parametrize(
    ("end", "code"), [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_process_that_fails_ends_the_others(tmp_path: Path, end: str, code: int, first: bool) -> None:
    waits = "import time; time.sleep(300)"
    started = time.monotonic()
    outcome = run(tmp_path, *((end, waits) if first else (waits, end)))
    assert outcome.exit_code == code  # of the one that failed, not of the one that was ended
    assert time.monotonic() - started < 60


def test_the_words_of_the_process_that_failed_are_kept(tmp_path: Path) -> None:
    waits = "import time; print('waiting', flush=True); time.sleep(300)"
    outcome = run(tmp_path, waits, waits, "print('out of memory'); raise SystemExit(1)")
    assert outcome.log_path == tmp_path / "train.2.log"
    assert outcome.last_words == ["out of memory"]
    first = run(tmp_path, "print('first'); raise SystemExit(1)", waits)
    assert (first.log_path, first.last_words) == (tmp_path / "train.log", ["first"])


def wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in ("Z", "X")


def test_what_a_trainer_started_ends_with_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM ends the program that was started; the rank it left behind holds its output open."""
    monkeypatch.setattr(trainer_process, "GRACE_SECONDS", 0.5)
    ending: list[float] = []

    def stop() -> None:
        wait_for_pid(tmp_path / "rank.pid")
        ending.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    program = f"import sys; sys.argv.append({str(tmp_path / 'rank.pid')!r})\n{STARTS_A_RANK}"
    outcome = run(tmp_path, program)
    stopper.join()
    assert outcome.signal_received == "SIGTERM"
    assert time.monotonic() - ending[0] < 10
    rank = wait_for_pid(tmp_path / "rank.pid")
    while not has_ended(rank):  # it has let go of its output, and is about to
        assert time.monotonic() - ending[0] < 10
        time.sleep(0.02)
