"""From which checkpoint a training goes on. A damaged one is set aside: not trusted, not silently lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.files import atomic_path
from neuron_specialization.storage.safe_loading import check_intact, read_state

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


def fit_to_processes(path: Path, processes: int, say: Callable[[str], None]) -> None:
    """Make a checkpoint one that so many processes can go on from, if another number of them wrote it.

    fairseq deals the batches of an epoch out to the processes in turn, and a checkpoint says how many each of
    them has had. Of other processes each would go on at another place of the epoch: text would be trained
    on twice or left out, or the place be behind the end.

    Args:
        path: the checkpoint; it is replaced if need be.
        processes: how many will go on.
        say: told of it.

    Raises:
        TrainingError: the batches that were had cannot be shared equally by so many processes.
    """
    state = read_state(path, mmap=True)
    # what is not there was not written by a fairseq that counts so
    settings: dict[str, Any] = (state.get("cfg") or {}).get("distributed_training") or {}
    place: dict[str, Any] = state["extra_state"].get("train_iterator") or {}
    before, had = settings.get("distributed_world_size"), place.get("iterations_in_epoch")
    if not before or not had or before == processes:
        return
    batches = before * had
    if batches % processes:
        raise TrainingError(
            f"{_processes(before)} trained here, on {batches} batches of an epoch so far, which {processes}"
            " cannot take over: they would not have had the same number of them",
            where=path,
            cause="the training was stopped, and started again with other threads or GPUs",
            hint=f"give it {_processes(before)} again (threads or gpu of the training, in the profile),"
            " and run the same command: it resumes",
        )
    settings["distributed_world_size"], place["iterations_in_epoch"] = processes, batches // processes
    import torch

    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    say(f"{_processes(before)} trained here, {processes} will: they go on after batch {batches} of an epoch")


def _processes(number: int) -> str:
    return f"{number} process{'es' if number > 1 else ''}"


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
