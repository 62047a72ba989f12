"""The workflow on a real SLURM of one node with pretend GPUs (tests/slurm): what is asked for, what happens.

A pretend GPU is counted, given out and named in CUDA_VISIBLE_DEVICES, and cannot compute: training
falls back to the CPU. Needs root and Debian's packages munge, slurmctld, slurmd and slurm-client; else skips.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_specialization.config import load_config, recipe_of
from neuron_specialization.trainer_arguments import DEFAULT_TRAINER, Resources, trainer_arguments
from tests.conftest import REPOSITORY
from tests.workflow.runner import Result, Workflow
from tests.workflow.test_smoke import download

SCRIPTS = REPOSITORY / "tests/slurm"
SMOKE = REPOSITORY / "configs/smoke.yaml"
PROFILE = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text(encoding="utf-8"))
SEARCH = os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"])
MISSING = [
    name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=SEARCH)
]
# of the smoke run's directions only as many as show that jobs of one rule differ
SMALLER: dict[str, Any] = {"directions": ["en-de", "es-en"], "systems": {"second": {}}}
R = "results/smoke"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.network,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed here: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="a SLURM for tests is started by root only"),
]


def read(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def jobs() -> list[dict[str, str]]:
    """Facts of every job SLURM remembers, ended ones included, oldest first."""
    lines = read("scontrol", "show", "job", "-o").splitlines()
    found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "JobId=" in line]
    return sorted(found, key=lambda job: int(job["JobId"]))


def rule_of(job: dict[str, str]) -> str:
    """The plugin writes it, with the wildcards, into the job's comment."""
    return job["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


@dataclass
class Devices(threading.Thread):
    """Watches which GPUs the trainers that live at one moment were given: {system: CUDA_VISIBLE_DEVICES}."""

    folder: Path
    seen: list[dict[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self.over.wait(0.2):
            now = {}
            for lock in self.folder.glob(f"{R}/training/*/checkpoints/lock"):
                try:
                    trainer = json.loads(lock.read_text())["trainer"]
                    variables = Path(f"/proc/{trainer}/environ").read_bytes().split(b"\0")
                except (OSError, ValueError, KeyError):
                    continue  # not started yet, or ended
                devices = [
                    one.partition(b"=")[2] for one in variables if one.startswith(b"CUDA_VISIBLE_DEVI")
                ]
                now[lock.parent.parent.name] = devices[0].decode() if devices else "all"
            if now and (not self.seen or self.seen[-1] != now):
                self.seen.append(now)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # short: a socket's path has at most 107 characters
    folder = Path(read("mktemp", "-d").strip()) / "slurm"
    started = subprocess.run([SCRIPTS / "up.sh", folder], capture_output=True, text=True, timeout=300)
    before = dict(os.environ)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        os.environ.update(SLURM_CONF=str(folder / "slurm.conf"), PATH=SEARCH)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        subprocess.run([SCRIPTS / "down.sh", folder], check=True, timeout=120)
        shutil.rmtree(folder.parent)


@dataclass
class Cluster(Workflow):
    """A workflow run by profiles/slurm, with what its header says to edit, edited."""

    def __post_init__(self) -> None:
        profile = yaml.safe_load(yaml.safe_dump(PROFILE))
        profile["default-resources"]["slurm_partition"] = "cpu"
        for name in ("train_baseline", "train_specialised"):
            profile["set-resources"][name]["slurm_partition"] = "gpu"
        # a pretend GPU computes nothing
        profile["set-resources"]["activations"]["device"] = "cpu"
        profile |= {"slurm-init-seconds-before-status-checks": 2, "latency-wait": 10}
        path = self.folder / "profile/config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(profile), encoding="utf-8")
        self.profile = str(path.parent)


@pytest.fixture(scope="module")
def run(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cluster, Result, list[dict[str, str]]]:
    """The finished run, what it printed, and which GPUs its trainers had."""
    folder = tmp_path_factory.mktemp("slurm")
    download(folder)
    workflow, devices = Cluster(folder, config=SMOKE), Devices(folder)
    devices.start()
    try:
        result = workflow.run(overrides=SMALLER, timeout=3000)
    finally:
        devices.over.set()
        devices.join()
    assert result.status == 0, result.output
    return workflow, result, devices.seen


def own_resources(rule: str) -> dict[str, Any]:
    """What a rule's own ``resources:`` say of memory and time; the profile's defaults do not replace them."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "rules").glob("*.smk")))
    (block,) = re.findall(rf"^rule {rule}:\n(?:(?: .*)?\n)*", text, re.M)
    found = dict(re.findall(r"^ {8}(mem_mb|runtime)=\"?(\w+)\"?,$", block, re.M))
    if found.get("runtime", "").endswith("h"):
        found["runtime"] = str(60 * int(found["runtime"][:-1]))
    return found


def expected(rule: str) -> dict[str, str]:
    """What sbatch is to ask for, by the rule and the profile; a first attempt."""
    changed = PROFILE["set-resources"].get(rule, {})
    resources = {**PROFILE["default-resources"], **own_resources(rule), **changed}
    minutes = eval(str(resources["runtime"]), {"attempt": 1})
    days, rest = divmod(minutes, 1440)
    gpus = changed.get("gpu", 0)
    return {
        "MinMemoryNode": str(resources["mem_mb"]),
        "TimeLimit": (f"{days}-" if days else "") + f"{rest // 60:02}:{rest % 60:02}:00",
        "TresPerJob": f"gres:gpu:{gpus}" if gpus else "",
        "CPUs/Task": str(PROFILE["set-threads"].get(rule, 1)),
        "Partition": "gpu" if rule.startswith("train") else "cpu",
        "Requeue": "1",
        "NumNodes": "1",
    }


def megabytes(text: str) -> str:
    """``16000M``, ``15.625G`` → ``16000``."""
    number, unit = re.fullmatch(r"([\d.]+)([MG]?)", text).groups()  # type: ignore[union-attr]
    return f"{float(number) * (1024 if unit == 'G' else 1):.0f}"


def test_the_run_ends_with_scores_and_no_job_failed(run: tuple[Cluster, Result, object]) -> None:
    workflow, result, _ = run
    scores = list((workflow.folder / R / "scores").rglob("*.json"))
    assert len(scores) == 4 * len(SMALLER["directions"])
    assert "BLEU" in result.output[result.output.rindex("steps (100%) done") :]
    assert {job["JobState"] for job in jobs()} == {"COMPLETED"}


def test_every_job_asked_for_what_the_profile_says(run: tuple[Cluster, Result, object]) -> None:
    asked = jobs()
    on_the_login_node = {"download", "fetch", "tables", "costs", "page", "all"}
    submitted = {rule_of(job) for job in asked}
    assert {"train_baseline", "train_specialised", "activations", "translate", "score"} <= submitted
    assert not submitted & on_the_login_node
    for job in asked:
        rule = rule_of(job)
        wanted = expected(rule)
        got = {key: job.get(key, "") for key in wanted}
        got["MinMemoryNode"] = megabytes(got["MinMemoryNode"])
        # one node may be written as a range
        got["NumNodes"] = got["NumNodes"].partition("-")[0]
        assert got == wanted, rule


def test_two_trainings_side_by_side_got_different_gpus(
    run: tuple[Cluster, Result, list[dict[str, str]]],
) -> None:
    together = [seen for seen in run[2] if {"baseline", "second"} <= set(seen)]
    assert together, f"they never ran at the same time: {run[2]}"
    for seen in together:
        assert {seen["baseline"], seen["second"]} <= {"0", "1", "2", "3"}
        assert seen["baseline"] != seen["second"]


def test_a_second_run_submits_nothing(run: tuple[Cluster, Result, object]) -> None:
    assert run[0].plan(overrides=SMALLER).nothing_to_do


def test_an_impossible_request_is_refused_and_not_scaled_down(run: tuple[Cluster, Result, object]) -> None:
    workflow, before = run[0], len(jobs())
    path = Path(workflow.profile) / "config.yaml"
    text = path.read_text(encoding="utf-8")
    profile = yaml.safe_load(text)
    profile["set-resources"]["train_baseline"]["gpu"] = 9
    path.write_text(yaml.safe_dump(profile | {"retries": 0}), encoding="utf-8")
    try:
        target = f"{R}/training/greedy/model.json"
        refused = workflow.run("--", target, overrides={**SMALLER, "systems": {"greedy": {}}}, timeout=600)
    finally:
        path.write_text(text, encoding="utf-8")
    assert refused.status != 0
    assert "Requested node configuration is not available" in refused.output
    assert "train_baseline" in refused.output
    assert len(jobs()) == before
    assert not (workflow.folder / R / "training/greedy").exists()


def test_a_preempted_training_is_started_again_and_resumes(run: tuple[Cluster, Result, object]) -> None:
    """SLURM's own requeue, as a preemptible partition does it, while Snakemake waits."""
    workflow, known = run[0], {job["JobId"] for job in jobs()}
    overrides = {
        **SMALLER,
        "systems": {"requeued": {}},
        "training": {"max_updates": 600, "save_every": 40, "validate_every": 40},
    }
    target = f"{R}/training/requeued/model.json"
    ended: list[Result] = []
    main = threading.Thread(
        target=lambda: ended.append(workflow.run("--", target, overrides=overrides, timeout=1500))
    )
    main.start()
    checkpoints = workflow.folder / R / "training/requeued/checkpoints"
    while main.is_alive() and not list(checkpoints.glob("*/checkpoint_last.pt")):
        time.sleep(0.1)
    (job,) = (job for job in jobs() if job["JobId"] not in known)
    read("scontrol", "requeue", job["JobId"])
    main.join()
    assert ended[0].status == 0, ended[0].output
    (after,) = (one for one in jobs() if one["JobId"] not in known)
    assert (after["JobId"], after["Restarts"], after["JobState"]) == (job["JobId"], "1", "COMPLETED")
    (log,) = checkpoints.glob("*/train.log")
    resumed = re.findall(r"Loaded checkpoint .* @ (\d+) updates", log.read_text(encoding="utf-8"))
    assert len(resumed) == 1 and 40 <= int(resumed[0]) < 600
    summary = json.loads((workflow.folder / target).read_text(encoding="utf-8"))
    assert summary["updates"] <= 600 and summary["recipe"]["training"]["max_updates"] == 600


def test_fairseqs_rendezvous_over_slurm_tasks(run: tuple[Cluster, Result, object], tmp_path: Path) -> None:
    """What docs/running.md says of several nodes, with two tasks on one."""
    config = load_config(SMOKE)
    recipe = recipe_of(config, "baseline")
    training = recipe.training.model_copy(update={"micro_batches": 2, "max_updates": 4})
    arguments = trainer_arguments(
        recipe.model_copy(update={"training": training, "directions": SMALLER["directions"]}),
        run[0].folder / R / "binarized",
        tmp_path / "checkpoints",
        resources=Resources(threads=2),
    )
    trainer = [*DEFAULT_TRAINER, *arguments, "--distributed-port", "29517", "--distributed-backend", "gloo"]
    # The second task would take the second GPU of its node, and there is none that computes.
    one_task = ["env", "SLURM_LOCALID=0", "CUDA_VISIBLE_DEVICES=", *trainer]
    started = subprocess.run(
        ["srun", "--nodes=1", "--ntasks=2", "--ntasks-per-node=2", "--label", *one_task],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    output = started.stdout + started.stderr
    assert started.returncode == 0, output[-4000:]
    assert re.search(r"^0: .*initialized host .* as rank 0", output, re.M), output[-4000:]
    assert re.search(r"^1: .*initialized host .* as rank 1", output, re.M), output[-4000:]
    assert (tmp_path / "checkpoints/checkpoint_last.pt").is_file()
