"""The masks of one direction, bool[d_ff] a layer: their files, and the checks before they are used."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError, first_few
from neuron_specialization.storage.layer_tensors import layer_key, read_layers, write_layers

if TYPE_CHECKING:
    from torch import Tensor

BoolVector = NDArray[np.bool_]


@dataclass(frozen=True)
class LayerMasks:
    """The masks of one direction.

    Attributes:
        layers: layer name → bool[d_ff], True = kept; encoder first, by number.
        metadata: k, tie_break, direction, sha256 of what it was made from, …
    """

    layers: Mapping[str, BoolVector]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, int]:
        """Layer name → d_ff."""
        return {name: mask.size for name, mask in self.layers.items()}

    @property
    def neurons(self) -> dict[str, int]:
        """Layer name → neurons kept."""
        return {name: int(mask.sum()) for name, mask in self.layers.items()}

    @property
    def kept(self) -> dict[str, float]:
        """Layer name → share of neurons kept, in (0, 1]."""
        return {name: kept / self.layers[name].size for name, kept in self.neurons.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Layer name → torch bool[d_ff]."""
        import torch

        return {name: torch.from_numpy(mask.copy()) for name, mask in self.layers.items()}


def write_masks(
    path: str | Path, layers: Mapping[str, BoolVector], metadata: Mapping[str, str], *, packed: bool = False
) -> None:
    """Write one direction's masks as safetensors.

    Args:
        path: the file.
        layers: layer name → bool[d_ff].
        metadata: text → text.
        packed: one bit a neuron (``np.packbits``) instead of one byte.

    Raises:
        MaskError: a layer without a kept neuron, or of another type.
    """
    _check(layers, path)
    if not packed:
        write_layers(path, layers, metadata)
        return
    widths = {name: layers[name].size for name in sorted(layers, key=layer_key)}
    extra = {"packed": "true", "d_ff": json.dumps(widths, separators=(",", ":"))}
    write_layers(path, {name: np.packbits(mask) for name, mask in layers.items()}, {**metadata, **extra})


def read_masks(path: str | Path) -> LayerMasks:
    """Read one direction's masks, packed or not.

    Raises:
        MaskError: missing, damaged or foreign file, or a layer that keeps no neuron.
    """
    layers, metadata = read_layers(path, ("BOOL", "U8"))
    if metadata.get("packed") == "true":
        layers = _unpack(layers, metadata, path)
    _check(layers, path)
    return LayerMasks(layers, metadata)


def read_mask_folder(
    folder: str | Path, directions: Collection[str], *, shapes: Mapping[str, int] | None = None
) -> dict[str, LayerMasks]:
    """Read ``<direction>.safetensors`` for each direction and see that they belong together.

    Args:
        folder: the folder of a mask selection.
        directions: such as ``de-en``.
        shapes: layer name → d_ff of the model they are for, where known.

    Raises:
        MaskError: a direction without a mask, or masks of unequal layers or widths.
    """
    folder = Path(folder)
    missing = [name for name in directions if not (folder / f"{name}.safetensors").is_file()]
    if missing:
        raise MaskError(
            f"{len(missing)} of {len(directions)} directions have no mask: {first_few(missing)}",
            where=folder,
            hint="run the activations and masks commands for them, or compose masks for zero-shot directions",
        )
    result: dict[str, LayerMasks] = {}
    for name in directions:
        path = folder / f"{name}.safetensors"
        masks = read_masks(path)
        written = masks.metadata.get("direction", name)
        if written != name:
            raise MaskError(f"the file is the mask of {written}, not of {name}", where=path)
        shapes = masks.shapes if shapes is None else shapes
        check_shapes(masks.shapes, shapes, path)
        result[name] = masks
    return result


def check_shapes(found: Mapping[str, int], shapes: Mapping[str, int], where: object) -> None:
    """Refuse masks whose layers or widths (layer name → d_ff) are not ``shapes``, naming a difference."""
    for name in {**shapes, **found}:
        if found.get(name) != shapes.get(name):
            raise MaskError(
                f"masks do not fit: {name} has {found.get(name, 'no')} neurons,"
                f" expected {shapes.get(name, 'none')}",
                where=where,
                cause="they were made from different models",
                hint="make all masks of a selection from one model",
            )


def read_all_masks(
    folder: str | Path, directions: Collection[str], *, shapes: Mapping[str, int] | None = None
) -> dict[str, dict[str, Tensor]]:
    """``read_mask_folder`` as torch tensors: direction → layer name → bool[d_ff]."""
    masks = read_mask_folder(folder, directions, shapes=shapes)
    return {name: layers.tensors() for name, layers in masks.items()}


def _unpack(
    layers: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], path: str | Path
) -> dict[str, NDArray[Any]]:
    try:
        widths = json.loads(metadata["d_ff"])
        if isinstance(widths, int) and not isinstance(widths, bool):
            widths = dict.fromkeys(layers, widths)
        widths = {str(name): int(width) for name, width in widths.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise MaskError("packed masks without a readable d_ff in their metadata", where=path) from None
    unpacked: dict[str, NDArray[Any]] = {}
    for name, packed in layers.items():
        width = widths.get(name, 0)
        if packed.dtype != np.uint8 or packed.size != -(-width // 8):
            raise MaskError(
                f"{name}: {packed.size} bytes of {packed.dtype} are no packed mask of {width} neurons",
                where=path,
            )
        bits = np.unpackbits(packed)
        if bits[width:].any():
            raise MaskError(f"{name}: bits are set beyond the last neuron", where=path)
        unpacked[name] = bits[:width].astype(np.bool_)
    return unpacked


def _check(layers: Mapping[str, NDArray[Any]], path: str | Path) -> None:
    for name, mask in layers.items():
        if mask.dtype != np.bool_ or mask.ndim != 1:
            raise MaskError(f"{name}: a mask is bool[d_ff], not {mask.dtype}{list(mask.shape)}", where=path)
        if not mask.any():
            raise MaskError(f"{name} keeps no neuron", where=path, cause="the mask file is damaged")
