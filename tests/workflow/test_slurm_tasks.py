"""A training whose processes SLURM starts (docs/running.md, several nodes): two tasks, here on one node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workflow.slurm_cluster import MARKS, SMALLER, Cluster, R, comment_of, jobs

pytestmark = MARKS

TRAINING = {"max_updates": 12, "save_every": 6, "validate_every": 12, "micro_batches": 2, "dropout": 0.0}
OVERRIDES: dict[str, Any] = {
    **SMALLER,
    "systems": {"tasks": {"training": TRAINING}, "process": {"training": TRAINING}},
}
# as docs/running.md says, for one node of two GPUs
SEVERAL = {"gpu": 2, "nodes": 1, "tasks_per_node": 2, "mpi": "srun", "launcher": "srun"}


@pytest.fixture(scope="module")
def training(slurm_data: Cluster) -> Path:
    """The folder of both: ``tasks``, by the workflow, and ``process``, one process on this machine."""
    workflow = slurm_data.with_changes({"train_baseline": SEVERAL})
    result = workflow.run(
        "--retries", "0", "--", f"{R}/training/tasks/model.json", overrides=OVERRIDES, timeout=900
    )
    assert result.status == 0, result.output
    workflow.train_here("process", OVERRIDES)
    return workflow.folder / R / "training"


def log_of(training: Path, system: str) -> str:
    (log,) = (training / system / "checkpoints").glob("*/train.log")
    return log.read_text(encoding="utf-8")


def losses(training: Path, system: str, kind: str) -> dict[int, float]:
    lines = (training / system / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {record["update"]: record["loss"] for record in records if record["kind"] == kind}


def test_fairseqs_rendezvous_brings_the_tasks_together(training: Path) -> None:
    log = log_of(training, "tasks")
    assert re.search(r"distributed init \(rank 0\): tcp://\S+:\d{5}$", log, re.M), log
    assert re.findall(r"initialized host \S+ as rank (\d)", log).count("0") == 1
    assert {"0", "1"} == set(re.findall(r"initialized host \S+ as rank (\d)", log))
    assert "--update-freq 1" in log and "--distributed-world-size 2" in log
    assert "--update-freq 2" in log_of(training, "process")


def test_the_job_is_two_tasks_with_two_gpus(training: Path) -> None:
    (job,) = (job for job in jobs() if comment_of(job) == ("train_baseline", "tasks"))
    assert (job["NumTasks"], job["TresPerJob"]) == ("2", "gres:gpu:2")


def test_the_updates_are_those_of_one_process(training: Path) -> None:
    """The global batch is the same, and so is every loss; sums in another order differ in the last digits."""
    one, two = losses(training, "process", "train"), losses(training, "tasks", "train")
    assert list(two) == list(one) == list(range(1, 13))
    # fairseq logs three decimals
    assert max(abs(two[update] - one[update]) for update in one) <= 0.0011
    assert losses(training, "tasks", "valid") == pytest.approx(
        losses(training, "process", "valid"), abs=0.0011
    )
    models = [
        torch.load(training / name / "model.pt", weights_only=True)["model"] for name in ("process", "tasks")
    ]
    assert models[0].keys() == models[1].keys()
    for name, weights in models[0].items():
        torch.testing.assert_close(models[1][name], weights, rtol=1e-3, atol=1e-5)
