"""The reference implementation's files: its expanded masks and its pickled activations.

| reference | here |
|---|---|
| ``<direction>.pt``: ``encoder.layers.<i>.fc1.weight`` → bool[d_ff, d], every row constant | ``<direction>.safetensors``: ``encoder.layers.<i>`` → bool[d_ff] |
| ``<direction>/activations.pkl``: ``encoder_layer_<i>`` → int64[d_ff] | ``<direction>.safetensors``: ``encoder.layers.<i>`` → int64[d_ff] |

Neither file is trusted: masks load with torch's ``weights_only``; activations, a bare pickle, through an
unpickler that knows containers, numpy arrays and torch tensors and refuses everything else by name.
"""  # noqa: E501

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError, first_line
from neuron_specialization.storage.files import atomic_path
from neuron_specialization.storage.layer_tensors import check_layers, layer_key
from neuron_specialization.storage.plain_pickle import load_plain
from neuron_specialization.storage.safe_loading import check_archive

_MASK_KEY = re.compile(r"((?:encoder|decoder)\.layers\.[0-9]{1,5})\.fc1\.weight")
_COUNT_KEY = re.compile(r"(encoder|decoder)_layer_([0-9]{1,5})")
# elements of all expanded masks of a file: a tensor may say to be larger than the file it is in
_MOST_ELEMENTS = 2**31


# ---- masks ----


def import_masks(path: str | Path) -> tuple[dict[str, NDArray[np.bool_]], int]:
    """Read the reference's expanded mask file.

    Args:
        path: ``<direction>.pt``.

    Returns:
        Layer name → bool[d_ff], and d, the width of the expanded masks.

    Raises:
        MaskError: missing or damaged file, one that asks for more than tensors, masks of other parameters
            than fc1, or masks that differ within a row (not neuron masks).
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise MaskError("the mask file is missing", where=path)
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MaskError(
            f"refused: the file asks for more than tensors: {first_line(error)}",
            where=path,
            cause="it is damaged, or not a mask file",
        ) from None
    except Exception as error:  # damaged bytes make torch and pickle raise nearly anything
        raise MaskError(
            f"the mask file cannot be read: {first_line(error)}", where=path, cause="it was cut short"
        ) from None
    if not isinstance(state, dict) or not state:
        raise MaskError("not a mask file: it holds no dictionary of masks", where=path)
    layers: dict[str, NDArray[np.bool_]] = {}
    widths: set[int] = set()
    elements = 0
    for key, value in state.items():
        match = _MASK_KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise MaskError(
                f"{_shown(key)} is not the weight of an fc1: this masks more than FFN neurons", where=path
            )
        if isinstance(value, list) and not value:
            raise MaskError(
                f"{key} is empty",
                where=path,
                cause="the reference writes masks of 6+6 layers whatever the model has; this one has fewer",
                hint="make the masks from its activations.pkl instead (import-activations, then masks)",
            )
        if not isinstance(value, torch.Tensor) or value.dtype != torch.bool or value.ndim != 2:
            raise MaskError(f"{key} is no bool[d_ff, d] mask", where=path)
        elements += value.numel()
        if not value.numel() or elements > _MOST_ELEMENTS:
            raise MaskError(f"{key} is of an impossible size: {list(value.shape)}", where=path)
        rows = value[:, 0]
        if not bool((value == rows.unsqueeze(1)).all()):
            raise MaskError(f"{key} masks single weights, not neurons", where=path)
        layers[match[1]] = rows.numpy().copy()
        widths.add(value.shape[1])
    if len(widths) != 1:
        raise MaskError(f"the masks are of different widths: {sorted(widths)}", where=path)
    return {name: layers[name] for name in check_layers(layers, path)}, widths.pop()


def export_masks(path: str | Path, layers: Mapping[str, NDArray[np.bool_]], d_model: int) -> None:
    """Write masks as the reference does: bool[d_ff, d_model] per layer, a row per neuron.

    Args:
        path: ``<direction>.pt``.
        layers: layer name → bool[d_ff].
        d_model: columns of fc1's weight.
    """
    import torch

    if d_model < 1:
        raise MaskError(f"d_model = {d_model} is not a width")
    state = {
        f"{name}.fc1.weight": torch.from_numpy(layers[name].copy())
        .unsqueeze(1)
        .expand(-1, d_model)
        .contiguous()
        for name in sorted(layers, key=layer_key)
    }
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        torch.save(state, handle)


# ---- activations ----


def import_activations(path: str | Path, *, unsafe: bool = False) -> dict[str, NDArray[np.int64]]:
    """Read the reference's ``activations.pkl``.

    Args:
        path: the pickle.
        unsafe: let it run any code it holds. For files whose maker is trusted, and never by default.

    Returns:
        Layer name → int64[d_ff].

    Raises:
        MaskError: missing, damaged or foreign file, or one that asks for anything but plain containers,
            arrays and tensors; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise MaskError("the activation file is missing", where=path)
    data = path.read_bytes()
    try:
        content = pickle.loads(data) if unsafe else load_plain(data, path)
    except MaskError:
        raise
    except Exception as error:  # a pickle can fail in any way its reducers can
        raise MaskError(
            f"the activation file cannot be read: {first_line(error)}",
            where=path,
            cause="it was cut short, or is not the reference's activations.pkl",
        ) from None
    if not isinstance(content, dict) or not content:
        raise MaskError("not an activation file: it holds no dictionary of layers", where=path)
    layers: dict[str, NDArray[np.int64]] = {}
    for key, value in content.items():
        match = _COUNT_KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise MaskError(f"{_shown(key)} is not the name of a layer (encoder_layer_<i>)", where=path)
        try:
            counts = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        except Exception:  # ragged, too deep, too large
            raise MaskError(f"{key} holds no counts", where=path) from None
        if counts.dtype.kind not in "iu" or counts.ndim != 1 or counts.size == 0 or counts.min() < 0:
            raise MaskError(f"{key} holds no counts: {counts.dtype}{list(counts.shape)}", where=path)
        if counts.max() > np.iinfo(np.int64).max:
            raise MaskError(f"{key} holds counts beyond 64 bits", where=path)
        layers[f"{match[1]}.layers.{int(match[2])}"] = counts.astype(np.int64)
    return {name: layers[name] for name in check_layers(layers, path)}


def _shown(key: object) -> str:
    return repr(key[:80]) if isinstance(key, str) else f"a key that is a {type(key).__name__}"
