"""Locks that live as long as the processes that hold them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.locks import FileLock, claim_gpus, lock_training

HOLD = """
import sys, time
from pathlib import Path
from neuron_specialization.storage.locks import lock_training
with lock_training(Path(sys.argv[1])) as lock:
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_one_is_refused_at_once_and_told_by_whom(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    try:
        started = time.monotonic()
        with pytest.raises(TrainingError, match=f"by process {process.pid} on ") as caught:
            lock_training(tmp_path / "lock")
        assert time.monotonic() - started < 5
        assert f"kill {process.pid}" in str(caught.value)
    finally:
        process.kill()
        process.wait()
    lock_training(tmp_path / "lock").release()


def test_a_killed_holder_leaves_nothing_behind(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock_training(tmp_path / "lock") as lock:
        assert lock.holder()["pid"] == os.getpid()


def test_a_child_that_inherits_it_goes_on_holding_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor])
    lock.describe(trainer=child.pid)
    lock.release()
    try:
        assert not FileLock(tmp_path / "lock").try_acquire()
        with pytest.raises(TrainingError, match="trained already"):
            lock_training(tmp_path / "lock")
    finally:
        child.kill()
        child.wait()
    assert FileLock(tmp_path / "lock").try_acquire()


@pytest.mark.parametrize("seconds", [1, 60])
def test_waits_for_the_children_of_the_dead(tmp_path: Path, seconds: int) -> None:
    """A trainer outlives its killed wrapper by a moment, a data loader by seconds; not for ever."""
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    child = subprocess.Popen(["sleep", str(seconds)], pass_fds=[lock.descriptor])
    lock.release()
    gone = subprocess.Popen(["true"])
    gone.wait()
    facts = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps({**facts, "pid": gone.pid, "trainer": child.pid}))
    if seconds == 1:
        with lock_training(tmp_path / "lock", release_seconds=20) as taken:
            assert taken.holder()["pid"] == os.getpid()
    else:
        with pytest.raises(TrainingError, match="trained already"):
            lock_training(tmp_path / "lock", release_seconds=1)
    child.kill()
    child.wait()


def test_a_holder_on_another_host_counts_as_alive(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    lock.describe(host="node17", pid=999999)
    with pytest.raises(TrainingError, match="process 999999 on node17"):
        lock_training(tmp_path / "lock", release_seconds=20)


def test_one_that_was_told_to_stop_is_waited_for_on_any_host(tmp_path: Path) -> None:
    """A preempted job is started again, on this node or another, while its first run is still ending."""
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    lock.describe(host="node17", pid=999999, stopping="SIGTERM")
    with pytest.raises(TrainingError, match="process 999999 on node17"):
        lock_training(tmp_path / "lock", release_seconds=0.5)
    release = threading.Timer(1.5, lock.release)
    release.start()
    with lock_training(tmp_path / "lock") as taken:
        assert not release.is_alive()
        assert taken.holder()["pid"] == os.getpid() and "stopping" not in taken.holder()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1]", b'{"pid": "x", "host": 3}', b"9" * 5000])
def test_a_lock_file_with_rubbish_in_it_still_locks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    with lock_training(tmp_path / "lock"):
        assert not FileLock(tmp_path / "lock").try_acquire()


# ---- GPUs ----


def four() -> list[str]:
    return ["0", "1", "2", "3"]


def test_two_trainings_get_different_gpus(tmp_path: Path) -> None:
    first = claim_gpus(2, {}, folder=tmp_path, devices=four)
    second = claim_gpus(1, {}, folder=tmp_path, devices=four)
    assert first.devices == ["0", "1"]
    assert second.devices == ["2"]
    with pytest.raises(TrainingError, match="1 are free and 2 are needed") as caught:
        claim_gpus(2, {}, folder=tmp_path, devices=four, wait_seconds=0)
    assert f"GPU 0 is held by process {os.getpid()}" in str(caught.value)
    first.release()
    third = claim_gpus(3, {}, folder=tmp_path, devices=four)
    assert third.devices == ["0", "1", "3"]
    assert len(third.descriptors) == 3


def test_a_failed_claim_gives_back_what_it_took(tmp_path: Path) -> None:
    held = claim_gpus(3, {}, folder=tmp_path, devices=four)
    with pytest.raises(TrainingError):
        claim_gpus(2, {}, folder=tmp_path, devices=four, wait_seconds=0)
    assert claim_gpus(1, {}, folder=tmp_path, devices=four).devices == ["3"]
    held.release()


def test_devices_named_by_a_scheduler_are_used_as_they_are(tmp_path: Path) -> None:
    for _ in range(2):  # two jobs in containers of their own both see a device 0
        claim = claim_gpus(1, {"CUDA_VISIBLE_DEVICES": "0"}, folder=tmp_path, devices=four)
        assert claim.devices is None
        assert claim.descriptors == ()


def test_a_wider_list_is_shared_out(tmp_path: Path) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "2,GPU-5a/1"}
    first = claim_gpus(1, environment, folder=tmp_path, devices=four)
    second = claim_gpus(1, environment, folder=tmp_path, devices=four)
    assert (first.devices, second.devices) == (["2"], ["GPU-5a/1"])


def test_too_few_gpus_are_an_error_and_not_scaled_down(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="asks for 8 GPUs and 4 can be used"):
        claim_gpus(8, {}, folder=tmp_path, devices=four)
    with pytest.raises(TrainingError, match="CUDA_VISIBLE_DEVICES=3"):
        claim_gpus(2, {"CUDA_VISIBLE_DEVICES": "3"}, folder=tmp_path, devices=four)


def test_no_gpu_claims_nothing(tmp_path: Path) -> None:
    def never() -> list[str]:
        raise AssertionError("looked for GPUs")

    assert claim_gpus(0, {}, folder=tmp_path, devices=never).devices is None
