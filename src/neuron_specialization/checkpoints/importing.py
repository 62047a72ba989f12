"""Models of others, made into a ``model.pt``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuron_specialization.checkpoints.checkpoint import load_checkpoint, plain_state, write_model
from neuron_specialization.storage.files import sha256_of, write_json


def import_model(
    source: Path,
    output: Path,
    *,
    system: str = "imported",
    masks: Path | None = None,
    languages: Sequence[str] | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Write a model in our format, and its facts as ``<output>`` with the suffix ``.json``.

    Args:
        source: a checkpoint of fairseq, of the reference implementation, or of ours.
        output: the ``model.pt`` to write.
        system: what to call it.
        masks: folder of ``<direction>.safetensors`` to put into the model.
        languages: in the order of their tags, where the checkpoint does not say.
        unsafe: load pickles that run code (see safe_loading.read_state).

    Returns:
        What the JSON file holds: the keys of model.json, and ``kind`` and ``mask_files`` of the source.

    Raises:
        CheckpointError: see load_checkpoint.
        MaskError: a mask is missing or does not fit.
    """
    checkpoint = load_checkpoint(source, languages=languages, unsafe=unsafe)
    inputs = {"checkpoint": sha256_of(source)}
    if masks is not None:
        from neuron_specialization.storage.layer_masks import read_all_masks

        found = read_all_masks(masks, checkpoint.directions, shapes=checkpoint.layer_widths)
        checkpoint = replace(checkpoint, masks=found)
    provenance = {
        **checkpoint.provenance,
        "system": system,
        "imported_from": checkpoint.kind,
        "inputs": {**checkpoint.provenance.get("inputs", {}), **inputs},
    }
    write_model(output, plain_state(checkpoint, provenance=provenance))
    facts = {
        "system": system,
        "recipe": checkpoint.provenance.get("recipe"),
        "fingerprint": checkpoint.provenance.get("fingerprint"),
        "inputs": inputs,
        "model_sha256": sha256_of(output),
        "updates": checkpoint.updates,
        "valid_loss": checkpoint.valid_loss,
        "parameters": checkpoint.parameter_count,
        "languages": checkpoint.languages,
        "directions": checkpoint.directions,
        "kind": checkpoint.kind,
        "mask_files": checkpoint.mask_files,
    }
    write_json(output.with_suffix(".json"), facts)
    return facts
