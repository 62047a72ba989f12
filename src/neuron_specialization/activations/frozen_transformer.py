"""A checkpoint's Transformer for reading only: built from parameters, without importing fairseq.

Importing fairseq takes longer than counting the activations of a small model. The pass itself is
``fast_transformer``'s; here the parameters get the shape it expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuron_specialization.checkpoints.checkpoint import Checkpoint
from neuron_specialization.formats.fairseq_conventions import PAD, sinusoids
from neuron_specialization.transformer import fast_transformer
from neuron_specialization.transformer.fast_dropout import DropoutPool

# layer name, hidden units after the ReLU [B, T, d_ff]
Observer = Callable[[str, Tensor], None]


def not_covered(settings: Mapping[str, Any]) -> str | None:
    """Name the setting of a model that this pass does not compute, or None."""
    wanted = {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "activation_fn": "relu",
        "layernorm_embedding": False,
        "no_token_positional_embeddings": False,
    }
    for key, value in wanted.items():
        if settings[key] != value:
            return f"{key} = {settings[key]}"
    return None


class FrozenTransformer(nn.Module):
    """Teacher-forced passes in evaluation mode, each FFN's hidden units shown to an observer.

    Args:
        checkpoint: a model ``not_covered`` has no objection to.
        dtype: of all arithmetic.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = _stack(checkpoint, "encoder", dtype)
        self.decoder = _stack(checkpoint, "decoder", dtype)
        self._no_dropout = DropoutPool(0.0, 0)

    @torch.no_grad()
    def encode(self, tokens: Tensor, observe: Observer) -> tuple[Tensor, Tensor | None]:
        """int64[B, S], padded anywhere → (states [B, S, d], attention bias) for ``decode``."""
        return fast_transformer.encode(
            self.encoder,
            tokens,
            feed_forward=_observed(observe),
            drop=self._no_dropout,
            attention_dropout=0.0,
        )

    @torch.no_grad()
    def decode(self, tokens: Tensor, states: Tensor, bias: Tensor | None, observe: Observer) -> Tensor:
        """int64[B, T] gold prefixes, padded on the right → features [B, T, d]."""
        return fast_transformer.decode(
            self.decoder,
            tokens,
            states,
            bias,
            feed_forward=_observed(observe),
            drop=self._no_dropout,
            attention_dropout=0.0,
        )


def _observed(observe: Observer) -> Callable[[Any, Tensor], Tensor]:
    def feed_forward(layer: Any, x: Tensor) -> Tensor:
        hidden = F.relu(F.linear(x, layer.fc1.weight, layer.fc1.bias))
        observe(layer.name, hidden)
        return F.linear(hidden, layer.fc2.weight, layer.fc2.bias)

    return feed_forward


class _Positions(nn.Module):
    """fairseq's positions: counted over real tokens from PAD + 1; the padding's own row is zero."""

    table: Tensor

    def __init__(self, table: Tensor | None, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.learned = table is not None
        self.d_model = d_model
        self.register_buffer("table", table if table is not None else sinusoids(1024, d_model).to(dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens.ne(PAD)
        positions = real.cumsum(1) * real + PAD
        longest = PAD + 1 + tokens.shape[1]
        if longest > self.table.shape[0] and not self.learned:
            self.table = sinusoids(2 * longest, self.d_model).to(self.table)
        return F.embedding(positions, self.table)


def _stack(checkpoint: Checkpoint, side: str, dtype: torch.dtype) -> Any:
    """The encoder or decoder as a tree of modules with fairseq's names."""
    settings = checkpoint.settings
    depth = int(settings[f"{side}_layers"])
    root: Any = nn.Module()
    root.layers = nn.ModuleList(nn.Module() for _ in range(depth))
    prefix = f"{side}."
    for name, value in checkpoint.parameters.items():
        if not name.startswith(prefix):
            continue
        *path, leaf = name.removeprefix(prefix).split(".")
        if not path or path[0] in ("embed_positions", "output_projection"):
            continue  # a version mark, or handled below, or not needed
        node = root
        for part in path:
            child = node[int(part)] if isinstance(node, nn.ModuleList) else getattr(node, part, None)
            if child is None:
                child = nn.Module()
                setattr(node, part, child)
            node = child
        node.register_buffer(leaf, value.to(dtype))
    for number, layer in enumerate(root.layers):
        layer.name = f"{side}.layers.{number}"
        for part in layer.children():
            part.eps = 1e-5
        for part in ("self_attn", "encoder_attn"):
            if hasattr(layer, part):
                getattr(layer, part).num_heads = int(settings[f"{side}_attention_heads"])
    root.layer_norm.eps = 1e-5
    width = int(settings[f"{side}_embed_dim"])
    learned = checkpoint.parameters.get(f"{side}.embed_positions.weight")
    root.embed_positions = _Positions(None if learned is None else learned.to(dtype), width, dtype)
    root.embed_scale = 1.0 if settings["no_scale_embedding"] else math.sqrt(width)
    root.padding_idx = PAD
    return root
