"""Anyone's own text, as configs/local.yaml says: taken in, or refused with file and line before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.runner import Result, Workflow

WORDS = [
    "red",
    "green",
    "blue",
    "light",
    "door",
    "window",
    "lamp",
    "heat",
    "water",
    "garden",
    "kitchen",
    "roof",
]


def sentence(number: int, code: str) -> str:
    """A sentence of five words; the same number gives translations of each other."""
    # digits do not tell segments apart where training text is decontaminated: number them in words
    words = ["the", *(WORDS[number // len(WORDS) ** i % len(WORDS)] for i in range(4))]
    return " ".join(f"{word}{code if code != 'en' else ''}" for word in words)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A complete folder: de-en written either way round, and with blanks in its name."""
    folder = tmp_path / "my own text"
    folder.mkdir()
    for split, first, count in (("train", 0, 300), ("valid", 1000, 20), ("test", 2000, 25)):
        name = "en-de" if split == "valid" else "de-en"
        for code in ("de", "en"):
            lines = [sentence(first + i, code) for i in range(count)]
            (folder / f"{split}.{name}.{code}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(folder: Path, text: Path, *arguments: str, **changes: Any) -> Result:
    overrides = {
        "experiment": "mine",
        "languages": ["en", "de"],
        "corpus": {"path": str(text)},
        "vocabulary": {"size": 36},
        **changes,
    }
    workflow = Workflow(folder, config=REPOSITORY / "configs/local.yaml")
    return workflow.run(*arguments, "--", "data", overrides=overrides)


def test_own_text_becomes_a_corpus(tmp_path: Path, text: Path) -> None:
    done = run(tmp_path, text)
    assert done.status == 0, done.output
    corpus = tmp_path / "results/mine/corpus"
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    segments = {split: pairs["de-en"]["segments"] for split, pairs in manifest["splits"].items()}
    assert segments["valid"] == 20 and segments["heldout"] == 25
    assert 0 < segments["train"] <= 300
    assert (corpus / "heldout/de-en.de").read_text(encoding="utf-8").splitlines()[0] == sentence(2000, "de")
    assert (tmp_path / "results/mine/binarized/manifest.json").is_file()
    assert run(tmp_path, text).nothing_to_do


def test_changed_text_is_taken_in_again(tmp_path: Path, text: Path) -> None:
    assert run(tmp_path, text).status == 0
    with (text / "train.de-en.de").open("a", encoding="utf-8") as handle:
        handle.write("neu\n")
    with (text / "train.de-en.en").open("a", encoding="utf-8") as handle:
        handle.write("new\n")
    assert run(tmp_path, text).jobs["corpus"] == 1


def test_text_of_a_language_that_is_not_listed_changes_nothing(tmp_path: Path, text: Path) -> None:
    """A folder serves several experiments, and gets a further language before the configuration does."""
    assert run(tmp_path, text).status == 0
    for split in ("train", "valid", "test"):
        for code in ("en", "nl"):
            (text / f"{split}.en-nl.{code}").write_text(f"{sentence(1, code)}\n", encoding="utf-8")
    assert run(tmp_path, text, "--dry-run").nothing_to_do


def test_bad_text_is_refused_with_file_and_line(tmp_path: Path, text: Path) -> None:
    (text / "valid.en-de.de").write_bytes(b"gut\nM\xfcll\n")
    (text / "test.de-en.en").unlink()
    with (text / "train.de-en.de").open("a", encoding="utf-8") as handle:
        handle.write("one line too many\n")
    done = run(tmp_path, text)
    assert done.status != 0
    # all that is wrong at once, in the terminal, and nothing made of it
    assert "valid.en-de.de, line 2" in done.output
    assert "test.de-en" in done.output
    assert "301" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "results/mine/corpus/manifest.json").exists()


def test_text_that_is_refused_costs_nothing_that_was_made(tmp_path: Path, text: Path) -> None:
    """Snakemake removes the files of a job before it runs it again, and the job would refuse its text."""
    assert run(tmp_path, text).status == 0
    results = tmp_path / "results/mine"
    made = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with (text / "train.de-en.de").open("a", encoding="utf-8") as handle:
        handle.write("one line too many\n")
    refused = run(tmp_path, text)
    assert refused.status != 0 and "line 301 has no counterpart" in refused.output
    misspelt = run(tmp_path, text, languages=["en", "de", "xx"])
    assert misspelt.status != 0 and "train.en-xx.en and train.en-xx.xx are missing" in misspelt.output
    text.rename(tmp_path / "moved")
    for arguments in ((), ("--dry-run",)):
        gone = run(tmp_path, text, *arguments)
        assert gone.status != 0 and "the folder of local text is missing" in gone.output
        assert "Traceback" not in gone.output
    assert made == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "nowhere")
    assert done.status != 0
    assert "the folder of local text is missing" in done.output
    assert "set corpus.path" in done.output
