"""What the service tells of its directions: languages, and the share of neurons that each uses per layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_specialization.errors import TranslationError
from neuron_specialization.export.bundle import Bundle
from neuron_specialization.export.model_directory import DENSE, find_models, read_provenance


def describe_directions(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return a description of every direction that a bundle, a model or a folder of models translates.

    Each has ``source``, ``target``, ``masked``, ``share`` (of all neurons, in (0, 1]) and ``layers``: a list
    of ``layer``, ``kept``, ``of``, ``share``. Models exported before widths were recorded have no layers.

    Raises:
        TranslationError: see Translator.load; or the models translate segmented text, which nobody types.
    """
    if Bundle.is_one(path):
        bundle = Bundle(path)
        _refuse_pieces(bundle.facts, path)
        models = bundle.facts["models"]
        return {
            str(direction): _describe(
                str(direction), models.get(str(direction)) or models[DENSE], bundle.facts["d_ff"]
            )
            for direction in bundle.directions
        }
    described = {}
    for direction, folder in find_models(path).items():
        provenance = read_provenance(folder)
        _refuse_pieces(provenance, folder)
        described[str(direction)] = _describe(str(direction), provenance, provenance.get("d_ff"))
    return described


def model_name(path: str | Path) -> str:
    """What the model is called: its system, or else its folder."""
    if Bundle.is_one(path):
        facts = Bundle(path).facts
    else:
        facts = read_provenance(next(iter(find_models(path).values())))
    return str(facts.get("system") or Path(path).resolve().name)


def _refuse_pieces(facts: Mapping[str, Any], folder: str | Path) -> None:
    if facts.get("input_format") == "pieces":
        raise TranslationError(
            "the model was exported without a SentencePiece model: it translates segmented text only",
            where=folder,
            cause="the service takes text as it is typed, and cannot segment it for this model",
            hint="export it with its SentencePiece model; or: translate --input-format pieces",
        )


def _describe(name: str, model: Mapping[str, Any], widths: Mapping[str, int] | None) -> dict[str, Any]:
    source, target = name.split("-")
    mask = model.get("mask")
    kept: Mapping[str, int] = model.get("neurons") or {}
    layers = [
        {"layer": layer, "kept": kept[layer], "of": width, "share": round(kept[layer] / width, 4)}
        for layer, width in (widths or {}).items()
    ]
    share = sum(kept.values()) / sum(widths.values()) if widths else (mask or {}).get("kept", 1.0)
    return {
        "direction": name,
        "source": source,
        "target": target,
        "masked": mask is not None,
        "share": round(share, 4),
        "layers": layers,
    }
