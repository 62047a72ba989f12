"""Small random models: untrained, but complete, so that everything around training can be tested on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuron_specialization.checkpoints.checkpoint import Checkpoint, plain_state, write_model
from neuron_specialization.formats.fairseq_settings import MODEL_DEFAULTS
from neuron_specialization.preprocessing.binarize import read_dictionary
from neuron_specialization.storage.layer_masks import write_masks

SMALL: dict[str, Any] = {
    **MODEL_DEFAULTS,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "decoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "share_all_embeddings": True,
    "share_decoder_input_output_embed": True,
    "max_source_positions": 32,
    "max_target_positions": 32,
}


def random_parameters(settings: dict[str, Any], vocabulary_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Parameters by fairseq's names, large enough that a random model has preferences."""
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        parameters[f"{name}.weight"] = (
            torch.randn(rows, columns, generator=generator) / math.sqrt(columns) * 1.5
        )
        parameters[f"{name}.bias"] = torch.randn(rows, generator=generator) * 0.5

    def norm(name: str, width: int) -> None:
        parameters[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        parameters[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)

    def embedding(d: int) -> Tensor:
        table = torch.randn(vocabulary_size, d, generator=generator) / math.sqrt(d)
        table[1] = 0
        return table

    for side in ("encoder", "decoder"):
        d, d_ff = settings[f"{side}_embed_dim"], settings[f"{side}_ffn_embed_dim"]
        shared = side == "decoder" and settings["share_all_embeddings"]
        parameters[f"{side}.embed_tokens.weight"] = (
            parameters["encoder.embed_tokens.weight"] if shared else embedding(d)
        )
        for index in range(settings[f"{side}_layers"]):
            layer = f"{side}.layers.{index}"
            for attention in ["self_attn", *(["encoder_attn"] if side == "decoder" else [])]:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{layer}.{attention}.{part}", d, d)
                norm(f"{layer}.{attention}_layer_norm", d)
            linear(f"{layer}.fc1", d_ff, d)
            linear(f"{layer}.fc2", d, d_ff)
            norm(f"{layer}.final_layer_norm", d)
        if settings[f"{side}_normalize_before"]:
            norm(f"{side}.layer_norm", d)
        if settings["layernorm_embedding"]:
            norm(f"{side}.layernorm_embedding", d)
        # version 3: sinusoidal positions are not in the state
        parameters[f"{side}.version"] = torch.tensor([3.0])
    if settings["share_decoder_input_output_embed"]:
        parameters["decoder.output_projection.weight"] = parameters["decoder.embed_tokens.weight"]
    else:
        parameters["decoder.output_projection.weight"] = embedding(settings["decoder_embed_dim"]) * 2
    return parameters


def random_masks(settings: dict[str, Any], directions: list[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """direction → layer → bool[d_ff], about half of the neurons kept, at least one."""
    generator = np.random.default_rng(seed)
    masks: dict[str, dict[str, Any]] = {}
    for direction in directions:
        masks[direction] = {}
        for side in ("encoder", "decoder"):
            for index in range(settings[f"{side}_layers"]):
                mask = generator.random(settings[f"{side}_ffn_embed_dim"]) < 0.5
                mask[0] = True
                masks[direction][f"{side}.layers.{index}"] = mask
    return masks


def write_random_model(
    path: Path,
    vocabulary: Path,
    languages: list[str],
    directions: list[str],
    *,
    seed: int = 0,
    masks: dict[str, dict[str, Any]] | None = None,
    provenance: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a random model.pt over a vocabulary folder; with masks as a specialised one that holds them."""
    settings = {**SMALL, **changes}
    size = len(read_dictionary(vocabulary / "dict.txt")) + len(languages)
    checkpoint = Checkpoint(
        path=path,
        kind="project",
        parameters=random_parameters(settings, size, seed),
        settings=settings,
        languages=languages,
        directions=directions,
        updates=7,
        provenance={"system": "random", **(provenance or {})},
        masks={
            name: {layer: torch.from_numpy(mask) for layer, mask in layers.items()}
            for name, layers in (masks or {}).items()
        },
    )
    write_model(path, plain_state(checkpoint))
    return path


def write_mask_folder(folder: Path, masks: dict[str, dict[str, Any]], **metadata: str) -> Path:
    """Write masks as the masks stage does."""
    for name, layers in masks.items():
        write_masks(folder / f"{name}.safetensors", layers, {"k": "95", "direction": name, **metadata})
    return folder
