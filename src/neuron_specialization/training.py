"""Training one system: start or resume the trainer, watch it, and publish its best model.

Layout of a system's folder::

    training/<system>/
      model.pt  model.json  metrics.jsonl        published when the run has ended
      checkpoints/
        lock                                     held by the wrapper and by the trainer it started
        <fingerprint>/                           hash of the recipe and of its inputs' checksums
          run.json       what is trained here, written before anything else
          checkpoint_{last,best}.pt, checkpoint_<epoch>_<update>.pt      fairseq's own
          metrics.jsonl  train.log
          finished.json  the trainer ended by itself: there is nothing left to train

The fingerprint keeps runs of different recipes apart; a rule never declares the folder as an output, since
a workflow engine deletes those before it tries again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from neuron_specialization.config import Recipe
from neuron_specialization.errors import TrainingError
from neuron_specialization.files import hash_of, read_json, sha256_of, write_json
from neuron_specialization.locks import FileLock, claim_gpus, lock_training
from neuron_specialization.progress import MetricsFile, ProgressDisplay
from neuron_specialization.resume import ResumePoint, newest_saved, prepare_resume
from neuron_specialization.trainer_arguments import (
    DEFAULT_TRAINER,
    Resources,
    trainer_arguments,
    trainer_environment,
)
from neuron_specialization.trainer_process import Outcome, run_trainer


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, from what, and where.

    Attributes:
        recipe: what decides the result.
        inputs: name → SHA-256 of what it is trained from (``data``, and ``init``, ``masks`` if used).
        output: the system's folder.
    """

    recipe: Recipe
    inputs: dict[str, str]
    output: Path

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint(**self.inputs)

    @property
    def checkpoints(self) -> Path:
        """The folder of all runs of this system."""
        return self.output / "checkpoints"

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        return self.checkpoints / self.fingerprint

    def description(self) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "fingerprint": self.fingerprint,
            "recipe": self.recipe.model_dump(mode="json"),
            "inputs": self.inputs,
        }


def train(
    recipe: Recipe,
    data_bin: Path,
    output: Path,
    *,
    init: Path | None = None,
    masks: Path | None = None,
    resources: Resources | None = None,
    trainer: Sequence[str] = DEFAULT_TRAINER,
    stream: TextIO | None = None,
    discard_unfinished: bool = False,
) -> dict[str, Any]:
    """Train a system to its end and publish it; resume what an earlier call left unfinished.

    Args:
        recipe: what is trained (see config.recipe_of).
        data_bin: binarised data with its manifest.json.
        output: the system's folder (see the module's text).
        init: the ``model.pt`` of the system this one goes on from.
        masks: folder of ``<direction>.safetensors``, one for each direction.
        resources: what of the machine is used.
        trainer: command that takes fairseq-train's arguments.
        stream: where progress is shown; default: standard error.
        discard_unfinished: delete unfinished runs of other recipes instead of refusing to start.

    Returns:
        The content of model.json.

    Raises:
        TrainingError: it cannot start, resume or go on; the message says what to do.
    """
    resources = resources or Resources()
    stream = stream or sys.stderr
    run = Run(recipe, input_checksums(recipe, data_bin, init, masks), output)
    arguments = trainer_arguments(recipe, data_bin, run.folder, resources=resources, init=init, masks=masks)
    with lock_training(run.checkpoints / "lock") as lock:
        _refuse_other_runs(run, discard_unfinished)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "run.json", run.description())
        display = ProgressDisplay(stream, recipe.system, recipe.training.max_updates)
        try:
            if not (run.folder / "finished.json").is_file():
                point = prepare_resume(run.folder, display.note)
                if point is None or point.updates < recipe.training.max_updates:
                    _train(run, arguments, point, lock, display, resources=resources, trainer=trainer)
                else:
                    write_json(run.folder / "finished.json", {"updates": point.updates})
            from neuron_specialization.publishing import publish

            return publish(run.folder, run.output, recipe, run.inputs)
        finally:
            display.close()


