"""COMET in its own environment: what is asked of it, what comes back, what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_specialization.cli import main
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import comet
from neuron_specialization.evaluation.scoring import Bootstrap
from neuron_specialization.evaluation.tables import DirectionGroup, read_scores
from neuron_specialization.storage.files import sha256_of
from tests.fakes.comet_python import executable, write_comet_model, write_comet_python

SOURCES = ["ein haus", "zwei katzen schlafen", "der fluss ist alt"]
REFERENCES = ["a house", "two cats sleep", "the river is old"]
HYPOTHESES = ["a house", "two cats are asleep", "this river is old"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    for path, lines in {
        folder / "de-en.de": SOURCES,
        folder / "de-en.en": REFERENCES,
        tmp_path / "translations" / "de-en.txt": HYPOTHESES,
        tmp_path / "translations" / "en-de.txt": SOURCES,
    }.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_comet_model(tmp_path / "model")


def arguments(
    tmp_path: Path, texts: Path, python: str, model: str, directions: str = "de-en,en-de"
) -> list[str]:
    return [
        *("comet", "--translations", str(tmp_path / "translations"), "--texts", str(texts)),
        *("--directions", directions, "--system", "ns", "--testset", "heldout", "--bootstrap", "100"),
        *("--model", model, "--python", python, "--output", str(tmp_path / "comet" / "ns" / "heldout")),
    ]


def test_command_writes_score_files_that_tables_read(tmp_path: Path, texts: Path, model: Path) -> None:
    log = str(tmp_path / "request.json")
    python = write_comet_python(tmp_path / "python", Path(log))
    main(arguments(tmp_path, texts, python, str(model)))
    request = json.loads(Path(log).read_text())
    assert request["checkpoint"] == str(model / "checkpoints" / "model.ckpt")
    assert request["model"] is None
    assert request["jobs"] == [
        {"source": SOURCES, "hypothesis": HYPOTHESES, "reference": REFERENCES},
        {"source": REFERENCES, "hypothesis": SOURCES, "reference": SOURCES},
    ]
    written = json.loads((tmp_path / "comet/ns/heldout/de-en.json").read_text())
    metric = written["metrics"]["comet"]
    assert metric["score"] == pytest.approx(0.2)
    assert metric["low"] < 0.2 < metric["high"]
    assert metric["signature"].startswith("comet:2.2.7|model:model|checkpoint:")
    assert metric["signature"].endswith("|bs:100|seed:12345")
    groups = [DirectionGroup(name, "g", "high", "Germanic") for name in ("de-en", "en-de")]
    table = read_scores(tmp_path / "comet", groups)
    assert table.metrics == ["comet"]
    assert table.score_of_run("ns", "heldout", "en-de", "comet") == pytest.approx(0.2)


def test_scores_and_comet_are_put_together_only_for_the_same_texts(
    tmp_path: Path, texts: Path, model: Path
) -> None:
    python = write_comet_python(tmp_path / "python", tmp_path / "log")
    main(arguments(tmp_path, texts, python, str(model), "de-en"))
    hypothesis = tmp_path / "translations" / "de-en.txt"

    def score() -> None:
        main(
            [
                *("score", "--hypothesis", str(hypothesis), "--reference", str(texts / "de-en.en")),
                *("--direction", "de-en", "--system", "ns", "--testset", "heldout", "--bootstrap", "0"),
                *("--output", str(tmp_path / "scores" / "ns" / "heldout" / "de-en.json")),
            ]
        )

    score()
    folders = [tmp_path / "scores", tmp_path / "comet"]
    groups = [DirectionGroup("de-en", "X→en", "high", "Germanic")]
    assert read_scores(folders, groups).metrics == ["bleu", "chrf++", "comet"]
    hypothesis.write_text("another\ntranslation\nnow\n", encoding="utf-8")
    score()
    with pytest.raises(ScoringError, match="ns/heldout/de-en were computed on different texts"):
        read_scores(folders, groups)


def test_tokenised_text_is_detokenised_first(tmp_path: Path, texts: Path, model: Path) -> None:
    (texts / "de-en.de").write_text("Guten Tag , Welt !\n" * 3, encoding="utf-8")
    (texts / "de-en.en").write_text("Hello , world !\n" * 3, encoding="utf-8")
    (tmp_path / "translations/de-en.txt").write_text("Well , hello !\n" * 3, encoding="utf-8")
    python = write_comet_python(tmp_path / "python", tmp_path / "log")
    main([*arguments(tmp_path, texts, python, str(model), "de-en"), "--detokenize", "moses"])
    (asked,) = json.loads((tmp_path / "log").read_text())["jobs"]
    assert asked["source"][0] == "Guten Tag, Welt!"
    assert (asked["hypothesis"][0], asked["reference"][0]) == ("Well, hello!", "Hello, world!")
    written = json.loads((tmp_path / "comet/ns/heldout/de-en.json").read_text())
    assert written["detokenizer"] == "moses"
    # as in score files: of the files, before that
    assert written["reference_sha256"] == sha256_of(texts / "de-en.en")


def test_a_name_is_left_to_comet_to_download(tmp_path: Path, texts: Path) -> None:
    log = str(tmp_path / "request.json")
    python = write_comet_python(tmp_path / "python", Path(log))
    main(arguments(tmp_path, texts, python, "Unbabel/wmt22-comet-da", "de-en"))
    request = json.loads(Path(log).read_text())
    assert (request["model"], request["checkpoint"]) == ("Unbabel/wmt22-comet-da", None)


def test_a_path_must_hold_a_model(tmp_path: Path, model: Path) -> None:
    assert comet.checkpoint_of("Unbabel/wmt22-comet-da") is None
    assert (
        comet.checkpoint_of(str(model / "checkpoints" / "model.ckpt")) == model / "checkpoints" / "model.ckpt"
    )
    (model / "hparams.yaml").unlink()
    with pytest.raises(ScoringError, match=r"hparams\.yaml"):
        comet.checkpoint_of(str(model))
    with pytest.raises(ScoringError, match="checkpoint is missing"):
        comet.checkpoint_of(str(tmp_path / "absent"))


def test_a_snapshot_of_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--Unbabel--wmt22-comet-da" / "snapshots" / "2760a223"
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    for name in ("hparams.yaml", "checkpoints/model.ckpt"):
        file = snapshot / name
        file.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / file.suffix[1:]
        blob.write_text("{}")
        file.symlink_to(os.path.relpath(blob, file.parent))
    checkpoint = snapshot / "checkpoints" / "model.ckpt"
    assert comet.checkpoint_of(str(snapshot)) == comet.checkpoint_of(str(checkpoint)) == checkpoint
    monkeypatch.chdir(snapshot / "checkpoints")
    assert comet.checkpoint_of("model.ckpt") == checkpoint


def test_the_environment_must_be_named_and_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(comet.PYTHON_VARIABLE, raising=False)
    with pytest.raises(ScoringError, match=r"envs/comet\.yaml"):
        comet.find_python(None)
    with pytest.raises(ScoringError, match="is missing"):
        comet.find_python(str(tmp_path / "python"))
    monkeypatch.setenv(comet.PYTHON_VARIABLE, sys.executable)
    assert comet.find_python(None) == sys.executable


def job() -> comet.CometJob:
    return comet.CometJob("de-en", SOURCES, HYPOTHESES, REFERENCES, {})


def test_our_own_environment_has_no_comet() -> None:
    """The real runner, started for real, says what is missing and does not take our comet.py for COMET's."""
    with pytest.raises(ScoringError, match="unbabel-comet cannot be imported") as raised:
        comet.run_comet([job()], python=sys.executable)
    assert "No module named 'comet'" in str(raised.value)


