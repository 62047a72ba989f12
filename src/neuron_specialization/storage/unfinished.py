"""What is being made: under a hidden name beside its place, locked by the process that makes it.

A process that is killed leaves it there. Whoever makes the same next removes what no process holds any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".unfinished-"

# an exclusive lock over NFS asks for a file that is open for writing
_FILE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def unfinished_file(place: Path) -> Iterator[Path]:
    """Yield a new empty file beside ``place``; if it is still there at the end, it is removed.

    Its suffix is that of ``place``: numpy, torch and matplotlib choose a format by it.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(place.parent, f".{place.stem}{MARK}", place.suffix)

    def make() -> str:
        descriptor, name = tempfile.mkstemp(
            dir=place.parent, prefix=f".{place.stem}{MARK}", suffix=place.suffix
        )
        os.close(descriptor)
        return name

    path, descriptor = _claimed(make, _FILE)
    try:
        yield path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``place``; at the end it is removed with all that is left in it.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(place.parent, f".{place.name}{MARK}")
    path, descriptor = _claimed(
        lambda: tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}{MARK}"), _FOLDER
    )
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _claimed(make: Callable[[], str], how: int) -> tuple[Path, int]:
    """Make something and lock it: where it is, and the descriptor that holds the lock.

    What another process takes for abandoned between the making and the locking is made again.
    """
    while True:
        name = make()
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(name, how)
            if _is_held(descriptor, name):
                return Path(name), descriptor
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
    descriptor = os.open(path, _FOLDER if is_folder else _FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
