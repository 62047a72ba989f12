"""The container recipes, as far as they can be read without a build: files, commands, one base, one list."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "containers/Dockerfile").read_text(encoding="utf-8")
APPTAINER = (REPOSITORY / "containers/neuron-specialization.def").read_text(encoding="utf-8")
IGNORE = (REPOSITORY / "containers/Dockerfile.dockerignore").read_text(encoding="utf-8")
HOME = "/opt/neuron-specialization"
INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def sections() -> dict[str, list[str]]:
    """Section → its lines, of the Apptainer definition; the header is ``""``."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in APPTAINER.splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def copied() -> set[str]:
    """What the Dockerfile takes from the checkout."""
    names: set[str] = set()
    for instruction, rest in instructions():
        if instruction == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            names |= set(sources)
    return names


def test_only_known_instructions_in_a_sensible_order() -> None:
    found = [name for name, _ in instructions()]
    assert set(found) == INSTRUCTIONS
    assert found[0] == "FROM" and found[-1] == "CMD" and found.count("FROM") == 2
    stages = [rest.split(" AS ")[1] for name, rest in instructions() if name == "FROM" and " AS " in rest]
    assert {rest.split()[0] for name, rest in instructions() if rest.startswith("--from")} == {
        f"--from={stage}" for stage in stages
    }


def test_both_copy_the_same_files_which_exist() -> None:
    files = [line.split() for line in sections()["files"]]
    assert {source for source, _ in files} == copied()
    assert all(target == f"{HOME}/{source}" for source, target in files)
    assert all((REPOSITORY / name).exists() for name in copied())
    # and the context of the build holds them
    kept = {line[1:] for line in IGNORE.splitlines() if line.startswith("!")}
    assert IGNORE.startswith("*\n") and kept == copied()


def test_what_the_package_is_built_from_is_copied() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["force-include"], "src", "pyproject.toml", project["project"]["readme"]}
    needed |= {*project["project"]["license-files"], "Makefile", "requirements"}
    assert needed <= copied()


@pytest.mark.parametrize("recipe", ["docker", "apptainer"])
def test_the_environment_is_that_of_the_makefile(recipe: str) -> None:
    """The command is run dry: a target or a variable that the Makefile does not know would show."""
    if recipe == "docker":
        commands = [rest for name, rest in instructions() if name == "RUN" and "make env" in rest]
        assert 'TORCH_INDEX="$TORCH_INDEX"' in commands[0]
    else:
        commands = [line for line in sections()["post"] if line.startswith("make ")]
        assert 'TORCH_INDEX="{{ TORCH_INDEX }}"' in commands[0]
    assert len(commands) == 1
    arguments = re.sub(r'TORCH_INDEX="[^"]*"', "TORCH_INDEX=https://index.invalid/cpu", commands[0]).split()
    done = subprocess.run(
        [*arguments, "--dry-run", "--always-make", "PYTHON=python3"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    plan = done.stdout
    assert "/opt/venv/bin/python -m pip install" in plan
    assert "--index-url https://index.invalid/cpu -r requirements/torch.txt" in plan
    assert "--no-deps --require-hashes -r requirements/lock.txt" in plan


def test_one_base_and_one_index() -> None:
    bases = {rest.split()[0] for name, rest in instructions() if name == "FROM"}
    header = dict(line.split(": ", 1) for line in sections()[""])
    assert bases == {header["From"]} == {"python:3.11-slim-bookworm"}
    assert header["Bootstrap"] == "docker"
    argument = next(rest for name, rest in instructions() if name == "ARG")
    assert sections()["arguments"] == [argument]


def test_the_documentation_gives_the_commands_and_says_what_was_not_tried() -> None:
    page = (REPOSITORY / "docs/running.md").read_text(encoding="utf-8")
    assert "docker build -f containers/Dockerfile -t neuron-specialization ." in page
    assert "apptainer build neuron-specialization.sif containers/neuron-specialization.def" in page
    assert "not built" in page
