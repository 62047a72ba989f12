"""Text from outside is read again when it changed, and refused before what was made of it is lost."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.unit.preprocessing.test_take_over import make_data_bin
from tests.workflow.runner import Workflow


def configured(folder: Path, **values: Any) -> Workflow:
    """The smoke configuration with a baseline alone, and with keys replaced."""
    config = yaml.safe_load((REPOSITORY / "configs/smoke.yaml").read_text(encoding="utf-8"))
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(config | {"systems": {"baseline": {}}} | values), encoding="utf-8")
    return Workflow(folder, config=path)


def newer(path: Path, content: bytes) -> None:
    """Write a file that is newer than all that was made before."""
    path.write_bytes(content)
    later = path.stat().st_mtime + 100
    os.utime(path, (later, later))


# ---- test sets ----


def write_testset(folder: Path) -> Path:
    folder.mkdir()
    for code in ("de", "en", "es"):
        (folder / f"dev.{code}").write_text("one\ntwo\n", encoding="utf-8")
    return folder


def test_an_edited_test_set_is_read_again(tmp_path: Path) -> None:
    folder = write_testset(tmp_path / "tests")
    archive = tmp_path / "flores.tar"
    archive.write_bytes(b"not looked at before it is unpacked")
    testsets = {
        "mine": {"source": "folder", "path": str(folder), "splits": ["dev"]},
        "flores": {"source": "flores200", "path": str(archive)},
    }
    workflow = configured(tmp_path, testsets=testsets)
    workflow.make_finished()
    assert workflow.plan().nothing_to_do
    (folder / "dev.fr").write_text("of a language that is not used\n", encoding="utf-8")
    (folder / "dev.de").touch()
    assert workflow.plan().nothing_to_do
    again = {"testset": 1, "translate": 4, "score": 4}
    newer(folder / "dev.de", b"one\nthree\n")
    jobs = workflow.plan().jobs
    assert {name: jobs[name] for name in again} == again
    newer(archive, b"another one")
    assert workflow.plan().jobs["testset"] == 2


def test_a_refused_test_set_leaves_the_finished_one(tmp_path: Path) -> None:
    folder = write_testset(tmp_path / "tests")
    testsets = {"mine": {"source": "folder", "path": str(folder), "splits": ["dev"]}}
    workflow = configured(tmp_path, testsets=testsets)
    workflow.make_finished()
    newer(folder / "dev.de", b"one\n")
    refused = workflow.run()
    assert refused.status != 0
    assert "dev: unequal line counts: 1 in de; 2 in" in refused.output
    assert (tmp_path / "results/smoke/testsets/mine/de-en.de").is_file()
    folder.rename(tmp_path / "moved")
    refused = workflow.plan()
    assert refused.status != 0
    assert "there is nothing at testsets.mine.path" in refused.output


# ---- a binarised corpus ----


def of_data_bin(folder: Path, path: Path, **values: Any) -> Workflow:
    corpus = {"source": "data-bin", "path": os.path.relpath(path, folder)}
    testsets = {"test": {"source": "data-bin", "splits": ["test"]}}
    languages = ["en", "de"]
    return configured(folder, corpus=corpus, languages=languages, tiers={}, testsets=testsets, **values)


def packed(source: Path, archive: Path) -> None:
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(source, "data-bin")


def test_another_version_of_a_data_bin_is_taken_over(tmp_path: Path) -> None:
    source = make_data_bin(tmp_path / "data-bin")
    workflow = of_data_bin(tmp_path, source)
    workflow.make_finished()
    assert workflow.plan().nothing_to_do
    index = source / "train.en-de.de.idx"
    index.touch()
    for unused in source.glob("*.fr.idx"):
        newer(unused, b"of a pair that is not used")
    assert workflow.plan().nothing_to_do
    newer(index, index.read_bytes() + b"x")
    jobs = workflow.plan().jobs
    assert jobs["take_over_data_bin"] == jobs["train_baseline"] == 1
    # what the job would refuse is refused before its former manifest is removed
    refused = workflow.run()
    assert refused.status != 0 and "the data-bin cannot be taken over" in refused.output
    assert (tmp_path / "results/smoke/binarized/manifest.json").is_file()


def test_another_archive_is_unpacked_and_taken_over(tmp_path: Path) -> None:
    packed(make_data_bin(tmp_path / "data-bin"), tmp_path / "a/data.tar")
    workflow = of_data_bin(tmp_path, tmp_path / "a/data.tar")
    done = workflow.run("--", "data")
    assert done.status == 0, done.output
    assert workflow.plan("--", "data").nothing_to_do
    chain = Counter(unpack=1, take_over_data_bin=1, testset_from_data_bin=1, data=1)
    # one of another folder that is called alike
    packed(make_data_bin(tmp_path / "longer", repeat=2), tmp_path / "b/data.tar")
    other = of_data_bin(tmp_path, tmp_path / "b/data.tar", experiment="other")
    assert other.plan("--", "data").jobs == chain
    # the same archive, changed: for the experiment that has its data, and for one that has not
    workflow = of_data_bin(tmp_path, tmp_path / "a/data.tar")
    newer(tmp_path / "a/data.tar", (tmp_path / "b/data.tar").read_bytes())
    assert workflow.plan("--", "data").jobs == chain
    fresh = of_data_bin(tmp_path, tmp_path / "a/data.tar", experiment="fresh")
    assert fresh.plan("--", "data").jobs == chain


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_data_bin_that_is_not_there_is_refused_when_planning(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    refused = of_data_bin(tmp_path, tmp_path / path).plan()
    assert refused.status != 0
    assert "corpus.path" in refused.output and "Traceback" not in refused.output
