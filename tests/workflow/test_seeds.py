"""Seeds and mask methods in the workflow: what is planned for them."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow

SEEDS = [222, 5]
METHODS = {
    "masks": {
        "k95": {"k": 95},
        "any": {"method": "random", "like": "k95"},
        "lass": {"method": "magnitude", "like": "k95", "finetuning": {"max_updates": 7}},
        "pooled": {"method": "family", "like": "k95", "combine": "pooled"},
        "union": {"method": "family", "like": "k95"},
    },
    "systems": {name: {"from": "baseline", "masks": name} for name in ("any", "lass", "pooled", "union")},
}


def test_a_further_seed_trains_its_own_runs_and_nothing_again(finished: Workflow) -> None:
    plan = finished.plan(overrides={"seeds": SEEDS})
    trained = [message.split()[1].rstrip(",") for message in plan.messages() if "updates" in message]
    assert sorted(trained) == ["baseline@5", "continued@5", "ns@5"]
    expected = {"train_baseline": 1, "train_specialised": 2, "activations": 1, "masks": 1, "overlap": 1}
    assert expected.items() <= plan.jobs.items()
    # data, vocabulary and test sets stay; of the first seed only the tables are made again
    assert not {"fetch", "corpus", "vocabulary", "binarize"} & set(plan.jobs)
    assert plan.jobs["translate"] == plan.jobs["score"] == 12
    assert plan.jobs["tables"] == plan.jobs["costs"] == plan.jobs["perplexity"] == 1


def command(output: str, start: str, *parts: str) -> str:
    """The one planned command that starts so and has all the parts."""
    found = [
        line
        for line in re.findall(rf"neuron_specialization {start} +(.*)", output)
        if all(part in line for part in parts)
    ]
    assert len(found) == 1, found
    return re.sub(r" +", " ", found[0])


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    workflow = Workflow(tmp_path_factory.mktemp("methods"), config=REPOSITORY / "configs/smoke.yaml")
    plan = workflow.plan("--printshellcmds", overrides={"seeds": SEEDS, **METHODS})
    assert plan.status == 0, plan.output
    # k95, the four made from it, and their runs under the other seed; four directions are fine-tuned for lass
    assert (plan.jobs["masks"], plan.jobs["magnitude_finetune"], plan.jobs["activations"]) == (10, 8, 2)
    return plan.output


def test_a_run_goes_on_from_the_baseline_of_its_seed_under_its_masks(planned: str) -> None:
    line = command(planned, "train", '"system":"ns@5"')
    assert "--init results/smoke/training/baseline@5/model.pt " in line
    assert "--masks results/smoke/masks/k95@5 " in line and '"seed":5' in line
    counted = command(planned, "activations", "--output results/smoke/activations@5 ")
    assert "--checkpoint results/smoke/training/baseline@5/model.pt " in counted
    assert '"seed":222' in command(planned, "train", '"system":"ns"')


@pytest.mark.parametrize(
    ("selection", "origins"),
    [
        ("k95", "--activations results/smoke/activations --output"),
        ("k95@5", "--activations results/smoke/activations@5 --output"),
        ("any@5", "--like results/smoke/masks/k95@5 --output"),
        ("lass@5", "--models results/smoke/magnitude/lass@5 --like results/smoke/masks/k95@5 --output"),
        ("pooled@5", "--activations results/smoke/activations@5 --output"),
        ("union", "--like results/smoke/masks/k95 --output"),
    ],
)
def test_what_masks_are_made_from(planned: str, selection: str, origins: str) -> None:
    line = command(planned, "masks", f"--output results/smoke/masks/{selection} ")
    assert origins in line.replace("--packed ", "")


def test_fine_tuning_on_one_direction(planned: str) -> None:
    line = command(planned, "train", "--output results/smoke/magnitude/lass@5/de-en ")
    assert '"directions":["de-en"]' in line and '"languages":["en","de","es"]' in line
    assert '"max_updates":7' in line and '"seed":5' in line and "--discard-checkpoints" in line
    assert "--init results/smoke/training/baseline@5/model.pt " in line
