"""Tiny checkpoints of fairseq's shape, made without fairseq."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

LANGUAGES = ["en", "de"]
DIRECTIONS = ["en-de", "de-en"]
D_MODEL, D_FF, LAYERS, VOCABULARY = 8, 16, 1, 22


def tiny_parameters(seed: int = 0) -> dict[str, torch.Tensor]:
    """The parameters that this project's checks look at, of a 1+1-layer model with shared embeddings."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(VOCABULARY, D_MODEL, generator=generator)
    parameters = {
        "encoder.version": torch.tensor([3.0]),
        "encoder.embed_tokens.weight": table,
        "decoder.embed_tokens.weight": table,
        "decoder.output_projection.weight": table,
    }
    for side in ("encoder", "decoder"):
        for index in range(LAYERS):
            layer = f"{side}.layers.{index}"
            parameters[f"{layer}.fc1.weight"] = torch.randn(D_FF, D_MODEL, generator=generator)
            parameters[f"{layer}.fc1.bias"] = torch.randn(D_FF, generator=generator)
            parameters[f"{layer}.fc2.weight"] = torch.randn(D_MODEL, D_FF, generator=generator)
    return parameters


def tiny_arguments(**changes: Any) -> argparse.Namespace:
    """Arguments as fairseq pickles them with a checkpoint."""
    values: dict[str, Any] = {
        "arch": "transformer",
        "_name": "transformer",
        "task": "translation_multi_simple_epoch",
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_embed_dim": D_MODEL,
        "decoder_embed_dim": D_MODEL,
        "encoder_ffn_embed_dim": D_FF,
        "decoder_ffn_embed_dim": D_FF,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
        "share_decoder_input_output_embed": True,
        "activation_fn": "relu",
        "langs": LANGUAGES,
        "lang_pairs": ",".join(DIRECTIONS),
        "encoder_langtok": "src",
        "decoder_langtok": True,
        "save_dir": "/somewhere/else",
    }
    return argparse.Namespace(**{**values, **changes})


def training_state(update: int, **changes: Any) -> dict[str, Any]:
    """What fairseq saves after ``update`` updates; the validation loss falls with every save."""
    loss = 11 - update / 50
    arguments = tiny_arguments(**changes)
    return {
        "args": None,
        "cfg": {"_name": None, "model": arguments, "task": arguments},
        "model": tiny_parameters(update),
        "optimizer_history": [{"criterion_name": "C", "optimizer_name": "A", "num_updates": update}],
        "task_state": {},
        "extra_state": {"val_loss": loss, "best": loss, "previous_training_time": float(update)},
        "last_optimizer_state": {"state": {}, "param_groups": []},
    }


def write_training_checkpoints(folder: Path, updates: range) -> Path:
    """Write ``<update>.pt`` for each update, for the fake trainer."""
    folder.mkdir(parents=True, exist_ok=True)
    for update in updates:
        torch.save(training_state(update), folder / f"{update}.pt")
    return folder
