"""A small experiment that is really run, interrupted and run again, and what its results are compared by."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from neuron_specialization.storage.files import sha256_of
from tests.conftest import REPOSITORY
from tests.workflow.faults.processes import MARK, Process, end_all, processes
from tests.workflow.runner import Result, start_snakemake

SMALL = Path(__file__).with_name("small.yaml")
SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
SPLITS = {"train": 800, "valid": 40, "test": 24}

# what depends on the configuration alone: equal bytes in every run. What shows times does not.
COMPARED = (
    *("corpus/**/*", "vocabulary/*", "binarized/**/*", "training/*/model.pt", "activations/*"),
    *("masks/**/*.safetensors", "masks/*/overlap.json", "models/**/model.bin", "translations/**/*.txt"),
    *("scores/**/*.json", "comparisons/**/*.json", "tables/scores.csv", "tables/summary.*"),
    *("tables/directions.csv", "tables/perplexity.csv"),
)


def write_text(
    folder: Path, pair: str = "de-en", splits: dict[str, int] | None = None, seed: int = 1
) -> None:
    """Write parallel text of invented words, no segment twice: the translation is a cipher."""
    generator = random.Random(f"{seed} {pair}")
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 3))) for _ in range(400)]
    source, target = pair.split("-")
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for split, count in (splits or SPLITS).items():
        lines: list[str] = []
        while len(lines) < count:
            line = " ".join(generator.choices(words, k=generator.randint(4, 9)))
            if line not in seen:
                seen.add(line)
                lines.append(line)
        shifted = [
            re.sub("[a-z]", lambda letter: chr((ord(letter[0]) - 92) % 26 + 97), line) for line in lines
        ]
        for code, texts in ((target, lines), (source, shifted)):
            text = "".join(f"{line}\n" for line in texts)
            (folder / f"{split}.{pair}.{code}").write_text(text, encoding="utf-8")


@dataclass
class Experiment:
    """A folder with its configuration and text, in which snakemake is started as a user starts it.

    Attributes:
        folder: where it runs.
        overrides: keys that differ from small.yaml.
        environment: variables that differ from this process's.
    """

    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def prepare(self) -> Experiment:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "text").exists():
            write_text(self.folder / "text")
        (self.folder / "config.yaml").write_text(SMALL.read_text(encoding="utf-8"), encoding="utf-8")
        return self

    @property
    def results(self) -> Path:
        return self.folder / "results/faults"

    def command(self, *arguments: str) -> list[str]:
        configs = [str(self.folder / "config.yaml")]
        if self.overrides:
            path = self.folder / "overrides.yaml"
            path.write_text(yaml.safe_dump(self.overrides), encoding="utf-8")
            configs.append(str(path))
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--workflow-profile", str(REPOSITORY / "profiles/default"), "--nocolor", "--cores", "2"),
            # one thread: two that wait for each other on a busy machine take ten times as long
            *("--set-threads", "train_specialised=1"),
            *("--configfile", *configs),
            *arguments,
        ]

    def start(self, *arguments: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        """Start snakemake as the leader of a process group, its output going to a file."""
        return start_snakemake(
            self.command(*arguments),
            folder=self.folder,
            output=output or self.folder / "snakemake.txt",
            environment={**self.environment, MARK: self.mark},
            own_group=True,
        )

    def run(self, *arguments: str, timeout: float = 1200) -> Result:
        """Run snakemake to its end."""
        output = self.folder / "snakemake.txt"
        process = self.start(*arguments, output=output)
        try:
            status = process.wait(timeout)
        except BaseException:
            self.end()
            raise
        return Result(status, output.read_text(encoding="utf-8", errors="replace"))

    def processes(self, *kinds: str) -> list[Process]:
        """Its living processes, of all kinds or those given."""
        return [process for process in processes(self.mark) if not kinds or process.kind in kinds]

    def copied_to(self, folder: Path) -> Experiment:
        """Copy everything, dates and Snakemake's records included."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Experiment(folder, dict(self.overrides), dict(self.environment))

    def end(self) -> None:
        end_all(self.mark)

    def commands(self) -> dict[str, list[str]]:
        """The command of every stage as the workflow runs it: name (with a training's system) → arguments.

        Of stages that run several times, the last.
        """
        plan = self.run("--dry-run", "--forceall", "--printshellcmds")
        assert plan.status == 0, plan.output
        found = {}
        for line in re.findall(r"^ +python -m neuron_specialization (.*?) +(?:>|2>)", plan.output, re.M):
            arguments = shlex.split(line)
            name = arguments[0]
            if name == "train":
                name += f" {Path(arguments[arguments.index('--output') + 1]).name}"
            found[name] = arguments
        return found

    # ---- what it made ----

    def fingerprints(self) -> dict[str, str]:
        """Path → SHA-256 of every file that depends on the configuration alone."""
        paths = {path for pattern in COMPARED for path in self.results.glob(pattern) if path.is_file()}
        paths = {path for path in paths if not path.name.startswith(".")}  # see leftovers
        return {str(path.relative_to(self.results)): sha256_of(path) for path in sorted(paths)}

    def train_log(self, system: str) -> str:
        """The log of a system's trainer, all its starts."""
        logs = sorted(self.results.glob(f"training/{system}/checkpoints/*/train.log"))
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)

    def starts(self, system: str) -> list[tuple[int, int]]:
        """Of every start of a system's trainer: the update it went on from, and the last it logged.

        A start that was stopped before it had read a checkpoint or made an update is left out.
        """
        found = []
        for text in re.split(r"^=== .*$", self.train_log(system), flags=re.M)[1:]:
            loaded = re.search(r"Loaded checkpoint .* \(epoch \d+ @ (\d+) updates\)", text)
            begun = int(loaded[1]) if loaded else 0
            logged = [int(update) for update in re.findall(r'"num_updates": "(\d+)"', text)]
            if loaded or logged:
                found.append((begun, max(logged, default=begun)))
        return found

    def redone(self, system: str) -> list[int]:
        """Of every later start: how many updates that were made before it made again, at most."""
        starts = self.starts(system)
        return [max(0, last - begun) for (_, last), (begun, _) in pairwise(starts)]

    def losses(self, system: str) -> list[tuple[str, int, float]]:
        """What metrics.jsonl holds apart from times."""
        lines = (self.results / f"training/{system}/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return [(record["kind"], record["update"], record["loss"]) for record in records]

    def leftovers(self) -> list[str]:
        """Files under temporary names."""
        names = [path for path in self.results.rglob("*") if path.name.startswith(".") and path.is_file()]
        names += [path for path in self.results.rglob("*.tmp") if path.is_file()]
        return sorted(str(path.relative_to(self.results)) for path in names)
