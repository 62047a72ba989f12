"""What runs again after a change, and above all: what does not."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.config import load_config, recipe_of
from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow

R = "results/smoke"
DIRECTIONS = 4
SYSTEMS = 3
END = {"tables": 1, "evaluation_tables": 1, "page": 1, "all": 1}
# comparisons (ns and continued with each other and with the baseline), and the figure of ns against continued
COMPARED = {"compare": 3, "difference_figure": 1}
OF_ONE_SYSTEM = {"compare": 2, "difference_figure": 1}
# what is made of the logs of trainings
LOGGED = {"training_figure": 1, "costs": 1, "perplexity": 1, "perplexity_figure": 1}


def test_a_second_run_does_nothing(finished: Workflow) -> None:
    assert finished.plan().nothing_to_do


def test_one_pair_again_runs_one_job(finished: Workflow) -> None:
    target = f"{R}/scores/ns/heldout/de-en.json"
    assert finished.plan("--forcerun", "score", "--", target).jobs == Counter(score=1)


def test_one_pair_translated_again_runs_two_jobs(finished: Workflow) -> None:
    target = f"{R}/scores/ns/heldout/de-en.json"
    plan = finished.plan("--forcerun", "translate", "--", target)
    assert plan.jobs == Counter(translate=1, score=1)
    assert {"de-en" in message and "ns" in message for message in plan.messages()} == {True}


@pytest.mark.parametrize(
    "pattern",
    [
        f"{R}/corpus/train/*",
        f"{R}/corpus/valid/*",
        f"{R}/training/*/model.pt",
        f"{R}/training/*/metrics.jsonl",
        f"{R}/models/*/*/model.bin",
        "downloads/*",
    ],
)
def test_touching_a_large_file_trains_and_translates_nothing(finished: Workflow, pattern: str) -> None:
    paths = list(finished.folder.glob(pattern))
    assert paths
    for path in paths:
        path.touch()
    assert not set(finished.plan().jobs) - {*LOGGED, "page", "all"}


def edited_checkout(folder: Path) -> Path:
    """A copy of the workflow's own files."""
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("rules", "profiles", "envs", "configs", "report"):
        shutil.copytree(REPOSITORY / name, folder / name)
    return folder


def test_cosmetic_edits_of_the_rules_run_nothing(
    finished: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished.root = edited_checkout(tmp_path_factory.mktemp("checkout"))
    rule_files = sorted((finished.root / "rules").rglob("*.smk"))
    for path in rule_files:
        text = path.read_text(encoding="utf-8")
        without_rules = path.name in ("common.smk", "devices.smk", "checks.smk")
        without_rules |= path.parent.name == "inputs"
        assert without_rules != ("python -m" in text)
        # a comment, another docstring, and more space in the command
        text = text.replace("python -m neuron_specialization", "python  -m neuron_specialization")
        text = text.replace("\n    output:", "\n    # a comment\n    output:")
        text = re.sub(r'^(rule \w+:\n    """)', r"\1Now: ", text, flags=re.M)
        path.write_text(f"# edited\n{text}", encoding="utf-8")
    assert finished.plan().nothing_to_do


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set-resources", "train_baseline:mem_mb=12000", "train_specialised:runtime=99"),
        ("--set-threads", "train_baseline=1"),
        ("--cores", "1"),
        ("--resources", "gpu=3", "--set-resources", "train_baseline:gpu=3", "activations:device='cuda'"),
    ],
)
def test_machine_matters_run_nothing(finished: Workflow, arguments: tuple[str, ...]) -> None:
    assert finished.plan(*arguments).nothing_to_do


