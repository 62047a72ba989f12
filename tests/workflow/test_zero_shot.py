"""Zero-shot directions and COMET in the plan: what runs for them, under which masks, and what does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow

ZERO_SHOT: dict[str, object] = {"zero_shot": ["de-es", "es-de"]}


@pytest.fixture
def smoke(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path, config=REPOSITORY / "configs/smoke.yaml")


def test_plan(smoke: Workflow) -> None:
    plan = smoke.plan("--printshellcmds", overrides=ZERO_SHOT)
    assert plan.status == 0, plan.output
    assert not plan.jobs["comet"]
    new = {"zero_shot_text": 1, "zero_shot_masks": 1, "export_zero_shot": 1}
    assert {name: plan.jobs[name] for name in new} == new
    assert plan.jobs["translate"] == plan.jobs["score"] == 3 * 6
    commands = re.findall(r"python -m neuron_specialization ([a-z-]+) +(.*)", plan.output)
    for name, command in commands:
        # neither trained nor counted nor selected nor compared
        if name in ("corpus", "train", "activations", "masks", "overlap"):
            assert "de-es" not in command, name
    exports = [command for name, command in commands if name == "export" and "training/ns/" in command]
    assert sorted(re.findall(r"--directions (\S+)", " ".join(exports))) == [
        "de-es,es-de",
        "en-de,en-es,de-en,es-en",
    ]
    translations = [command for name, command in commands if name == "translate" and " de-es " in command]
    assert [re.findall(r"--model (\S+)", command)[0] for command in translations] == [
        f"results/smoke/models/{system}" for system in ("baseline/dense", "continued/dense", "ns/de-es")
    ]
    for command in translations:
        assert "--input results/smoke/corpus/heldout/de-es.de " in command


def test_the_fairseq_engine_gets_the_composed_mask(smoke: Workflow) -> None:
    target = "results/smoke/scores/ns/heldout/de-es.json"
    overrides = {**ZERO_SHOT, "translation": {"engine": "fairseq"}}
    plan = smoke.plan("--printshellcmds", "--", target, overrides=overrides)
    assert plan.jobs["zero_shot_masks"] == 1 and not plan.jobs["export_zero_shot"]
    assert "--mask results/smoke/masks/k95/de-es.safetensors " in plan.output


def test_adding_directions_to_a_finished_run_trains_and_exports_nothing_again(finished: Workflow) -> None:
    jobs = finished.plan(overrides=ZERO_SHOT).jobs
    new = {"zero_shot_text": 1, "zero_shot_masks": 1, "export_zero_shot": 1, "translate": 6, "score": 6}
    assert {name: jobs[name] for name in new} == new
    # besides, only what tells of the scores
    made_before = {"corpus", "vocabulary", "binarize", "activations", "masks", "overlap", "export_dense"}
    made_before |= {"fetch", "train_baseline", "train_specialised", "export_masked", "mask_figures"}
    assert not made_before & set(jobs)


def test_the_released_models(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, config=REPOSITORY / "configs/ec30-released.yaml")
    target = "results/ec30_released/scores/ns/flores200/de-fr.json"
    plan = workflow.plan("--printshellcmds", "--", target, overrides={"zero_shot": ["de-fr", "hi-sr"]})
    assert plan.status == 0, plan.output
    # text to score against, and pieces to translate
    folders = re.findall(r"pair-by-pivot +--texts (\S+)", plan.output)
    assert sorted(folders) == [f"results/ec30_released/testsets/flores200{part}" for part in ("", "/pieces")]
    assert "--input results/ec30_released/testsets/flores200/pieces/de-fr.de " in plan.output
    assert plan.jobs["take_over_model"] == 2 and plan.jobs["translate"] == plan.jobs["score"] == 1


def test_comet(smoke: Workflow, tmp_path: Path) -> None:
    (tmp_path / "model/checkpoints").mkdir(parents=True)
    for name in ("hparams.yaml", "checkpoints/model.ckpt"):
        (tmp_path / "model" / name).touch()
    comet = {"model": str(tmp_path / "model"), "python": sys.executable, "batch_size": 8}
    scoring = {"comet": comet, "detokenizer": "moses"}
    plan = smoke.plan("--printshellcmds", "--verbose", overrides={**ZERO_SHOT, "scoring": scoring})
    assert plan.status == 0, plan.output
    # the model is loaded once for all directions of a system
    assert plan.jobs["comet"] == 3
    commands = re.findall(r"neuron_specialization comet +(.*)", plan.output)
    for system in ("baseline", "continued", "ns"):
        (command,) = (line for line in commands if f"--system {system} " in line)
        for flag in (
            f"--translations results/smoke/translations/{system}/heldout ",
            "--texts results/smoke/corpus/heldout ",
            "--directions en-de,en-es,de-en,es-en,de-es,es-de ",
            f"--model {tmp_path}/model ",
            f"--python {sys.executable} ",
            "--detokenizer moses ",
            "--gpus 0 ",
            "--batch-size 8 ",
            f"--output results/smoke/comet/{system}/heldout ",
        ):
            assert flag in command
    assert "--scores results/smoke/scores --scores results/smoke/comet " in plan.output
    resources = re.search(r"^rule comet:\n(?:    .*\n)*?    resources: (.*)$", plan.output, re.M)
    assert resources
    for declared in ("gpu=0", "mem_mb=12000", "runtime=480"):
        assert declared in resources[1]


def test_an_absent_model_of_comet_is_told_before_anything_runs(smoke: Workflow) -> None:
    plan = smoke.plan(overrides={"scoring": {"comet": {"model": "./absent", "python": sys.executable}}})
    assert plan.status != 0
    assert "absent/hparams.yaml" in plan.output and "rule comet" in plan.output
