"""inspect: the essentials of a file, and a clear word about what is no such file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuron_specialization.activations.counts import Counts, write_activations
from neuron_specialization.cli import main
from neuron_specialization.storage.layer_masks import write_masks

LAYERS = ("encoder.layers.0", "decoder.layers.0")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    path = tmp_path / "en-de.safetensors"
    letters = {letter: letter for letter in "qwertyuiop"}
    kept = np.array([True] * 6 + [False] * 2)
    write_masks(path, {LAYERS[0]: kept, LAYERS[1]: ~kept}, {"direction": "en-de", "k": "95.0", **letters})
    return path


@pytest.fixture
def activations(tmp_path: Path) -> Path:
    path = tmp_path / "counts.safetensors"
    counts = {
        LAYERS[0]: np.array([95, 3, 2, 0], dtype=np.int64),
        LAYERS[1]: np.array([5, 5, 5, 5], dtype=np.int64),
    }
    facts = Counts(layers=counts, positions={"encoder": 100, "decoder": 10}, sentences=7, skipped=0)
    write_activations(path, facts, {"direction": "en-de"})
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["inspect", *arguments])
    return capsys.readouterr().out


def test_masks(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "masks", str(masks))
    assert "en-de" in text and "95.0" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["encoder.layers.0"] == ["8", "6", "75.0%"]
    assert rows["all"] == ["16", "8", "50.0%"]
    found = json.loads(printed(capsys, "masks", str(masks), "--json"))
    assert found["all"] == {"neurons": 16, "kept": 8, "share": 0.5}
    assert found["metadata"]["direction"] == "en-de"
    assert list(found["metadata"]) == sorted(found["metadata"])


def test_activations(activations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "activations", str(activations), "--json"))
    assert found["layers"]["encoder.layers.0"] == {
        "neurons": 4,
        "never_active": 1,
        "neurons_of_95_percent": 1,
        "mean_rate": 0.25,
        "highest_rate": 0.95,
    }
    assert found["layers"]["decoder.layers.0"]["neurons_of_95_percent"] == 4
    text = printed(capsys, "activations", str(activations))
    assert "make up 95 %" in text and "95.0%" in text and "50.0%" in text


def test_text_in_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hostile.safetensors"
    write_masks(
        path, {LAYERS[0]: np.array([True])}, {"direction": "en-de", "note": "\x1b[2Jgone [red]x[/red]"}
    )
    text = printed(capsys, "masks", str(path))
    assert "\x1b" not in text and "gone [red]x[/red]" in text


@pytest.mark.parametrize("kind", ["masks", "activations", "checkpoint"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"\xff" * 7, b"PK\x03\x04 not a zip", b'{"a": 1}', b"\x08" + b"\0" * 7 + b"{}      "],
)
def test_damaged_files_are_explained(
    kind: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", kind, str(path)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(path) in error and "Traceback" not in error


def test_masks_cut_short_are_explained(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks.write_bytes(masks.read_bytes()[:-3])
    with pytest.raises(SystemExit):
        main(["inspect", "masks", str(masks)])
    assert "error: " in capsys.readouterr().err


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(SystemExit):
        main(["inspect", "checkpoint", str(tmp_path / "bomb.pt")])
    assert not (tmp_path / "ran").exists()
    assert "error: " in capsys.readouterr().err
