"""Archives: sound ones unpack, hostile and damaged ones leave nothing."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_specialization.corpora.archives import archive_format, safe_extract
from neuron_specialization.errors import DownloadError
from neuron_specialization.storage import files

LIMIT = 10_000_000


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def assert_refused(archive: Path, destination: Path, message: str, **limits: int) -> DownloadError:
    """The archive is refused with this message, and the disk is as it was."""
    before = sorted(path.name for path in destination.parent.iterdir())
    with pytest.raises(DownloadError, match=message) as caught:
        safe_extract(archive, destination, **{"max_bytes": LIMIT, **limits})
    assert sorted(path.name for path in destination.parent.iterdir()) == before
    assert not destination.exists()
    return caught.value


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_unpacks_whole(tmp_path: Path, mode: str, tar_format: int) -> None:
    long_name = "bin/" + "x" * 90 + "/" + "y" * 90
    contents = {
        "bin/dict.txt": b"",
        "bin/train.idx": os.urandom(3_000_001),
        "top": b"1\n",
        long_name: b"z" * 512,
    }
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode, format=tar_format) as archive:
        archive.addfile(info("./bin/", kind=tarfile.DIRTYPE))
        for name, content in contents.items():
            archive.addfile(info(name, len(content)), io.BytesIO(content))
    assert safe_extract(path, tmp_path / "out", max_bytes=LIMIT) == sorted(contents)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in contents} == contents


def test_zip_unpacks_whole(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    path = make_zip(tmp_path / "a.zip", ("d/", b""), ("d/e/file.bin", content), ("empty", b""))
    assert safe_extract(path, tmp_path / "out", max_bytes=LIMIT) == ["d/e/file.bin", "empty"]
    assert (tmp_path / "out/d/e/file.bin").read_bytes() == content


def test_inner_links_are_kept(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar.gz",
        (info("bin/model", kind=tarfile.SYMTYPE, link="../data/real"), b""),
        (info("data/real"), b"weights"),
        (info("data/second", kind=tarfile.LNKTYPE, link="data/real"), b""),
    )
    safe_extract(path, tmp_path / "out", max_bytes=LIMIT)
    assert (tmp_path / "out/bin/model").read_bytes() == b"weights"
    assert (tmp_path / "out/data/second").samefile(tmp_path / "out/data/real")


def test_modes_are_not_restored(tmp_path: Path) -> None:
    member = info("tool")
    member.mode = 0o6777
    safe_extract(make_tar(tmp_path / "a.tar.gz", (member, b"#!")), tmp_path / "out", max_bytes=LIMIT)
    assert (tmp_path / "out/tool").stat().st_mode & 0o7111 == 0


HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "absolute": ([(info("/etc/cron.d/x"), b"x")], "absolute name"),
    "traversal": ([(info("a/../../x"), b"x")], "leads out"),
    "parent": ([(info(".."), b"x")], "leads out"),
    "backslash": ([(info("..\\..\\x"), b"x")], "backslash"),
    "control": ([(info("a\nb"), b"x")], "control character"),
    "device": ([(info("null", kind=tarfile.CHRTYPE), b"")], "device"),
    "block device": ([(info("sda", kind=tarfile.BLKTYPE), b"")], "device"),
    "fifo": ([(info("pipe", kind=tarfile.FIFOTYPE), b"")], "pipe"),
    "link to an absolute path": ([(info("l", kind=tarfile.SYMTYPE, link="/etc/passwd"), b"")], "leads out"),
    "link out": ([(info("d/l", kind=tarfile.SYMTYPE, link="../../x"), b"")], "leads out|to nothing"),
    "link to nothing": ([(info("l", kind=tarfile.SYMTYPE, link="missing"), b"")], "to nothing"),
    "link to itself": ([(info("l", kind=tarfile.SYMTYPE, link="l"), b"")], "to nothing"),
    "hard link out": ([(info("l", kind=tarfile.LNKTYPE, link="/etc/passwd"), b"")], "absolute name"),
    "hard link to nothing": ([(info("l", kind=tarfile.LNKTYPE, link="b"), b"")], "does not contain"),
    "duplicate": ([(info("a"), b"good"), (info("./a"), b"evil")], "twice"),
    "file as folder": ([(info("a"), b"x"), (info("a/b"), b"x")], "file and a folder"),
    "folder as file": ([(info("a/b"), b"x"), (info("a"), b"x")], "file and a folder"),
    "written through a link": (
        [(info("l", kind=tarfile.SYMTYPE, link=".."), b""), (info("l/x"), b"x")],
        "file and a folder",
    ),
    # no link of the two leads out by its text alone: d/e → d/s/.. = d; but s is the root itself
    "chain of links": (
        [
            (info("d/s", kind=tarfile.SYMTYPE, link="../d/.."), b""),
            (info("d/e", kind=tarfile.SYMTYPE, link="s/.."), b""),
        ],
        "leads out",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tar_is_refused(tmp_path: Path, name: str) -> None:
    members, message = HOSTILE[name]
    # a fresh folder below, so that an escape by one level is seen by assert_refused
    work = tmp_path / "work"
    work.mkdir()
    error = assert_refused(make_tar(tmp_path / "a.tar.gz", *members), work / "out", message)
    assert str(tmp_path / "a.tar.gz") in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "work"]


def _zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = mode << 16
    return member


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("/etc/x", b"x", "absolute"),
        ("../x", b"x", "leads out"),
        (_zip_member("l", 0o120777), b"/etc/passwd", "leads out"),
        (_zip_member("l", 0o120777), b"../../x", "leads out|to nothing"),
        (_zip_member("l", 0o120777), b"x" * 5000, "absurd target"),
        (_zip_member("pipe", 0o010644), b"", "pipe"),
    ],
)
def test_hostile_zip_is_refused(
    tmp_path: Path, member: str | zipfile.ZipInfo, content: bytes, message: str
) -> None:
    assert_refused(make_zip(tmp_path / "a.zip", (member, content)), tmp_path / "out", message)


def test_zip_duplicate_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make_zip(tmp_path / "a.zip", ("a", b"good"), ("a", b"evil"))
    assert_refused(path, tmp_path / "out", "twice")


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_size_and_count_are_bounded(tmp_path: Path, make: Callable[..., Path]) -> None:
    name: Callable[[str], object] = info if make is make_tar else str
    path = make(tmp_path / "a", *((name(f"f{i}"), os.urandom(1000)) for i in range(20)))
    assert len(safe_extract(path, tmp_path / "whole", max_bytes=20_000, max_files=20)) == 20
    assert_refused(path, tmp_path / "out", "unpacks to more than", max_bytes=19_999)
    assert_refused(path, tmp_path / "out", "more than 19 members", max_files=19)


def test_ratio_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_RATIO_FREE_BYTES", 1_000_000)
    zeros = bytes(9_000_000)
    for path in (
        make_tar(tmp_path / "a.tar.gz", (info("z"), zeros)),
        make_zip(tmp_path / "a.zip", ("z", zeros)),
    ):
        assert_refused(path, tmp_path / "out", "250 times its size")


@pytest.mark.parametrize("declared", [10, 1001])
def test_zip_that_declares_less_or_more_than_it_holds(declared: int, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ("f", b"x" * 1000))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = declared.to_bytes(4, "little")
    path.write_bytes(data)
    assert_refused(path, tmp_path / "out", "damaged")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_in_an_error_of_ours(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """Bytes changed at random: it unpacks inside its folder, or it is refused with an explanation."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / f"a.{suffix}"
        if suffix == "zip":
            make_zip(path, ("d/f", b"text " * 50), ("g", b"1"))
        else:
            mode = {"tar": "w:", "tar.gz": "w:gz", "tar.xz": "w:xz"}[suffix]
            link = info("d/l", kind=tarfile.SYMTYPE, link="f")
            make_tar(path, (info("d/f"), b"text " * 50), (link, b""), (info("g"), b"1"), mode=mode)
        content = bytearray(path.read_bytes())
        # the end of a plain tar is padding
        size = min(len(content), 3000)
        for position in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6)):
            content[position] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        work = Path(folder) / "work"
        work.mkdir()
        try:
            safe_extract(path, work / "out", max_bytes=LIMIT)
        except DownloadError:
            assert list(work.iterdir()) == []
        assert sorted(each.name for each in Path(folder).iterdir()) == [path.name, "work"]


