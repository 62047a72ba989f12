"""Models written for others: plain fairseq checkpoints, and the reference implementation's NS checkpoints."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neuron_specialization.checkpoints.checkpoint import Checkpoint, plain_state
from neuron_specialization.errors import CheckpointError
from neuron_specialization.formats.reference_checkpoints import SUFFIX

if TYPE_CHECKING:
    import torch


def fairseq_state(checkpoint: Checkpoint, direction: str | None = None) -> dict[str, Any]:
    """Return a plain fairseq checkpoint (architecture ``transformer``), arguments as fairseq pickles them.

    A specialised model has another network for each direction, so one must be named; its mask is folded into
    the weights: with W1's masked rows set to zero the dense FFN computes the masked one exactly.

    Args:
        checkpoint: the model.
        direction: whose mask to fold in; None for a dense model.

    Raises:
        CheckpointError: a specialised model without a direction, or one it has no mask for.
    """
    if checkpoint.masks:
        checkpoint = fold(checkpoint, direction)
    elif direction is not None:
        raise CheckpointError(
            f"a dense model has no mask for {direction}", where=checkpoint.path, hint="leave --direction out"
        )
    return _as_pickled(plain_state(checkpoint, provenance={}))


def fold(checkpoint: Checkpoint, direction: str | None) -> Checkpoint:
    """Return the dense model that equals a specialised one in one direction: W1's masked rows are 0.

    A masked neuron then emits relu(b1_i), as under its mask.

    Raises:
        CheckpointError: no direction is named, or the model has no mask for it.
    """
    if direction is None or direction not in checkpoint.masks:
        raise CheckpointError(
            "a specialised model is another dense model for each direction"
            if direction is None
            else f"the model has no mask for {direction}",
            where=checkpoint.path,
            hint=f"name one of its directions: --direction {next(iter(checkpoint.masks), '…')}",
        )
    parameters = dict(checkpoint.parameters)
    for layer, mask in checkpoint.masks[direction].items():
        name = f"{layer}.fc1.weight"
        # not a product with the mask: NaN or infinity in a masked row must not come through
        parameters[name] = parameters[name].masked_fill(~mask.unsqueeze(1), 0)
    return replace(checkpoint, parameters=parameters, masks={}, directions=[direction])


def reference_state(checkpoint: Checkpoint, mask_folder: str) -> dict[str, Any]:
    """Return an NS checkpoint as the reference saves it.

    Args:
        checkpoint: the model; its masks are not part of that format.
        mask_folder: where the reference will find ``<direction>.pt`` (see export-masks). It opens them
            by these names, seen from the folder it runs in.
    """
    parameters = dict(checkpoint.parameters)
    settings = checkpoint.settings
    if settings["share_all_embeddings"]:
        del parameters["encoder.embed_tokens.weight"]
    if settings["share_all_embeddings"] or settings["share_decoder_input_output_embed"]:
        parameters.pop("decoder.output_projection.weight", None)
    renamed = {
        (name.removesuffix(".weight") + SUFFIX if is_linear(name, tensor) else name): tensor
        for name, tensor in parameters.items()
    }
    state = plain_state(replace(checkpoint, masks={}), provenance={})
    names = checkpoint.directions
    state["model"] = renamed
    state["cfg"]["model"] |= {
        "arch": "transformer_with_mask",
        "_name": "transformer_with_mask",
        "mask_path": json.dumps({name: f"{mask_folder.rstrip('/')}/{name}.pt" for name in names}),
        "mask_embedding": False,
        "no_mask_output_project": True,
        "no_save_static_mask": True,
    }
    state["cfg"]["task"] |= {
        "task": "mask_translation_multi_simple_epoch",
        "_name": "mask_translation_multi_simple_epoch",
    }
    return _as_pickled(state)


def is_linear(name: str, tensor: torch.Tensor) -> bool:
    """Say whether a parameter is the weight of a Linear inside a layer, which the reference renames."""
    return ".layers." in name and name.endswith(".weight") and tensor.ndim == 2


def _as_pickled(state: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments the form fairseq itself saves: one Namespace for the model, one for the task."""
    model, task = state["cfg"]["model"], state["cfg"]["task"]
    cfg = {
        **state["cfg"],
        "model": argparse.Namespace(**{**task, **model}),
        "task": argparse.Namespace(**{**model, **task}),
    }
    plain = {key: value for key, value in state.items() if key not in ("format", "neuron_specialization")}
    return {**plain, "cfg": cfg}
