"""The one exception hierarchy. An error says what is wrong, where, the likely cause and the next command."""

from __future__ import annotations

import errno
from collections.abc import Sequence


class NeuronSpecializationError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: the file (with line), key or direction concerned.
        cause: the likely cause, if one is likelier than others.
        hint: what to do next, best a command.
    """

    def __init__(
        self, what: str, *, where: object = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        self.what, self.where, self.cause, self.hint = what, where, cause, hint
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if cause:
            lines.append(f"  likely cause: {cause}")
        if hint:
            lines.append(f"  next: {hint}")
        super().__init__("\n".join(lines))


class ConfigError(NeuronSpecializationError):
    """The configuration is not valid; nothing was run."""


class DownloadError(NeuronSpecializationError):
    """A file could not be fetched, verified or unpacked."""


class CorpusError(NeuronSpecializationError):
    """Text is missing, misaligned, empty or not UTF-8."""


class TrainingError(NeuronSpecializationError):
    """Training cannot start, resume or go on."""


class CheckpointError(NeuronSpecializationError):
    """A checkpoint is damaged, foreign, unsafe or does not fit."""


class MaskError(NeuronSpecializationError):
    """Activations or masks are missing, malformed or do not fit the model."""


class TranslationError(NeuronSpecializationError):
    """A translation is missing, short or cannot be made."""


class ScoringError(NeuronSpecializationError):
    """A score cannot be computed from what is there."""


class FileError(NeuronSpecializationError):
    """A file cannot be read or written: the disk is full, the folder read-only, the file gone."""

    @classmethod
    def of(cls, error: OSError) -> FileError:
        """Explain what the operating system refused."""
        cause, hint = {
            errno.ENOSPC: ("the disk is full", _MAKE_ROOM),
            errno.EDQUOT: ("the disk quota is used up", _MAKE_ROOM),
            errno.EROFS: ("the disk is mounted read-only", _GRANT_ACCESS),
            errno.EACCES: ("the folder or file belongs to someone else", _GRANT_ACCESS),
            errno.EPERM: ("the folder or file belongs to someone else", _GRANT_ACCESS),
        }.get(error.errno or 0, (None, None))
        what = f"a file cannot be read or written: {error.strerror or error}"
        return cls(what, where=error.filename, cause=cause, hint=hint)


def first_few(names: Sequence[str], most: int = 8) -> str:
    """Name things in a message: ``a, b, c``; of more than ``most`` the first, ``a, b and 7 more``."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says; its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


_MAKE_ROOM = "make room, then run the same command again"
_GRANT_ACCESS = "make it writable, or run where it is; then run the same command again"
