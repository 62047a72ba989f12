"""Checkpoints: the only place that loads and saves them. No code in a file runs unless that is asked for.

Three formats are read: this project's ``model.pt``, plain fairseq checkpoints, and the reference
implementation's NS checkpoints (renamed back by ``reference_checkpoints``). One is written: ``model.pt``,
plain containers, numbers, strings and tensors, which loads with a bare ``torch.load(…, weights_only=True)``
and opens in fairseq.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import CheckpointError
from neuron_specialization.formats import reference_checkpoints
from neuron_specialization.formats.fairseq_settings import (
    HARMLESS,
    MODEL_DEFAULTS,
    TASK_DEFAULTS,
    setting_fits,
)
from neuron_specialization.storage.files import atomic_path
from neuron_specialization.storage.safe_loading import no_extra_globals, read_state

if TYPE_CHECKING:
    import torch

# direction → layer name (``encoder.layers.0``) → bool[d_ff], True = kept
Masks = dict[str, dict[str, "torch.Tensor"]]

FORMAT = "neuron-specialization-model-1"

_MASKS = ".fc1.masks"

# not learned: a version mark, and a position buffer older fairseq versions save
_BUFFERS = (".version", "_float_tensor")


@dataclass(frozen=True)
class Checkpoint:
    """A model read from a file.

    Attributes:
        path: the file.
        kind: ``project`` (our model.pt), ``fairseq`` or ``reference``.
        parameters: fairseq's parameter names → tensors, on the CPU. Tied parameters share memory.
        settings: fairseq's Transformer settings, every key of MODEL_DEFAULTS.
        languages: in the order of their tags in the dictionary.
        directions: the directions trained.
        updates: number of updates made, if known.
        valid_loss: label-smoothed validation loss (bits a token), if known.
        provenance: what a model.pt says of itself (system, recipe, fingerprint, inputs, …).
        mask_files: the reference's mask file of each direction, as named in its checkpoints.
        tags: how the tags were set: ``encoder_langtok``, ``decoder_langtok``, ``lang_tok_style``.
        masks: of a specialised model: direction → layer → bool[d_ff]; empty for a dense one, and for the
            reference's, whose masks are in files of their own.
    """

    path: Path
    kind: str
    parameters: dict[str, torch.Tensor]
    settings: dict[str, Any]
    languages: list[str]
    directions: list[str]
    updates: int | None = None
    valid_loss: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    mask_files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)

    @property
    def encoder_layers(self) -> int:
        return int(self.settings["encoder_layers"])

    @property
    def decoder_layers(self) -> int:
        return int(self.settings["decoder_layers"])

    @property
    def d_model(self) -> int:
        return int(self.settings["encoder_embed_dim"])

    @property
    def d_ff(self) -> int:
        """Neurons of an encoder FFN layer; the decoder's are the same unless a foreign checkpoint differs."""
        return int(self.settings["encoder_ffn_embed_dim"])

    @property
    def layer_widths(self) -> dict[str, int]:
        """Layer name (``encoder.layers.0``) → its neurons."""
        return _layer_widths(self.settings)

    @property
    def heads(self) -> int:
        return int(self.settings["encoder_attention_heads"])

    @property
    def vocabulary_size(self) -> int:
        """Rows of the decoder's embedding: dictionary, special symbols and language tags together."""
        return int(self.parameters["decoder.embed_tokens.weight"].shape[0])

    @property
    def embeddings(self) -> str:
        """``shared``, ``decoder-tied`` or ``separate``, as the configuration names them."""
        if self.settings["share_all_embeddings"]:
            return "shared"
        return "decoder-tied" if self.settings["share_decoder_input_output_embed"] else "separate"

    @property
    def parameter_count(self) -> int:
        """Learned numbers; tied ones count once."""
        sizes = {
            (tensor.data_ptr(), tuple(tensor.shape)): tensor.numel()
            for name, tensor in self.parameters.items()
            if not name.endswith(_BUFFERS)
        }
        return sum(sizes.values())


def _layer_widths(settings: Mapping[str, Any]) -> dict[str, int]:
    return {
        f"{side}.layers.{index}": int(settings[f"{side}_ffn_embed_dim"])
        for side in ("encoder", "decoder")
        for index in range(settings[f"{side}_layers"])
    }


# ---- reading ----


def load_checkpoint(
    path: str | Path, *, languages: Sequence[str] | None = None, unsafe: bool = False
) -> Checkpoint:
    """Read a model from any of the three formats.

    Args:
        path: the file.
        languages: in the order of their tags, for a checkpoint that names a file of them (``--lang-dict``).
        unsafe: see safe_loading.read_state.

    Raises:
        CheckpointError: see safe_loading.read_state; or the model is one this project does not compute.
    """
    path = Path(path)
    state = read_state(path, unsafe=unsafe)
    try:
        return _checkpoint_of(state, path, languages)
    # a description of the file's choosing: a text where a number belongs, a list where a mapping does
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint describes no model: {error}", where=path, cause="it was changed or damaged"
        ) from None


