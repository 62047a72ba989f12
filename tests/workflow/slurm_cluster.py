"""A SLURM of one node with pretend GPUs (tests/slurm), the workflow run on it, and its jobs.

A pretend GPU is counted, given out and named in CUDA_VISIBLE_DEVICES, and cannot compute: training
falls back to the CPU, which NEURON_SPECIALIZATION_PRETEND_GPUS allows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_specialization.config import Config, parse_config, recipe_of
from tests.conftest import REPOSITORY
from tests.workflow.runner import Result, Workflow

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

MARKS = [
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


def comment_of(job: dict[str, str]) -> tuple[str, str]:
    """Rule and wildcards, which the plugin writes into a job's comment; of other jobs: empty."""
    rule, _, wildcards = job.get("Comment", "").removeprefix("rule_").partition("_wildcards_")
    return rule, wildcards


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@contextmanager
def started_cluster() -> Iterator[None]:
    """Bring the cluster up, with its commands and its configuration in this process's environment; end it."""
    # short: a socket's path has at most 107 characters
    folder = Path(read("mktemp", "-d").strip()) / "slurm"
    before = dict(os.environ)
    try:
        up = subprocess.run([SCRIPTS / "up.sh", folder], capture_output=True, text=True, timeout=300)
        assert up.returncode == 0, up.stdout + up.stderr
        os.environ.update(
            SLURM_CONF=str(folder / "slurm.conf"),
            PATH=SEARCH,
            NEURON_SPECIALIZATION_PRETEND_GPUS="1",
            # jobs have the threads that they ask for, and this machine has not
            OMP_THREAD_LIMIT="1",
        )
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        subprocess.run([SCRIPTS / "down.sh", folder], check=True, timeout=180)
        shutil.rmtree(folder.parent)


@dataclass
class Cluster(Workflow):
    """A workflow run by profiles/slurm, with what its header says to edit, edited.

    Attributes:
        changes: rule → resources, instead of the profile's.
    """

    changes: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        profile = yaml.safe_load(yaml.safe_dump(PROFILE))
        resources = profile["set-resources"]
        profile["default-resources"]["slurm_partition"] = "cpu"
        for name in ("train_baseline", "train_specialised"):
            resources[name]["slurm_partition"] = "gpu"
        # a pretend GPU computes nothing
        resources["activations"]["device"] = "cpu"
        for rule, changed in self.changes.items():
            resources[rule] |= changed
        profile |= {"slurm-init-seconds-before-status-checks": 2, "latency-wait": 10}
        path = self.folder / f"profile{len(list(self.folder.glob('profile*')))}/config.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(profile), encoding="utf-8")
        self.profile = str(path.parent)

    def train_here(self, system: str, overrides: dict[str, Any]) -> None:
        """Train a system on this machine, in one process, without SLURM: what its jobs are compared with."""
        recipe = recipe_of(smoke_config(overrides), system)
        subprocess.run(
            [
                *(sys.executable, "-m", "neuron_specialization", "train"),
                *("--recipe", recipe.model_dump_json()),
                *("--data-bin", f"{R}/binarized", "--output", f"{R}/training/{system}"),
            ],
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=900,
        )

    def with_changes(self, changes: dict[str, dict[str, object]]) -> Cluster:
        """The same folder, under another profile."""
        return Cluster(self.folder, self.root, self.config, changes=changes)


def smoke_config(overrides: dict[str, Any]) -> Config:
    """The smoke configuration as a run with these overrides sees it."""

    def merged(under: Any, over: Any) -> Any:
        if not (isinstance(under, dict) and isinstance(over, dict)):
            return over
        return under | {key: merged(under.get(key), value) for key, value in over.items()}

    return parse_config(merged(yaml.safe_load(SMOKE.read_text(encoding="utf-8")), overrides))


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


@dataclass
class SmokeRun:
    """The finished smoke run on the cluster, its jobs when it ended, and the GPUs its trainers had."""

    workflow: Cluster
    result: Result
    jobs: list[dict[str, str]]
    devices: list[dict[str, str]]
