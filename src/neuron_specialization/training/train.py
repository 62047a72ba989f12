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
          energy.json      where the machine tells it
          finished.json  the trainer ended by itself: there is nothing left to train

The fingerprint keeps runs of different recipes apart; a rule never declares the folder as an output, since
a workflow engine deletes those before it tries again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from neuron_specialization.config import Recipe
from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.files import write_json
from neuron_specialization.storage.locks import FileLock, claim_gpus, lock_training
from neuron_specialization.training.arguments import (
    DEFAULT_TRAINER,
    Resources,
    trainer_arguments,
    trainer_environment,
)
from neuron_specialization.training.devices import require_gpus
from neuron_specialization.training.energy import metered
from neuron_specialization.training.launch import check_allocation, meeting_place, trainer_commands
from neuron_specialization.training.process import Outcome, run_trainer
from neuron_specialization.training.progress import MetricsFile, ProgressDisplay
from neuron_specialization.training.resume import (
    LAST,
    ResumePoint,
    fit_to_processes,
    newest_saved,
    prepare_resume,
    updates_of,
)
from neuron_specialization.training.runs import (
    Run,
    begun_by_an_earlier_version,
    input_checksums,
    refuse_other_runs,
)


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
    run = begun_by_an_earlier_version(run, data_bin)
    arguments = trainer_arguments(recipe, data_bin, run.folder, resources=resources, init=init, masks=masks)
    check_allocation(resources, os.environ)
    require_gpus(resources.gpus_per_node, who=f"the training of {recipe.system}")
    with lock_training(run.checkpoints / "lock") as lock:
        refuse_other_runs(run, discard_unfinished)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "run.json", run.description())
        display = ProgressDisplay(stream, recipe.system, recipe.training.max_updates)
        try:
            if not (run.folder / "finished.json").is_file():
                point = prepare_resume(run.folder, display.note)
                if point is None or point.updates < recipe.training.max_updates:
                    if point is not None:
                        processes = resources.processes(recipe.training.micro_batches)
                        fit_to_processes(point.path, processes, display.note)
                    _train(run, arguments, point, lock, display, resources=resources, trainer=trainer)
                else:
                    write_json(run.folder / "finished.json", {"updates": point.updates})
            from neuron_specialization.training.publishing import publish

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
    processes = resources.started(run.recipe.training.micro_batches)
    _say_what_runs(run, point, resources, processes, display)
    gpus = claim_gpus(resources.gpus_per_node, os.environ)
    try:
        with (
            metered(run.folder / "energy.json", resumed=point is not None),
            meeting_place() as rendezvous,
        ):
            outcome = run_trainer(
                trainer_commands(
                    trainer, arguments, processes, rendezvous, resources=resources, environment=os.environ
                ),
                environment=trainer_environment(
                    os.environ, resources=resources, processes=processes, devices=gpus.devices
                ),
                log_path=run.folder / "train.log",
                lock=lock,
                keep_open=gpus.descriptors,
                metrics=metrics,
                display=display,
            )
    finally:
        gpus.release()
    updates = _judge(run, outcome, metrics)
    write_json(run.folder / "finished.json", {"updates": updates, "stopped_early": outcome.log.stopped_early})
    (run.folder / f"{LAST}.damaged").unlink(missing_ok=True)


def _say_what_runs(
    run: Run, point: ResumePoint | None, resources: Resources, processes: int, display: ProgressDisplay
) -> None:
    recipe = run.recipe
    place = f"{resources.gpus} GPU{'s' if resources.gpus > 1 else ''}" if resources.gpus else "CPU"
    place += f" ({processes} processes)" if processes > 1 and not resources.gpus else ""
    place += f" of {resources.nodes} nodes" if resources.nodes > 1 else ""
    start = f"resuming at update {point.updates:,}" if point else "training"
    display.note(
        f"{start}: {len(recipe.directions)} directions, {recipe.training.max_updates:,} updates on"
        f" {place}; log: {run.folder / 'train.log'}"
    )


def _last_update(metrics: MetricsFile) -> int:
    return max((int(record["update"]) for record in metrics.records), default=0)


def _judge(run: Run, outcome: Outcome, metrics: MetricsFile) -> int:
    """The updates that a trainer which ended well has saved; raise what went wrong, if anything did."""
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
    # a trainer that failed may have left it damaged: the next start deals with that
    last = run.folder / LAST
    updates = updates_of(last) if last.is_file() and (outcome.exit_code == 0 or log.done) else 0
    wanted = run.recipe.training.max_updates
    all_made = updates >= wanted or log.stopped_early
    # Of two processes one was seen to fail after all was trained and saved, most likely because the other
    # had gone: they leave their last barrier one after the other. Nothing is missing then.
    if outcome.exit_code != 0 and not (log.done and all_made):
        raise TrainingError(
            f"the trainer ended with {outcome.exit_text} after update {update:,}; its last words:\n"
            + "\n".join(f"    {line}" for line in outcome.last_words[-15:]),
            where=outcome.log_path,
            cause=_likely_cause(outcome.last_words, outcome.exit_code),
            hint=resumes,
        )
    if not all_made:
        raise TrainingError(
            f"the trainer ended after {updates:,} of {wanted:,} updates without saying why",
            where=log_file,
            hint=f"read the log's end; the same command goes on from update {updates:,}",
        )
    return updates


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
