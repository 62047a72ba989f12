"""Perplexity of each direction over training, and how much lower its loss is than a control's.

Read from the ``valid`` records of metrics.jsonl (``nll_by_direction``, bits a target token on the validation
text). A direction that suffers less from the others has the lower loss: gap = nll(control) − nll(system).
Whatever else lowers the loss shows in it, too; interference itself is measured against a model of the
direction alone. Only models of equal training have a gap: what more updates gain is no interference.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from neuron_specialization.evaluation.means import controls_of
from neuron_specialization.evaluation.tables import ALL, DirectionGroup, direction_sets
from neuron_specialization.run_names import split_run
from neuron_specialization.storage.files import atomic_text
from neuron_specialization.training.curves import TrainingRun, finished_run, read_runs


@dataclass(frozen=True)
class RunLosses:
    """The validation losses of a run.

    Attributes:
        training: the run.
        losses: update → direction → bits a target token.
    """

    training: TrainingRun
    losses: dict[int, dict[str, float]]

    @property
    def run(self) -> str:
        """Its name."""
        return self.training.system

    @property
    def start_and_updates(self) -> tuple[str | None, int]:
        """What it went on from (a checksum), and how many updates it made: equal where runs compare."""
        return self.training.init_sha256, max(
            (record["update"] for record in self.training.records), default=0
        )

    def at_published(self, directions: Sequence[str]) -> list[float] | None:
        """The losses of the published model, or None where one is not known."""
        found = self.losses.get(self.training.updates or 0, {})
        return [found[name] for name in directions] if all(name in found for name in directions) else None


def read_losses(training: Path, runs: Sequence[str]) -> list[RunLosses]:
    """Read the losses of runs.

    Args:
        training: holds ``<run>/metrics.jsonl`` and ``model.json``.
        runs: which.

    Raises:
        TrainingError: a run is not finished.
    """
    for run in runs:
        finished_run(training, run)
    result = []
    for found in read_runs(training, runs):
        losses = {
            record["update"]: {name: float(value) for name, value in record["nll_by_direction"].items()}
            for record in found.records
            if record["kind"] == "valid" and "nll_by_direction" in record
        }
        result.append(RunLosses(found, losses))
    return result


def write_perplexity_csv(
    path: str | Path, runs: Sequence[RunLosses], groups: Sequence[DirectionGroup], seed: int | None
) -> None:
    """Write one row per run, direction and validation (docs/architecture.md has the columns)."""
    fields = ["system", "seed", "direction", "group", "tier", "branch"]
    with atomic_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*fields, "update", "nll", "perplexity", "published", "from", "start"])
        for run in runs:
            system, own_seed = split_run(run.run)
            shown = seed if own_seed is None else own_seed
            origin = run.training.origin
            start = [split_run(origin.system)[0] if origin else "", run.training.start]
            for row in groups:
                for update, losses in sorted(run.losses.items()):
                    if row.direction in losses:
                        nll = losses[row.direction]
                        place = [system, shown, row.direction, row.group, row.tier, row.branch]
                        loss = [f"{nll:.4f}", f"{2**nll:.3f}", int(update == run.training.updates)]
                        writer.writerow([*place, update, *loss, *start])


@dataclass(frozen=True)
class Gap:
    """How much lower a system's loss is than a control's, in bits a target token; > 0: it is lower.

    ``gap`` is the mean over seeds, ``sd`` their sample standard deviation (None for one). ``direction`` is
    ``all`` for the mean over a set of directions.
    """

    system: str
    control: str
    direction: str
    group: str
    tier: str
    branch: str
    gap: float
    sd: float | None
    seeds: int


def interference(
    runs: Sequence[RunLosses],
    groups: Sequence[DirectionGroup],
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Gap]:
    """Return the gaps of systems to their controls, for each direction and each set of directions.

    Only runs of one seed are compared, that went on from the same model (or both from scratch) for as many
    updates; a gap is given where all of these have their losses.

    Args:
        runs: of all systems and seeds.
        groups: the directions.
        pairs: (system, control); default: every system with the controls of the tables.
    """
    by_system: dict[str, dict[int | None, RunLosses]] = {}
    for run in runs:
        system, seed = split_run(run.run)
        by_system.setdefault(system, {})[seed] = run
    if pairs is None:
        pairs = [(one, other) for other in controls_of(by_system) for one in by_system if one != other]
    sets = [(ALL, group, tier, branch, rows) for group, tier, branch, rows in direction_sets(groups)]
    sets += [(row.direction, row.group, row.tier, row.branch, [row]) for row in groups]
    gaps = []
    for system, control in pairs:
        ours, theirs = by_system.get(system, {}), by_system.get(control, {})
        compared = [
            (run, theirs[seed])
            for seed, run in ours.items()
            if seed in theirs and run.start_and_updates == theirs[seed].start_and_updates
        ]
        for direction, group, tier, branch, rows in sets:
            names = [row.direction for row in rows]
            found = [_gap(run, other, names) for run, other in compared]
            values = [value for value in found if value is not None]
            if values and len(values) == len(found):
                sd = stdev(values) if len(values) > 1 else None
                place = (system, control, direction, group, tier, branch)
                gaps.append(Gap(*place, fmean(values), sd, len(values)))
    return gaps


def _gap(run: RunLosses, control: RunLosses, directions: Sequence[str]) -> float | None:
    ours, theirs = run.at_published(directions), control.at_published(directions)
    return None if ours is None or theirs is None else fmean(theirs) - fmean(ours)


def write_interference_csv(path: str | Path, gaps: Sequence[Gap]) -> None:
    """Write the gaps, a row each."""
    with atomic_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        place = ["system", "control", "direction", "group", "tier", "branch"]
        writer.writerow([*place, "gap", "gap_sd", "seeds"])
        for gap in gaps:
            sd = "" if gap.sd is None else f"{gap.sd:.4f}"
            writer.writerow([*(getattr(gap, name) for name in place), f"{gap.gap:.4f}", sd, gap.seeds])
