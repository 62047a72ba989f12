"""Runs the workflow for tests: plans, finished states made of dummy files, real runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.conftest import REPOSITORY

# more than Snakemake compares by checksum: a touched file counts as changed unless a rule says otherwise
DUMMY_BYTES = 1_100_000


@dataclass
class Result:
    """What a Snakemake run printed and how it ended."""

    status: int
    output: str
    jobs: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        table = re.search(r"^Job stats:\njob .*\n-+ .*\n((?:\S+ +\d+\n)+)", self.output, re.M)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        self.jobs = Counter({name: int(count) for name, count in rows if name != "total"})

    @property
    def nothing_to_do(self) -> bool:
        return self.status == 0 and "Nothing to be done" in self.output and not self.jobs

    def messages(self) -> list[str]:
        """What each job says it does."""
        return re.findall(r"^Job \d+: (.*)$", self.output, re.M)


def _environment() -> dict[str, str]:
    """As a user's shell would have it: the environment's own programs, and nothing of another Snakemake."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}


def start_snakemake(
    command: list[str],
    *,
    folder: Path,
    output: Path,
    environment: Mapping[str, str] | None = None,
    own_group: bool = False,
) -> subprocess.Popen[bytes]:
    """Start it as a user does, in a folder; what it prints goes into a file.

    Args:
        command: snakemake with its arguments.
        folder: where it runs.
        output: file for what it prints.
        environment: variables besides those of this process.
        own_group: whether it leads a process group of its own.
    """
    with output.open("wb") as handle:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            process_group=0 if own_group else None,
            # a shell in the background has SIGINT ignored, which would be inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@dataclass
class Workflow:
    """The workflow of a checkout, run in a folder of its own.

    Attributes:
        folder: where results go.
        root: the checkout; a copy of it where a test edits rules.
        config: a configuration file; None is config.yaml.
        profile: a folder of profiles/.
    """

    folder: Path
    root: Path = REPOSITORY
    config: Path | None = None
    profile: str = "default"

    def _command(self, arguments: tuple[str, ...], overrides: dict[str, object] | None) -> list[str]:
        configs = [str(self.config or self.root / "config.yaml")]
        if overrides is not None:
            path = self.folder / "overrides.yaml"
            path.write_text(yaml.safe_dump(overrides), encoding="utf-8")
            configs.append(str(path))
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(self.root / "Snakefile")),
            *("--workflow-profile", str(self.root / "profiles" / self.profile), "--nocolor"),
            *("--configfile", *configs),
            *arguments,
        ]

    def run(
        self, *arguments: str, overrides: dict[str, object] | None = None, timeout: float = 600
    ) -> Result:
        """Run snakemake; ``overrides`` go into a second configuration file, merged over the first."""
        done = subprocess.run(
            self._command(arguments, overrides),
            cwd=self.folder,
            env=_environment(),
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout + done.stderr)

    def start(
        self, *arguments: str, output: Path, overrides: dict[str, object] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start snakemake, which goes on while the test does; what it prints goes into a file."""
        return start_snakemake(self._command(arguments, overrides), folder=self.folder, output=output)

    def plan(self, *arguments: str, overrides: dict[str, object] | None = None) -> Result:
        """What would run."""
        return self.run("--dry-run", *arguments, overrides=overrides)

    def make_finished(self) -> None:
        """Fill the folder with dummy outputs that Snakemake takes for those of a finished run."""
        summary = self.run("--summary")
        assert summary.status == 0, summary.output
        rows = [line.split("\t") for line in summary.output.splitlines() if line.count("\t") >= 5]
        for row in rows[1:]:
            path = self.folder / row[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as handle:
                handle.truncate(DUMMY_BYTES)
        touched = self.run("--touch", "--forceall")
        assert touched.status == 0, touched.output

    def copied_to(self, folder: Path) -> Workflow:
        """Copy the results, dates and Snakemake's records included."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workflow(folder, self.root, self.config, self.profile)
