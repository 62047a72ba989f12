"""Compaction: a masked model as a narrower ordinary model that computes the same.

A masked neuron does not look at its input: its row of W1 is 0, so it emits the constant
relu(b1_i). Whatever W2 makes of the constants is a constant too and belongs in b2::

    W1 [d_ff, d]      b1 [d_ff]     W2 [d, d_ff]           b2 [d]
    ├ kept rows       ├ kept        ├ kept columns         └ + W2[:, masked] · relu(b1[masked])
    └ dropped         └ dropped     └ dropped

Exact in evaluation; in training as long as activation dropout is 0 (it would hit the constants).
Only ReLU models: with another activation a masked neuron's constant is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError

# torch.Tensor or numpy array: a bundle is compacted where torch is not installed
Array = TypeVar("Array")


def compact(parameters: Mapping[str, Array], masks: Mapping[str, Any]) -> dict[str, Array]:
    """Return the state dict of the narrower model.

    Args:
        parameters: a state dict with ``<layer>.fc1.{weight,bias}`` and ``<layer>.fc2.{weight,bias}``
            for each masked layer (``encoder.layers.0``, …): fairseq's names. Not changed. All torch tensors
            or all numpy arrays; equal numbers give equal results, to the bit.
        masks: layer → bool[d_ff] of the same kind, True = kept; at least one neuron a layer. A layer without
            a mask stays as it is; d_ff may differ from layer to layer, before and after.

    Returns:
        All parameters, dtypes and devices as given; masked layers have fc1 [n_kept, d] and
        fc2 [d, n_kept]. The constants are summed in float64. Layers that are not narrowed are the
        very tensors given, not copies.

    Raises:
        MaskError: a mask without its layer, of another width or dtype, or keeping no neuron.
    """
    given: Mapping[str, Any] = parameters
    result: dict[str, Any] = dict(parameters)
    mask: Any
    for layer, mask in masks.items():
        names = [f"{layer}.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]
        missing = [name for name in names if name not in parameters]
        if missing:
            raise MaskError(
                f"the model has no {missing[0]}",
                where=layer,
                cause="mask and model do not belong together, or the checkpoint is in the reference's format",
            )
        w1, b1, w2, b2 = (given[name] for name in names)
        width = w1.shape[0]
        if not str(mask.dtype).endswith("bool") or tuple(mask.shape) != (width,):
            raise MaskError(
                f"the mask is {mask.dtype}{list(mask.shape)}, the layer has {width} neurons",
                where=layer,
                cause="mask and model do not belong together",
            )
        if tuple(b1.shape) != (width,) or tuple(w2.shape) != (b2.shape[0], width):
            raise MaskError("fc1 and fc2 of the model do not fit each other", where=layer)
        if not isinstance(mask, np.ndarray):
            mask = mask.to(w1.device)
        if not bool(mask.any()):
            raise MaskError("the mask keeps no neuron", where=layer)
        if bool(mask.all()):
            continue
        constants = _float64(w2[:, ~mask]) * np.maximum(_float64(b1[~mask]), 0)
        narrower = (w1[mask], b1[mask], _contiguous(w2[:, mask]), _plus(b2, constants.sum(axis=1)))
        result.update(zip(names, narrower, strict=True))
    return result


def _float64(values: Any) -> NDArray[np.float64]:
    if not isinstance(values, np.ndarray):
        values = values.detach().double().cpu().numpy()
    return np.ascontiguousarray(values, dtype=np.float64)


def _contiguous(values: Any) -> Any:
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values.contiguous()


def _plus(values: Any, addend: NDArray[np.float64]) -> Any:
    total = _float64(values) + addend
    if isinstance(values, np.ndarray):
        return total.astype(values.dtype)
    import torch

    return torch.from_numpy(total).to(device=values.device, dtype=values.dtype)
