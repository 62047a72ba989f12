"""Checkpoints of the reference implementation (Smu-Tan/Neuron-Specialization, b631839).

Its NS models save each masked ``Linear`` weight as ``<layer>.global_weight``, leave out the parameters
tied to ``decoder.embed_tokens.weight``, and name one mask file a direction inside the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SUFFIX = ".global_weight"
_TIED_TO = "decoder.embed_tokens.weight"


def is_reference(parameters: Mapping[str, Any]) -> bool:
    """Say whether parameters are named as the reference names them."""
    return any(name.endswith(SUFFIX) for name in parameters)


def restore_parameters(
    parameters: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], path: Path
) -> dict[str, torch.Tensor]:
    """Return the parameters under fairseq's names, with the tied ones put back (sharing memory).

    Args:
        parameters: as the reference saves them.
        arguments: the model's arguments, which say what is tied.
        path: for messages.

    Raises:
        CheckpointError: a parameter is missing that is not tied to another.
    """
    restored = {
        (name.removesuffix(SUFFIX) + ".weight" if name.endswith(SUFFIX) else name): tensor
        for name, tensor in parameters.items()
    }
    if _TIED_TO not in restored:
        raise CheckpointError(f"the checkpoint has no {_TIED_TO}", where=path)
    shared = bool(arguments.get("share_all_embeddings"))
    tied = {
        "encoder.embed_tokens.weight": shared,
        "decoder.output_projection.weight": shared or bool(arguments.get("share_decoder_input_output_embed")),
    }
    for name, is_tied in tied.items():
        if is_tied:
            restored[name] = restored[_TIED_TO]
        elif name not in restored:
            raise CheckpointError(f"the checkpoint has no {name}, and it is not tied to another", where=path)
    return restored


def mask_files(arguments: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the mask file the checkpoint names for each direction. They are not opened.

    Raises:
        CheckpointError: the entry is not a mapping of directions to files.
    """
    text = arguments.get("mask_path")
    if not text:
        return {}
    try:
        value = json.loads(text) if isinstance(text, str) else dict(text)
    except (ValueError, TypeError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise CheckpointError(
            "mask_path in the checkpoint is not a mapping of directions to files", where=path
        )
    return {str(direction): name for direction, name in value.items()}
