"""Text that is long, blank, full of control characters, right to left or hardly there: a run takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflow.faults.experiment import SPLITS, Experiment, write_text

pytestmark = [pytest.mark.faults, pytest.mark.slow]

LINES = [
    b"bada " * 20_000,  # 100,000 characters
    b"ba\0da kilo\x07",
    "שלום עולם \u202eabc\u202c e\u0301\u0323\u0301".encode(),
    "\ufeff\u2028bada\u0085kilo".encode(),
]
# only in training text, where it is dropped and counted; valid and test refuse it by line (unit tests)
BLANK = "\u3000\u00a0 \t".encode()


def put(folder: Path, name: str, lines: list[bytes]) -> None:
    """Replace lines of both sides of a pair, from the second; what differs is the language's code."""
    for path in folder.glob(f"{name}.*"):
        text = path.read_bytes().split(b"\n")
        text[1 : 1 + len(lines)] = [line if line == BLANK else line + path.suffix.encode() for line in lines]
        path.write_bytes(b"\n".join(text))


def test_text_that_nobody_wrote(tmp_path: Path) -> None:
    run = Experiment(tmp_path, {"languages": ["en", "de", "ar"]}).prepare()
    text = tmp_path / "text"
    write_text(text, "ar-en", {**SPLITS, "train": 3})
    put(text, "train.de-en", [*LINES, BLANK])
    put(text, "valid.de-en", LINES)
    put(text, "test.de-en", LINES)
    done = run.run()
    assert done.status == 0, done.output
    manifest = json.loads((run.results / "corpus/manifest.json").read_text(encoding="utf-8"))
    assert manifest["splits"]["train"]["ar-en"]["segments"] == 3
    assert manifest["dropped"]["de-en"]["empty"] == 1
    assert manifest["splits"]["valid"]["de-en"]["segments"] == SPLITS["valid"]
    translations = sorted((run.results / "translations").rglob("*.txt"))
    assert len(translations) == 8
    for path in translations:
        assert path.read_text(encoding="utf-8").count("\n") == SPLITS["test"], path
    # a loss of each direction, the one with three sentences too
    (valid, *_) = [
        json.loads(line)
        for line in (run.results / "training/baseline/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if '"valid"' in line
    ]
    assert set(valid["nll_by_direction"]) == {"en-de", "de-en", "en-ar", "ar-en"}
    assert run.run("--dry-run").nothing_to_do
