"""The files around the code agree with it: requirements, environments, citation, version."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_specialization import __version__
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (REPOSITORY / "requirements/lock.txt").read_text(encoding="utf-8")
PINS = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", LOCK, re.M))
TORCH = re.fullmatch(r"torch==(\S+)\n", (REPOSITORY / "requirements/torch.txt").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    """``types-PyYAML>=6`` → ``types-pyyaml``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_lock_pins_every_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["dev"], *extras["serve"]]
    assert {canonical(one) for one in wanted} - set(PINS) == {"torch"}


def test_torch_is_pinned_apart_and_brings_no_cuda_into_the_lock() -> None:
    assert TORCH
    assert not [name for name in PINS if name == "torch" or name.startswith(("nvidia", "cuda", "triton"))]


def test_the_lock_satisfies_the_ranges() -> None:
    from packaging.requirements import Requirement

    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        version = TORCH[1] if TORCH and requirement.name == "torch" else PINS[canonical(text)]
        assert requirement.specifier.contains(version), text


def test_every_pin_has_hashes() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.M)[1:]
    assert len(blocks) == len(PINS) > 100
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("name", ["workflow", "comet"])
def test_environments_agree_with_the_pins(name: str) -> None:
    environment = yaml.safe_load((REPOSITORY / f"envs/{name}.yaml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    dependencies = environment["dependencies"]
    python = next(one for one in dependencies if isinstance(one, str) and one.startswith("python="))
    assert python == "python=3.11"
    pip = next(one["pip"] for one in dependencies if isinstance(one, dict))
    assert TORCH and f"torch=={TORCH[1]}" in pip
    if name == "workflow":
        # the same lock as `make env`; paths are relative to the file
        assert "--requirement ../requirements/lock.txt" in pip and "--editable .." in pip
        assert (REPOSITORY / "envs/../requirements/lock.txt").is_file()
    else:
        assert all("==" in one or "<" in one for one in pip), "unpinned"


def test_versions_agree() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == __version__ == citation["version"]
    assert PROJECT["license"] == citation["license"] == "MIT"
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {__version__}" in changelog


def test_the_citation_is_complete() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= set(citation)
    assert citation["preferred-citation"]["doi"] == "10.18653/v1/2024.emnlp-main.374"


def test_ci_runs_the_documented_command_and_nothing_else() -> None:
    lines = (REPOSITORY / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert [line for line in lines[1:] if not line.startswith("#")] == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "make test",
    ]
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    classifiers = [re.search(r"3\.\d+$", line) for line in PROJECT["classifiers"]]
    assert job["strategy"]["matrix"]["python"] == [found[0] for found in classifiers if found]
    assert "make test" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def recipe(target: str) -> str:
    """Everything that ``make target`` runs, prerequisites included."""
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_parts_that_the_hosting_runs_are_what_the_local_command_runs() -> None:
    """`.ci/run` is `make test`: lint, types, all folders of tests; the hosting runs the same by parts."""
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))
    part = workflow["jobs"]["part"]
    assert [step["run"] for step in part["steps"] if "run" in step] == ["make ${{ matrix.target }}"]
    targets = part["strategy"]["matrix"]["target"]
    recipes = {target: recipe(target) for target in targets}
    whole = recipe("test")
    for target in ("lint", "types"):
        assert set(recipes[target].splitlines()) <= set(whole.splitlines()), target
    # `make test` names no folder: pytest takes all of tests/
    assert re.search(r"-m pytest(?! tests)[^\n/]*$", whole, re.M)
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    named = {name for each in recipes.values() for name in re.findall(r"\btests/(\w+)(?=\s|$)", each)}
    assert named == folders
    # and each part is for a person, too
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:.*## ", makefile, re.M) for target in targets)
    slurm = [step.get("run") for step in workflow["jobs"]["slurm"]["steps"]]
    assert "make test-slurm" in slurm


def test_every_job_of_the_hosting_has_a_limit_and_reads_only() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert {"test", "part", "slurm"} <= set(workflow["jobs"])
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())


def installed_by(environment: dict[str, Any], folder: Path) -> dict[str, str]:
    """Name → version of what pip puts into a conda environment, requirement files read."""
    lines = next(one["pip"] for one in environment["dependencies"] if isinstance(one, dict))
    pins: dict[str, str] = {}
    for line in lines:
        if line.startswith("--requirement "):
            text = (folder / line.split()[1]).read_text(encoding="utf-8")
            pins |= dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.M))
        elif "==" in line:
            name, version = line.split("==")
            pins[canonical(name)] = version
    return pins


def test_the_workflows_conda_environment_is_the_lock() -> None:
    """Conda itself is not run: what its file says is compared with what `make env` installs."""
    folder = REPOSITORY / "envs"
    environment = yaml.safe_load((folder / "workflow.yaml").read_text(encoding="utf-8"))
    assert TORCH and installed_by(environment, folder) == {**PINS, "torch": TORCH[1]}
    names = {one.split("=")[0] for one in environment["dependencies"] if isinstance(one, str)}
    assert names == {"python", "pip"}, "conda's own packages would shadow the lock's"


def test_pre_commit_runs_what_lint_runs() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"].split()[0] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert set(entries) == {"ruff", "mypy", "snakefmt"}
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for tool in ("ruff check .", "ruff format --check .", "mypy", "snakefmt --check", "snakemake --lint"):
        assert f"$(BIN)/{tool}" in makefile


@pytest.mark.parametrize(
    "target", ["env", "demo", "smoke", "plan", "test", "test-fast", "lint", "lock", "clean"]
)
def test_make_has_the_documented_targets(target: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*##", makefile, re.M)
