"""What each run cost: parameters, masks, updates, tokens, time, memory, energy; only what was measured.

Sources: model.json and metrics.jsonl of the training, the mask files, the benchmark file Snakemake writes of
the job, and energy.json of the run where the machine tells (energy.py). What is not known is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from neuron_specialization.config import Section, parse_spec
from neuron_specialization.errors import TrainingError
from neuron_specialization.run_names import split_run
from neuron_specialization.storage.files import atomic_text, read_json
from neuron_specialization.storage.layer_masks import read_masks
from neuron_specialization.training.curves import finished_run
from neuron_specialization.training.progress import read_metrics


class RunOf(Section):
    """A run that is trained: ``ns@223``, and by what it goes on from and under which selection."""

    run: str
    init: str | None = None
    masks: str | None = None


class _Runs(Section):
    runs: list[RunOf]


def parse_runs(text: str) -> list[RunOf]:
    """Read runs given as a JSON list.

    Raises:
        ConfigError: it is no such list.
    """
    return parse_spec(_Runs, f'{{"runs": {text}}}', "list of runs").runs


@dataclass(frozen=True)
class Cost:
    """One run.

    Attributes:
        system, seed: of the run.
        init: the run it goes on from, whose cost is not part of this; empty for a baseline.
        parameters: that were trained: all of the model's.
        mask_bytes: size of the mask files of all directions.
        mask_bits: one for each neuron of each direction: what they hold.
        kept: share of the neurons that is kept, mean over directions and layers; 1 without masks.
        updates: made.
        tokens: target tokens trained on, padding not counted: the mean of the logged updates × updates.
        tokens_per_update: that mean.
        training_seconds: of the trainer, over all its resumed runs.
        tokens_per_second: tokens by training_seconds.
        job_seconds, cpu_seconds, peak_memory_mib: of the (last) job with all its processes, by Snakemake.
        energy_joules: of the whole machine while it trained.
    """

    system: str
    seed: int | None
    init: str | None
    parameters: int
    mask_bytes: int
    mask_bits: int
    kept: float
    updates: int
    tokens: int | None
    tokens_per_update: float | None
    training_seconds: float | None
    tokens_per_second: float | None
    job_seconds: float | None
    cpu_seconds: float | None
    peak_memory_mib: float | None
    energy_joules: float | None


def cost_of(run: RunOf, training: Path, masks: Path, benchmarks: Path, seed: int | None) -> Cost:
    """Gather what a run cost.

    Args:
        run: which.
        training: holds ``<run>/model.json`` and ``metrics.jsonl``.
        masks: holds ``<selection>/<direction>.safetensors``.
        benchmarks: holds ``<run>.tsv``, Snakemake's.
        seed: of the runs that are called as their system.

    Raises:
        TrainingError: the run is not finished.
    """
    folder = finished_run(training, run.run)
    facts = read_json(folder / "model.json")
    updates, tokens_per_update, seconds = _trained(folder / "metrics.jsonl")
    tokens = round(tokens_per_update * updates) if tokens_per_update is not None else None
    mask_bytes, mask_bits, kept = _masks(masks / run.masks, facts["directions"]) if run.masks else (0, 0, 1.0)
    job = _benchmark(benchmarks / f"{run.run}.tsv")
    system, own_seed = split_run(run.run)
    return Cost(
        system=system,
        seed=seed if own_seed is None else own_seed,
        init=run.init,
        parameters=int(facts["parameters"]),
        mask_bytes=mask_bytes,
        mask_bits=mask_bits,
        kept=kept,
        updates=updates,
        tokens=tokens,
        tokens_per_update=tokens_per_update,
        training_seconds=seconds,
        tokens_per_second=tokens / seconds if tokens is not None and seconds else None,
        job_seconds=job.get("s"),
        cpu_seconds=job.get("cpu_time"),
        peak_memory_mib=job.get("max_rss"),
        energy_joules=_energy(folder / "checkpoints" / facts["fingerprint"] / "energy.json"),
    )


def _trained(path: Path) -> tuple[int, float | None, float | None]:
    """(updates, mean target tokens of an update, seconds) of a metrics file."""
    records = list(read_metrics(path))
    if not records:
        raise TrainingError("no update was recorded", where=path)
    previous, counted, tokens = 0, 0, 0.0
    for record in records:
        if record["kind"] != "train":
            continue
        made, previous = record["update"] - previous, record["update"]
        if "tokens_per_update" in record:
            counted, tokens = counted + made, tokens + made * float(record["tokens_per_update"])
    seconds = [float(record["seconds"]) for record in records if "seconds" in record]
    return (
        max(record["update"] for record in records),
        tokens / counted if counted else None,
        max(seconds) if seconds else None,
    )


def _masks(folder: Path, directions: Sequence[str]) -> tuple[int, int, float]:
    """(bytes, bits, mean share kept) of the masks of all directions."""
    size, bits = 0, 0
    kept: list[float] = []
    for direction in directions:
        path = folder / f"{direction}.safetensors"
        masks = read_masks(path)
        size += path.stat().st_size
        bits += sum(masks.shapes.values())
        kept += masks.kept.values()
    return size, bits, fmean(kept)


def _benchmark(path: Path) -> dict[str, float]:
    """The last row of a benchmark file of Snakemake; nothing where it is missing (``-``: not measured)."""
    if not path.is_file():
        return {}
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    values = {}
    for key, text in (rows[-1] if rows else {}).items():
        try:
            values[key] = float(text)
        except (TypeError, ValueError):
            continue
    return values


def _energy(path: Path) -> float | None:
    return float(read_json(path)["joules"]) if path.is_file() else None


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{4 if name == 'kept' else 1}f}" if isinstance(value, float) else str(value)


def write_costs_csv(path: str | Path, costs: Sequence[Cost]) -> None:
    """Write one row a run; ``from`` is the run it goes on from."""
    names = [field.name for field in fields(Cost)]
    with atomic_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["from" if name == "init" else name for name in names])
        for cost in costs:
            writer.writerow([_text(name, value) for name, value in asdict(cost).items()])


_COLUMNS = {
    "parameters": "parameters trained",
    "mask_bits": "mask bits",
    "mask_bytes": "mask files, bytes",
    "kept": "neurons kept",
    "updates": "updates",
    "tokens": "target tokens",
    "training_seconds": "training, s",
    "tokens_per_second": "tokens/s",
    "peak_memory_mib": "peak memory, MiB",
    "energy_joules": "energy, J",
}


def write_costs_markdown(path: str | Path, costs: Sequence[Cost]) -> None:
    """Write one row a system: means over its seeds, ± sample standard deviation of what varies."""
    by_system: dict[str, list[Cost]] = {}
    for cost in costs:
        by_system.setdefault(cost.system, []).append(cost)
    lines = ["# Costs", "", "| system | seeds | " + " | ".join(_COLUMNS.values()) + " |"]
    lines.append("| --- |" + " ---: |" * (len(_COLUMNS) + 1))
    for system, runs in by_system.items():
        cells = [_cell(name, [getattr(cost, name) for cost in runs]) for name in _COLUMNS]
        lines.append(f"| {system} | {len(runs)} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note}" for note in notes(costs))]
    with atomic_text(path) as handle:
        handle.write("\n".join(lines) + "\n")


def _cell(name: str, values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    if len(present) < len(values):
        return "–"
    decimals = 3 if name == "kept" else 0
    text = f"{fmean(present):,.{decimals}f}"
    if len(set(present)) > 1:
        text += f" ± {stdev(present):,.{decimals}f}"
    return text


def notes(costs: Sequence[Cost]) -> list[str]:
    """What a reader of the table must know; among it whether the specialised systems had equal training."""
    lines = []
    specialised = [cost for cost in costs if cost.init]
    if len(specialised) > 1:
        updates = sorted({cost.updates for cost in specialised})
        by_seed: dict[int | None, list[int]] = {}
        for cost in specialised:
            by_seed.setdefault(cost.seed, []).append(cost.tokens or 0)
        equal = f"{updates[0]:,}" if len(updates) == 1 else f"**{updates[0]:,} to {updates[-1]:,}**"
        line = f"Systems that go on from a baseline made {equal} updates each"
        if all(min(tokens) > 0 for tokens in by_seed.values()):
            # systems of one seed are compared; seeds draw different text
            most = max(max(tokens) / min(tokens) - 1 for tokens in by_seed.values())
            line += f"; the most target tokens are {most:.1%} above the fewest under a seed"
        lines.append(line + ".")
    lines.append("Costs of a system that goes on from another are its own, on top of the other's.")
    lines.append("Every parameter of the model is trained; masks add one bit a neuron and direction.")
    lines.append("Peak memory is that of the job with all its processes, as Snakemake measures it.")
    if any(cost.energy_joules is not None for cost in costs):
        lines.append("Energy is that of the whole machine while the system trained (powercap counters).")
    return lines
