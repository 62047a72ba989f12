"""A finished run, made once of dummy files, for tests of what reruns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow


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
