"""Checkpoints: the only place that loads and saves them. No code in a file runs unless that is asked for.

Three formats are read: this project's ``model.pt``, plain fairseq checkpoints, and the reference
implementation's NS checkpoints (renamed back by ``reference_formats``). One is written: ``model.pt``, plain
containers, numbers, strings and tensors, which loads with a bare ``torch.load(…, weights_only=True)`` and
opens in fairseq.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import CheckpointError
from neuron_specialization.files import atomic_path

if TYPE_CHECKING:
    import torch
    from fairseq.models.transformer import TransformerModel

# direction → layer name (``encoder.layers.0``) → bool[d_ff], True = kept
Masks = dict[str, dict[str, "torch.Tensor"]]

FORMAT = "neuron-specialization-model-1"

# All that fairseq's checkpoints hold beside tensors and plain containers: the arguments of the run.
# A Namespace only stores attributes; building one runs no code of the file's choosing.
SAFE_GLOBALS: tuple[type, ...] = (argparse.Namespace,)

# fairseq's settings of the Transformer, with the values that hold where a checkpoint does not say
MODEL_DEFAULTS: dict[str, Any] = {
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_embed_dim": 512,
    "decoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "decoder_ffn_embed_dim": 2048,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "share_all_embeddings": False,
    "share_decoder_input_output_embed": False,
    "activation_fn": "relu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "max_source_positions": 1024,
    "max_target_positions": 1024,
    "encoder_learned_pos": False,
    "decoder_learned_pos": False,
    "no_token_positional_embeddings": False,
    "no_scale_embedding": False,
    "layernorm_embedding": False,
}

# settings that change the network into something this project does not compute, with their harmless values
_UNSUPPORTED: dict[str, Any] = {
    "adaptive_softmax_cutoff": None,
    "adaptive_input": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "encoder_layers_to_keep": None,
    "decoder_layers_to_keep": None,
    "merge_src_tgt_embed": False,
    "base_layers": 0,
    "lang_tok_replacing_bos_eos": False,
    "extra_data": None,
}

_TASK_DEFAULTS: dict[str, Any] = {
    "source_lang": None,
    "target_lang": None,
    "keep_inference_langtok": False,
    "sampling_method": "temperature",
    "sampling_temperature": 1.0,
    "data": "",
    "lang_dict": None,
    "source_dict": None,
    "target_dict": None,
    "lang_tok_style": "multilingual",
    "load_alignments": False,
    "left_pad_source": "True",
    "left_pad_target": "False",
    "upsample_primary": 1,
    "truncate_source": False,
    "encoder_langtok": "src",
    "decoder_langtok": True,
    "lang_tok_replacing_bos_eos": False,
    "enable_lang_ids": False,
    "enable_reservsed_directions_shared_datasets": False,
    "extra_data": None,
    "extra_lang_pairs": None,
    "fixed_dictionary": None,
    "langtoks_specs": ["main"],
    "langtoks": None,
    "sampling_weights_from_file": None,
    "sampling_weights": None,
    "virtual_epoch_size": None,
    "virtual_data_size": None,
    "seed": 1,
}

_MASKS = ".fc1.masks"

# what torch.load raises on bytes that are not what torch.save wrote
_DAMAGE = (RuntimeError, OSError, EOFError, KeyError, ValueError, IndexError, TypeError, AttributeError)

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
        return count_parameters(self.parameters)


def count_parameters(parameters: Mapping[str, torch.Tensor]) -> int:
    """Count learned numbers; tensors that share memory count once."""
    sizes = {
        (tensor.data_ptr(), tuple(tensor.shape)): tensor.numel()
        for name, tensor in parameters.items()
        if not name.endswith(_BUFFERS)
    }
    return sum(sizes.values())


def allow_fairseq_globals() -> None:
    """Let ``torch.load(weights_only=True)``, which fairseq calls bare, read fairseq's own checkpoints.

    For the processes in which fairseq loads (the plugin calls this); elsewhere ``read_state`` allows them for
    one call only.
    """
    import torch

    torch.serialization.add_safe_globals(list(SAFE_GLOBALS))


# ---- reading ----


def read_state(path: str | Path, *, unsafe: bool = False, mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint's raw content.

    Args:
        path: the file.
        unsafe: let the file run any code it holds. For files whose maker is trusted, and never by default.
        mmap: map tensors instead of reading them, for a look at the rest.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or asking for code outside the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("checkpoint is missing", where=path)
    import torch

    try:
        with torch.serialization.safe_globals(list(SAFE_GLOBALS)):
            state = torch.load(
                path, map_location="cpu", weights_only=not unsafe, mmap=mmap and zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from None
    except _DAMAGE as error:
        raise CheckpointError(
            f"checkpoint cannot be read: {_first_line(error)}",
            where=path,
            cause="it was cut off while being written or copied, or is not a PyTorch checkpoint",
            hint="fetch or train it again",
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"not a checkpoint: it holds a {type(state).__name__}", where=path)
    return state


def _refusal(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    found = re.search(r"(?:GLOBAL|class|type|function) `?([A-Za-z_][\w]*(?:\.[\w]+)+)", text)
    if found is None:
        return CheckpointError(
            f"checkpoint cannot be read: {_first_line(error)}",
            where=path,
            cause="it is damaged, or not safe to load",
        )
    return CheckpointError(
        f"checkpoint refused: it asks to load {found[1]}, which could run code",
        where=path,
        hint="use a checkpoint of tensors and plain values; --allow-unsafe-pickle loads this one all the"
        " same, if you trust whoever made it as you trust a program",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__) or type(error).__name__


def check_intact(path: Path) -> str | None:
    """Return what is wrong with a training checkpoint, or None if every byte of its content is as written.

    torch saves a zip archive with a checksum for each record. They are compared, then the archive is opened
    by torch itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"its record {damaged} does not match its checksum"
        read_state(path, mmap=True)
    except CheckpointError as error:
        return error.what
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        return _first_line(error)
    return None


