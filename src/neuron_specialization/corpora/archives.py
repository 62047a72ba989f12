"""Unpack an archive that nobody vouches for: nothing lands outside, nothing special, nothing endless.

Tar (plain, gzip, bzip2, xz) and zip. Everything is unpacked into a temporary folder beside the destination,
which gets its name only when the archive was sound to its end. Owners, modes and times are not restored:
the archives of this project hold data.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from neuron_specialization.corpora.transfer import check_disk_space, human_bytes
from neuron_specialization.errors import DownloadError
from neuron_specialization.storage.files import TOO_MUCH, most_unpacked
from neuron_specialization.storage.unfinished import unfinished_folder

CHUNK = 1 << 20
# No header of a tar archive is larger than a few kB; one that claims more is meant to fill the memory.
_MAX_READ = 8 << 20
_BLOCK = 512

# What the standard library raises on archives that are damaged, or made to be so. RuntimeError and
# NotImplementedError: zipfile, on encryption and on methods it does not know.
_DAMAGE = (
    *(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error),
    *(ValueError, OverflowError, IndexError, KeyError, RuntimeError, NotImplementedError),
)

Format = Literal["zip", "gzip", "bzip2", "xz", "tar"]


def archive_format(path: str | Path) -> Format | None:
    """Tell the archive format by content; None for anything else, a PyTorch checkpoint (a zip) included."""
    path = Path(path)
    with path.open("rb") as handle:
        head = handle.read(_BLOCK)
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None if _is_checkpoint(path) else "zip"
    return "tar" if head[257:262] == b"ustar" else None


def _is_checkpoint(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _DAMAGE:
        return False
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names)


def safe_extract(
    archive: str | Path, destination: str | Path, *, max_bytes: int, max_files: int = 100_000
) -> list[str]:
    """Unpack ``archive`` into the new folder ``destination``.

    Args:
        archive: tar, tar.gz, tar.bz2, tar.xz or zip, told by content.
        destination: a folder that does not exist yet, or is empty.
        max_bytes: bound on the unpacked bytes, declared and actual.
        max_files: bound on the number of members.

    Returns:
        The files unpacked (links included), relative to ``destination``, sorted.

    Raises:
        DownloadError: the archive is truncated or damaged, not an archive, too large, or has a member that is
            absolute, leads out, comes twice, is a device, a pipe or a link to outside. Nothing is left.
    """
    archive, destination = Path(archive), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise DownloadError(
            "the folder to unpack into is not empty", where=destination, hint="remove it, or choose another"
        )
    kind = archive_format(archive)
    if kind is None:
        raise DownloadError(
            "not an archive this project unpacks (tar, tar.gz, tar.bz2, tar.xz, zip)", where=archive
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(destination) as folder:
        root = folder / "content"
        root.mkdir()
        target = _Target(root, archive, max_bytes, max_files)
        with _explained(archive):
            if kind == "zip":
                _extract_zip(archive, target)
            else:
                _extract_tar(archive, kind, target)
            target.make_links()
        root.replace(destination)
    return sorted(target.files)


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Turn what the standard library raises on damage into an error of ours."""
    try:
        yield
    except EOFError:
        raise _damaged(archive, "it ends too early") from None
    except OSError as error:
        if (
            error.errno is None or error.errno == errno.EINVAL
        ):  # bz2's "Invalid data stream", an absurd offset
            raise _damaged(archive, str(error)) from None
        raise DownloadError(f"unpacking failed: {error.strerror}", where=error.filename or archive) from None
    except _DAMAGE as error:
        raise _damaged(archive, str(error)) from None


def _damaged(archive: Path, why: str) -> DownloadError:
    return DownloadError(
        f"the archive is truncated or damaged: {why}", where=archive, hint="delete it and fetch it again"
    )