def _train(
    run: Run,
    arguments: list[str],
    point: ResumePoint | None,
    lock: FileLock,
    display: ProgressDisplay,
    *,
    resources: Resources,
    trainer: Sequence[str],
) -> None:
    metrics = MetricsFile(run.folder / "metrics.jsonl")
    metrics.forget_after(point.updates if point else 0)
    _say_what_runs(run, point, resources, display)
    gpus = claim_gpus(resources.gpus, os.environ)
    try:
        outcome = run_trainer(
            [*trainer, *arguments],
            environment=trainer_environment(os.environ, resources=resources, devices=gpus.devices),
            log_path=run.folder / "train.log",
            lock=lock,
            keep_open=gpus.descriptors,
            metrics=metrics,
            display=display,
        )
    finally:
        gpus.release()
    _judge(run, outcome, metrics)
    write_json(
        run.folder / "finished.json",
        {"updates": _last_update(metrics), "stopped_early": outcome.log.stopped_early},
    )


def _say_what_runs(
    run: Run, point: ResumePoint | None, resources: Resources, display: ProgressDisplay
) -> None:
    recipe = run.recipe
    place = f"{resources.gpus} GPU{'s' if resources.gpus > 1 else ''}" if resources.gpus else "CPU"
    start = f"resuming at update {point.updates:,}" if point else "training"
    display.note(
        f"{start}: {len(recipe.directions)} directions, {recipe.training.max_updates:,} updates on"
        f" {place}; log: {run.folder / 'train.log'}"
    )


def _last_update(metrics: MetricsFile) -> int:
    return max((int(record["update"]) for record in metrics.records), default=0)


def _judge(run: Run, outcome: Outcome, metrics: MetricsFile) -> None:
    """Raise what went wrong, if anything did."""
    log = outcome.log
    log_file = run.folder / "train.log"
    update = max(_last_update(metrics), log.loaded_at or 0)
    saved = max(log.saved_at or 0, log.loaded_at or 0, newest_saved(run.folder))
    resumes = (
        f"the same command resumes at update {saved:,}"
        if saved
        else "the same command starts again: nothing was saved yet"
    )
    if outcome.diverged is not None or log.failure is not None:
        reason = outcome.diverged or log.failure
        directions = f", direction {', '.join(log.failed_directions)}" if log.failed_directions else ""
        raise TrainingError(
            f"training diverged after update {update:,}{directions}: {reason}",
            where=log_file,
            cause="the learning rate is too high for this model and batch, the warm-up too short,"
            " or a weight overflowed in half precision",
            hint="lower training.lr or raise training.warmup_updates (a new run), or train in fp32",
        )
    if outcome.signal_received is not None:
        raise TrainingError(
            f"training was stopped by {outcome.signal_received} after update {update:,}",
            where=run.folder,
            hint=resumes,
        )
    if outcome.exit_code != 0:
        raise TrainingError(
            f"the trainer ended with {outcome.exit_text} after update {update:,}; its last words:\n"
            + "\n".join(f"    {line}" for line in list(log.tail)[-15:]),
            where=log_file,
            cause=_likely_cause(list(log.tail), outcome.exit_code),
            hint=resumes,
        )


def _likely_cause(tail: list[str], exit_code: int) -> str | None:
    text = "\n".join(tail)
    for sign, cause in (
        ("No space left on device", "the disk is full"),
        ("Disk quota exceeded", "the disk quota is used up"),
        ("file write failed", "the disk is full"),
        ("PytorchStreamWriter failed", "the disk is full"),
        ("CUDA out of memory", "the GPU's memory is too small for training.max_tokens"),
        (
            "DefaultCPUAllocator: can't allocate memory",
            "the machine's memory is too small for training.max_tokens",
        ),
        ("CUDA error", "the GPU or its driver failed"),
        ("NCCL", "the GPUs could not talk to each other"),
        ("exceeds max_tokens", "a segment is longer than training.max_tokens"),
        ("No module named", "the environment is not complete: make env"),
    ):
        if sign in text:
            return cause
    if exit_code == -9:
        return "it was killed: by hand, by the scheduler, or by the system for lack of memory"
    return None


# ---- inputs ----