def load_checkpoint(path: str | Path, *, unsafe: bool = False) -> Checkpoint:
    """Read a model from any of the three formats.

    Raises:
        CheckpointError: see read_state; or the model is one this project does not compute.
    """
    path = Path(path)
    state = read_state(path, unsafe=unsafe)
    parameters = state.get("model")
    if not isinstance(parameters, Mapping) or not parameters:
        raise CheckpointError(
            "not a translation model: the checkpoint has no model parameters",
            where=path,
            cause="a mask or activation file" if "model" not in state else None,
        )
    model_arguments, task_arguments = _arguments(state, path)
    from neuron_specialization import reference_formats

    kind = "fairseq"
    mask_files: dict[str, str] = {}
    if state.get("format") == FORMAT:
        kind = "project"
    elif reference_formats.is_reference(parameters):
        kind = "reference"
        parameters = reference_formats.restore_parameters(parameters, model_arguments, path)
        mask_files = reference_formats.mask_files(model_arguments, path)
    settings = {key: model_arguments.get(key, default) for key, default in MODEL_DEFAULTS.items()}
    _check_supported(settings, {**model_arguments, **task_arguments}, path)
    parameters, masks = _split_masks(parameters, _names(model_arguments.get("mask_directions")), path)
    _check_parameters(parameters, settings, path)
    directions = _names(task_arguments.get("lang_pairs"))
    history = state.get("optimizer_history") or [{}]
    return Checkpoint(
        path=path,
        kind=kind,
        parameters=parameters,
        settings=settings,
        languages=_names(task_arguments.get("langs"))
        or sorted({code for direction in directions for code in direction.split("-")}),
        directions=directions,
        updates=history[-1].get("num_updates"),
        valid_loss=(state.get("extra_state") or {}).get("val_loss"),
        provenance=dict(state.get("neuron_specialization") or {}),
        mask_files=mask_files,
        tags={key: task_arguments.get(key, _TASK_DEFAULTS[key]) for key in _TAG_KEYS},
        masks=masks,
    )


_TAG_KEYS = ("encoder_langtok", "decoder_langtok", "lang_tok_style")


