"""A finished run, made once of dummy files, for tests of what reruns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow
from tests.workflow.slurm_cluster import (
    SMALLER,
    SMOKE,
    Cluster,
    Devices,
    SmokeRun,
    comment_of,
    jobs,
    started_cluster,
)
from tests.workflow.test_smoke import download


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The smoke configuration's results as dummy files. Copy it; do not change it."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"), config=REPOSITORY / "configs/smoke.yaml")
    workflow.make_finished()
    return workflow


@pytest.fixture
def finished(finished_run: Workflow, tmp_path: Path) -> Workflow:
    """A copy of the finished run that a test may change."""
    return finished_run.copied_to(tmp_path)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[None]:
    """A SLURM of one node with pretend GPUs, as long as tests run on it."""
    with started_cluster():
        yield


@pytest.fixture(scope="session")
def slurm_data(slurm_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The smoke run on it as far as the data."""
    folder = tmp_path_factory.mktemp("slurm")
    download(folder)
    workflow = Cluster(folder, config=SMOKE)
    result = workflow.run("--", "data", overrides=SMALLER, timeout=1200)
    assert result.status == 0, result.output
    return workflow


@pytest.fixture(scope="session")
def slurm_run(slurm_data: Cluster) -> SmokeRun:
    """The rest of it, with a second baseline."""
    others = {job["JobId"] for job in jobs() if comment_of(job)[0].startswith("train_")}
    devices = Devices(slurm_data.folder)
    devices.start()
    try:
        result = slurm_data.run(overrides=SMALLER, timeout=3000)
    finally:
        devices.over.set()
        devices.join()
    assert result.status == 0, result.output
    return SmokeRun(
        slurm_data,
        result,
        [job for job in jobs() if comment_of(job)[0] and job["JobId"] not in others],
        devices.seen,
    )
