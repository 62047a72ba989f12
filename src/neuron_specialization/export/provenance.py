"""What an exported model says of itself (``provenance.json``), and the files that every export shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization import __version__
from neuron_specialization.errors import TranslationError
from neuron_specialization.export.model_directory import FORMAT, README
from neuron_specialization.formats.fairseq_conventions import tag_of
from neuron_specialization.storage.files import atomic_text, hash_of, sha256_of, write_json
from neuron_specialization.storage.unfinished import unfinished_folder

if TYPE_CHECKING:
    from neuron_specialization.export.exportable import DirectionMask, System

# of the corpus's manifest: what a model card tells of the data
_OF_THE_CORPUS = ("source", "licence", "citation", "languages", "pairs")


def system_facts(system: System) -> dict[str, Any]:
    """What holds for all models of a system."""
    checkpoint = system.checkpoint
    recipe = checkpoint.provenance.get("recipe")
    manifest = system.manifest
    segments = (manifest or {}).get("splits", {}).get("train", {})
    return {
        "system": system.name,
        "input_format": "pieces" if system.segmentation is None else "text",
        "max_source_positions": int(checkpoint.settings["max_source_positions"]),
        "max_target_positions": int(checkpoint.settings["max_target_positions"]),
        "d_ff": checkpoint.layer_widths,
        "checkpoint": {
            "sha256": system.sha256,
            "kind": checkpoint.kind,
            "updates": checkpoint.updates,
            "parameters": checkpoint.parameter_count,
            "fingerprint": checkpoint.provenance.get("fingerprint"),
            "inputs": checkpoint.provenance.get("inputs"),
        },
        "training": recipe,
        "config_sha256": None if recipe is None else hash_of(recipe),
        "data": None
        if manifest is None
        else {
            **{key: manifest[key] for key in _OF_THE_CORPUS if key in manifest},
            "training_segments": sum(int(pair["segments"]) for pair in segments.values()),
        },
    }


def direction_facts(widths: Mapping[str, int], mask: DirectionMask | None) -> dict[str, Any]:
    """What is one direction's own: ``neurons`` (layer → how many it uses) and ``mask``.

    Args:
        widths: layer → d_ff of the dense model.
        mask: the direction's, None for a dense model.
    """
    if mask is None:
        return {"neurons": dict(widths), "mask": None}
    neurons = {**widths, **mask.neurons}
    return {
        "neurons": neurons,
        "mask": {
            "sha256": mask.sha256,
            "kept": round(sum(neurons.values()) / sum(widths.values()), 6),
            **{key: mask.metadata[key] for key in sorted(mask.metadata) if key not in ("packed", "d_ff")},
        },
    }


def model_provenance(
    facts: Mapping[str, Any],
    own: Mapping[str, Any],
    directions: Sequence[str],
    *,
    quantization: str,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put together the provenance of a model directory; ``files`` is added when they are there.

    Args:
        facts: see system_facts.
        own: see direction_facts.
        directions: what the model translates.
        quantization: how its weights are stored.
        scores: direction → test set → metric → score.
    """
    import ctranslate2

    languages = sorted({code for text in directions for code in text.split("-")})
    known = {name: scores[name] for name in directions if name in scores} if scores else None
    return {
        "format": FORMAT,
        "system": facts["system"],
        "directions": list(directions),
        "languages": languages,
        "input_format": facts["input_format"],
        "tags": {code: tag_of(code) for code in languages},
        "max_source_positions": facts["max_source_positions"],
        "max_target_positions": facts["max_target_positions"],
        "quantization": quantization,
        "d_ff": facts["d_ff"],
        **own,
        **{key: facts[key] for key in ("checkpoint", "training", "config_sha256", "data")},
        "scores": known or None,
        "versions": {"neuron_specialization": __version__, "ctranslate2": ctranslate2.__version__},
    }


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Name → bytes and sha256 of the files of a folder; the model card is left out, anyone may edit it."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.name != README
    }


def describe_folder(
    folder: Path, name: str, facts: Mapping[str, Any], card: Callable[[Mapping[str, Any]], str]
) -> None:
    """Write what a folder says of itself, with the sizes and checksums of its files, and its model card.

    Args:
        folder: holds all other files.
        name: of the description, JSON.
        facts: the description without ``files``.
        card: makes the model card of the whole description.
    """
    description = {**facts, "files": files_of(folder)}
    write_json(folder / name, description)
    with atomic_text(folder / README) as handle:
        handle.write(card(description))


@contextmanager
def written_whole(folder: Path, allowed: set[str]) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``, and move it there when it is complete.

    Args:
        folder: made, or replaced if it holds nothing but ``allowed`` files.
        allowed: what an older export may have left there.

    Raises:
        TranslationError: the place is taken by something else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(folder) as building:
        model = building / "model"
        model.mkdir()
        yield model
        if folder.exists():
            foreign = sorted({path.name for path in folder.iterdir()} - allowed)
            if foreign:
                raise TranslationError(
                    f"the place for the model is taken: {foreign[0]} is no part of an exported model",
                    where=folder,
                    hint="choose another --output, or remove it",
                )
            folder.rename(building / "old")
        model.rename(folder)
