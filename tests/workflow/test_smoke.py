"""The whole workflow for real on a tiny configuration: download, train, specialise, translate, score."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.catalogue import catalogue_entry
from neuron_specialization.config import load_config
from neuron_specialization.evaluation.tables import DirectionGroup, read_scores
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import read_masks
from tests.conftest import REPOSITORY, SHARED, shared_file
from tests.fakes.comet_python import write_comet_model, write_comet_python
from tests.workflow.runner import Result, Workflow

pytestmark = [pytest.mark.smoke, pytest.mark.network]

CONFIG = load_config(REPOSITORY / "configs/smoke.yaml")
DIRECTIONS = [str(direction) for direction in CONFIG.all_directions()]
# of FLORES-200 text: one of them is not trained
FLORES_DIRECTIONS = ["en-de", "de-en", "de-es"]
FLORES_LINES = 4


def download(folder: Path) -> None:
    """Let the workflow download the corpus; the checkout's own download, if there is one, saves the network.

    Skips where there is no network; in CI, which has one, a failed download is a failure.
    """
    file = catalogue_entry("homeassistant").file
    own = REPOSITORY / "downloads"
    overrides: dict[str, object] | None = {"mirror": str(own)} if (own / file).is_file() else None
    workflow = Workflow(folder, config=REPOSITORY / "configs/smoke.yaml")
    done = workflow.run("--", f"downloads/{file}", overrides=overrides, timeout=600)
    if "pip could not fetch the package" in done.output and not os.environ.get("CI"):
        pytest.skip("the corpus cannot be downloaded here: no package index answers")
    assert done.status == 0, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, Result]:
    """The finished smoke run, and what it printed, download excluded."""
    workflow = Workflow(tmp_path_factory.mktemp("smoke"), config=REPOSITORY / "configs/smoke.yaml")
    download(workflow.folder)
    result = workflow.run(timeout=900)
    assert result.status == 0, result.output
    return workflow, result


@pytest.fixture(scope="module")
def results(run: tuple[Workflow, Result]) -> Path:
    return run[0].folder / "results/smoke"


def test_all_stages_ran(run: tuple[Workflow, Result]) -> None:
    _, result = run
    assert result.jobs["train_baseline"] == 1
    assert result.jobs["train_specialised"] == 2
    assert result.jobs["score"] == len(CONFIG.systems) * len(DIRECTIONS)


def test_the_score_table_ends_the_run(run: tuple[Workflow, Result], results: Path) -> None:
    _, result = run
    end = result.output[result.output.rindex("steps (100%) done") :]
    for word in ("baseline", "continued", "ns", "BLEU", "chrF++", *DIRECTIONS):
        assert word in end
    with (results / "tables/scores.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["system"], row["direction"]) for row in rows] == [
        (system, direction) for system in CONFIG.systems for direction in DIRECTIONS
    ]
    for row in rows:
        score = json.loads((results / f"scores/{row['system']}/heldout/{row['direction']}.json").read_text())
        assert float(row["bleu"]) == pytest.approx(score["metrics"]["bleu"]["score"], abs=0.005)


def test_a_run_ends_with_no_table_of_former_models(run: tuple[Workflow, Result], results: Path) -> None:
    workflow, _ = run
    costs = ("--forcerun", "costs", "--", "results/smoke/tables/costs.md")
    table = (workflow.folder / "logs/smoke/tables.log").read_text(encoding="utf-8").splitlines()[0]
    assert table in workflow.run(*costs).output
    model = results / "training/ns/model.json"
    before = model.stat().st_mtime_ns
    os.utime(model)
    made = workflow.run(*costs)
    os.utime(model, ns=(before, before))
    assert made.jobs == {"costs": 1} and table not in made.output
    # of a direction that has no score yet
    assert table not in workflow.run(*costs, overrides={"zero_shot": ["de-es"]}).output


def test_progress_is_on_the_terminal_and_in_the_log(run: tuple[Workflow, Result]) -> None:
    workflow, result = run
    for system in CONFIG.systems:
        line = f"{system}: update {CONFIG.training_of(system).max_updates}: validation loss"
        assert line in result.output
        assert line in (workflow.folder / f"logs/smoke/train/{system}.log").read_text(encoding="utf-8")


def test_every_artefact_names_what_it_was_made_from(results: Path) -> None:
    models = {
        name: json.loads((results / f"training/{name}/model.json").read_text()) for name in CONFIG.systems
    }
    baseline = models["baseline"]["model_sha256"]
    assert models["continued"]["inputs"]["init"] == models["ns"]["inputs"]["init"] == baseline
    assert "masks" in models["ns"]["inputs"] and "masks" not in models["continued"]["inputs"]
    assert len({model["model_sha256"] for model in models.values()}) == 3
    # the control makes as many updates as the specialised system, and is trained on the same data
    assert models["continued"]["updates"] == models["ns"]["updates"]
    assert models["continued"]["inputs"]["data"] == models["ns"]["inputs"]["data"]


def test_masks_leave_out_neurons_and_differ(results: Path) -> None:
    masks = {name: read_masks(results / f"masks/k95/{name}.safetensors").layers for name in DIRECTIONS}
    model = CONFIG.model
    layers = {f"encoder.layers.{i}" for i in range(model.encoder_layers)}
    layers |= {f"decoder.layers.{i}" for i in range(model.decoder_layers)}
    for mask in masks.values():
        assert set(mask) == layers
        assert all(tensor.shape == (model.d_ff,) for tensor in mask.values())
    kept = {name: sum(int(tensor.sum()) for tensor in mask.values()) for name, mask in masks.items()}
    assert all(0 < number < model.d_ff * len(layers) for number in kept.values())
    assert any((masks["en-de"][layer] != masks["de-en"][layer]).any() for layer in layers)


def test_translations_are_complete(results: Path) -> None:
    for system in CONFIG.systems:
        for direction in DIRECTIONS:
            text = (results / f"translations/{system}/heldout/{direction}.txt").read_text(encoding="utf-8")
            assert text.count("\n") == CONFIG.corpus.heldout_size


def test_no_unfinished_files_are_left(results: Path) -> None:
    hidden = [path for path in results.rglob(".*") if path.is_file() and not path.name.endswith(".lock")]
    assert hidden == []


def test_a_second_run_does_nothing(run: tuple[Workflow, Result]) -> None:
    assert run[0].run().nothing_to_do


@pytest.fixture(scope="module")
def extended(run: tuple[Workflow, Result], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The finished run with a zero-shot direction, and FLORES-200 text from a folder, where there is some."""
    folder = tmp_path_factory.mktemp("extended")
    workflow = run[0].copied_to(folder)
    testsets: dict[str, object] = {"heldout": {"source": "corpus"}}
    wanted = ["heldout/de-es"]
    if (SHARED / "flores").is_dir():
        testsets["flores"] = {"source": "folder", "path": "flores", "splits": ["test"]}
        wanted += [f"flores/{direction}" for direction in FLORES_DIRECTIONS]
        (folder / "flores").mkdir()
        for code in CONFIG.languages:
            with gzip.open(SHARED / f"flores/test.{code}.gz", "rt", encoding="utf-8") as handle:
                lines = list(islice(handle, FLORES_LINES))
            (folder / f"flores/test.{code}").write_text("".join(lines), encoding="utf-8")
    targets = [f"results/smoke/scores/ns/{name}.json" for name in wanted]
    targets.append("results/smoke/comet/ns/heldout/de-es.json")
    python = write_comet_python(folder / "comet", folder / "asked.json")
    comet = {"model": str(write_comet_model(folder / "model")), "python": python}
    overrides: dict[str, object] = {
        "zero_shot": ["de-es"],
        "testsets": testsets,
        "scoring": {"comet": comet},
    }
    result = workflow.run("--", *targets, overrides=overrides)
    assert result.status == 0, result.output
    # what is there is neither trained nor exported anew
    assert not {"corpus", "binarize", "train_specialised", "activations", "masks", "export_masked"} & set(
        result.jobs
    )
    return folder / "results/smoke", result


