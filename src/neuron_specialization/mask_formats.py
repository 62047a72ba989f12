"""The reference implementation's files: its expanded masks and its pickled activations.

| reference | here |
|---|---|
| ``<direction>.pt``: ``encoder.layers.<i>.fc1.weight`` → bool[d_ff, d], every row constant | ``<direction>.safetensors``: ``encoder.layers.<i>`` → bool[d_ff] |
| ``<direction>/activations.pkl``: ``encoder_layer_<i>`` → int64[d_ff] | ``<direction>.safetensors``: ``encoder.layers.<i>`` → int64[d_ff] |

Neither file is trusted: masks load with torch's ``weights_only``; activations, a bare pickle, through an
unpickler that knows containers, numpy arrays and torch tensors and refuses everything else by name.
"""  # noqa: E501

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError
from neuron_specialization.files import atomic_path
from neuron_specialization.layer_tensors import check_layers, layer_key

_MASK_KEY = re.compile(r"((?:encoder|decoder)\.layers\.[0-9]+)\.fc1\.weight")
_COUNT_KEY = re.compile(r"(encoder|decoder)_layer_([0-9]+)")


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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MaskError(
            f"refused: the file asks for more than tensors: {_first_line(error)}",
            where=path,
            cause="it is damaged, or not a mask file",
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise MaskError(
            f"the mask file cannot be read: {_first_line(error)}", where=path, cause="it was cut short"
        ) from None
    if not isinstance(state, dict) or not state:
        raise MaskError("not a mask file: it holds no dictionary of masks", where=path)
    layers: dict[str, NDArray[np.bool_]] = {}
    widths = set()
    for key, value in state.items():
        match = _MASK_KEY.fullmatch(str(key))
        if match is None:
            raise MaskError(
                f"{key!r} is not the weight of an fc1: this masks more than FFN neurons", where=path
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
        content = pickle.loads(data) if unsafe else _PlainUnpickler(io.BytesIO(data), path).load()
    except MaskError:
        raise
    except Exception as error:  # a pickle can fail in any way its reducers can
        raise MaskError(
            f"the activation file cannot be read: {_first_line(error)}",
            where=path,
            cause="it was cut short, or is not the reference's activations.pkl",
        ) from None
    if not isinstance(content, dict) or not content:
        raise MaskError("not an activation file: it holds no dictionary of layers", where=path)
    layers: dict[str, NDArray[np.int64]] = {}
    for key, value in content.items():
        match = _COUNT_KEY.fullmatch(str(key))
        if match is None:
            raise MaskError(f"{key!r} is not the name of a layer (encoder_layer_<i>)", where=path)
        counts = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if counts.dtype.kind not in "iu" or counts.ndim != 1 or counts.size == 0 or counts.min() < 0:
            raise MaskError(f"{key} holds no counts: {counts.dtype}{list(counts.shape)}", where=path)
        layers[f"{match[1]}.layers.{int(match[2])}"] = counts.astype(np.int64)
    return {name: layers[name] for name in check_layers(layers, path)}


def _tensor_storage(data: bytes) -> Any:
    """torch's ``_load_from_bytes`` with the door closed: its own version loads any pickle."""
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def _rebuild_tensor(*arguments: Any) -> Any:
    from torch._utils import _rebuild_tensor_v2

    return _rebuild_tensor_v2(*arguments)  # type: ignore[no-untyped-call]


def _latin1(text: str, encoding: str) -> bytes:
    """``codecs.encode`` as old pickle protocols use it for bytes."""
    if encoding != "latin1":
        raise ValueError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


def _numpy_function(module: str, name: str) -> Any:
    from numpy._core import multiarray, numeric

    return getattr({"multiarray": multiarray, "numeric": numeric}[module], name)


# what numpy arrays and torch tensors are pickled as; module names as they are today
_PLAIN: dict[str, Callable[[], Any]] = {
    "collections.OrderedDict": lambda: collections.OrderedDict,
    "collections.defaultdict": lambda: collections.defaultdict,
    "builtins.list": lambda: list,
    "builtins.dict": lambda: dict,
    "builtins.int": lambda: int,
    "_codecs.encode": lambda: _latin1,
    "torch._utils._rebuild_tensor_v2": lambda: _rebuild_tensor,
    "torch.storage._load_from_bytes": lambda: _tensor_storage,
    "numpy.ndarray": lambda: np.ndarray,
    "numpy.dtype": lambda: np.dtype,
    "numpy._core.multiarray._reconstruct": lambda: _numpy_function("multiarray", "_reconstruct"),
    "numpy._core.multiarray.scalar": lambda: _numpy_function("multiarray", "scalar"),
    "numpy._core.numeric._frombuffer": lambda: _numpy_function("numeric", "_frombuffer"),
}
_RENAMED = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that finds nothing but what plain arrays are made of."""

    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        found = _PLAIN.get(f"{_RENAMED.get(module, module)}.{name}")
        if found is None:
            raise MaskError(
                f"activation file refused: it asks to load {module}.{name}, which could run code",
                where=self.path,
                hint="--allow-unsafe-pickle loads it all the same, if you trust its maker as any program's",
            )
        return found()

    def persistent_load(self, pid: Any) -> Any:
        raise MaskError("activation file refused: it refers to data outside itself", where=self.path)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