# what is changed in the configuration → the jobs that run again
CHANGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "mirror": ({"mirror": "/mnt/mirror"}, {}),
    "interval": ({"scoring": {"bootstrap_samples": 50}}, {"score": SYSTEMS * DIRECTIONS, **COMPARED, **END}),
    "beam": (
        {"translation": {"beam": 4}},
        {"translate": SYSTEMS * DIRECTIONS, "score": SYSTEMS * DIRECTIONS, **COMPARED, **END},
    ),
    "k": (
        {"masks": {"k95": {"k": 90}}},
        {
            **{
                "masks": 1,
                "overlap": 1,
                "mask_figures": 1,
                "activity_figures": 1,
                "train_specialised": 1,
                "export_masked": 1,
            },
            **{**LOGGED, "translate": DIRECTIONS, "score": DIRECTIONS, **OF_ONE_SYSTEM, **END},
        },
    ),
    "learning rate of one system": (
        {"systems": {"continued": {"training": {"lr": 2e-3}}}},
        {
            **{"train_specialised": 1, "export_dense": 1, **LOGGED},
            **{"translate": DIRECTIONS, "score": DIRECTIONS, **OF_ONE_SYSTEM, **END},
        },
    ),
    "learning rate of all specialised systems": (
        {"finetuning": {"lr": 2e-3}},
        {
            **{"train_specialised": 2, "export_dense": 1, "export_masked": 1, **LOGGED},
            **{"translate": 2 * DIRECTIONS, "score": 2 * DIRECTIONS, **COMPARED, **END},
        },
    ),
    "activations": (
        {"activations": {"count_padding": True}},
        {
            **{
                "activations": 1,
                "masks": 1,
                "overlap": 1,
                "mask_figures": 1,
                "activity_figures": 1,
                "train_specialised": 1,
            },
            **{
                "export_masked": 1,
                **LOGGED,
                "translate": DIRECTIONS,
                "score": DIRECTIONS,
                **OF_ONE_SYSTEM,
                **END,
            },
        },
    ),
    "another system": (
        {"systems": {"longer": {"from": "baseline", "training": {"max_updates": 30}}}},
        {
            **{"train_specialised": 1, "export_dense": 1, **LOGGED},
            **{"translate": DIRECTIONS, "score": DIRECTIONS, **OF_ONE_SYSTEM, **END},
        },
    ),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_key_runs_its_users_and_what_follows(finished: Workflow, change: str) -> None:
    overrides, jobs = CHANGES[change]
    plan = finished.plan(overrides=overrides)
    assert plan.status == 0, plan.output
    assert plan.jobs == Counter(jobs), plan.output


@pytest.mark.parametrize(
    "overrides",
    [
        {"corpus": {"heldout_size": 50}},
        {"vocabulary": {"size": 600}},
        {"training": {"dropout": 0.2}},
        {"seed": 1},
    ],
)
def test_what_the_models_are_made_of_trains_all(finished: Workflow, overrides: dict[str, Any]) -> None:
    jobs = finished.plan(overrides=overrides).jobs
    assert jobs["train_baseline"] == 1
    assert jobs["train_specialised"] == 2
    assert jobs["translate"] == SYSTEMS * DIRECTIONS


def test_a_changed_manifest_trains_all(finished: Workflow) -> None:
    # what training depends on: a small file, compared by its content
    manifest = finished.folder / R / "binarized/manifest.json"
    manifest.write_text("{}", encoding="utf-8")
    jobs = finished.plan().jobs
    assert jobs["train_baseline"] == 1
    assert "binarize" not in jobs


def test_a_lost_model_is_made_again_without_new_data(finished: Workflow) -> None:
    (finished.folder / R / "training/ns/model.pt").unlink()
    (finished.folder / R / "training/ns/model.json").unlink()
    jobs = finished.plan(f"{R}/training/ns/model.json").jobs
    assert jobs == Counter(train_specialised=1)


def with_a_summary(workflow: Workflow) -> None:
    """Give ``ns`` a summary that tells its recipe; the others keep their dummies, which tell nothing."""
    recipe = recipe_of(load_config(REPOSITORY / "configs/smoke.yaml"), "ns")
    summary = workflow.folder / R / "training/ns/model.json"
    summary.write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}), encoding="utf-8")
    assert workflow.run("--touch", "--forceall").status == 0


OTHER_RATE = {"finetuning": {"lr": 2e-3}}
MADE_OTHERWISE = f"  - {R}/training/ns/model.json: training.lr: 0.001 → 0.002"


def test_results_of_other_settings_are_named_where_snakemake_has_no_record_of_them(
    finished: Workflow,
) -> None:
    with_a_summary(finished)
    shutil.rmtree(finished.folder / ".snakemake")
    plan = finished.plan()
    assert plan.nothing_to_do and "made with other settings" not in plan.output
    plan = finished.plan(overrides=OTHER_RATE)
    assert plan.nothing_to_do and MADE_OTHERWISE in plan.output
    # the command that is named makes it again, with what follows
    forced = re.search(r"add to the command: (--forcerun .*)$", plan.output, re.M)
    assert forced
    assert finished.plan(*forced[1].split(), overrides=OTHER_RATE).jobs["train_specialised"] == 1
    # a page that would state the new settings is not made
    refused = finished.run("--forcerun", "page", overrides=OTHER_RATE)
    assert refused.status != 0 and "Job 0" not in refused.output
    assert refused.output.count(MADE_OTHERWISE) == 2
    assert (finished.folder / R / "report.html").is_file()


def test_results_of_other_settings_that_are_made_again_are_no_error(finished: Workflow) -> None:
    with_a_summary(finished)
    assert finished.plan(overrides=OTHER_RATE).jobs["train_specialised"] == 2
    done = finished.run(overrides=OTHER_RATE)
    # its dummy input is no corpus: but it was started
    assert done.status != 0 and any(message.startswith("Train ns") for message in done.messages())
