"""Read a pickle of plain containers, numpy arrays and torch tensors; nothing that it names is ever called.

A pickle is a program. An allow-list of numpy's own functions is not enough to make it harmless:
``numpy.ndarray`` called with a buffer, or a ``numpy.dtype`` given a state of the file's choosing, makes
objects out of bytes. So the names of an honest file stand for functions of this module, which take bytes and
numbers and check both.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError
from neuron_specialization.storage.safe_loading import check_archive

# integers, floats, bool; no objects, no records, no text
_KINDS = "biuf"


def load_plain(data: bytes, path: Path) -> Any:
    """Return what the pickle holds.

    Args:
        data: the pickle.
        path: where it is from, for messages.

    Raises:
        MaskError: it asks for anything but plain containers, arrays and tensors; the message names it.
        Exception: nearly any other, on damaged bytes.
    """
    return _plain(_Unpickler(io.BytesIO(data), path).load())


def _plain(value: Any) -> Any:
    """Put arrays where the stand-ins are: in the containers a file of activations has."""
    if isinstance(value, _Array):
        return value.array()
    if isinstance(value, dict):
        return {key: item.array() if isinstance(item, _Array) else item for key, item in value.items()}
    return value


class _Type:
    """What ``numpy.dtype`` stands for: the kind of number, and its byte order."""

    def __init__(self, text: str = "", *_: object) -> None:
        found = np.dtype(text) if isinstance(text, str) and len(text) <= 8 else None
        if found is None or found.kind not in _KINDS or found.shape or found.names:
            raise ValueError("not a type of numbers")
        self.dtype: np.dtype[Any] = found

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            raise ValueError("not a byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What ``numpy.ndarray`` stands for: filled by ``__setstate__`` or made by ``_from_buffer``."""

    def __init__(self, *_: object) -> None:
        self._array: NDArray[Any] | None = None

    def array(self) -> NDArray[Any]:
        if self._array is None:
            raise ValueError("an array without content")
        return self._array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self._array = _numbers(content, kind, shape, "F" if by_columns else "C")


def _numbers(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray | pickle.PickleBuffer):
        raise ValueError("an array that is not made of numbers")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("not the shape of an array")
    content = bytes(content)
    if math.prod(shape) * kind.dtype.itemsize != len(content) or order not in ("C", "F"):
        raise ValueError("content and shape of an array do not agree")
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order).copy()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    array = _Array()
    array._array = _numbers(content, kind, shape, order)
    return array


def _scalar(kind: Any, content: Any) -> Any:
    return _numbers(content, kind, (), "C").item()


def _latin1(text: str, encoding: str) -> bytes:
    """``codecs.encode`` as old pickle protocols use it for bytes."""
    if encoding != "latin1":
        raise ValueError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


def _tensor_storage(data: bytes) -> Any:
    """torch's ``_load_from_bytes`` with the door closed: its own version loads any pickle."""
    import torch

    check_archive(io.BytesIO(data))
    return torch.load(io.BytesIO(data), weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> _Array:
    """``torch._utils._rebuild_tensor_v2``: a view on a storage, whose bounds torch checks."""
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("a tensor without a storage")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage)
    if math.prod(size) > flat.numel():
        raise ValueError("a tensor larger than its storage")
    array = _Array()
    array._array = torch.as_strided(flat, tuple(size), tuple(stride), offset).numpy().copy()
    return array


# names as they are today → what they stand for
_STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.int": int,
    "_codecs.encode": _latin1,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _tensor_storage,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
_RENAMED = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}


class _Unpickler(pickle._Unpickler):
    """An unpickler that finds nothing but the stand-ins.

    The one written in Python: the one in C makes a table as long as the largest number that the file gives
    to a value, which four bytes can make 64 GB.
    """

    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get(f"{_RENAMED.get(module, module)}.{name}")
        if found is None:
            raise MaskError(
                f"activation file refused: it asks to load {module}.{name}, which could run code",
                where=self.path,
                hint="--allow-unsafe-pickle loads it all the same, if you trust its maker as any program's",
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise MaskError("activation file refused: it refers to data outside itself", where=self.path)