def test_a_failure_shows_its_last_words(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", "#!/bin/sh\necho out of memory >&2\nexit 1\n")
    with pytest.raises(ScoringError, match="exit status 1"):
        comet.run_comet([job()], python=python)


def test_what_comet_says_may_be_of_any_encoding(tmp_path: Path, model: Path) -> None:
    python = write_comet_python(tmp_path / "python", tmp_path / "log")
    loud = executable(tmp_path / "loud", f"#!/bin/sh\nprintf 'loading \\377' >&2\nexec {python} \"$@\"\n")
    scores, _ = comet.run_comet([job()], model=str(model), python=loud)
    assert len(scores) == 1


def test_segments_must_match(tmp_path: Path, texts: Path) -> None:
    (texts / "de-en.de").write_text("only one\n", encoding="utf-8")
    with pytest.raises(ScoringError, match="the source has 1 segments, the reference 3"):
        comet.read_job(
            Direction("de", "en"), tmp_path / "translations/de-en.txt", texts / "de-en.de", texts / "de-en.en"
        )


def test_no_interval_without_resamples() -> None:
    result = comet.comet_score(job(), [0.1, 0.2, 0.6], "comet:1", Bootstrap(0))
    assert result["metrics"]["comet"]["score"] == pytest.approx(0.3)
    assert result["metrics"]["comet"]["low"] is None
    assert result["segment_scores"] == [0.1, 0.2, 0.6]


@pytest.mark.slow
def test_the_real_package_on_a_tiny_model(tmp_path: Path, texts: Path, repository: Path) -> None:
    """unbabel-comet itself, offline, on a model of two layers with random weights."""
    python = os.environ.get(comet.PYTHON_VARIABLE, str(repository / ".comet" / "bin" / "python"))
    if not Path(python).exists():
        pytest.skip(f"no COMET environment: make it from envs/comet.yaml and set {comet.PYTHON_VARIABLE}")
    model = tmp_path / "tiny"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [python, str(repository / "tests/fakes/tiny_comet.py"), str(model)], check=True, env=offline
    )
    main(arguments(tmp_path, texts, python, str(model)))
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "comet/ns/heldout").iterdir())]
    assert [result["direction"] for result in results] == ["de-en", "en-de"]
    for result in results:
        assert len(set(result["segment_scores"])) == len(result["segment_scores"]) == 3
        assert result["metrics"]["comet"]["signature"].startswith("comet:2.")
    # the weights are seeded, so the same model scores the same again
    again, _ = comet.run_comet([job()], model=str(model), python=python)
    assert again[0] == pytest.approx(results[0]["segment_scores"], abs=1e-5)
