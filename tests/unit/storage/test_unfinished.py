"""What killed processes leave is removed by the next that makes the same; nothing else ever is."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from neuron_specialization.storage.files import write_json
from neuron_specialization.storage.unfinished import remove_abandoned, unfinished_file, unfinished_folder

KILLED = """
import os, pathlib, signal, sys
from neuron_specialization.storage.unfinished import unfinished_file, unfinished_folder
place = pathlib.Path(sys.argv[1])
with unfinished_file(place / "a.json") as file, unfinished_folder(place / "model") as folder:
    file.write_text("half")
    (folder / "inside").mkdir()
    (folder / "inside" / "weights").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process in the middle of making `a.json` and the folder `model`."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(how)
    process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    end(other, signal.SIGKILL)
    assert len(names(tmp_path)) == 2
    write_json(tmp_path / "b.json", {})  # something else: nothing of its is here
    assert len(names(tmp_path)) == 3
    write_json(tmp_path / "a.json", {})
    with unfinished_folder(tmp_path / "model") as folder:
        assert list(folder.iterdir()) == []
    assert names(tmp_path) == ["a.json", "b.json"]


def test_what_a_living_process_makes_stays(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    held = names(tmp_path)
    write_json(tmp_path / "a.json", {})
    with unfinished_folder(tmp_path / "model"):
        remove_abandoned(tmp_path)
        assert set(held) < set(names(tmp_path))
    assert names(tmp_path) == sorted([*held, "a.json"])
    other.communicate("")
    assert names(tmp_path) == ["a.json"]


def test_one_process_may_make_the_same_twice(tmp_path: Path) -> None:
    place = tmp_path / "a.txt"
    with unfinished_file(place) as first, unfinished_file(place) as second:
        assert first != second and first.is_file() and second.suffix == ".txt"
    assert names(tmp_path) == []


@pytest.mark.parametrize("when", ["removed already", "while it is locked"])
@pytest.mark.parametrize("make", ["mkstemp", "mkdtemp"])
def test_what_is_taken_for_abandoned_as_it_is_made_is_made_again(
    make: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process cleans up in the moment between the making and the locking."""
    made: list[Path] = []
    others: list[int] = []
    original = getattr(tempfile, make)

    def met(**where: object) -> object:
        result = original(**where)
        path = Path(result if isinstance(result, str) else result[1])
        if not made and when == "while it is locked":
            others.append(os.open(path, os.O_RDONLY))
            fcntl.flock(others[0], fcntl.LOCK_EX)
        elif not made:
            remove_abandoned(tmp_path)
            assert not path.exists()
        made.append(path)
        return result

    monkeypatch.setattr(tempfile, make, met)
    maker = unfinished_file if make == "mkstemp" else unfinished_folder
    with maker(tmp_path / "thing") as place:
        assert place == made[1] and len(made) == 2 and place.exists()
    for descriptor in others:
        os.close(descriptor)


def test_what_only_looks_alike_stays(tmp_path: Path) -> None:
    kept = [
        ".a.original.json",
        ".a.unfinished-zzzzzzzz.txt",
        ".ab.unfinished-zzzzzzzz.json",
        "a.unfinished-z.json",
    ]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".a.unfinished-link.json").symlink_to(tmp_path / kept[0])
    write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == sorted([*kept, ".a.unfinished-link.json", "a.json"])


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".a.unfinished-zzzzzzzz.json").touch()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == [".a.unfinished-zzzzzzzz.json", "a.json"]
    monkeypatch.undo()
    write_json(tmp_path / "a.json", {"changed": 1})
    assert names(tmp_path) == ["a.json"]
