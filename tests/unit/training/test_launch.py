"""Who starts a training's processes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.errors import TrainingError
from neuron_specialization.training.arguments import Resources
from neuron_specialization.training.devices import PRETEND
from neuron_specialization.training.launch import check_allocation, meeting_place, trainer_commands

IN_A_JOB = {"SLURM_JOB_ID": "4711"}
SEVERAL = Resources(gpus=8, threads=4, nodes=2, launcher="srun")


@pytest.fixture
def srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def commands(resources: Resources, processes: int = 1, **environment: Any) -> list[list[str]]:
    return trainer_commands(
        ["train.py"],
        ["data", "--fp16"],
        processes,
        Path("/r"),
        resources=resources,
        environment={**IN_A_JOB, **environment},
    )


def test_one_process_is_the_trainer_itself() -> None:
    assert commands(Resources(gpus=1)) == [["train.py", "data", "--fp16"]]


def test_processes_on_gpus_are_started_here() -> None:
    first, second = commands(Resources(gpus=2), processes=2)
    assert first[:3] == second[:3] == ["train.py", "data", "--fp16"]
    assert (first[-2:], second[-2:]) == (["--device-id", "0"], ["--device-id", "1"])
    pretended = commands(Resources(gpus=2), processes=2, **{PRETEND: "1"})
    assert all("--cpu" in command and "gloo" in command for command in pretended)


@pytest.mark.parametrize("usual", ["{tmp}", "{tmp}/#1?", "{tmp}/my ü"])
def test_processes_meet_where_an_address_can_say_it(
    usual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(usual.format(tmp=tmp_path))
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with meeting_place() as rendezvous:
        assert rendezvous.is_absolute() and not set(str(rendezvous)) & set(" #?%ü")
        assert rendezvous.parent.stat().st_mode & 0o777 == 0o700 and not rendezvous.exists()
        rendezvous.touch()
    assert not rendezvous.parent.exists()


def test_processes_on_a_cpu_are_started_here() -> None:
    first, second = commands(Resources(threads=2), processes=2)
    assert first[:3] == second[:3] == ["train.py", "data", "--fp16"]
    assert (first[-1], second[-1]) == ("0", "1")


def test_slurm_starts_a_task_for_every_gpu() -> None:
    (command,) = commands(SEVERAL)
    start = command[: command.index("train.py")]
    assert start == [
        "srun",
        "--nodes=2",
        "--ntasks=8",
        "--ntasks-per-node=4",
        "--cpus-per-task=4",
        "--kill-on-bad-exit=1",
    ]
    # the port of the rendezvous follows from the job's number
    assert command[command.index("data") :] == ["data", "--fp16", "--distributed-port", "24711"]


def test_pretended_gpus_compute_on_the_cpu() -> None:
    (command,) = commands(SEVERAL, **{PRETEND: "1"})
    assert command[command.index("train.py") - 2 : command.index("train.py")] == ["env", "SLURM_LOCALID=0"]
    assert "--cpu" in command and "gloo" in command
    assert "gloo" not in commands(SEVERAL)[0]


def test_a_job_of_slurm_is_needed(srun: None) -> None:
    check_allocation(SEVERAL, IN_A_JOB)
    with pytest.raises(TrainingError, match="srun starts the processes of a SLURM job, and this is none"):
        check_allocation(SEVERAL, {})


def test_srun_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TrainingError, match="this is none"):
        check_allocation(SEVERAL, IN_A_JOB)
    check_allocation(Resources(gpus=8), IN_A_JOB)


def test_several_nodes_are_not_reached_without_srun() -> None:
    with pytest.raises(TrainingError, match="processes of 2 nodes cannot be started from one") as caught:
        check_allocation(Resources(gpus=8, nodes=2), IN_A_JOB)
    assert "--launcher srun" in str(caught.value)


@pytest.mark.parametrize("gpus", [0, 7])
def test_nodes_share_the_gpus_equally(gpus: int, srun: None) -> None:
    with pytest.raises(TrainingError, match=f"{gpus} GPUs cannot be shared equally by 2 nodes"):
        check_allocation(Resources(gpus=gpus, nodes=2, launcher="srun"), IN_A_JOB)
