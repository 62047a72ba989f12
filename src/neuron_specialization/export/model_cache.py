"""Models made from bundles, kept on disk: whole or not there, verified, and no more of them than allowed.

Several processes share the folder, kept apart by ``flock``: a model's lock is held shared while it is
verified and loaded, and exclusive by whoever removes it; the folder's while a model is put in its place. A
process that dies releases its locks. Lock files stay (removing one would let two in); they are empty.

A folder that may only be read serves the models that it holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron_specialization.errors import TranslationError
from neuron_specialization.export.model_directory import is_intact
from neuron_specialization.storage.locks import open_lock
from neuron_specialization.storage.unfinished import remove_abandoned, unfinished_folder

VARIABLE = "NEURON_SPECIALIZATION_CACHE"
MAX_BYTES = 8 * 2**30
MAX_MODELS = 200


def default_folder() -> Path:
    """``$NEURON_SPECIALIZATION_CACHE``, else ``neuron-specialization`` in the user's cache folder."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuron-specialization"


class ModelCache:
    """A folder of model directories, the least recently used of which are removed."""

    def __init__(
        self, folder: str | Path | None = None, *, max_bytes: int = MAX_BYTES, max_models: int = MAX_MODELS
    ) -> None:
        """Nothing is made before it is needed.

        Args:
            folder: default: `default_folder`.
            max_bytes, max_models: what the folder may hold; the model in use always stays.
        """
        self.folder = Path(folder) if folder is not None else default_folder()
        self.max_bytes = max_bytes
        self.max_models = max_models

    @contextmanager
    def model(self, key: str, make: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the verified model directory ``key``; nobody removes it while the block runs.

        Args:
            key: names what the model is made from.
            make: writes the model into an empty folder; called if it is not there or damaged. An OSError
                is taken for the folder's: what it meets elsewhere it explains itself.

        Raises:
            TranslationError: the model is not there and the folder cannot be written.
        """
        with self._locked(_lock_of(key), fcntl.LOCK_SH):
            entry = self.folder / key
            if not is_intact(entry):
                self._put(entry, make)
            with contextlib.suppress(OSError):  # somebody else's: its age is theirs to keep
                os.utime(entry)
            yield entry

    def _put(self, entry: Path, make: Callable[[Path], None]) -> None:
        try:
            with unfinished_folder(entry) as building:
                model = building / "model"
                model.mkdir()
                make(model)
                with self._locked(".lock", fcntl.LOCK_EX):
                    if not is_intact(entry):  # else another process was faster
                        if entry.exists():
                            entry.rename(building / "damaged")
                        model.rename(entry)
                    self._evict(entry)
        except OSError as error:
            raise self._unwritable(error) from None

    def _evict(self, keep: Path) -> None:
        remove_abandoned(self.folder)
        entries = [path for path in self.folder.iterdir() if path.is_dir() and path.name[0] != "."]
        entries.sort(key=lambda path: path.stat().st_mtime)
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
        for path in entries:
            if len(sizes) <= self.max_models and sum(sizes.values()) <= self.max_bytes:
                break
            if path == keep:
                continue
            try:
                with self._locked(_lock_of(path.name), fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                continue  # somebody loads it
            del sizes[path]

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = open_lock(self.folder / name)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _unwritable(self, error: OSError) -> TranslationError:
        return TranslationError(
            f"the cache of models cannot be written: {error.strerror or error}",
            where=self.folder,
            hint=f"name another folder: --cache DIR, or {VARIABLE}=DIR",
        )


def _lock_of(key: str) -> str:
    return f".{key}.lock"
