"""From a mask selection to the masks of all directions: reads what they are made from, and says so in them.

Which neurons are chosen is decided by pure functions: ``selection.select`` and methods.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.config import (
    ActivationMasks,
    FamilyMasks,
    MagnitudeMasks,
    MaskSpec,
    RandomMasks,
)
from neuron_specialization.config.mask_selections import k_of
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ConfigError, MaskError
from neuron_specialization.masks import methods
from neuron_specialization.masks.selection import select
from neuron_specialization.storage.files import canonical_json, read_json, sha256_of
from neuron_specialization.storage.layer_masks import BoolVector, LayerMasks, check_shapes, read_mask_folder

CountVector = NDArray[np.int64]


@dataclass(frozen=True)
class Origins:
    """The folders a selection is made from; None where it is not made from such.

    Attributes:
        activations: ``<direction>.safetensors``, counts.
        like: ``<direction>.safetensors``, the masks of another selection.
        models: ``<direction>/model.pt`` and ``model.json``, fine-tuned on the direction.
    """

    activations: Path | None = None
    like: Path | None = None
    models: Path | None = None

    def folder(self, kind: str) -> Path:
        """Return a folder that the selection needs.

        Raises:
            ConfigError: it was not given.
        """
        folder: Path | None = getattr(self, kind)
        if folder is None:
            raise ConfigError(
                f"this selection is made from {kind}, and none are given", hint=f"give --{kind}"
            )
        return folder


def make_masks(spec: MaskSpec, origins: Origins) -> dict[str, LayerMasks]:
    """Make the masks of every direction of a selection.

    Args:
        spec: the selection and its directions.
        origins: what it is made from (``spec.needs``).

    Returns:
        Direction → masks, whose metadata tell the method, its values and the checksums of what they were
        made from.

    Raises:
        MaskError: what they are made from is missing, damaged or does not belong together.
        ConfigError: a folder that is needed was not given, or the selection is not one that is made.
    """
    selection = spec.selection
    if isinstance(selection, ActivationMasks):
        result = _by_activation(spec, selection, origins)
    elif isinstance(selection, RandomMasks):
        result = _random(spec, selection, origins)
    elif isinstance(selection, MagnitudeMasks):
        result = _by_magnitude(spec, selection, origins)
    elif isinstance(selection, FamilyMasks):
        result = _by_family(spec, selection, origins)
    else:
        raise ConfigError(
            "masks with a source: are read, not made", hint="use the import-masks command for them"
        )
    made = {}
    for name, masks in result.items():
        layers = methods.only_side(masks.layers, selection.sides)
        settings = recorded_settings(spec, name) or {}
        made[name] = LayerMasks(layers, {**masks.metadata, "direction": name, **settings})
    return made


def recorded_settings(spec: MaskSpec, direction: str) -> dict[str, str] | None:
    """Return what the metadata of a direction's masks say of the settings they were made with (``SETTINGS``).

    None for masks that are read and not made: theirs are their maker's.
    """
    selection = spec.selection
    if isinstance(selection, ActivationMasks):
        own = {"method": "activations", **_chosen_by(selection, direction, spec.pivot)}
    elif isinstance(selection, RandomMasks):
        own = {"method": "random", "draw": selection.draw, "seed": str(spec.seed)}
    elif isinstance(selection, MagnitudeMasks):
        own = {"method": "magnitude", **({"keep": repr(selection.keep)} if selection.keep else {})}
    elif isinstance(selection, FamilyMasks):
        own = {"method": "family", "combine": selection.combine}
        if selection.combine == "pooled" and isinstance(spec.like, ActivationMasks):
            own |= _chosen_by(spec.like, direction, spec.pivot)
    else:
        return None
    return own | ({"sides": selection.sides} if selection.sides != "both" else {})


# of the metadata: what is a setting
SETTINGS = ("method", "k", "tie_break", "draw", "seed", "keep", "combine", "sides")


@dataclass(frozen=True)
class _Counts:
    layers: Mapping[str, CountVector]  # int64[d_ff]
    sha256: str
    model: dict[str, str]  # the metadata that name the model, if it is known


def _read_counts(folder: Path, names: Sequence[str]) -> dict[str, _Counts]:
    from neuron_specialization.activations.counts import read_activations

    found: dict[str, _Counts] = {}
    for name in names:
        path = folder / f"{name}.safetensors"
        counts, origin = read_activations(path)
        if origin.get("direction", name) != name:
            raise MaskError(f"the activations are of {origin['direction']}, not of {name}", where=path)
        found[name] = _Counts(counts, sha256_of(path), _model(origin))
        check_shapes(_widths(counts), _widths(next(iter(found.values())).layers), path)
    return found


def _widths(counts: Mapping[str, CountVector]) -> dict[str, int]:
    return {layer: vector.size for layer, vector in counts.items()}


def _selected(
    counts: Mapping[str, CountVector], selection: ActivationMasks, direction: str, pivot: str | None
) -> dict[str, BoolVector]:
    """Layer → mask."""
    ks = _ks(selection, direction, pivot)
    return {
        layer: select(vector, ks[methods.side_of(layer)], selection.tie_break)
        for layer, vector in counts.items()
    }


def _ks(selection: ActivationMasks, direction: str, pivot: str | None) -> dict[str, float]:
    parsed = Direction.parse(direction)
    return {
        "encoder": k_of(selection.k, parsed, "encoder", pivot),
        "decoder": k_of(selection.k, parsed, "decoder", pivot),
    }


def _chosen_by(selection: ActivationMasks, direction: str, pivot: str | None) -> dict[str, str]:
    """What the metadata say of a selection by activity: k, one number where both sides have the same."""
    ks = _ks(selection, direction, pivot)
    k = repr(ks["encoder"]) if ks["encoder"] == ks["decoder"] else canonical_json(ks)
    return {"k": k, "tie_break": selection.tie_break}


def _by_activation(spec: MaskSpec, selection: ActivationMasks, origins: Origins) -> dict[str, LayerMasks]:
    result = {}
    for name, counts in _read_counts(origins.folder("activations"), spec.directions).items():
        layers = _selected(counts.layers, selection, name, spec.pivot)
        result[name] = LayerMasks(layers, {"activations_sha256": counts.sha256, **counts.model})
    return result


def _random(spec: MaskSpec, selection: RandomMasks, origins: Origins) -> dict[str, LayerMasks]:
    folder = origins.folder("like")
    result = {}
    for name, parent in read_mask_folder(folder, spec.directions).items():
        layers = (
            methods.permuted(parent.layers, spec.seed)
            if selection.draw == "permutation"
            else methods.drawn(parent.layers, spec.seed, name)
        )
        metadata = {
            "parents": canonical_json({selection.like: sha256_of(folder / f"{name}.safetensors")}),
            **_model(parent.metadata),
        }
        result[name] = LayerMasks(layers, metadata)
    return result


def _by_magnitude(spec: MaskSpec, selection: MagnitudeMasks, origins: Origins) -> dict[str, LayerMasks]:
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint

    like = read_mask_folder(origins.folder("like"), spec.directions) if selection.like else {}
    result = {}
    for name in spec.directions:
        path = origins.folder("models") / name / "model.pt"
        checkpoint = load_checkpoint(path)
        facts = read_json(path.with_name("model.json"))
        if checkpoint.directions != [name]:
            raise MaskError(
                f"the model is fine-tuned on {', '.join(checkpoint.directions)}, not on {name} alone",
                where=path,
            )
        widths = checkpoint.layer_widths
        if name in like:
            check_shapes(like[name].shapes, widths, path)
            counts = like[name].neurons
        else:
            counts = {
                layer: methods.count_of(width, selection.keep or 100) for layer, width in widths.items()
            }
        layers = {}
        for layer in widths:
            weight = checkpoint.parameters[f"{layer}.fc1.weight"].float().numpy()
            layers[layer] = methods.largest(methods.row_magnitudes(weight), counts[layer])
        parents = {f"{name}/model.pt": str(facts["model_sha256"])}
        if selection.like:
            parents[selection.like] = sha256_of(origins.folder("like") / f"{name}.safetensors")
        metadata = {
            "parents": canonical_json(parents),
            **({"model_sha256": facts["inputs"]["init"]} if "init" in facts["inputs"] else {}),
        }
        result[name] = LayerMasks(layers, metadata)
    return result


def _by_family(spec: MaskSpec, selection: FamilyMasks, origins: Origins) -> dict[str, LayerMasks]:
    make = _pooled_family if selection.combine == "pooled" else _combined_family
    made: dict[str, LayerMasks] = {}
    for family, names in methods.members(spec.directions, spec.pivot).items():
        for name, masks in make(spec, selection, origins, names).items():
            made[name] = LayerMasks(masks.layers, {"family": family, **masks.metadata})
    return {name: made[name] for name in spec.directions}


def _pooled_family(
    spec: MaskSpec, selection: FamilyMasks, origins: Origins, names: Sequence[str]
) -> dict[str, LayerMasks]:
    if not isinstance(spec.like, ActivationMasks):
        raise ConfigError("pooled activations need the k of a selection by activation: set like")
    read = _read_counts(origins.folder("activations"), names)
    pooled = {
        layer: np.sum([counts.layers[layer] for counts in read.values()], axis=0)
        for layer in read[names[0]].layers
    }
    parents = canonical_json({name: counts.sha256 for name, counts in read.items()})
    result = {}
    for name in names:
        chosen = _selected(pooled, spec.like, name, spec.pivot)
        result[name] = LayerMasks(chosen, {"parents": parents, **read[name].model})
    return result


def _combined_family(
    spec: MaskSpec, selection: FamilyMasks, origins: Origins, names: Sequence[str]
) -> dict[str, LayerMasks]:
    folder = origins.folder("like")
    masks = read_mask_folder(folder, names)
    layers = {
        layer: methods.combined([masks[name].layers[layer] for name in names], selection.combine)
        for layer in masks[names[0]].layers
    }
    parents = canonical_json({name: sha256_of(folder / f"{name}.safetensors") for name in names})
    return {name: LayerMasks(layers, {"parents": parents, **_model(masks[name].metadata)}) for name in names}


def _model(origin: Mapping[str, str]) -> dict[str, str]:
    return {"model_sha256": origin["model_sha256"]} if "model_sha256" in origin else {}
