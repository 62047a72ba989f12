"""One vector per FFN layer on disk: the file behind activations and masks.

A file is a safetensors file that holds exactly one 1-D tensor per layer, named
``encoder.layers.<i>`` or ``decoder.layers.<i>``, and text metadata. Works on numpy alone: the
stages that only select, compare or convert neurons do not pay for importing torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.directions import DIRECTION_PATTERN
from neuron_specialization.errors import MaskError
from neuron_specialization.storage.files import atomic_path

Vector = NDArray[Any]

_NAME = re.compile(r"(encoder|decoder)\.layers\.(0|[1-9][0-9]{0,4})")
_TYPE_NAMES = {np.dtype(np.bool_): "BOOL", np.dtype(np.uint8): "U8", np.dtype(np.int64): "I64"}


def layer_key(name: str) -> tuple[int, int]:
    """Sort key of a layer name: the encoder's layers, then the decoder's, each by number.

    Raises:
        MaskError: not a layer name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise MaskError(
            f"{name!r} is not the name of an FFN layer",
            cause="not made by this package, whose layers are encoder.layers.<i> and decoder.layers.<i>",
        )
    return (0 if match[1] == "encoder" else 1, int(match[2]))


def check_layers(names: Collection[str], where: object) -> list[str]:
    """Return layer names in order, refusing gaps: each side is numbered 0, 1, … without holes.

    Raises:
        MaskError: no layer, a foreign name, or a missing layer.
    """
    try:
        ordered = sorted(names, key=layer_key)
    except MaskError as error:
        raise MaskError(error.what, where=where, cause=error.cause) from None
    if not ordered:
        raise MaskError("the file holds no FFN layer", where=where)
    for side in ("encoder", "decoder"):
        present = [name for name in ordered if name.startswith(side)]
        for number, name in enumerate(present):
            if name != f"{side}.layers.{number}":
                raise MaskError(
                    f"{side}.layers.{number} is missing though {name} is there",
                    where=where,
                    hint="make the file again from the model it belongs to",
                )
    return ordered


def write_layers(path: str | Path, layers: Mapping[str, Vector], metadata: Mapping[str, str]) -> None:
    """Write one vector per layer as safetensors, atomically. Equal content gives equal bytes.

    The header is written here because the safetensors library puts metadata in random order, and
    what depends on a file's sha256 must not change when the file is made again.

    Args:
        path: the file.
        layers: layer name → bool, uint8 or int64 [n].
        metadata: text → text.

    Raises:
        MaskError: a layer name, shape or dtype the format does not allow.
    """
    names = check_layers(layers.keys(), path)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks: list[bytes] = []
    offset = 0
    for name in names:
        vector = np.ascontiguousarray(layers[name])
        if vector.ndim != 1 or vector.size == 0 or vector.dtype not in _TYPE_NAMES:
            raise MaskError(f"{name}: cannot store {vector.dtype}{list(vector.shape)} as a layer", where=path)
        chunk = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": _TYPE_NAMES[vector.dtype],
            "shape": [vector.size],
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *chunks]))


def read_layers(path: str | Path, dtypes: Collection[str]) -> tuple[dict[str, Vector], dict[str, str]]:
    """Read a file of ``write_layers``; anything unexpected in it is refused.

    Args:
        path: the file.
        dtypes: the safetensors types allowed: ``BOOL``, ``U8``, ``I64``.

    Returns:
        Layer name → vector [n], encoder first, by number; and the metadata.

    Raises:
        MaskError: missing, damaged, truncated or foreign file.
    """
    with _opened(path, dtypes) as (handle, names):
        layers: dict[str, Vector] = {name: handle.get_tensor(name) for name in names}
        metadata = _metadata(handle)
    for name, vector in layers.items():
        # A foreign writer may store any byte as a bool; numpy would then compare and count wrongly.
        if vector.dtype == np.bool_ and vector.view(np.uint8).max() > 1:
            raise MaskError(f"{name} holds bytes that are neither 0 nor 1", where=path)
    return layers, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a file of ``write_layers``, of any type, and no vector.

    Raises:
        MaskError: missing, truncated or foreign file.
    """
    with _opened(path, _TYPE_NAMES.values()) as (handle, _):
        return _metadata(handle)


def _metadata(handle: Any) -> dict[str, str]:
    """The metadata by name: the safetensors library gives them in another order every time."""
    return dict(sorted((handle.metadata() or {}).items()))


@contextmanager
def _opened(path: str | Path, dtypes: Collection[str]) -> Iterator[tuple[Any, list[str]]]:
    """Open a file and check its header; yields it and its layers in order."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise MaskError("the file is missing", where=path)
    try:
        with safe_open(path, framework="np") as handle:
            names = check_layers(handle.keys(), path)
            for name in names:
                part = handle.get_slice(name)
                kind, shape = part.get_dtype(), part.get_shape()
                if kind not in dtypes or len(shape) != 1 or 0 in shape:
                    raise MaskError(
                        f"{name} is {kind}{shape}, not a vector of {' or '.join(dtypes)}", where=path
                    )
            yield handle, names
    except (SafetensorError, OSError, ValueError) as error:
        raise MaskError(
            f"not a readable safetensors file: {error}",
            where=path,
            cause="it was cut short or is of another format",
            hint="delete it and run the stage that makes it again",
        ) from None


def present_directions(folder: str | Path, suffix: str = ".safetensors") -> list[str]:
    """The directions a folder has files for, sorted; other files are left out of account.

    Raises:
        MaskError: the folder is missing or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MaskError("the folder is missing", where=folder)
    found = sorted(
        path.name.removesuffix(suffix)
        for path in folder.glob(f"*{suffix}")
        if re.fullmatch(DIRECTION_PATTERN, path.name.removesuffix(suffix))
    )
    if not found:
        raise MaskError(f"no <direction>{suffix} file in the folder", where=folder)
    return found