def _split_masks(
    tensors: Mapping[str, torch.Tensor], directions: list[str], path: Path
) -> tuple[dict[str, torch.Tensor], Masks]:
    """Separate what is learned from the mask buffers ``<layer>.fc1.masks`` (bool[directions, d_ff])."""
    parameters = {name: tensor for name, tensor in tensors.items() if not name.endswith(_MASKS)}
    masks: Masks = {direction: {} for direction in directions}
    for name, tensor in tensors.items():
        if not name.endswith(_MASKS):
            continue
        if tensor.ndim != 2 or tensor.shape[0] != len(directions):
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, for {len(directions)} directions", where=path
            )
        for direction, row in zip(directions, tensor, strict=True):
            masks[direction][name.removesuffix(_MASKS)] = row.bool()
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


def _check_supported(settings: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    for key, harmless in _UNSUPPORTED.items():
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
        **_TASK_DEFAULTS,
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


def write_model(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a state (see plain_state) atomically; equal states give equal bytes.

    Raises:
        CheckpointError: the file written could not be read back with ``weights_only=True`` alone.
    """
    import torch

    with atomic_path(path) as temporary:
        # A name would end up inside the archive; an open file is always called "archive".
        with temporary.open("wb") as handle:
            torch.save(dict(state), handle)
        with _no_extra_globals():
            try:
                torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
            except pickle.UnpicklingError as error:
                raise CheckpointError(
                    f"the model would not load safely: {_first_line(error)}", where=path
                ) from None


@contextmanager
def _no_extra_globals() -> Iterator[None]:
    """Take back what was allowed in this process, to test what holds in any."""
    import torch

    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


# ---- models ----


def read_dictionary(source: str | Path | int, languages: list[str]) -> Any:
    """Return fairseq's dictionary with the language tags appended, as its task builds it.

    Args:
        source: ``dict.txt`` or a data-bin folder; or a number of entries, for a model without words.
        languages: in the order of their tags.
    """
    from fairseq.data import Dictionary

    if isinstance(source, int):
        dictionary = Dictionary()
        for index in range(source - len(dictionary) - len(languages)):
            dictionary.add_symbol(f"<{index}>")
    else:
        path = Path(source)
        if path.is_dir():
            path = next(iter(sorted(path.glob("dict.*.txt"))), path / "dict.txt")
        if not path.is_file():
            raise CheckpointError("the dictionary is missing", where=path)
        dictionary = Dictionary.load(str(path))
    for code in languages:
        dictionary.add_symbol(f"__{code}__")
    return dictionary


def build_model(
    checkpoint: Checkpoint, dictionary: str | Path | int | None = None, *, masks: Masks | None = None
) -> TransformerModel:
    """Build fairseq's Transformer with a checkpoint's parameters, in evaluation mode, on the CPU.

    Args:
        checkpoint: from load_checkpoint.
        dictionary: ``dict.txt``, a data-bin folder or the size of the vocabulary; default: the size the
            checkpoint has. Token ids are all that the model itself needs.
        masks: run under these masks; default: those in the checkpoint, if it has any.

    Returns:
        fairseq's TransformerModel; with masks this project's MaskedTransformer, which reads each sentence's
        direction from its tags unless told one (``set_direction``).

    Raises:
        CheckpointError: dictionary and checkpoint do not fit, naming the sizes.
        MaskError: the masks do not fit the model.
    """
    from types import SimpleNamespace

    from fairseq.models.transformer import TransformerModel

    size = checkpoint.vocabulary_size
    words = read_dictionary(size if dictionary is None else dictionary, checkpoint.languages)
    if len(words) != size:
        raise CheckpointError(
            f"the dictionary has {len(words)} entries with {len(checkpoint.languages)} language tags,"
            f" the model {size}",
            where=checkpoint.path,
            cause="the dictionary of another model, or other languages",
        )
    masks = checkpoint.masks if masks is None else masks
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words, langs=checkpoint.languages)
    # fairseq completes the arguments in place
    arguments = argparse.Namespace(**checkpoint.settings, mask_directions=list(masks))
    model: TransformerModel
    if masks:
        from neuron_specialization.fairseq_plugin.model import MaskedTransformer

        model = MaskedTransformer.build_model(arguments, task)
        model.set_masks(masks)
    else:
        model = TransformerModel.build_model(arguments, task)
    try:
        model.load_state_dict(dict(checkpoint.parameters), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the parameters do not fit the settings: {error}", where=checkpoint.path
        ) from None
    return model.eval()
