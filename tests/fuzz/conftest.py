"""At the end of a run: how many cases each target had, and how many of them were read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.harness import OUTCOMES
from tests.unit.conftest import small_corpus, trained_vocabulary

__all__ = ["small_corpus", "trained_vocabulary"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    terminalreporter.section("fuzzing")
    for target, outcomes in sorted(OUTCOMES.items()):
        total = sum(outcomes.values())
        terminalreporter.line(f"{target:<32} {total:>7} cases, {outcomes['read']:>7} read, the rest refused")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a target's reader may write."""
    inside = tmp_path / "inside"
    inside.mkdir()
    return inside
