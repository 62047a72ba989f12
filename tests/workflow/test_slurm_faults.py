"""What a shared cluster does to a training: a signal, a requeue, a time limit, a preemption. Real ones.

Four trainings of one recipe run side by side, a fault each, and end as the one that nothing happened to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workflow.runner import Result
from tests.workflow.slurm_cluster import (
    MARKS,
    SMALLER,
    Cluster,
    R,
    comment_of,
    jobs,
    read,
    wait_until,
)

pytestmark = MARKS

FAULTS = ("signalled", "requeued", "timed", "preempted")
UPDATES, SAVE_EVERY = 240, 30
TRAINING = {"max_updates": UPDATES, "save_every": SAVE_EVERY, "validate_every": 120}
OVERRIDES: dict[str, Any] = {
    **SMALLER,
    "systems": {name: {"training": TRAINING} for name in (*FAULTS, "cancelled", "whole")},
}


@dataclass
class Aftermath:
    """The run that met the faults.

    Attributes:
        workflow: that was run.
        result: of Snakemake.
        job: system → the job that was met.
    """

    workflow: Cluster
    result: Result
    job: dict[str, str]

    def checkpoints(self, system: str) -> Path:
        (found,) = (self.workflow.folder / R / "training" / system / "checkpoints").glob("*/train.log")
        return found.parent

    def summary(self, system: str) -> dict[str, Any]:
        text = (self.workflow.folder / R / "training" / system / "model.json").read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
        return summary

    def weights(self, system: str) -> dict[str, torch.Tensor]:
        path = self.workflow.folder / R / "training" / system / "model.pt"
        weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
        return weights

    def losses(self, system: str) -> list[tuple[Any, ...]]:
        path = self.workflow.folder / R / "training" / system / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(one["kind"], one["update"], one["loss"]) for one in records]

    def attempts(self, system: str) -> list[dict[str, str]]:
        return [job for job in jobs() if comment_of(job) == ("train_baseline", system)]


def last_update(log: str) -> int:
    """The last update that a trainer's log tells of."""
    found = re.findall(r'"num_updates": "(\d+)"', log)
    return int(found[-1]) if found else 0


def has_saved_and_gone_on(folder: Path) -> bool:
    return any(
        last_update((path.parent / "train.log").read_text(encoding="utf-8")) > SAVE_EVERY
        for path in folder.glob("*/checkpoint_last.pt")
    )


def of(number: str) -> dict[str, str]:
    (job,) = (job for job in jobs() if job["JobId"] == number)
    return job


def held_after_a_checkpoint(folders: dict[str, Path], running: Callable[[], bool]) -> dict[str, int]:
    """Stop (SIGSTOP) each trainer some updates after its first checkpoint; return their process ids.

    So that all are met at the same place however quick the machine is, before any has ended.
    """
    held: dict[str, int] = {}

    def all_held() -> bool:
        assert running(), "the run ended before the faults"
        for name in folders.keys() - held.keys():
            if has_saved_and_gone_on(folders[name]):
                lock = json.loads((folders[name] / "lock").read_text(encoding="utf-8"))
                os.kill(lock["trainer"], signal.SIGSTOP)
                held[name] = lock["trainer"]
        return len(held) == len(folders)

    wait_until(all_held, "a checkpoint of each training")
    return held


@pytest.fixture(scope="module")
def aftermath(slurm_data: Cluster) -> Aftermath:
    """Run the four; apply the faults; let the run end."""
    partition = "'preemptible' if wildcards.system == 'preempted' else 'gpu'"
    workflow = slurm_data.with_changes({"train_baseline": {"slurm_partition": partition}})
    training = workflow.folder / R / "training"
    results: list[Result] = []
    targets = [f"{R}/training/{name}/model.json" for name in FAULTS]
    main = threading.Thread(
        target=lambda: results.append(workflow.run("--", *targets, overrides=OVERRIDES, timeout=1800)),
        daemon=True,
    )
    main.start()
    folders = {name: training / name / "checkpoints" for name in FAULTS}
    trainers = held_after_a_checkpoint(folders, main.is_alive)
    job = {
        system: facts["JobId"]
        for facts in jobs()
        for rule, system in [comment_of(facts)]
        if rule == "train_baseline" and system in FAULTS
    }
    # one that SLURM lets go first, and there is no GPU left
    read("sbatch", "--partition=gpu", "--gpus=1", "--mem=100", "--output=/dev/null", "--wrap=sleep 5")
    wait_until(lambda: of(job["preempted"])["Restarts"] == "1", "a preemption")
    read("scontrol", "requeue", job["requeued"])
    read("scontrol", "update", f"JobId={job['timed']}", "EndTime=now")
    wait_until(lambda: of(job["timed"])["JobState"] != "RUNNING", "a time limit")
    read("scancel", "--signal=TERM", job["signalled"])
    for trainer in trainers.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer, signal.SIGCONT)
    main.join()
    return Aftermath(workflow, results[0], job)


