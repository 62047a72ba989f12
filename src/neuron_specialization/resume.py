"""From which checkpoint a training goes on. A damaged one is set aside: not trusted, not silently lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_specialization.errors import TrainingError
from neuron_specialization.files import atomic_path
from neuron_specialization.safe_loading import check_intact, read_state

LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
_INTERVAL = re.compile(r"checkpoint_(\d+)_(\d+)\.pt")


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint the trainer will go on from: its file and the updates it has made."""

    path: Path
    updates: int


def interval_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints saved every so many updates, newest first."""
    found = [(int(match[2]), path) for path in folder.iterdir() if (match := _INTERVAL.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_saved(folder: Path) -> int:
    """The update up to which a run is saved, going by file names alone; 0 if it is not."""
    intervals = interval_checkpoints(folder)
    if not intervals or not (folder / LAST).is_file():
        return 0
    return int(intervals[0].stem.rpartition("_")[2])


def prepare_resume(folder: Path, say: Callable[[str], None]) -> ResumePoint | None:
    """Make ``checkpoint_last.pt`` one that the trainer can read, and say from where it will go on.

    Every byte of checkpoint_last is checked. If it is damaged (the machine went down while it was written),
    it is renamed to ``checkpoint_last.pt.damaged`` and the newest intact interval checkpoint takes its place.

    Args:
        folder: the run's folder.
        say: told about anything out of the ordinary.

    Returns:
        Where training goes on, or None for a start from the beginning: there is no checkpoint at all.

    Raises:
        TrainingError: there are checkpoints, and none of them can be read.
    """
    # left by a kill while saving, or by a crash: as large as a checkpoint, and never resumed from
    for stale in (*folder.glob("*.pt.tmp"), folder / "crash.pt"):
        stale.unlink(missing_ok=True)
    last, others = folder / LAST, interval_checkpoints(folder)
    if last.is_file():
        wrong = check_intact(last)
        if wrong is None:
            return ResumePoint(last, updates_of(last))
        say(f"{LAST} is damaged ({wrong}): kept as {LAST}.damaged")
        last.replace(folder / f"{LAST}.damaged")
    elif not others and not (folder / f"{LAST}.damaged").exists():
        return None
    for path in others:
        wrong = check_intact(path)
        if wrong is None:
            with atomic_path(last) as temporary:
                shutil.copyfile(path, temporary)
            point = ResumePoint(last, updates_of(last))
            say(f"going back to {path.name}, update {point.updates:,}: later updates are made again")
            return point
        say(f"{path.name} is damaged, too ({wrong})")
    raise TrainingError(
        "no checkpoint of this run can be read, and starting from zero would discard it silently",
        where=folder,
        cause="a disk error, or a disk that was full while they were written",
        hint=f"restore one from a backup as {LAST}; or give the run up and start again: rm -r {folder}",
    )


def updates_of(path: Path) -> int:
    """Return the number of updates a training checkpoint has behind it."""
    return int(training_state(path)["num_updates"])


def training_state(path: Path) -> dict[str, Any]:
    """Return ``num_updates``, ``val_loss`` and ``best`` of a training checkpoint; parameters are not read.

    Raises:
        CheckpointError: damaged or unsafe.
        TrainingError: not a training checkpoint of fairseq.
    """
    state = read_state(path, mmap=True)
    try:
        extra = state["extra_state"]
        return {
            "num_updates": int(state["optimizer_history"][-1]["num_updates"]),
            "val_loss": extra.get("val_loss"),
            "best": extra.get("best"),
        }
    except (KeyError, IndexError, TypeError, AttributeError):
        raise TrainingError("not a training checkpoint of fairseq", where=path) from None