def _checkpoint_of(state: Mapping[str, Any], path: Path, languages: Sequence[str] | None) -> Checkpoint:
    parameters = state.get("model")
    if not isinstance(parameters, Mapping) or not parameters:
        raise CheckpointError(
            "not a translation model: the checkpoint has no model parameters",
            where=path,
            cause="a mask or activation file" if "model" not in state else None,
        )
    model_arguments, task_arguments = _arguments(state, path)
    kind = "fairseq"
    mask_files: dict[str, str] = {}
    if state.get("format") == FORMAT:
        kind = "project"
    elif reference_checkpoints.is_reference(parameters):
        kind = "reference"
        parameters = reference_checkpoints.restore_parameters(parameters, model_arguments, path)
        mask_files = reference_checkpoints.mask_files(model_arguments, path)
    settings = {key: model_arguments.get(key, default) for key, default in MODEL_DEFAULTS.items()}
    _check_types(settings, path)
    _check_supported(settings, {**model_arguments, **task_arguments}, path)
    mask_directions = _names(model_arguments.get("mask_directions"))
    parameters, masks = _split_masks(parameters, mask_directions, _layer_widths(settings), path)
    _check_parameters(parameters, settings, path)
    directions = _names(task_arguments.get("lang_pairs"))
    history = state.get("optimizer_history") or [{}]
    return Checkpoint(
        path=path,
        kind=kind,
        parameters=parameters,
        settings=settings,
        languages=list(languages) if languages else _languages(task_arguments, directions),
        directions=directions,
        updates=history[-1].get("num_updates"),
        valid_loss=(state.get("extra_state") or {}).get("val_loss"),
        provenance=dict(state.get("neuron_specialization") or {}),
        mask_files=mask_files,
        tags={key: task_arguments.get(key, TASK_DEFAULTS[key]) for key in _TAG_KEYS},
        masks=masks,
    )


_TAG_KEYS = ("encoder_langtok", "decoder_langtok", "lang_tok_style")


def _split_masks(
    tensors: Mapping[str, torch.Tensor], directions: list[str], widths: Mapping[str, int], path: Path
) -> tuple[dict[str, torch.Tensor], Masks]:
    """Separate what is learned from the mask buffers ``<layer>.fc1.masks`` (bool[directions, d_ff]).

    Args:
        tensors: both, by name.
        directions: those with masks, in the order of the buffers' rows; none of a dense model.
        widths: layer → d_ff.
        path: for messages.

    Raises:
        CheckpointError: a layer without masks where there are directions, or masks of another shape.
    """
    parameters = {name: tensor for name, tensor in tensors.items() if not name.endswith(_MASKS)}
    buffers = {name: tensor for name, tensor in tensors.items() if name.endswith(_MASKS)}
    found = {name: tuple(buffer.shape) for name, buffer in buffers.items()}
    expected = {f"{layer}{_MASKS}": (len(directions), width) for layer, width in widths.items() if directions}
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"{name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
                f" for {len(directions)} directions",
                where=path,
                cause="it was changed or damaged",
            )
    masks = {
        direction: {name.removesuffix(_MASKS): buffer[row].bool() for name, buffer in buffers.items()}
        for row, direction in enumerate(directions)
    }
    return parameters, masks


