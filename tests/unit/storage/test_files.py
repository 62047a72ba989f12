"""Files: whole or not at all, checked, and left alone where nothing changed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.errors import CorpusError, NeuronSpecializationError
from neuron_specialization.storage.files import (
    atomic_path,
    atomic_text,
    canonical_json,
    hash_of,
    read_json,
    read_lines,
    sha256_of,
    write_json,
    write_lines,
)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("PytorchStreamWriter failed"), OSError("8 requested and 4 written"), OSError(28, "full")],
)
def test_a_full_disk_is_said_whatever_the_library_says(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuron_specialization.storage.files._is_full", lambda folder: folder == tmp_path)
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.pt"):
        raise failure
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.pt"))
    with pytest.raises(CorpusError), atomic_path(tmp_path / "a.pt"):  # our own errors say what is wrong
        raise CorpusError("misaligned")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_names_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught, atomic_path(tmp_path / "a.txt") as temporary:
        raise PermissionError(errno.EACCES, "no", str(temporary))
    assert caught.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError) as missing, atomic_path(tmp_path / "a.txt"):
        Path("another").read_text(encoding="utf-8")
    assert missing.value.filename == "another"


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic_text(path) as handle:
        handle.write("new")
        handle.flush()
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"


def test_the_temporary_file_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    # numpy and matplotlib choose a format by the suffix; a rename needs the same file system
    with atomic_path(tmp_path / "figure.png") as temporary:
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path)


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_lines(tmp_path / "a", ["x"])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_equal_json_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1.5, "é"]})
    os.utime(path, (1, 1))
    write_json(path, {"b": 1, "a": [1.5, "é"]})
    assert path.stat().st_mtime == 1
    path.write_bytes(b'{\n  "b": \xff')  # damaged, and no text
    write_json(path, {"b": 2})
    assert path.stat().st_mtime > 1
    assert read_json(path) == {"b": 2}


def test_json_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_broken_and_missing_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(NeuronSpecializationError, match=r"missing(.|\n)*a\.json"):
        read_json(path)
    path.write_text('{"a": ', encoding="utf-8")
    with pytest.raises(NeuronSpecializationError, match=r"not valid JSON(.|\n)*a\.json"):
        read_json(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_does_not_depend_on_order(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical_json(turned) == canonical_json(value)
    assert hash_of(turned) == hash_of(value)


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n", [""]),
        ("a\u2028b\x0b\x0c\x1c\x85c\n".encode(), ["a\u2028b\x0b\x0c\x1c\x85c"]),
    ],
)
def test_lines_end_at_line_feeds_only(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert read_lines(path) == lines


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"fine\nfine\nM\xfcnchen\n")
    with pytest.raises(CorpusError, match=r"not UTF-8(.|\n)*line 3"):
        read_lines(path)


def test_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="none"):
        read_lines(tmp_path / "none")


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"))))
def test_lines_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a"
    write_lines(path, lines)
    assert read_lines(path) == lines


@pytest.mark.parametrize("segment", ["a\nb", "a\r"])
def test_a_segment_with_a_line_break_is_refused(tmp_path: Path, segment: str) -> None:
    with pytest.raises(CorpusError, match="line 2"):
        write_lines(tmp_path / "a", ["fine", segment])
    assert list(tmp_path.iterdir()) == []
