"""The doctor finds what is wrong with a machine, says what to do, and fails only for what is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_specialization import doctor
from neuron_specialization.cli import main
from neuron_specialization.doctor import Check
from tests.conftest import REPOSITORY


def found(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def programs(folder: Path, **scripts: str) -> Path:
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def no_fairseq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds, and is looked at by one test."""
    monkeypatch.setattr(doctor, "_fairseq", lambda: iter([Check("fairseq", "ok", "")]))


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = 0
    try:
        main(["doctor", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    return status, capsys.readouterr().out


def test_this_environment_is_ready(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = str(REPOSITORY / "configs/smoke.yaml")
    status, text = run("--json", "--folder", str(tmp_path), "--config", config, capsys=capsys)
    report = json.loads(text)
    assert (status, report["ready"]) == (0, True), text
    names = {check["name"] for check in report["checks"]}
    wanted = {"python", "packages", "torch", "devices", "fairseq", "threads", "memory", "disk", "allocator"}
    assert wanted <= names
    (configuration,) = (check for check in report["checks"] if check["name"] == "configuration")
    assert configuration["status"] == "ok" and "smoke, 4 directions, 3 systems" in configuration["found"]


def test_a_wrong_configuration_is_explained_and_exit_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, no_fairseq: None
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text((REPOSITORY / "configs/smoke.yaml").read_text() + "\nlanguges: [de]\n")
    status, text = run("--folder", str(tmp_path), capsys=capsys)
    assert status == 1
    assert "MISSING" in text and "languges" in text and "languages" in text and "→ correct" in text
    missing = run("--config", str(tmp_path / "none.yaml"), "--folder", str(tmp_path), capsys=capsys)
    assert missing[0] == 1 and "none.yaml" in missing[1]


@pytest.mark.parametrize("name", ["memory", "disk"])
def test_a_check_that_fails_hides_no_other_and_is_named(
    monkeypatch: pytest.MonkeyPatch, no_fairseq: None, name: str
) -> None:
    def broken(*_: object) -> Iterator[Check]:
        raise RuntimeError("no such file")
        yield

    monkeypatch.setattr(doctor, f"_{name}", broken)
    checks = doctor.examine()
    assert not doctor.is_ready(checks)
    assert [(check.name, check.found) for check in checks if check.status == "missing"] == [
        (name, "could not be looked at: RuntimeError: no such file")
    ]
    assert {"python", "threads", "allocator"} <= {check.name for check in checks}


@pytest.mark.parametrize("value, status", [("", "ok"), ("1", "ok"), ("9999", "advice"), ("many", "missing")])
def test_threads(value: str, status: str) -> None:
    assert found(doctor._threads({"OMP_NUM_THREADS": value}))["threads"].status == status


def test_own_allocator_settings_are_named() -> None:
    check = found(doctor._allocator({"MALLOC_TRIM_THRESHOLD_": "1"}))["allocator"]
    assert check.status == "advice" and check.do
    assert found(doctor._allocator({}))["allocator"].status == "ok" or os.uname().sysname != "Linux"


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = found(doctor._disk(tmp_path))["disk"]
    assert check.status == "missing" and "Read-only" in check.found


@pytest.mark.parametrize("amount, status", [(1.5, "advice"), (64.0, "ok"), (None, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, amount: float | None, status: str) -> None:
    monkeypatch.setattr(doctor, "available_memory_gib", lambda: amount)
    assert found(doctor._memory())["memory"].status == status


@pytest.mark.parametrize(
    "scripts, version, status, words",
    [
        ({}, "2.8.0", "ok", "not on this machine"),
        ({"sbatch": ""}, "2.8.0", "missing", "no squeue, srun"),
        ({"sbatch": "", "srun": "", "squeue": "exit 0"}, "2.8.0", "ok", "answer"),
        ({"sbatch": "", "srun": "", "squeue": "echo no route >&2; exit 1"}, "2.8.0", "advice", "no route"),
        ({"sbatch": "", "srun": "", "squeue": "exit 0"}, "2.7.9", "missing", "2.7.9"),
        ({"sbatch": "", "srun": "", "squeue": "exit 0"}, None, "missing", "not installed"),
    ],
)
def test_slurm(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scripts: dict[str, str],
    version: str | None,
    status: str,
    words: str,
) -> None:
    monkeypatch.setenv("PATH", f"{programs(tmp_path, **scripts)}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(doctor, "_version", lambda _: version)
    checks = list(doctor._slurm())
    worst = max(checks, key=lambda check: ["ok", "advice", "missing"].index(check.status))
    assert worst.status == status
    assert any(words in check.found for check in checks)


def test_a_broken_fairseq_shows_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: numpy.core\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: broken)
    check = found(doctor._fairseq())["fairseq"]
    assert check.status == "missing" and "ImportError: numpy.core" in check.found and check.do == "make env"


def test_it_is_listed_without_importing_torch() -> None:
    code = "import sys, neuron_specialization.cli.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