def score_of(results: Path, name: str) -> dict[str, Any]:
    score: dict[str, Any] = json.loads((results / f"scores/ns/{name}.json").read_text(encoding="utf-8"))
    return score


def test_a_zero_shot_direction_runs_under_a_composed_mask(extended: tuple[Path, Result]) -> None:
    results, made = extended
    assert made.jobs["zero_shot_masks"] == made.jobs["export_zero_shot"] == 1
    composed, encoder, decoder = (
        read_masks(results / f"masks/k95/{name}.safetensors") for name in ("de-es", "de-en", "en-es")
    )
    for layer, mask in composed.layers.items():
        part = encoder if layer.startswith("encoder") else decoder
        assert (mask == part.layers[layer]).all()
    model = json.loads((results / "models/ns/de-es/provenance.json").read_text(encoding="utf-8"))
    assert model["neurons"] == {layer: int(mask.sum()) for layer, mask in composed.layers.items()}
    score = score_of(results, "heldout/de-es")
    assert score["segments"] == CONFIG.corpus.heldout_size
    assert score["reference_sha256"] == sha256_of(results / "corpus/heldout/en-es.es")
    assert score["hypothesis_sha256"] == sha256_of(results / "translations/ns/heldout/de-es.txt")
    assert (results / "corpus/heldout/de-es.de").read_bytes() == (
        results / "corpus/heldout/de-en.de"
    ).read_bytes()


