"""Files on disk: atomic writes, checksums, JSON, text lines. Every artefact goes through here."""

from __future__ import annotations

import codecs
import errno
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from neuron_specialization.errors import CorpusError, NeuronSpecializationError
from neuron_specialization.storage.unfinished import MARK, unfinished_file

# Bombs unpack to a thousand times their size and more; text and token ids to 3 to 20 times.
_MAX_RATIO = 250
# ... and what is small does no harm whatever its ratio.
_RATIO_FREE_BYTES = 64 << 20
TOO_MUCH = f"unpacks to more than {_MAX_RATIO} times its size"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success flush it to disk and rename it there.

    A reader sees the old file or the whole new one, never half of one. On an error the
    temporary file is removed and what stood at ``path`` stays.

    Raises:
        OSError: it cannot be written; with ``path`` as its file name. A full disk is one whatever the
            library that met it made of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished_file(path) as temporary, _full_disks_named(path):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            # it was made 0600; results are to be read by the group as any file is.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    except OSError as error:
        if error.filename is None or MARK in str(error.filename):
            error.filename = str(path)
        raise


@contextmanager
def _full_disks_named(path: Path) -> Iterator[None]:
    """Raise what libraries make of a full disk as the error it is; while what filled it is still there."""
    try:
        yield
    except NeuronSpecializationError:
        raise
    # numpy's have no number; torch, safetensors, SentencePiece: errors of their own
    except Exception as error:
        if getattr(error, "errno", None) is None and _is_full(path.parent):
            raise _full(path) from error
        raise


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no room for more than a few blocks."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < 1 << 16


def _full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """Open ``path`` for writing UTF-8 text with ``\\n`` line ends, atomically (see atomic_path)."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        yield handle


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal strings, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(value: Any) -> str:
    """Return the SHA-256 of ``canonical_json(value)``, hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; an equal file is left untouched (mtime kept).

    Leaving it untouched keeps an unchanged manifest from re-running what depends on it.
    """
    path = Path(path)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # bytes: what stands there may be anything, also no UTF-8
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_text(path) as handle:
        handle.write(text)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        NeuronSpecializationError: the file is missing or not JSON, naming it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NeuronSpecializationError("a file that an earlier stage makes is missing", where=path) from None
    except OSError as error:
        raise NeuronSpecializationError(f"cannot be read: {error.strerror}", where=path) from None
    except (ValueError, RecursionError) as error:
        raise NeuronSpecializationError(
            f"not valid JSON: {error}", where=path, hint="delete it and run the workflow again"
        ) from None


def read_lines(path: str | Path) -> list[str]:
    """Read UTF-8 text, one segment a line. Lines are split at ``\\n`` only, never at U+2028 and its like.

    A name that ends in ``.gz`` is unpacked; a byte order mark at the start is left out.

    Raises:
        CorpusError: the file is missing, damaged or not UTF-8, naming file and line.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gunzip(data)
    except FileNotFoundError:
        raise CorpusError("text file is missing", where=path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"cannot be read: {error}", where=path) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"not UTF-8: {error.reason}", where=f"{path}, line {line}", hint="convert it, e.g. with iconv"
        ) from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def gunzip(data: bytes) -> bytes:
    """Unpack gzip that nobody vouches for.

    Raises:
        OSError, EOFError, zlib.error: damaged, cut short, or a bomb (250 times its size and more).
    """
    limit = most_unpacked(len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        unpacked = packed.read(limit + 1)
    if len(unpacked) > limit:
        raise OSError(f"it {TOO_MUCH}")
    return unpacked


def most_unpacked(packed: int) -> int:
    """The bytes that ``packed`` ones may unpack to; what holds more is a bomb."""
    return max(_RATIO_FREE_BYTES, _MAX_RATIO * packed)


def write_lines(path: str | Path, lines: list[str]) -> None:
    """Write one segment a line, atomically.

    Raises:
        CorpusError: a segment holds a line break, which would misalign the file.
    """
    for number, line in enumerate(lines, 1):
        if "\n" in line or "\r" in line:
            raise CorpusError("a segment holds a line break", where=f"{path}, line {number}")
    with atomic_text(path) as handle:
        handle.writelines(f"{line}\n" for line in lines)