def _arguments(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's and the task's arguments: from ``cfg``, or from ``args`` in older checkpoints."""
    cfg = state.get("cfg")
    if isinstance(cfg, Mapping):
        found = _plain(cfg.get("model")), _plain(cfg.get("task"))
    else:
        both = _plain(state.get("args"))
        found = both, both
    if not found[0]:
        raise CheckpointError(
            "the checkpoint does not say how its model is built (no cfg, no args)", where=path
        )
    return found


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, argparse.Namespace):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else {}


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split(",") if value else []
    return [str(name) for name in value] if value else []


def _languages(arguments: Mapping[str, Any], directions: list[str]) -> list[str]:
    """The languages in the order of their tags, as fairseq finds it; empty if it is in another file."""
    if arguments.get("langs"):
        return _names(arguments["langs"])
    if arguments.get("lang_dict"):
        return []
    return sorted({code for direction in directions for code in direction.split("-")})


def _check_types(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse settings of another type or magnitude than any model's."""
    for key in MODEL_DEFAULTS:
        value = settings[key]
        if not setting_fits(key, value):
            raise CheckpointError(
                f"the checkpoint says {key} = {str(value)[:60]!r}, which no model has",
                where=path,
                cause="it was changed or damaged",
            )


def _check_supported(settings: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    for key, harmless in HARMLESS.items():
        if arguments.get(key, harmless) not in (harmless, None, False, 0):
            raise CheckpointError(
                f"a model with {key} = {arguments[key]!r} is not one this project computes", where=path
            )
    if settings["activation_fn"] != "relu":
        raise CheckpointError(
            f"the model's activation function is {settings['activation_fn']}: the method is defined for relu",
            where=path,
        )


def _check_parameters(parameters: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """Compare the names and shapes that everything later relies on with the settings."""
    import torch

    expected: dict[str, tuple[int, ...]] = {}
    for side in ("encoder", "decoder"):
        d_model, d_ff = settings[f"{side}_embed_dim"], settings[f"{side}_ffn_embed_dim"]
        for index in range(settings[f"{side}_layers"]):
            expected[f"{side}.layers.{index}.fc1.weight"] = (d_ff, d_model)
            expected[f"{side}.layers.{index}.fc1.bias"] = (d_ff,)
            expected[f"{side}.layers.{index}.fc2.weight"] = (d_model, d_ff)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *expected):
        tensor = parameters.get(name)
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"the checkpoint has no {name}", where=path)
        if name in expected and tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, its settings say {expected[name]}", where=path
            )
    for side in ("encoder", "decoder"):
        if f"{side}.layers.{settings[f'{side}_layers']}.fc1.weight" in parameters:
            raise CheckpointError(f"the {side} has more layers than its settings say", where=path)


# ---- writing ----


def plain_state(
    checkpoint: Checkpoint,
    *,
    provenance: Mapping[str, Any] | None = None,
    sampling_temperature: float = 1.0,
) -> dict[str, Any]:
    """Return what a ``model.pt`` holds: plain containers and tensors, in the layout fairseq loads.

    Only what describes the model goes in: no paths, times or machine settings, so that equal models
    are equal files. A dense model names fairseq's own architecture and task; a specialised one this
    project's, and holds its masks.

    Args:
        checkpoint: the model.
        provenance: what the model says of itself.
        sampling_temperature: of training, for the record.
    """
    masked = bool(checkpoint.masks)
    task = {
        **TASK_DEFAULTS,
        **checkpoint.tags,
        "task": "neuron_specialization" if masked else "translation_multi_simple_epoch",
        "langs": list(checkpoint.languages),
        "lang_pairs": ",".join(checkpoint.directions),
        "sampling_temperature": sampling_temperature,
        "max_source_positions": checkpoint.settings["max_source_positions"],
        "max_target_positions": checkpoint.settings["max_target_positions"],
    }
    architecture = "masked_transformer" if masked else "transformer"
    model = {**checkpoint.settings, "arch": architecture, "_name": architecture}
    if masked:
        task |= {"masks": None, "batching": "mixed"}
        model |= {"implementation": "fast", "mask_directions": list(checkpoint.masks)}
    return {
        "format": FORMAT,
        "args": None,
        "cfg": {"_name": None, "task": {**task, "_name": task["task"]}, "model": model},
        "model": {**checkpoint.parameters, **_mask_buffers(checkpoint.masks)},
        "optimizer_history": [
            {
                "criterion_name": "LabelSmoothedCrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": checkpoint.updates or 0,
            }
        ],
        "task_state": {},
        "extra_state": {
            "train_iterator": {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": checkpoint.valid_loss,
            "best": checkpoint.valid_loss,
        },
        "last_optimizer_state": None,
        "neuron_specialization": dict(provenance if provenance is not None else checkpoint.provenance),
    }


def _mask_buffers(masks: Masks) -> dict[str, torch.Tensor]:
    """The inverse of _split_masks: ``<layer>.fc1.masks``, bool[directions, d_ff]."""
    import torch

    layers = list(next(iter(masks.values()), {}))
    return {f"{layer}{_MASKS}": torch.stack([masks[name][layer] for name in masks]) for layer in layers}


def write_model(path: str | Path, state: Mapping[str, Any], *, plain: bool = True) -> None:
    """Write a state (see plain_state) atomically; equal states give equal bytes.

    Args:
        path: the file.
        state: its content.
        plain: make sure that it holds nothing but tensors and plain containers. False for the formats of
            others, whose arguments are a Namespace.

    Raises:
        CheckpointError: the file written could not be read back with ``weights_only=True`` alone.
    """
    import torch

    with atomic_path(path) as temporary:
        # A name would end up inside the archive; an open file is always called "archive".
        with temporary.open("wb") as handle:
            torch.save(dict(state), handle)
        if not plain:
            return
        with no_extra_globals():
            try:
                torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
            except pickle.UnpicklingError as error:
                raise CheckpointError(f"the model would not load safely: {error}", where=path) from None
