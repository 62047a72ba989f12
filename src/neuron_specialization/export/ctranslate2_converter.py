"""From a fairseq state dict to a CTranslate2 model: any depth, any d_ff per layer, no fairseq needed.

CTranslate2 takes every layer's width from its weights, so a compacted model (compaction.py) converts as
it is. Its stock converter does not: it builds fairseq's architecture from the arguments and loads into that.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import CheckpointError, TranslationError
from neuron_specialization.formats.fairseq_conventions import PAD, SPECIAL, sinusoids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float32]

QUANTIZATIONS = (
    "float32",
    "float16",
    "bfloat16",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
)
# A sinusoidal table has at least so many rows, for callers that insist on longer input than the model's own:
# reading past its end is an error.
LEAST_POSITIONS = 1024
# What the table is called among the parameters, where it is among them (a bundle holds it: its numbers are
# torch's, and numpy's sine differs from torch's in the last bit).
POSITION_TABLE = "sinusoidal_positions"


def position_count(settings: Mapping[str, Any]) -> int:
    """The rows that a sinusoidal table needs: for source and target as long as the model takes them.

    Both counts are of all that has a position: tag and ``</s>``, which the decoder starts with, included.
    """
    sides = ("source", "target")
    return max(LEAST_POSITIONS, *(int(settings[f"max_{side}_positions"]) for side in sides))


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """Return fairseq's sinusoidal encodings of the first ``length`` tokens, float32[length, d_model].

    The same numbers to the bit (fairseq_conventions.sinusoids).
    """
    encodings: Array = sinusoids(length + PAD + 1, d_model)[PAD + 1 :].numpy()
    return encodings


def convert(
    parameters: Mapping[str, Array],
    settings: Mapping[str, Any],
    symbols: Sequence[str],
    folder: str | Path,
    *,
    quantization: str = "float32",
) -> None:
    """Write a CTranslate2 model (``model.bin``, ``config.json``, vocabulary) into ``folder``.

    Args:
        parameters: fairseq's names → float32 arrays (`arrays_of`); fc1 and fc2 may differ in width from
            layer to layer. Arrays that are one object are stored once.
        settings: the checkpoint's (fairseq_settings.MODEL_DEFAULTS).
        symbols: the dictionary with its special symbols and language tags, by token id.
        folder: made, or overwritten.
        quantization: one of QUANTIZATIONS: how the weights are stored.

    Raises:
        CheckpointError: a parameter is missing, or the dictionary has another size than the model.
        TranslationError: unknown quantisation, or CTranslate2 refuses the model.
    """
    with _without_torch(needed=quantization.endswith("bfloat16")):
        from ctranslate2.converters.converter import Converter

    if quantization not in QUANTIZATIONS:
        raise TranslationError(
            f"unknown quantization {quantization!r}", hint=f"one of {', '.join(QUANTIZATIONS)}"
        )
    specification = build_specification(parameters, settings, symbols)

    class FromSpecification(Converter):  # type: ignore[misc]
        def _load(self) -> Any:
            return specification

    try:
        FromSpecification().convert(str(folder), quantization=quantization, force=True)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise TranslationError(f"CTranslate2 refuses the model: {error}", where=folder) from None


def build_specification(
    parameters: Mapping[str, Array], settings: Mapping[str, Any], symbols: Sequence[str]
) -> Any:
    """Return CTranslate2's TransformerSpec of a model (arguments and errors as in `convert`)."""
    from ctranslate2.specs import common_spec, transformer_spec

    _check_settings(settings)
    rows = parameters["decoder.embed_tokens.weight"].shape[0]
    if len(symbols) != rows:
        raise CheckpointError(
            f"the dictionary has {len(symbols)} entries with its language tags, the model {rows}",
            cause="the vocabulary of another model",
        )
    common: dict[str, Any] = {
        "pre_norm": bool(settings["encoder_normalize_before"]),
        "activation": common_spec.Activation.RELU,
        "layernorm_embedding": bool(settings["layernorm_embedding"]),
    }
    encoder = transformer_spec.TransformerEncoderSpec(
        settings["encoder_layers"], settings["encoder_attention_heads"], **common
    )
    decoder = transformer_spec.TransformerDecoderSpec(
        settings["decoder_layers"], settings["decoder_attention_heads"], **common
    )
    fill = _Filler(parameters)
    for side, part in (("encoder", encoder), ("decoder", decoder)):
        embeddings = part.embeddings[0] if side == "encoder" else part.embeddings
        embeddings.weight = fill.array(f"{side}.embed_tokens.weight")
        d_model = embeddings.weight.shape[1]
        part.scale_embeddings = 1.0 if settings["no_scale_embedding"] else math.sqrt(d_model)
        learned = f"{side}.embed_positions.weight"
        part.position_encodings.encodings = (
            fill.array(learned)[PAD + 1 :]
            if settings[f"{side}_learned_pos"]
            else _positions(parameters, settings, d_model)
        )
        if common["pre_norm"]:
            fill.norm(part.layer_norm, f"{side}.layer_norm")
        if common["layernorm_embedding"]:
            fill.norm(part.layernorm_embedding, f"{side}.layernorm_embedding")
        for index, layer in enumerate(part.layer):
            fill.layer(layer, f"{side}.layers.{index}", cross_attention=side == "decoder")
    output = "decoder.output_projection.weight"
    tied = settings["share_all_embeddings"] or settings["share_decoder_input_output_embed"]
    decoder.projection.weight = fill.array("decoder.embed_tokens.weight" if tied else output)

    specification = transformer_spec.TransformerSpec(encoder, decoder)
    vocabulary = ["<blank>" if symbol == SPECIAL[PAD] else symbol for symbol in symbols]
    specification.register_source_vocabulary(vocabulary)
    specification.register_target_vocabulary(vocabulary)
    specification.config.decoder_start_token = "</s>"
    specification.config.add_source_eos = True
    return specification