class _Target:
    """The folder that is filled: every name and every byte passes here."""

    def __init__(self, root: Path, archive: Path, max_bytes: int, max_files: int) -> None:
        self.root, self.archive = root, archive
        self.max_bytes, self.max_files = max_bytes, max_files
        self.packed = archive.stat().st_size
        self.members, self.bytes = 0, 0
        self.files: set[str] = set()
        self._folders: set[str] = set()
        self._links: list[tuple[str, str]] = []

    def refuse(self, what: str, member: str | None = None) -> DownloadError:
        where = str(self.archive) if member is None else f"{self.archive}, member {member[:200]!r}"
        return DownloadError(
            f"the archive {what}: refused",
            where=where,
            cause="a damaged or a hostile archive",
            hint="do not unpack it by hand either; fetch it again, or ask its publisher",
        )

    def count_member(self) -> None:
        self.members += 1
        if self.members > self.max_files:
            raise self.refuse(f"has more than {self.max_files:,} members")

    def check_size(self, total: int) -> None:
        """Refuse a total of unpacked bytes, declared or actual, beyond the bounds."""
        if total > self.max_bytes:
            raise self.refuse(f"unpacks to more than {human_bytes(self.max_bytes)}")
        if total > most_unpacked(self.packed):
            raise self.refuse(TOO_MUCH)

    def _name(self, name: str) -> str:
        """The member's normal relative name."""
        if any(ord(character) < 32 or ord(character) == 127 for character in name) or "\\" in name:
            raise self.refuse("has a member with a control character or a backslash in its name", name)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise self.refuse("has a member whose name is not UTF-8", ascii(name)) from None
        path = PurePosixPath(name)
        if path.is_absolute():
            raise self.refuse("has a member with an absolute name", name)
        if ".." in path.parts:
            raise self.refuse("has a member that leads out of the folder", name)
        return str(path)

    def folder(self, name: str) -> None:
        relative = self._name(name)
        self._make_folders(relative, name)

    def _make_folders(self, relative: str, name: str) -> None:
        if relative in (".", ""):
            return
        path = PurePosixPath(relative)
        for folder in (*reversed(path.parents), path):
            if str(folder) in self.files:
                raise self.refuse("has a file and a folder of one name", name)
            if str(folder) != "." and str(folder) not in self._folders:
                (self.root / folder).mkdir()
                self._folders.add(str(folder))

    def _new(self, name: str) -> str:
        relative = self._name(name)
        if relative in (".", "") or relative in self._folders:
            raise self.refuse("has a file and a folder of one name", name)
        if relative in self.files:
            raise self.refuse("has a member twice, the second of which would replace the first", name)
        self._make_folders(str(PurePosixPath(relative).parent), name)
        self.files.add(relative)
        return relative

    def file(self, name: str, content: IO[bytes], declared: int) -> None:
        """Write a regular file of ``declared`` bytes."""
        self.check_size(self.bytes + declared)
        relative = self._new(name)
        written = 0
        # "x": whatever is there already was not meant to be
        with (self.root / relative).open("xb") as handle:
            while chunk := content.read(CHUNK):
                written += len(chunk)
                self.bytes += len(chunk)
                if written > declared:
                    raise self.refuse("has a member larger than it declares", name)
                self.check_size(self.bytes)
                handle.write(chunk)
        if written < declared:
            raise _damaged(self.archive, f"{name} has {written:,} of {declared:,} bytes")

    def hard_link(self, name: str, target: str) -> None:
        """A second name of a file unpacked before."""
        source = self._name(target)
        if source not in self.files or (self.root / source).is_symlink():
            raise self.refuse("has a link to what it does not contain", name)
        relative = self._new(name)
        os.link(self.root / source, self.root / relative)

    def symbolic_link(self, name: str, target: str) -> None:
        """Note a link; links are made last, so that nothing is ever written through one."""
        if target.startswith("/") or "\0" in target:
            raise self.refuse("has a link that leads out of the folder", name)
        self._links.append((self._new(name), target))

    def make_links(self) -> None:
        """Make the noted links and follow each to its end: chains can lead out where no single link does."""
        for relative, target in self._links:
            (self.root / relative).symlink_to(target)
        inside = self.root.resolve()
        for relative, _ in self._links:
            try:
                end = (self.root / relative).resolve(strict=True)
            except (OSError, RuntimeError):
                raise self.refuse("has a link to nothing", relative) from None
            if not end.is_relative_to(inside):
                raise self.refuse("has a link that leads out of the folder", relative)


