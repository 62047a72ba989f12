"""What every benchmark shares: interleaved rounds, ratios, commands with their processor time, results.

A figure is a ratio of two ways measured in one run on one machine, in turn (A B A B …), three rounds at
least: what the machine does besides then falls on both. Its median and range over the rounds are written to
``benchmarks/results/<name>.json``; ``benchmarks/table.py`` makes docs/benchmarks.md of them.
Processor time is what a busy machine lengthens least; wall time is what people wait for: both are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuron_specialization.machine import processor, usable_cores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 3


@dataclass(frozen=True)
class Sample:
    """One timing: seconds on the clock, seconds of processor, and the largest resident memory in bytes."""

    wall: float
    cpu: float
    memory: int = 0


def timed(work: Callable[[], object]) -> Sample:
    """Time a function in this process (all its threads)."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def timed_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, output: Path | None = None
) -> Sample:
    """Time a command, its start and its children included; what it prints goes to ``output``.

    Raises:
        SystemExit: it fails; with the end of what it said.
    """
    started = time.perf_counter()
    with (output or Path(os.devnull)).open("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT if output else subprocess.DEVNULL,
            env=dict(os.environ) | dict(environment or {}),
            cwd=ROOT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            sys.exit(f"failed: {' '.join(command)}\n{printed.read()[-2000:]}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def interleave(ways: Mapping[str, Callable[[], Sample]], rounds: int = ROUNDS) -> dict[str, list[Sample]]:
    """Run all ways in turn, ``rounds`` times over."""
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            samples[name].append(way())
            print(f"round {number + 1}/{rounds} {name}: {samples[name][-1]}", file=sys.stderr, flush=True)
    return samples


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and the values themselves.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "rounds": [round(value, 4) for value in values],
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The ratio ours/theirs round by round (the two of a round ran next to each other), and its spread.

    Raises:
        ValueError: another number of rounds on the two sides.
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def shown(found: Mapping[str, Any], digits: int = 2) -> str:
    """``0.91 (0.89–0.94)``."""
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}–{found['high']:.{digits}f})"


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, the figure, the aim, whether it was reached (None: no aim)."""

    work: str
    figure: str
    target: str = ""
    met: bool | None = None


def machine(threads: int | None = None) -> dict[str, Any]:
    """What was measured on."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def command_line(given: Sequence[str]) -> str:
    """The command to repeat a measurement; without the place of the demonstration, which differs."""
    shown_words = [f"benchmarks/{Path(given[0]).name}"]
    words = iter(given[1:])
    for word in words:
        if word == "--demo":
            next(words, None)
        else:
            shown_words.append(word)
    return " ".join(["python", *shown_words])


def write_result(
    name: str,
    rows: Sequence[Row],
    details: Mapping[str, Any],
    *,
    threads: int | None = None,
    samples: Mapping[str, Sequence[Sample]] | None = None,
) -> None:
    """Write ``results/<name>.json`` and print its rows."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "command": command_line(sys.argv),
        "rows": [asdict(row) for row in rows],
        "details": dict(details),
        "samples": {
            way: [{key: round(value, 4) for key, value in asdict(sample).items()} for sample in taken]
            for way, taken in (samples or {}).items()
        },
        "machine": machine(threads),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row.work}: {row.figure}" + (f" (aim {row.target})" if row.target else ""))


def arguments(description: str | None, *, demo: bool = False, threads: int = 1) -> argparse.ArgumentParser:
    """The options all benchmarks know."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=threads)
    if demo:
        parser.add_argument(
            "--demo", type=Path, default=ROOT / "results" / "demo", help="a finished `make demo`"
        )
    return parser


def demo_files(folder: Path, *wanted: str) -> None:
    """Stop with a word of advice where the demonstration's files are not there."""
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        sys.exit(f"{folder} has no {', '.join(missing)}: run `make demo`, or give --demo FOLDER")


def as_trainer(threads: int) -> None:
    """Start this program anew under the environment the trainer gets, unless it has it already."""
    from neuron_specialization.training.arguments import Resources, trainer_environment

    wanted = trainer_environment(os.environ, resources=Resources(threads=threads))
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)