def test_tar_header_of_absurd_size(tmp_path: Path) -> None:
    """A PAX header is read into memory whole: one of 64 MB is refused before it is."""
    header = info("x", kind=tarfile.XHDTYPE)
    header.size = 64 << 20
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as handle:
        handle.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
    assert_refused(path, tmp_path / "out", "header of absurd size", max_bytes=1 << 40)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_truncated_tar_is_refused_at_any_byte(tmp_path: Path, mode: str) -> None:
    path = make_tar(tmp_path / "a.tar", *((info(f"f{i}"), os.urandom(700)) for i in range(5)), mode=mode)
    whole = path.read_bytes()
    assert len(safe_extract(path, tmp_path / "whole", max_bytes=LIMIT)) == 5
    # an uncompressed archive is padded with zeros after its end mark: those may be cut
    end = len(whole) if mode != "w:" else 5 * (512 + 1024)
    for length in [*range(1, end, end // 40), end - 1]:
        path.write_bytes(whole[:length])
        assert_refused(path, tmp_path / "out", "truncated or damaged|not an archive")


def test_truncated_zip_is_refused_at_any_byte(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", *((f"f{i}", os.urandom(700)) for i in range(5)))
    whole = path.read_bytes()
    for length in [*range(1, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert_refused(path, tmp_path / "out", "truncated or damaged|not an archive")


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_flipped_byte_is_found(tmp_path: Path, suffix: str) -> None:
    content = os.urandom(5000)
    path = tmp_path / f"a.{suffix}"
    make_zip(path, ("f", content)) if suffix == "zip" else make_tar(path, (info("f"), content))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    assert_refused(path, tmp_path / "out", "truncated or damaged")


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", (info("f"), b"x"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("keep")
    with pytest.raises(DownloadError, match="not empty"):
        safe_extract(path, tmp_path / "out", max_bytes=LIMIT)
    assert (tmp_path / "out/mine").read_text() == "keep"


def test_a_checkpoint_is_not_an_archive(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"model": {}}, tmp_path / "model.pt")
    assert archive_format(tmp_path / "model.pt") is None
    assert archive_format(make_zip(tmp_path / "a.zip", ("data.pkl", b""))) == "zip"
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DownloadError, match="not an archive"):
        safe_extract(tmp_path / "text", tmp_path / "out", max_bytes=LIMIT)