@contextmanager
def _without_torch(*, needed: bool) -> Iterator[None]:
    """Keep CTranslate2's converter from importing torch: it takes seconds, and serves bfloat16 alone.

    It does without where torch is not installed; here it is told so for as long as its modules are imported.
    """
    if needed or "torch" in sys.modules or "ctranslate2.specs.model_spec" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def arrays_of(parameters: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return a state dict as float32 arrays; what shares memory there is one array here."""
    arrays: dict[tuple[int, tuple[int, ...]], Array] = {}
    result = {}
    for name, tensor in parameters.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in arrays:
            arrays[key] = tensor.detach().float().contiguous().cpu().numpy()
        result[name] = arrays[key]
    return result


def _positions(parameters: Mapping[str, Array], settings: Mapping[str, Any], d_model: int) -> Array:
    table = parameters.get(POSITION_TABLE)
    return sinusoidal_positions(position_count(settings), d_model) if table is None else table


def _check_settings(settings: Mapping[str, Any]) -> None:
    for key in ("normalize_before", "embed_dim"):
        if settings[f"encoder_{key}"] != settings[f"decoder_{key}"]:
            raise CheckpointError(f"encoder and decoder differ in {key}: such a model cannot be exported")
    if settings["no_token_positional_embeddings"]:
        raise CheckpointError("a model without positional encodings cannot be exported")


class _Filler:
    """Copies parameters, by fairseq's names, into CTranslate2's specification."""

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self._parameters = parameters

    def array(self, name: str) -> Array:
        array = self._parameters.get(name)
        if array is None:
            raise CheckpointError(f"the checkpoint has no {name}")
        return array

    def linear(self, target: Any, name: str) -> None:
        target.weight = self.array(f"{name}.weight")
        target.bias = self.array(f"{name}.bias")

    def fused(self, target: Any, names: Sequence[str]) -> None:
        """Stack projections of the same input, as CTranslate2 computes them in one product."""
        import numpy as np

        target.weight = np.concatenate([self.array(f"{name}.weight") for name in names])
        target.bias = np.concatenate([self.array(f"{name}.bias") for name in names])

    def norm(self, target: Any, name: str) -> None:
        target.gamma = self.array(f"{name}.weight")
        target.beta = self.array(f"{name}.bias")

    def layer(self, target: Any, name: str, *, cross_attention: bool) -> None:
        attention = f"{name}.self_attn"
        self.fused(target.self_attention.linear[0], [f"{attention}.{part}_proj" for part in "qkv"])
        self.linear(target.self_attention.linear[1], f"{attention}.out_proj")
        self.norm(target.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        if cross_attention:
            attention = f"{name}.encoder_attn"
            self.linear(target.attention.linear[0], f"{attention}.q_proj")
            self.fused(target.attention.linear[1], [f"{attention}.{part}_proj" for part in "kv"])
            self.linear(target.attention.linear[2], f"{attention}.out_proj")
            self.norm(target.attention.layer_norm, f"{name}.encoder_attn_layer_norm")
        self.linear(target.ffn.linear_0, f"{name}.fc1")
        self.linear(target.ffn.linear_1, f"{name}.fc2")
        self.norm(target.ffn.layer_norm, f"{name}.final_layer_norm")
