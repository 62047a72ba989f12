"""What of this machine the project needs: each check says what it found and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.machine import usable_cores

Status = Literal["ok", "advice", "missing"]

# What the demonstration takes, with room to spare: memory; disk for results, downloads and environment.
NEEDED_MEMORY_GIB, NEEDED_DISK_GIB = 4.0, 10.0
_PACKAGES = ("snakemake", "numpy", "pydantic", "safetensors", "sentencepiece", "ctranslate2", "sacrebleu")
_SLURM_PLUGIN = "snakemake-executor-plugin-slurm"
_SLURM_PLUGIN_NEEDED = (2, 8)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        status: ``ok``; ``advice``: works, and could be better; ``missing``: needed, and not there.
        found: what is there, in words.
        do: what to do; None where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    do: str | None = None


def examine(config: Path | None = None, folder: Path = Path()) -> list[Check]:
    """Look at everything; no check that fails hides another.

    Args:
        config: a configuration to check; None: ``config.yaml`` in ``folder``, where there is one.
        folder: where results will go.
    """
    settings = config or (folder / "config.yaml" if (folder / "config.yaml").is_file() else None)
    checks: dict[str, Callable[[], Iterator[Check]]] = {
        "python": _python,
        "packages": _packages,
        "torch": _torch,
        "fairseq": _fairseq,
        "threads": partial(_threads, os.environ),
        "memory": _memory,
        "disk": partial(_disk, folder),
        "allocator": partial(_allocator, os.environ),
        "slurm": _slurm,
        "configuration": partial(_configuration, settings),
    }
    found: list[Check] = []
    for name, check in checks.items():
        try:
            found.extend(check())
        except Exception as error:  # a doctor that falls ill helps nobody
            found.append(Check(name, "missing", f"could not be looked at: {type(error).__name__}: {error}"))
    return found


def as_json(checks: list[Check]) -> dict[str, Any]:
    """The checks as plain values; ``ready`` is false if something needed is missing."""
    return {"ready": is_ready(checks), "checks": [asdict(check) for check in checks]}


def is_ready(checks: list[Check]) -> bool:
    """True if nothing that is needed is missing."""
    return all(check.status != "missing" for check in checks)


def _python() -> Iterator[Check]:
    version = platform.python_version()
    found = f"{version}, {sys.executable}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Check("python", "ok", found)
    else:
        yield Check("python", "missing", found, "Python 3.11 or 3.12: make env PYTHON=python3.11")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    versions = {name: _version(name) for name in _PACKAGES}
    absent = [name for name, version in versions.items() if version is None]
    if absent:
        yield Check("packages", "missing", f"not installed: {', '.join(absent)}", "make env")
    else:
        yield Check("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if shutil.which("snakemake", path=str(Path(sys.executable).parent)) is None:
        yield Check("snakemake command", "missing", f"none beside {sys.executable}", "make env")


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # a broken build raises OSError, a wrong one ImportError
        yield Check(
            "torch", "missing", f"cannot be imported: {error}", "make env (TORCH_INDEX: docs/running.md)"
        )
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check("torch", "ok", f"{torch.__version__}, {build}")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices:
        names = [
            f"{one.name} ({one.total_memory / 2**30:.0f} GiB)"
            for one in map(torch.cuda.get_device_properties, range(devices))
        ]
        yield Check("devices", "ok", "; ".join(names))
    elif shutil.which("nvidia-smi") and not torch.version.cuda:
        yield Check(
            "devices",
            "advice",
            "the machine has an NVIDIA driver, and torch is the CPU build",
            "make env TORCH_INDEX=https://download.pytorch.org/whl/cu130 in a new environment",
        )
    elif torch.version.cuda:
        yield Check(
            "devices",
            "advice",
            "no GPU that torch can use: training would run on the CPU",
            "look at nvidia-smi and CUDA_VISIBLE_DEVICES; without a GPU use profiles/default",
        )
    else:
        yield Check("devices", "ok", "CPU only: profiles/default")


def _fairseq() -> Iterator[Check]:
    version = _version("ve-fairseq")
    if version is None:
        other = _version("fairseq")
        yield Check("fairseq", "missing", f"fairseq {other}" if other else "not installed", "make env")
        return
    # fairseq prints and imports a lot: in a process of its own, as the trainer is
    done = subprocess.run(
        [sys.executable, "-c", "import fairseq_cli.train"], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Check("fairseq", "missing", f"ve-fairseq {version} cannot be imported: {last}", "make env")
    else:
        yield Check("fairseq", "ok", f"ve-fairseq {version}")


def _threads(environment: Mapping[str, str]) -> Iterator[Check]:
    cores = usable_cores()
    asked = environment.get("OMP_NUM_THREADS", "")
    found = f"{cores} cores; OMP_NUM_THREADS {asked or 'not set'}"
    if asked and not re.fullmatch(r"[1-9]\d*", asked):
        yield Check("threads", "missing", found, "unset OMP_NUM_THREADS, or set it to a number")
    elif asked and int(asked) > cores:
        yield Check(
            "threads", "advice", found, "more threads than cores wait for each other: unset OMP_NUM_THREADS"
        )
    else:
        yield Check("threads", "ok", found)
    load = os.getloadavg()[0]
    if load > 1.5 * cores:
        yield Check(
            "load", "advice", f"{load:.1f} processes want {cores} cores", "training will take longer; see top"
        )


def available_memory_gib() -> float | None:
    """Memory that can be had now, at most the limit of the control group; None where it cannot be told."""
    amounts = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        if match := re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M):
            amounts.append(int(match[1]) / 2**20)
    except OSError:
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if limit.isdigit():
            amounts.append(int(limit) / 2**30)
    return min(amounts, default=None)


def _memory() -> Iterator[Check]:
    amount = available_memory_gib()
    if amount is None:
        yield Check("memory", "ok", "cannot be told here")
    elif amount < NEEDED_MEMORY_GIB:
        yield Check(
            "memory",
            "advice",
            f"{amount:.1f} GiB available",
            f"the demonstration wants {NEEDED_MEMORY_GIB:g} GiB: run one job at a time (--cores 1)",
        )
    else:
        yield Check("memory", "ok", f"{amount:.1f} GiB available")


def _disk(folder: Path) -> Iterator[Check]:
    place = folder.resolve()
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Check(
            "disk", "missing", f"{place} cannot be written: {error.strerror}", "run in another folder"
        )
        return
    free = shutil.disk_usage(place).free / 2**30
    if free < NEEDED_DISK_GIB:
        yield Check(
            "disk",
            "advice",
            f"{free:.1f} GiB free at {place}",
            f"the demonstration wants {NEEDED_DISK_GIB:g} GiB",
        )
    else:
        yield Check("disk", "ok", f"{free:.1f} GiB free at {place}")


def _allocator(environment: Mapping[str, str]) -> Iterator[Check]:
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")
    chosen = {name: environment[name] for name in names if environment.get(name)}
    said = ", ".join(f"{name}={value}" for name, value in chosen.items())
    if platform.libc_ver()[0] != "glibc":
        yield Check(
            "allocator", "advice", "not glibc", "the trainer's allocator settings have no effect here"
        )
    elif any(name.startswith("MALLOC_") for name in chosen):
        yield Check(
            "allocator",
            "advice",
            f"your own settings: {said}",
            "the trainer keeps them; unset them to have it choose large thresholds (faster on a CPU)",
        )
    else:
        yield Check("allocator", "ok", (said + "; " if said else "") + "the trainer sets glibc's thresholds")


def _slurm() -> Iterator[Check]:
    absent = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
    if len(absent) == 3:
        yield Check("slurm", "ok", "not on this machine; profiles/slurm needs it, nothing else does")
        return
    if absent:
        yield Check("slurm", "missing", f"no {', '.join(absent)}", "install SLURM's client commands")
        return
    version = _version(_SLURM_PLUGIN)
    numbers = tuple(int(number) for number in re.findall(r"\d+", version or "0")[:2])
    if numbers < _SLURM_PLUGIN_NEEDED:
        needed = ".".join(map(str, _SLURM_PLUGIN_NEEDED))
        yield Check("slurm plugin", "missing", version or "not installed", f"{needed} or later: make env")
    else:
        yield Check("slurm plugin", "ok", f"{_SLURM_PLUGIN} {version}")
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--me"], capture_output=True, text=True, timeout=20, check=False
        )
        answer = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else None
    except subprocess.TimeoutExpired:
        answer = "no answer within 20 s"
    if answer is not None:
        yield Check(
            "slurm",
            "advice",
            f"squeue: {answer}",
            "profiles/slurm will not work until the controller answers",
        )
    elif "SLURM_JOB_ID" in os.environ:
        yield Check(
            "slurm",
            "advice",
            f"this is inside job {os.environ['SLURM_JOB_ID']}",
            "run Snakemake on a login node: inside a job its own limits are handed on to every job",
        )
    else:
        yield Check("slurm", "ok", "sbatch, squeue and the controller answer")


def _configuration(path: Path | None) -> Iterator[Check]:
    if path is None:
        return
    from neuron_specialization.config import load_config

    try:
        config = load_config(path)
    except NeuronSpecializationError as error:
        yield Check("configuration", "missing", str(error), f"correct {path}: docs/configuration.md")
        return
    systems, directions = len(config.systems), len(config.all_directions())
    yield Check(
        "configuration", "ok", f"{path}: {config.experiment}, {directions} directions, {systems} systems"
    )
