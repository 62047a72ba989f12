"""Masks of directions without activations of their own: put together from those of two others."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from neuron_specialization.directions import Direction
from neuron_specialization.errors import MaskError
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import LayerMasks, read_mask_folder


def compose(encoder_from: LayerMasks, decoder_from: LayerMasks) -> LayerMasks:
    """The mask of a direction without activations of its own (zero-shot): two halves put together.

    For ``de-fr`` with the pivot ``en``: the encoder part of ``de-en``, the decoder part of ``en-fr``.

    Raises:
        MaskError: the two belong to models of different shape.
    """
    if encoder_from.shapes != decoder_from.shapes:
        raise MaskError(
            "the two masks to compose have different layers or widths",
            cause="they were made from different models",
        )
    layers = {
        name: (encoder_from if name.startswith("encoder.") else decoder_from).layers[name]
        for name in encoder_from.layers
    }
    origin = {
        "encoder_from": encoder_from.metadata.get("direction", ""),
        "decoder_from": decoder_from.metadata.get("direction", ""),
        "method": "composed",
    }
    same = {
        key: value
        for key, value in encoder_from.metadata.items()
        if decoder_from.metadata.get(key) == value and key not in ("direction", "packed", "d_ff")
    }
    return LayerMasks(layers, {**same, **origin})


def zero_shot_parts(name: str, pivot: str) -> tuple[str, str]:
    """The directions whose masks a zero-shot direction's is composed of: for the encoder, for the decoder.

    Raises:
        MaskError: it has the pivot.
        ConfigError: it is no direction.
    """
    direction = Direction.parse(name)
    if pivot in (direction.source, direction.target):
        raise MaskError(f"{name} has the pivot {pivot}: it needs activations of its own", where=name)
    return direction.through(pivot)


def compose_zero_shot(folder: str | Path, directions: Collection[str], pivot: str) -> dict[str, LayerMasks]:
    """Compose the masks of zero-shot directions from a selection's masks of the directions with the pivot.

    Args:
        folder: has ``<src>-<pivot>.safetensors`` and ``<pivot>-<tgt>.safetensors``.
        directions: such as ``de-fr``; none with the pivot.
        pivot: such as ``en``.

    Returns:
        Direction → masks; the metadata name the two parts and their files' SHA-256 (``parents``).

    Raises:
        MaskError: a direction with the pivot, a part that is missing, or parts of different models.
        ConfigError: what is no direction.
    """
    parts = {name: zero_shot_parts(name, pivot) for name in directions}
    needed = list(dict.fromkeys(part for both in parts.values() for part in both))
    found = read_mask_folder(folder, needed)
    made: dict[str, LayerMasks] = {}
    for name, (encoder, decoder) in parts.items():
        composed = compose(found[encoder], found[decoder])
        parents = {part: sha256_of(Path(folder) / f"{part}.safetensors") for part in (encoder, decoder)}
        metadata = {"direction": name, "parents": json.dumps(parents, separators=(",", ":"))}
        made[name] = LayerMasks(composed.layers, {**composed.metadata, **metadata})
    return made
