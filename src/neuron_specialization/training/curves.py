"""Learning curves of runs on one time axis: what goes on from another run begins where that one ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_specialization.errors import NeuronSpecializationError, TrainingError
from neuron_specialization.storage.files import read_json
from neuron_specialization.training.progress import read_metrics


@dataclass(frozen=True)
class TrainingRun:
    """What the curves show of one system.

    Attributes:
        system: its name.
        records: of metrics.jsonl.
        init_sha256: checksum of the model it started from, None for a start from scratch.
        model_sha256: checksum of the model it ended with.
        updates: the update of that model, the one with the best validation loss.
        origin: the run whose published model it goes on from, where that one is shown, too.
    """

    system: str
    records: Sequence[Mapping[str, Any]]
    init_sha256: str | None
    model_sha256: str | None
    updates: int | None
    origin: TrainingRun | None = None

    @property
    def start(self) -> int:
        """Where it begins on the time axis: the updates its starting model had behind it."""
        return (self.origin.updates or 0) if self.origin else 0

    @property
    def published(self) -> tuple[int, float] | None:
        """The point of the published model on the validation curve."""
        return next(
            (
                point
                for point in zip(*self.curve("valid"), strict=True)
                if point[0] - self.start == self.updates
            ),
            None,
        )

    def curve(self, kind: str, quantity: str = "nll") -> tuple[list[int], list[float]]:
        """(updates on the time axis, values) of the records of a kind; those not finite left out."""
        found = [
            (self.start + record["update"], record[quantity])
            for record in self.records
            if record["kind"] == kind and isinstance(record.get(quantity), int | float)
        ]
        if kind == "valid" and self.origin and (end := self.origin.published):
            found.insert(0, (self.start, end[1]))
        return [x for x, _ in found], [y for _, y in found]


def read_runs(folder: str | Path, systems: Sequence[str] | None = None) -> list[TrainingRun]:
    """Read the runs below ``R/training``; one that goes on from another starts where that one ended.

    Raises:
        TrainingError: a system has no metrics, or none is there.
    """
    folder = Path(folder)
    if systems is None:
        systems = [path.parent.name for path in sorted(folder.glob("*/metrics.jsonl"))]
    runs = []
    for system in systems:
        path = folder / system / "metrics.jsonl"
        if not path.is_file():
            raise TrainingError(
                f"no metrics of {system}", where=path, hint="train it: snakemake --cores all models"
            )
        records = list(read_metrics(path))
        try:
            facts = read_json(folder / system / "model.json")
        except NeuronSpecializationError:
            facts = {}  # still training
        inputs = facts.get("inputs", {})
        runs.append(
            TrainingRun(system, records, inputs.get("init"), facts.get("model_sha256"), facts.get("updates"))
        )
    if not runs:
        raise TrainingError(
            "no training is here", where=folder, hint="train first: snakemake --cores all models"
        )
    by_model = {run.model_sha256: run for run in runs if run.model_sha256}
    return [replace(run, origin=by_model.get(run.init_sha256 or "")) for run in runs]


def finished_run(training: Path, run: str) -> Path:
    """Return the folder of a run that has ended, with its model's description and its metrics.

    Raises:
        TrainingError: it has not.
    """
    folder = training / run
    if not (folder / "model.json").is_file() or not (folder / "metrics.jsonl").is_file():
        raise TrainingError("this system is not trained yet", where=folder, hint="run the workflow")
    return folder
