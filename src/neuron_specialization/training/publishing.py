"""From a finished run's checkpoints to ``model.pt`` and ``model.json``, what later stages depend on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from neuron_specialization import __version__
from neuron_specialization.checkpoints.checkpoint import load_checkpoint, plain_state, write_model
from neuron_specialization.config import Recipe
from neuron_specialization.errors import CheckpointError, TrainingError
from neuron_specialization.storage.files import atomic_path, sha256_of, write_json
from neuron_specialization.storage.safe_loading import check_intact
from neuron_specialization.training.resume import BEST, LAST, interval_checkpoints, training_state


def publish(folder: Path, output: Path, recipe: Recipe, inputs: dict[str, str]) -> dict[str, Any]:
    """Publish a finished run's best model: ``model.pt``, ``metrics.jsonl`` and, last of all, ``model.json``.

    The same run gives the same bytes however often it is published.

    Args:
        folder: the run's folder.
        output: the system's folder.
        recipe: of the run.
        inputs: its inputs' checksums.

    Returns:
        The content of model.json.

    Raises:
        TrainingError: the run has no readable best checkpoint.
    """
    checkpoint = load_checkpoint(best_checkpoint(folder))
    fingerprint = recipe.fingerprint(**inputs)
    provenance = {
        "version": __version__,
        "system": recipe.system,
        "fingerprint": fingerprint,
        "recipe": recipe.model_dump(mode="json"),
        "inputs": dict(inputs),
    }
    write_model(
        output / "model.pt",
        plain_state(
            checkpoint,
            provenance=provenance,
            sampling_temperature=recipe.training.sampling_temperature,
        ),
    )
    with atomic_path(output / "metrics.jsonl") as temporary:
        shutil.copyfile(folder / "metrics.jsonl", temporary)
    facts = {
        "system": recipe.system,
        "recipe": provenance["recipe"],
        "fingerprint": fingerprint,
        "inputs": dict(inputs),
        "model_sha256": sha256_of(output / "model.pt"),
        "updates": checkpoint.updates,
        "valid_loss": checkpoint.valid_loss,
        "parameters": checkpoint.parameter_count,
        "languages": recipe.languages,
        "directions": recipe.directions,
    }
    write_json(output / "model.json", facts)
    return facts


def best_checkpoint(folder: Path) -> Path:
    """Return the intact checkpoint with the best validation loss.

    That is checkpoint_best; should it be damaged, any other checkpoint saved at the same update.

    Raises:
        TrainingError: there is none.
    """
    candidates = [
        path for path in (folder / BEST, folder / LAST, *interval_checkpoints(folder)) if path.is_file()
    ]
    damage = []
    for path in candidates:
        wrong = check_intact(path)
        if wrong is not None:
            damage.append(f"{path.name}: {wrong}")
            continue
        try:
            state = training_state(path)
        except (CheckpointError, TrainingError) as error:
            damage.append(f"{path.name}: {error.what}")
            continue
        if path.name == BEST or (state["val_loss"] is not None and state["val_loss"] == state["best"]):
            return path
    raise TrainingError(
        "the run has ended and its best checkpoint cannot be read"
        + (f" ({'; '.join(damage)})" if damage else ""),
        where=folder,
        cause="a disk error, or a disk that was full while it was written" if damage else None,
        hint=f"restore {BEST} from a backup, or train again: rm -r {folder}",
    )
