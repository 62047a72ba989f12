"""The data commands, one after another, as the workflow calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuron_specialization.cli import cli, main
from tests.fakes.corpora import corpus_spec, local_files, make_parallel_wheel, vocabulary_spec, write_text


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_corpus_vocabulary_binarize(tmp_path: Path) -> None:
    wheel = make_parallel_wheel(tmp_path / "a.whl", 200)
    spec = corpus_spec(train_caps={"en-ru": 50}).model_dump_json()
    table = run(
        "corpus", "--source", "homeassistant", "--input", wheel, "--spec", spec, "--output", tmp_path / "c"
    )
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:2] == ["pair", "extracted"] and rows[0][-3:] == ["train", "valid", "heldout"]
    assert rows[2][0] == "en-ru" and rows[2][-3:] == ["50", "5", "10"]
    made = run(
        *("vocabulary", "--corpus", tmp_path / "c", "--spec", vocabulary_spec().model_dump_json()),
        *("--seed", 3, "--output", tmp_path / "v"),
    )
    assert made.startswith("90 entries")
    table = run(
        "binarize", "--corpus", tmp_path / "c", "--vocabulary", tmp_path / "v", "--output", tmp_path / "b"
    )
    assert ["en-ru", "train", "50"] in [line.split()[:3] for line in table.splitlines()]
    assert (tmp_path / "b/train.de-en.en.idx").is_file()


def test_overlap_of_given_sets_is_told(tmp_path: Path) -> None:
    files = local_files()
    files["valid.de-en.en"][0] = files["test.de-en.en"][0]
    write_text(tmp_path / "text", files)
    output = run(
        *("corpus", "--source", "local", "--input", tmp_path / "text"),
        *("--spec", corpus_spec().model_dump_json(), "--output", tmp_path / "c"),
    )
    assert "warning: valid segments with text that is also in the test set: de-en 1" in output


def test_testset(tmp_path: Path) -> None:
    write_text(
        tmp_path / "f", {f"{split}.{code}": ["a", "b"] for split in ("x", "y") for code in ("en", "de")}
    )
    output = run(
        *("testset", "--source", "folder", "--input", tmp_path / "f", "--splits", "x,y"),
        *("--directions", "en-de,de-en", "--output", tmp_path / "out"),
    )
    assert "4 segments in 2 languages" in output


def test_errors_exit_with_status_one_and_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [
            "corpus",
            "--source",
            "local",
            "--input",
            str(tmp_path),
            "--spec",
            "{",
            "--output",
            str(tmp_path / "c"),
        ],
        [
            "binarize",
            "--corpus",
            str(tmp_path),
            "--vocabulary",
            str(tmp_path),
            "--output",
            str(tmp_path / "b"),
        ],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 1
    errors = capsys.readouterr().err
    assert "the corpus spec is not valid JSON" in errors and "no corpus here" in errors


def test_no_command_imports_torch_or_fairseq() -> None:
    code = (
        "import sys\n"
        "import neuron_specialization.cli.data, neuron_specialization.preprocessing.binarize\n"
        "import neuron_specialization.corpora.prepare, neuron_specialization.corpora.testsets\n"
        "print(sorted({'torch', 'fairseq', 'matplotlib', 'pandas', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
