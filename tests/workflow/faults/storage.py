"""Small disks that fill up, and disks that cannot be written to: tmpfs, mounted for the time of a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_mount = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("mount"), reason="only root can mount a small disk"
)


class SmallDisk:
    """A tmpfs at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / ".filler"

    def free(self) -> int:
        """Bytes left."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, leave: int) -> None:
        """Take all space but about ``leave`` bytes (to the page)."""
        self.release()
        size = self.free() - leave
        with self.filler.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, max(4096, size // 4096 * 4096))

    def release(self) -> None:
        """Give the space back."""
        self.filler.unlink(missing_ok=True)

    def read_only(self, on: bool) -> None:
        options = f"remount,{'ro' if on else 'rw'}"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True, timeout=60)


@contextmanager
def small_disk(folder: Path, mebibytes: int = 64) -> Iterator[SmallDisk]:
    """Mount a tmpfs over a folder, and take it away again.

    Skips the test where mounting is not allowed (containers).
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)
