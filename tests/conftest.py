"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests compute little; two spinning OpenMP threads on a busy machine cost more than they bring.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
from hypothesis import settings

# a busy machine is no failure: property tests have no time limit per example
settings.register_profile("default-without-deadline", deadline=None)
settings.load_profile("default-without-deadline")

REPOSITORY = Path(__file__).resolve().parents[1]
# reference data, which may be absent: see shared_file
SHARED = Path(os.environ.get("NS_SHARED", REPOSITORY.parent / "shared"))


def shared_file(*parts: str) -> Path:
    """Return a file of the reference data (not part of the repository), or skip the test, saying why."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data not here: {'/'.join(parts)} (set NS_SHARED to its folder)")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