def input_checksums(recipe: Recipe, data_bin: Path, init: Path | None, masks: Path | None) -> dict[str, str]:
    """Return name → SHA-256 of what a run is trained from.

    The data counts by its manifest, which holds the checksum of each of its files; a data-bin made elsewhere
    has none and counts by the names and sizes of its files.

    Raises:
        TrainingError: an input is missing, naming it.
    """
    if not data_bin.is_dir():
        raise TrainingError("the binarised data is missing", where=data_bin, hint="run the binarize stage")
    manifest = data_bin / "manifest.json"
    if manifest.is_file():
        inputs = {"data": hash_of(read_json(manifest))}
    else:
        files = sorted(path for path in data_bin.rglob("*") if path.is_file())
        inputs = {"data": hash_of([[str(path.relative_to(data_bin)), path.stat().st_size] for path in files])}
    _check_data(recipe, data_bin)
    if init is not None:
        if not init.is_file():
            raise TrainingError(
                "the model to go on from is missing", where=init, hint="train its system first"
            )
        inputs["init"] = sha256_of(init)
    if masks is not None:
        missing = [name for name in recipe.masked_directions if not (masks / f"{name}.safetensors").is_file()]
        if missing:
            raise TrainingError(
                f"no mask for {', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}",
                where=masks,
                hint="every direction that is trained needs one: run the masks stage for them",
            )
        inputs["masks"] = hash_of(
            {name: sha256_of(masks / f"{name}.safetensors") for name in recipe.masked_directions}
        )
    return inputs


def _check_data(recipe: Recipe, data_bin: Path) -> None:
    """Refuse data that lacks what the recipe trains on, before anything is started."""
    folders = [data_bin] if recipe.shards == 1 else [data_bin / f"shard{i}" for i in range(recipe.shards)]
    used = {code for direction in recipe.directions for code in direction.split("-")}
    for code in sorted(used):
        if not (folders[0] / f"dict.{code}.txt").is_file():
            raise TrainingError(
                f"the binarised data has no dictionary for {code}",
                where=folders[0] / f"dict.{code}.txt",
                hint="binarise it again with this configuration",
            )
    names = {path.name for folder in folders for path in folder.glob("*.idx")}
    for split in ("train", "valid"):
        missing = []
        for direction in recipe.directions:
            source, target = direction.split("-")
            found = any(
                {f"{split}.{pair}.{source}.idx", f"{split}.{pair}.{target}.idx"} <= names
                for pair in (direction, f"{target}-{source}")
            )
            if not found:
                missing.append(direction)
        if missing:
            raise TrainingError(
                f"the binarised data has no {split} text for {', '.join(missing[:8])}"
                f"{' …' if len(missing) > 8 else ''}",
                where=data_bin,
                hint="binarise it again with this configuration, or take the directions out of it",
            )


# ---- other runs of the same system ----


def _refuse_other_runs(run: Run, discard: bool) -> None:
    """Keep an unfinished run of another recipe from being forgotten, and a changed one from being resumed."""
    for folder in sorted(path for path in run.checkpoints.glob("*") if path.is_dir()):
        description = _read_description(folder)
        if description is None:
            continue
        same_folder = folder == run.folder
        differing = differences(description, run.description())
        if not differing or (not same_folder and not _is_unfinished(folder)):
            continue
        if discard:
            shutil.rmtree(folder)
            continue
        if same_folder:
            raise TrainingError(
                "the checkpoints here were made by another recipe than their run.json should say:"
                f" {'; '.join(differing)}",
                where=folder / "run.json",
                cause="run.json was edited",
                hint=f"put it right, or delete the run: rm -r {folder}",
            )
        raise TrainingError(
            f"an unfinished training of {run.recipe.system!r} was started with other settings:"
            f" {'; '.join(differing)}",
            where=folder,
            cause="the configuration or an input changed half-way",
            hint=f"change it back and run again, which resumes; or give that run up: rm -r {folder};"
            " or keep both by giving the new one another experiment: name",
        )


def _read_description(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def _is_unfinished(folder: Path) -> bool:
    return not (folder / "finished.json").is_file() and any(folder.glob("checkpoint*.pt"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe how two run descriptions differ, ``training.lr: 0.005 → 0.004``; inputs by name alone."""
    before, after = _flatten(old.get("recipe", {})), _flatten(new.get("recipe", {}))
    lines = [
        f"{key}: {_shown(before.get(key))} → {_shown(after.get(key))}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    inputs = old.get("inputs", {}), new.get("inputs", {})
    names = {"data": "the binarised data", "init": "the model it goes on from", "masks": "the masks"}
    lines += [
        f"{names.get(name, name)} changed"
        for name in dict.fromkeys([*inputs[0], *inputs[1]])
        if inputs[0].get(name) != inputs[1].get(name)
    ]
    return lines


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            name: item
            for key, child in value.items()
            for name, item in _flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
