"""``torch.load`` under an allow-list, and checks that a file is whole. No code in a file runs unasked."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from neuron_specialization.errors import CheckpointError, first_line

# All that fairseq's checkpoints hold beside tensors and plain containers: the arguments of the run.
# A Namespace only stores attributes; building one runs no code of the file's choosing.
SAFE_GLOBALS: tuple[type, ...] = (argparse.Namespace,)


def allow_fairseq_globals() -> None:
    """Let ``torch.load(weights_only=True)``, which fairseq calls bare, read fairseq's own checkpoints.

    For the processes in which fairseq loads (the plugin calls this); elsewhere ``read_state`` allows them for
    one call only.
    """
    import torch

    torch.serialization.add_safe_globals(list(SAFE_GLOBALS))


def read_state(path: str | Path, *, unsafe: bool = False, mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint's raw content.

    Args:
        path: the file.
        unsafe: let the file run any code it holds. For files whose maker is trusted, and never by default.
        mmap: map tensors instead of reading them, for a look at the rest.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or asking for code outside the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("checkpoint is missing", where=path)
    import torch

    try:
        check_archive(path)
        with torch.serialization.safe_globals(list(SAFE_GLOBALS)):
            state = torch.load(
                path, map_location="cpu", weights_only=not unsafe, mmap=mmap and zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from None
    except Exception as error:  # damaged bytes make torch and pickle raise nearly anything
        raise CheckpointError(
            f"checkpoint cannot be read: {first_line(error)}",
            where=path,
            cause="it was cut off while being written or copied, or is not a PyTorch checkpoint",
            hint="fetch or train it again",
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"not a checkpoint: it holds a {type(state).__name__}", where=path)
    return state


def check_archive(file: Path | IO[bytes]) -> None:
    """Refuse a file of torch's that holds more than its bytes: torch never packs its records, a bomb does.

    Args:
        file: its path, or its content.

    Raises:
        ValueError: a record is compressed, several share the same bytes, or the file is a damaged archive.
    """
    if not zipfile.is_zipfile(file):
        return  # of before torch 1.6, or none at all: what is read is no larger than the file
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size > record.compress_size:
            raise ValueError(f"its record {record.filename[:80]!r} is compressed, which torch never does")
    if sum(record.file_size for record in records) > size:
        raise ValueError(
            "its records are together larger than the file: they overlap, which torch's never do"
        )


def _refusal(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    found = re.search(r"(?:GLOBAL|class|type|function) `?([A-Za-z_][\w]*(?:\.[\w]+)+)", text)
    if found is None:
        return CheckpointError(
            f"checkpoint cannot be read: {first_line(error)}",
            where=path,
            cause="it is damaged, or not safe to load",
        )
    return CheckpointError(
        f"checkpoint refused: it asks to load {found[1]}, which could run code",
        where=path,
        hint="use a checkpoint of tensors and plain values; --allow-unsafe-pickle loads this one all the"
        " same, if you trust whoever made it as you trust a program",
    )


def check_intact(path: Path) -> str | None:
    """Return what is wrong with a training checkpoint, or None if every byte of its content is as written.

    torch saves a zip archive with a checksum for each record. They are compared, then the archive is opened
    by torch itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"its record {damaged} does not match its checksum"
        read_state(path, mmap=True)
    except CheckpointError as error:
        return error.what
    except Exception as error:  # damaged bytes make zipfile and zlib raise nearly anything
        return first_line(error)
    return None


@contextmanager
def no_extra_globals() -> Iterator[None]:
    """Take back what was allowed in this process, to test what holds in any."""
    import torch

    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)