def _extract_zip(archive: Path, target: _Target) -> None:
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        target.check_size(sum(member.file_size for member in members))
        check_disk_space(target.root, sum(member.file_size for member in members), archive.name)
        for member in members:
            target.count_member()
            name = member.orig_filename
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1:
                raise target.refuse("has an encrypted member", name)
            if name.endswith("/"):
                target.folder(name)
            elif kind == stat.S_IFLNK:
                if member.file_size > 4096:
                    raise target.refuse("has a link with an absurd target", name)
                target.symbolic_link(name, os.fsdecode(source.read(member)))
            elif kind in (0, stat.S_IFREG):
                with source.open(member) as content:
                    target.file(name, content, member.file_size)
            else:
                raise target.refuse("has a device, a pipe or a socket", name)


def _extract_tar(archive: Path, kind: Format, target: _Target) -> None:
    with _decompressed(archive, kind) as stream:
        guard = _Forward(stream, target)
        with tarfile.open(fileobj=guard, mode="r:", encoding="utf-8") as source:
            for member in source:
                target.count_member()
                if member.isdir():
                    target.folder(member.name)
                elif member.issym():
                    target.symbolic_link(member.name, member.linkname)
                elif member.islnk():
                    target.hard_link(member.name, member.linkname)
                elif member.isreg():
                    content = source.extractfile(member)
                    assert content is not None  # a regular file
                    target.file(member.name, content, member.size)
                else:
                    raise target.refuse("has a device, a pipe or a socket", member.name)
                # tarfile remembers every member: a million of them would fill the memory
                source.members = []  # type: ignore[attr-defined]
        guard.check_end()


def _decompressed(archive: Path, kind: Format) -> IO[bytes]:
    if kind == "gzip":
        return gzip.open(archive)  # type: ignore[return-value]
    if kind == "bzip2":
        return bz2.open(archive)
    if kind == "xz":
        return lzma.open(archive)
    return archive.open("rb")


class _Forward(io.RawIOBase):
    """A decompressed stream for tarfile: read once, forwards, and within bounds.

    tarfile steps back one byte at most (to see that the last member is whole), which would make gzip start
    over; and it asks for a header of any size a hostile archive states.
    """

    def __init__(self, stream: IO[bytes], target: _Target) -> None:
        self._stream, self._target = stream, target
        self._position = 0
        self._last = b""
        self._stepped_back = False
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position - self._stepped_back

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise tarfile.ReadError("the archive asks for random access")
        if offset == self._position - 1 and self._last:
            self._stepped_back = True
        else:
            self._stepped_back = False
            if offset < self._position:
                raise tarfile.ReadError("the archive asks for random access")
            while self._position < offset:
                if not self._pull(min(CHUNK, offset - self._position)):
                    raise tarfile.ReadError("unexpected end of data")
        return offset

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_READ:
            raise self._target.refuse("has a header of absurd size")
        data = b""
        if self._stepped_back and size:
            data, self._stepped_back = self._last, False
        while len(data) < size and (piece := self._pull(size - len(data))):
            data += piece
        if size == _BLOCK:
            self._block = data
        return data

    def _pull(self, size: int) -> bytes:
        data = self._stream.read(size)
        if data:
            self._position += len(data)
            self._last = data[-1:]
            # headers and padding count too: a million empty members are a bomb as well
            self._target.check_size(max(0, self._position - 6 * _BLOCK * (self._target.members + 16)))
        return data

    def check_end(self) -> None:
        """A whole archive ends in blocks of zeros; reading on to the end makes gzip check its own sum."""
        if self._block != bytes(_BLOCK):
            raise _damaged(self._target.archive, "its end mark is missing")
        while self._pull(CHUNK):
            pass
