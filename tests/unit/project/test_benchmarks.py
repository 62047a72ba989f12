"""The frame of the benchmarks: ratios round by round, the order of the rounds, the table."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
sys.path.insert(0, str(FOLDER))
import common  # noqa: E402
import table  # noqa: E402


def test_a_ratio_is_taken_within_each_round() -> None:
    # the machine was twice as slow in the second round: the ratio is not
    found = common.ratio([1.0, 2.0, 1.5], [2.0, 4.0, 2.0])
    assert found == {"median": 0.5, "low": 0.5, "high": 0.75, "rounds": [0.5, 0.5, 0.75]}
    assert common.shown(found) == "0.50 (0.50–0.75)"
    with pytest.raises(ValueError):
        common.ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="nothing was measured"):
        common.spread([])


def test_the_order_of_the_page_the_makefile_and_the_results_agree() -> None:
    makefile = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^BENCHMARKS := ((?:.*\\\n)*.*)$", makefile, re.M)
    assert found
    programs = found[1].replace("\\\n", " ").split()
    # one program may write several results
    assert list(dict.fromkeys(re.sub(r"_(demo|d\d+)$", "", name) for name in table.ORDER)) == programs
    assert {path.stem for path in common.RESULTS.glob("*.json")} <= {*table.ORDER, "serve_load"}
    assert all((FOLDER / f"{name}.py").is_file() for name in programs)


def test_start_ups_are_counted_in_the_plan() -> None:
    import startup

    plan = (
        "python -m neuron_specialization score --a\npython -m neuron_specialization evaluation-tables\n" * 2
    )
    assert startup.commands_in(plan) == {"score": 2, "evaluation-tables": 2}
    result = json.loads((common.RESULTS / "startup.json").read_text(encoding="utf-8"))
    assert set(result["details"]["starts"]) == set(startup.IMPORTS)


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def way(name: str) -> common.Sample:
        order.append(name)
        return common.Sample(1.0, 0.5)

    samples = common.interleave({name: lambda name=name: way(name) for name in "AB"}, rounds=3)
    assert "".join(order) == "ABABAB"
    assert [len(taken) for taken in samples.values()] == [3, 3]


def test_a_command_is_timed_with_its_children() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    sample = common.timed_command([sys.executable, "-c", busy])
    assert sample.wall > 0 and sample.cpu > 0.05 and sample.memory > 1_000_000
    with pytest.raises(SystemExit, match="failed"):
        common.timed_command([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_command_names_no_place_of_this_machine() -> None:
    given = ["/somewhere/benchmarks/memory.py", "--demo", "/elsewhere/demo", "--steps", "4"]
    assert common.command_line(given) == "python benchmarks/memory.py --steps 4"


def test_results_become_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    rows = [
        common.Row("ours / theirs", "0.50 (0.40–0.60)", "≤ 0.45", False),
        common.Row("… memory", "3 MB", "≤ 4 MB", True),
        common.Row("… for comparison", "7"),
    ]
    common.write_result("ffn_layer", rows, {"n": 1}, threads=1, samples={"ours": [common.Sample(1.0, 0.5)]})
    document = json.loads((tmp_path / "ffn_layer.json").read_text())
    assert document["samples"]["ours"] == [{"wall": 1.0, "cpu": 0.5, "memory": 0}]
    assert document["machine"]["threads"] == 1
    (tmp_path / "published_table.json").write_text(
        json.dumps({"files": 120, "limit_seconds": 120, "seconds_on_two_idle_cores": 130.5})
    )
    page = table.page(tmp_path)
    assert "| ours / theirs | 0.50 (0.40–0.60) | ≤ 0.45 | **no** |" in page
    assert "| … memory | 3 MB | ≤ 4 MB | yes |" in page
    assert "| … for comparison | 7 |  |  |" in page
    assert "| 130.5 | ≤ 120 | **no** |" in page


def test_the_page_in_the_repository_is_the_one_made_of_the_results() -> None:
    assert (FOLDER.parent / "docs" / "benchmarks.md").read_text() == table.page(common.RESULTS)
