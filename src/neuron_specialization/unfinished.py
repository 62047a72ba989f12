"""What is being made: under a hidden name beside its place, locked by the process that makes it.

A process that is killed leaves it there. Whoever makes the same next removes what no process holds any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".unfinished-"


@contextmanager
def unfinished_file(place: Path) -> Iterator[Path]:
    """Yield a new empty file beside ``place``; if it is still there at the end, it is removed.

    Its suffix is that of ``place``: numpy, torch and matplotlib choose a format by it.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(place.parent, f".{place.stem}{MARK}", place.suffix)
    while True:
        descriptor, name = tempfile.mkstemp(
            dir=place.parent, prefix=f".{place.stem}{MARK}", suffix=place.suffix
        )
        if _is_held(descriptor, name):
            break
        os.close(descriptor)
    try:
        yield Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``place``; at the end it is removed with all that is left in it.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(place.parent, f".{place.name}{MARK}")
    while True:
        name = tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}{MARK}")
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken for abandoned before it could be locked
        if _is_held(descriptor, name):
            break
        os.close(descriptor)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)
        os.close(descriptor)


def _is_held(descriptor: int, name: str) -> bool:
    """Lock what was just made; False if another process took it for abandoned in that moment."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # it is about to be removed
    except OSError:
        pass  # a file system without locks: nothing is ever removed there
    return Path(name).exists()


def remove_abandoned(folder: Path, prefix: str = ".", suffix: str = "") -> None:
    """Remove what killed processes left unfinished in a folder, of the names that begin and end so.

    What is held by a process, on this machine or another, stays; so does what cannot be removed.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(prefix) and path.name.endswith(suffix) and MARK in path.name:
                with contextlib.suppress(OSError):
                    _remove_if_free(path)


def _remove_if_free(path: Path) -> None:
    is_folder = path.is_dir() and not path.is_symlink()
    # an exclusive lock over NFS asks for a file that is open for writing
    how = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR
    descriptor = os.open(path, how | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