@pytest.fixture(scope="module")
def whole(aftermath: Aftermath) -> Aftermath:
    """The same training on this machine, without SLURM and without a fault, beside the others."""
    aftermath.workflow.train_here("whole", OVERRIDES)
    return aftermath


def test_the_run_ends(aftermath: Aftermath) -> None:
    assert aftermath.result.status == 0, aftermath.result.output
    assert sorted(aftermath.job) == sorted(FAULTS)


def assert_as_if_nothing_had_happened(whole: Aftermath, system: str) -> None:
    """To the last bit, and with it every translation and score."""
    assert whole.losses(system) == whole.losses("whole")
    assert whole.summary(system)["updates"] == whole.summary("whole")["updates"]
    # the files differ in the system's name
    model, expected = whole.weights(system), whole.weights("whole")
    assert model.keys() == expected.keys()
    assert all(torch.equal(model[name], weights) for name, weights in expected.items())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_is_that_of_a_training_nothing_happened_to(whole: Aftermath, fault: str) -> None:
    assert_as_if_nothing_had_happened(whole, fault)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_more_than_one_save_interval_is_done_again(aftermath: Aftermath, fault: str) -> None:
    log = (aftermath.checkpoints(fault) / "train.log").read_text(encoding="utf-8")
    (loaded,) = re.finditer(r"Loaded checkpoint .* @ (\d+) updates", log)
    resumed, reached = int(loaded[1]), last_update(log[: loaded.start()])
    assert resumed >= SAVE_EVERY and resumed % SAVE_EVERY == 0
    assert resumed <= reached < UPDATES
    assert reached - resumed <= SAVE_EVERY


@pytest.mark.parametrize("fault", ["requeued", "preempted"])
def test_slurm_starts_it_again_under_the_same_number(aftermath: Aftermath, fault: str) -> None:
    (job,) = aftermath.attempts(fault)
    assert (job["JobId"], job["Restarts"]) == (aftermath.job[fault], "1")
    assert job["JobState"] == "COMPLETED"


@pytest.mark.parametrize(("fault", "state"), [("timed", "TIMEOUT"), ("signalled", "FAILED")])
def test_snakemake_submits_it_again_with_more_time(aftermath: Aftermath, fault: str, state: str) -> None:
    first, second = aftermath.attempts(fault)
    assert (first["JobId"], first["JobState"]) == (aftermath.job[fault], state)
    assert second["JobState"] == "COMPLETED"
    # profiles/slurm: 1440 * attempt
    assert second["TimeLimit"] == "2-00:00:00"


def test_a_queue_that_cancels_what_it_preempts(whole: Aftermath) -> None:
    """SLURM starts nothing again and Snakemake waits for it to; after Ctrl-C the same command goes on."""
    workflow = whole.workflow.with_changes({"train_baseline": {"slurm_partition": "scavenged"}})
    output, target = workflow.folder / "cancelled.txt", f"{R}/training/cancelled/model.json"
    running = workflow.start("--", target, overrides=OVERRIDES, output=output)
    checkpoints = workflow.folder / R / "training/cancelled/checkpoints"
    trainers = held_after_a_checkpoint({"cancelled": checkpoints}, lambda: running.poll() is None)
    (met,) = whole.attempts("cancelled")
    read("sbatch", "--partition=gpu", "--gpus=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 1")
    os.kill(trainers["cancelled"], signal.SIGCONT)
    wait_until(lambda: of(met["JobId"])["JobState"] == "PREEMPTED", "a preemption")
    wait_until(lambda: "We leave it to SLURM" in output.read_text(encoding="utf-8"), "Snakemake's notice")
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.wait(180) != 0
    again = workflow.run("--", target, overrides=OVERRIDES, timeout=900)
    assert again.status == 0, again.output
    assert_as_if_nothing_had_happened(whole, "cancelled")
