"""One experiment that nobody disturbed, which every test copies or compares with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workflow.faults.experiment import Experiment


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The finished small experiment; not to be changed. NS_FAULTS names a folder in which it is kept."""
    kept = os.environ.get("NS_FAULTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("faults")
    run = Experiment(folder / "uninterrupted").prepare()
    done = run.run()
    assert done.status == 0, done.output
    return run


@pytest.fixture(scope="session")
def commands(undisturbed: Experiment) -> dict[str, list[str]]:
    """The stages' commands, to be run in a copy's folder."""
    return undisturbed.commands()
