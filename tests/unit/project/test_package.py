"""The wheel and the sdist: what is in them, and that the workflow in them is the one of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuron_specialization import __version__
from neuron_specialization.cli import cli
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.workflow_files import EDITED, OWN, workflow_files, write_workflow
from tests.conftest import REPOSITORY

NAME = f"neuron_specialization-{__version__}"
WORKFLOW = "neuron_specialization/workflow/"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without network from what git knows of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    source = folder / "source"
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> dict[str, str]:
    """The environment of a Python that finds the package in the wheel's content, not in the checkout."""
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        wheel.extractall(built / "site")
    return {**os.environ, "PYTHONPATH": str(built / "site"), "OMP_NUM_THREADS": "1"}


def test_the_wheel_has_the_package_and_the_workflow(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        for name in workflow_files(REPOSITORY):
            assert wheel.read(WORKFLOW + name) == (REPOSITORY / name).read_bytes()
        entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
        metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    sources = (path for path in (REPOSITORY / "src").rglob("*") if path.is_file())
    wanted = {
        str(path.relative_to(REPOSITORY / "src")) for path in sources if "__pycache__" not in path.parts
    }
    wanted |= {f"neuron_specialization/data/{name}" for name in ("catalogue.tsv", "languages.tsv")}
    assert wanted <= names
    # and nothing but these: no tests, no results, no environment
    extra = names - wanted - {WORKFLOW + name for name in workflow_files(REPOSITORY)}
    assert all(name.startswith(f"{NAME}.dist-info/") for name in extra), extra
    assert "neuron-specialization = neuron_specialization.cli:main" in entry_points
    assert "Requires-Python: <3.13,>=3.11" in metadata and "License-Expression: MIT" in metadata


def test_every_file_of_the_rules_is_among_them() -> None:
    files = workflow_files(REPOSITORY)
    assert {name.split("/")[0] for name in files} == {*OWN, *EDITED}
    for folder in ("rules", "profiles", "configs", "report", "envs", "requirements", "docs"):
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert set(tracked.stdout.split()) <= set(files)


def test_the_sdist_is_a_whole_checkout(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    wanted = {
        "Makefile",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "docs/running.md",
        *workflow_files(REPOSITORY),
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", "results/", "downloads/", ".git/"))]


def test_an_installed_package_plans_the_workflow(installed: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "a run"
    program = [sys.executable, "-m", "neuron_specialization"]
    done = subprocess.run(
        [*program, "init", str(target)],
        env=installed,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(workflow_files(REPOSITORY))} files written, 0 kept" in done.stdout
    environment = (target / "envs/workflow.yaml").read_text(encoding="utf-8")
    assert f"- neuron-specialization=={__version__}" in environment and "--editable" not in environment
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--configfile", "configs/smoke.yaml"]
    plan = subprocess.run(command, env=installed, cwd=target, capture_output=True, text=True, check=False)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert "train_specialised" in plan.stdout


# ---- init ----


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    write_workflow(tmp_path)
    again = write_workflow(tmp_path)
    assert again.written == [] and again.kept == workflow_files(tmp_path)
    (tmp_path / "config.yaml").write_text("experiment: mine\n")
    (tmp_path / "rules/train.smk").write_text("# of another version\n")
    (tmp_path / "rules/mine.smk").write_text("# my own\n")
    with pytest.raises(NeuronSpecializationError, match=r"config\.yaml, rules/train\.smk") as caught:
        write_workflow(tmp_path)
    assert "--update" in str(caught.value)
    assert (tmp_path / "rules/train.smk").read_text() == "# of another version\n"


def test_an_update_replaces_the_rules_and_keeps_what_users_edit(tmp_path: Path) -> None:
    write_workflow(tmp_path)
    (tmp_path / "config.yaml").write_text("experiment: mine\n")
    (tmp_path / "rules/train.smk").write_text("# of another version\n")
    (tmp_path / "rules/mine.smk").write_text("# my own\n")
    (tmp_path / "report/page.rst").unlink()
    (tmp_path / "profiles/gpu/config.yaml").unlink()
    done = write_workflow(tmp_path, update=True)
    assert done.written == ["profiles/gpu/config.yaml", "report/page.rst", "rules/train.smk"]
    assert (tmp_path / "rules/train.smk").read_text() == (REPOSITORY / "rules/train.smk").read_text()
    assert (tmp_path / "config.yaml").read_text() == "experiment: mine\n"
    assert (tmp_path / "rules/mine.smk").exists()


def test_the_checkout_itself_is_left_alone() -> None:
    result = CliRunner().invoke(cli, ["init", str(REPOSITORY)])
    assert isinstance(result.exception, NeuronSpecializationError)
    assert "checkout" in str(result.exception)


# ---- for real ----


@pytest.mark.long
@pytest.mark.network
def test_a_fresh_environment_runs_the_smoke_configuration(built: Path, tmp_path: Path) -> None:
    """From nothing but the wheel and the lock. Another Python: NS_PYTHON=python3.12."""
    python = os.environ.get("NS_PYTHON", sys.executable)
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "install", "--quiet"]
    index = os.environ.get("TORCH_INDEX")
    torch = ["--requirement", str(REPOSITORY / "requirements/torch.txt")]
    subprocess.run([*pip, *(["--index-url", index] if index else []), *torch], check=True)
    lock = ["--no-deps", "--require-hashes", "--requirement", str(REPOSITORY / "requirements/lock.txt")]
    subprocess.run([*pip, *lock], check=True)
    subprocess.run([*pip, "--no-deps", str(built / f"{NAME}-py3-none-any.whl")], check=True)
    subprocess.run([*pip[:-2], "check"], check=True)
    bin_folder = tmp_path / "venv/bin"
    subprocess.run([str(bin_folder / "neuron-specialization"), "--help"], check=True)
    subprocess.run([str(bin_folder / "neuron-specialization"), "init", str(tmp_path / "run")], check=True)
    command = [str(bin_folder / "snakemake"), "--cores", "2", "--configfile", "configs/smoke.yaml"]
    subprocess.run(command, cwd=tmp_path / "run", check=True)
    assert (tmp_path / "run/results/smoke/report.html").is_file()
