"""Locks that end with the processes that hold them: one trainer a folder, one training a GPU.

A lock is an ``flock`` on an open file. A child that inherits the descriptor holds the lock too, so a
trainer that outlives its parent still keeps others out, and no dead process can leave a stale lock behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from neuron_specialization.errors import TrainingError

# How long the trainer of a wrapper that was killed, and its data loaders, may take to notice and end.
RELEASE_SECONDS = 30.0
# How long one that was told to stop may take: its trainer's time to end, and what follows.
STOP_SECONDS = 90.0


def open_lock(path: Path) -> int:
    """Open a lock file that users may share, made if need be; the caller closes the descriptor.

    Somebody else's is opened for reading, which is enough for a lock (but for an exclusive one over NFS).

    Raises:
        OSError: it can be neither made nor read.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as refused:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise refused from None


class FileLock:
    """An exclusive lock on a file, which also says who holds it.

    Args:
        path: the lock file; it is created if need be and never removed (removing it would let two in).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open descriptor, to be passed on to a child (``subprocess.Popen(pass_fds=…)``)."""
        if self._descriptor is None:
            raise ValueError("the lock is not held")
        return self._descriptor

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and write who holds it into the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.describe(host=socket.gethostname(), pid=os.getpid(), since=time.strftime("%Y-%m-%d %H:%M:%S"))
        return True

    def describe(self, **facts: Any) -> None:
        """Add facts about the holder (JSON values) to what others read."""
        known = _read_holder(self.path) if "pid" not in facts else {}
        text = json.dumps({**known, **facts}).encode()
        os.pwrite(self.descriptor, text, 0)
        os.ftruncate(self.descriptor, len(text))

    def holder(self) -> dict[str, Any]:
        """What the holder says: ``host``, ``pid``, ``since``, ``trainer``, ``stopping``; may be empty."""
        return _read_holder(self.path)

    def release(self) -> None:
        """Close our descriptor. The lock is free once every process that inherited it closed it, too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _read_holder(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def lock_training(path: Path, *, release_seconds: float | None = None) -> FileLock:
    """Lock a system's checkpoints for this process and the trainer it starts.

    Refuses at once when the process that took the lock is alive. When it is dead, the trainer it started was
    told to end by the kernel and is about to let go of it; when it was told to stop itself, it is about to do
    so, too: SLURM starts a preempted job again while the processes of its first run may still be ending, on
    this host or another. Wait for that.

    Args:
        path: the lock file.
        release_seconds: how long to wait; default: RELEASE_SECONDS, for a holder that stops STOP_SECONDS.

    Raises:
        TrainingError: another process trains here, naming its id and host.
    """
    lock = FileLock(path)
    started = time.monotonic()
    while not lock.try_acquire():
        holder = lock.holder()
        allowed = STOP_SECONDS if "stopping" in holder else RELEASE_SECONDS if _is_dead(holder) else 0.0
        if release_seconds is not None:
            allowed = min(allowed, release_seconds)
        if time.monotonic() - started >= allowed:
            raise TrainingError(
                "this system is being trained already" + _by(holder),
                where=path.parent,
                cause="an earlier run was killed and its trainer lives on, or two runs were started",
                hint="wait for it to end; or stop it" + _how_to_stop(holder) + ", then run again: it resumes",
            )
        time.sleep(0.2)
    return lock


def _by(holder: Mapping[str, Any]) -> str:
    if not holder:
        return ""
    since = f", since {holder['since']}" if "since" in holder else ""
    return f" by process {holder.get('pid', '?')} on {holder.get('host', '?')}{since}"


def _how_to_stop(holder: Mapping[str, Any]) -> str:
    processes = [str(holder[key]) for key in ("pid", "trainer") if key in holder]
    return f" (kill {' '.join(processes)} on {holder.get('host', 'its host')})" if processes else ""


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """True if the process that took the lock is certainly gone: it was on this host, and does not exist."""
    return holder.get("host") == socket.gethostname() and not _alive(holder.get("pid"))


def _alive(process: Any) -> bool:
    if not isinstance(process, int) or process <= 0:
        return True  # not something we wrote: assume the worst
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a process that ended but was not waited for holds nothing
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return not Path("/proc").is_dir()
    return state.split()[0] not in ("Z", "X")


# ---- GPUs ----


class GpuClaim:
    """The GPUs a training holds until its processes end.

    Attributes:
        devices: ids for CUDA_VISIBLE_DEVICES; None where nothing is to be changed.
        descriptors: to be passed on to the trainer.
    """

    def __init__(self, devices: list[str] | None, locks: list[FileLock]) -> None:
        self.devices = devices
        self._locks = locks

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(lock.descriptor for lock in self._locks)

    def release(self) -> None:
        for lock in self._locks:
            lock.release()


def claim_gpus(
    number: int,
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    devices: Callable[[], list[str]] | None = None,
    wait_seconds: float = RELEASE_SECONDS,
) -> GpuClaim:
    """Take ``number`` GPUs that no other training of this user on this machine holds.

    A scheduler that names devices (SLURM) sets CUDA_VISIBLE_DEVICES to exactly as many as were asked for:
    those are used as they are. Otherwise (Snakemake on one machine hands out counts, not devices) free ones
    are taken from CUDA_VISIBLE_DEVICES, or from all of the machine's, by a lock file a device.

    Args:
        number: GPUs needed; 0 claims nothing.
        environment: where CUDA_VISIBLE_DEVICES is read.
        folder: of the lock files; default: one a user, in the machine's temporary folder.
        devices: lists the machine's GPU ids; default: ``nvidia-smi``, else torch.
        wait_seconds: how long to wait for one that a training is just giving back.

    Raises:
        TrainingError: there are fewer GPUs than asked for, or others hold them.
    """
    if number == 0:
        return GpuClaim(None, [])
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    pool = visible_gpus(environment, devices)
    if len(pool) < number:
        raise TrainingError(
            f"the training asks for {number} GPUs and {len(pool)} can be used"
            + (f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""),
            hint="give it fewer in the profile (resources: gpu), or run where there are enough",
        )
    if visible is not None and len(pool) == number:
        return GpuClaim(None, [])
    deadline = time.monotonic() + wait_seconds
    while True:
        held, holders = _take(pool, number, folder or _gpu_folder())
        if len(held) == number:
            return GpuClaim(list(held), list(held.values()))
        for lock in held.values():
            lock.release()
        if time.monotonic() > deadline:
            raise TrainingError(
                f"of {len(pool)} GPUs, {len(held)} are free and {number} are needed: "
                + "; ".join(f"GPU {device} is held{_by(holder)}" for device, holder in holders.items()),
                cause="a training that was killed, or one of another workflow, still runs on them",
                hint="wait for it, or limit this run (snakemake --resources gpu=N)",
            )
        time.sleep(0.5)


def _take(
    pool: list[str], number: int, folder: Path
) -> tuple[dict[str, FileLock], dict[str, Mapping[str, Any]]]:
    held: dict[str, FileLock] = {}
    holders: dict[str, Mapping[str, Any]] = {}
    for device in pool:
        if len(held) == number:
            break
        lock = FileLock(folder / f"gpu-{device.replace('/', '_')}.lock")
        if lock.try_acquire():
            held[device] = lock
        else:
            holders[device] = lock.holder()
    return held, holders


def _gpu_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"neuron-specialization-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise TrainingError("the folder of the GPU locks belongs to another user", where=folder)
    return folder


def visible_gpus(environment: Mapping[str, str], devices: Callable[[], list[str]] | None = None) -> list[str]:
    """Ids of the GPUs that CUDA_VISIBLE_DEVICES leaves; without it, of all the machine has."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (devices or machine_gpus)()
    return [device.strip() for device in visible.split(",") if device.strip()]


def machine_gpus() -> list[str]:
    """The ids of this machine's GPUs, ``["0", "1", …]``; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program:
        try:
            run = subprocess.run(
                [program, "--query-gpu=index", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            return [line.strip() for line in run.stdout.splitlines() if line.strip()]
        except (OSError, subprocess.SubprocessError):
            pass  # a broken driver tool: ask torch
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