def test_comet_scores_all_directions_in_one_job(extended: tuple[Path, Result]) -> None:
    results, made = extended
    assert made.jobs["comet"] == 1
    asked = json.loads((results.parents[1] / "asked.json").read_text(encoding="utf-8"))
    assert [len(job["source"]) for job in asked["jobs"]] == [CONFIG.corpus.heldout_size] * 5
    groups = [DirectionGroup(name, "any", "any", "any") for name in [*DIRECTIONS, "de-es"]]
    folders = [results / "scores", results / "comet"]
    table = read_scores(folders, groups, systems=["ns"], testsets=["heldout"])
    assert table.metrics == ["bleu", "chrf++", "comet"]
    # COMET's own scores, of these very texts
    mean = 0.1 * (CONFIG.corpus.heldout_size + 1) / 2
    assert table.score_of_run("ns", "heldout", "de-es", "comet") == pytest.approx(mean)


def test_flores_text_from_a_folder_is_translated_and_scored(extended: tuple[Path, Result]) -> None:
    text = shared_file("flores", "README.txt").parent
    results, made = extended
    assert made.jobs["testset"] == 1
    assert made.jobs["translate"] == made.jobs["score"] == len(FLORES_DIRECTIONS) + 1
    for direction in FLORES_DIRECTIONS:
        score = score_of(results, f"flores/{direction}")
        assert score["segments"] == FLORES_LINES
        with gzip.open(text / f"test.{direction[-2:]}.gz") as handle:
            published = b"".join(islice(handle, FLORES_LINES))
        assert score["reference_sha256"] == hashlib.sha256(published).hexdigest()
        hypothesis = results / f"translations/ns/flores/{direction}.txt"
        lines = hypothesis.read_text(encoding="utf-8").splitlines()
        assert len(lines) == FLORES_LINES and "▁" not in "".join(lines)
        # nothing is learnt in 40 updates
        assert 0 <= score["metrics"]["chrf++"]["score"] < 40
        assert score["hypothesis_sha256"] == sha256_of(hypothesis)


def test_one_pair_again(run: tuple[Workflow, Result], results: Path, tmp_path: Path) -> None:
    target = "results/smoke/scores/ns/heldout/de-en.json"
    before = {path: path.read_bytes() for path in (results / "scores").rglob("*.json")}
    workflow = run[0].copied_to(tmp_path)
    again = workflow.run("--forcerun", "score", "--", target)
    assert again.status == 0, again.output
    assert dict(again.jobs) == {"score": 1}
    for path, content in before.items():
        assert (tmp_path / path.relative_to(run[0].folder)).read_bytes() == content
    # the table was not made of this score; it is not shown as if it were
    assert "BLEU" not in again.output


def test_a_deleted_model_is_published_again_without_training(
    run: tuple[Workflow, Result], results: Path, tmp_path: Path
) -> None:
    workflow = run[0].copied_to(tmp_path)
    folder = tmp_path / "results/smoke/training/baseline"
    before = json.loads((folder / "model.json").read_text())
    for name in ("model.pt", "model.json", "metrics.jsonl"):
        (folder / name).unlink()
    again = workflow.run("--", "results/smoke/training/baseline/model.json")
    assert again.status == 0, again.output
    assert json.loads((folder / "model.json").read_text()) == before
    assert "update 20: validation" not in again.output


def test_damaged_translation_stops_the_run(run: tuple[Workflow, Result], tmp_path: Path) -> None:
    workflow = run[0].copied_to(tmp_path)
    path = tmp_path / "results/smoke/translations/ns/heldout/de-en.txt"
    path.write_text("one line\n", encoding="utf-8")
    # whichever job meets the damage first, the score is tried too
    broken = workflow.run("--keep-going")
    assert broken.status != 0
    # the job's own words, not only the name of a log file
    assert "de-en" in broken.output and "hypothesis" in broken.output.lower()
    assert "Traceback" not in broken.output
    assert not (tmp_path / "results/smoke/scores/ns/heldout/de-en.json").exists()


def test_the_report_is_made_without_network(run: tuple[Workflow, Result], tmp_path: Path) -> None:
    workflow = run[0].copied_to(tmp_path)
    made = workflow.run("--report", "report.html")
    assert made.status == 0, made.output
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for category in ("Scores", "Training", "Masks"):
        assert category in html
    shutil.rmtree(tmp_path)
