"""Several processes of one trainer: read as one, and ended together."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest

from neuron_specialization.locks import FileLock
from neuron_specialization.progress import MetricsFile, ProgressDisplay
from neuron_specialization.trainer_process import Outcome, run_trainer


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
