"""A teacher-forced Transformer forward pass that computes what fairseq computes, with less waste.

It works on the parameters of a fairseq Transformer (pre-norm, ReLU) without owning any, so one model
trains here and decodes through fairseq's own incremental code. What is saved against the stock
code: batch-first layout without transposes, fused query/key/value products, fused attention, dropout
fused with the residual sum, dropout numbers from a pool, and all layers' encoder keys and values
in one product. Equality with the stock forward pass is tested to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuron_specialization.transformer.fast_dropout import DropoutPool
from neuron_specialization.transformer.products import Linear

# fairseq publishes no types: its modules are Any here
FeedForward = Callable[[Any, Tensor], Tensor]


def _layer_norm(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * width)


def _projections(attention: Any, names: str) -> tuple[Tensor, Tensor]:
    parts = [getattr(attention, f"{name}_proj") for name in names]
    return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])


def self_attention(
    attention: Any, x: Tensor, *, bias: Tensor | None, causal: bool, dropout: float, linear: Linear = F.linear
) -> Tensor:
    """Multi-head self-attention on fairseq's MultiheadAttention parameters.

    Args:
        x: [B, T, d].
        bias: bool[B, 1, 1 or T, T], True = may attend; None = everything (or the causal triangle).
        causal: position t sees positions ≤ t (only with bias None).
        dropout: probability on the attention weights.

    Returns:
        [B, T, d].
    """
    weight, offset = _projections(attention, "qkv")
    query, key, value = linear(x, weight, offset).chunk(3, dim=-1)
    heads = int(attention.num_heads)
    attended = F.scaled_dot_product_attention(
        _split_heads(query, heads),
        _split_heads(key, heads),
        _split_heads(value, heads),
        attn_mask=bias,
        dropout_p=dropout,
        is_causal=causal and bias is None,
    )
    return linear(_join_heads(attended), attention.out_proj.weight, attention.out_proj.bias)


def cross_attention(
    attention: Any,
    x: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None,
    dropout: float,
    linear: Linear = F.linear,
) -> Tensor:
    """Encoder-decoder attention; ``key`` and ``value`` [B, S, d] are projected already."""
    heads = int(attention.num_heads)
    attended = F.scaled_dot_product_attention(
        _split_heads(linear(x, attention.q_proj.weight, attention.q_proj.bias), heads),
        _split_heads(key, heads),
        _split_heads(value, heads),
        attn_mask=bias,
        dropout_p=dropout,
    )
    return linear(_join_heads(attended), attention.out_proj.weight, attention.out_proj.bias)


def _embed(stack: Any, tokens: Tensor, drop: DropoutPool) -> Tensor:
    x = F.embedding(tokens, stack.embed_tokens.weight) * stack.embed_scale
    x = x + stack.embed_positions(tokens)
    return drop.dropout(x)


def encode(
    encoder: Any,
    tokens: Tensor,
    *,
    feed_forward: FeedForward,
    drop: DropoutPool,
    attention_dropout: float,
    linear: Linear = F.linear,
) -> tuple[Tensor, Tensor | None]:
    """Run the encoder.

    Args:
        encoder: fairseq's TransformerEncoderBase.
        tokens: int64[B, S].
        feed_forward: (layer, x [B, T, d]) → [B, T, d], the layer's masked FFN before dropout.

    Returns:
        (states [B, S, d], attention bias bool[B, 1, 1, S] with True on real tokens, or None without padding).
    """
    real = tokens.ne(encoder.padding_idx)
    bias = None if bool(real.all()) else real[:, None, None, :]
    x = _embed(encoder, tokens, drop)
    if bias is not None:
        x = x * real.unsqueeze(-1)
    for layer in encoder.layers:
        y = self_attention(
            layer.self_attn,
            _layer_norm(x, layer.self_attn_layer_norm),
            bias=bias,
            causal=False,
            dropout=attention_dropout,
            linear=linear,
        )
        x = drop.add(x, y)
        x = drop.add(x, feed_forward(layer, _layer_norm(x, layer.final_layer_norm)))
    return _layer_norm(x, encoder.layer_norm), bias


def decode(
    decoder: Any,
    tokens: Tensor,
    states: Tensor,
    states_bias: Tensor | None,
    *,
    feed_forward: FeedForward,
    drop: DropoutPool,
    attention_dropout: float,
    linear: Linear = F.linear,
) -> Tensor:
    """Run the decoder over gold prefixes.

    Args:
        decoder: fairseq's TransformerDecoderBase.
        tokens: int64[B, T], padded on the right (so the causal triangle alone hides the padding
            from every real position).
        states, states_bias: what ``encode`` returned.

    Returns:
        features [B, T, d], before the output projection.
    """
    layers = list(decoder.layers)
    weights, offsets = zip(*(_projections(layer.encoder_attn, "kv") for layer in layers), strict=True)
    keys_values = linear(states, torch.cat(weights), torch.cat(offsets)).chunk(2 * len(layers), dim=-1)
    x = _embed(decoder, tokens, drop)
    for i, layer in enumerate(layers):
        y = self_attention(
            layer.self_attn,
            _layer_norm(x, layer.self_attn_layer_norm),
            bias=None,
            causal=True,
            dropout=attention_dropout,
            linear=linear,
        )
        x = drop.add(x, y)
        y = cross_attention(
            layer.encoder_attn,
            _layer_norm(x, layer.encoder_attn_layer_norm),
            keys_values[2 * i],
            keys_values[2 * i + 1],
            bias=states_bias,
            dropout=attention_dropout,
            linear=linear,
        )
        x = drop.add(x, y)
        x = drop.add(x, feed_forward(layer, _layer_norm(x, layer.final_layer_norm)))
    return _layer_norm(x, decoder.layer_norm)
