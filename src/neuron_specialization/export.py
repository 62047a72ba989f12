"""Export: a checkpoint and its masks become model directories that translate without fairseq or torch.

A specialised system gives one directory a direction, its FFNs narrowed to that direction's neurons (exactly:
compaction.py); a dense system gives one, ``dense``, for all its directions.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization import __version__
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, MaskError, TranslationError
from neuron_specialization.files import sha256_of, write_json
from neuron_specialization.model_directory import FILES, FORMAT, PROVENANCE, SEGMENTATION
from neuron_specialization.translation import InputFormat, tag_of

if TYPE_CHECKING:
    from torch import Tensor

    from neuron_specialization.checkpoints import Checkpoint
    from neuron_specialization.masks import LayerMasks

DENSE = "dense"


def export_system(
    checkpoint: str | Path,
    vocabulary: str | Path,
    output: str | Path,
    *,
    masks: str | Path | None = None,
    directions: Sequence[str] | None = None,
    quantization: str = "float32",
    system: str | None = None,
    unsafe: bool = False,
    input_format: InputFormat = "text",
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the model directories of a system.

    Args:
        checkpoint: the model, in any format checkpoints.load_checkpoint reads.
        vocabulary: folder with ``spm.model`` and ``dict.txt`` (or a ``dict.<lang>.txt``).
        output: the system's folder; its model directories are made or replaced, each at one stroke.
        masks: folder with ``<direction>.safetensors`` for a specialised system. None: a dense system, or one
            whose checkpoint holds its masks.
        directions: what to export; default: all the checkpoint was trained for (and, with masks, all
            further ones that have a mask).
        quantization: how weights are stored (ctranslate2_converter.QUANTIZATIONS).
        system: its name in the provenance; default: what the checkpoint says.
        unsafe: let the checkpoint run code while it is loaded.
        input_format: ``pieces`` where the SentencePiece model is not known (a data-bin made elsewhere): the
            models then translate text that is segmented already, and only that.
        progress: called with the name of every directory written.

    Returns:
        The directories written.

    Raises:
        CheckpointError: checkpoint and vocabulary do not fit, or the checkpoint cannot be read.
        MaskError: checkpoint and masks do not belong together, or a mask is missing.
    """
    from neuron_specialization.checkpoints import load_checkpoint
    from neuron_specialization.compaction import compact
    from neuron_specialization.layer_tensors import present_directions
    from neuron_specialization.masks import read_mask_folder

    loaded = load_checkpoint(checkpoint, unsafe=unsafe)
    source = _Source(
        checkpoint=loaded,
        sha256=sha256_of(checkpoint),
        symbols=read_symbols(vocabulary, loaded.languages),
        segmentation=None if input_format == "pieces" else Path(vocabulary) / SEGMENTATION,
        quantization=quantization,
        system=system or loaded.provenance.get("system"),
    )
    if source.segmentation is not None and not source.segmentation.is_file():
        raise CheckpointError(
            "the vocabulary has no SentencePiece model",
            where=source.segmentation,
            hint="put it there; or, for text that is segmented already: --input-format pieces",
        )
    if masks is None and not loaded.masks:
        _refuse_unmasked(loaded)
        wanted = list(directions or loaded.directions)
        _check_languages(wanted, loaded)
        written = _write_model(Path(output) / DENSE, source, loaded.parameters, wanted, None)
        if progress:
            progress(written.name)
        return [written]

    used: dict[str, _Mask] = {}
    if masks is None:
        wanted = list(directions or loaded.masks)
        _check_languages(wanted, loaded)
        used = {name: _Mask(mask_of(loaded, name), "in the checkpoint", {}) for name in wanted}
    else:
        folder = Path(masks)
        wanted = list(directions or sorted({*loaded.directions, *present_directions(folder)}))
        _check_languages(wanted, loaded)
        for name, found in read_mask_folder(folder, wanted).items():
            path = folder / f"{name}.safetensors"
            check_masks_belong(loaded, found, path, sha256=source.sha256)
            used[name] = _Mask(found.tensors(), sha256_of(path), found.metadata)
    results = []
    for name, mask in used.items():
        narrower = compact(loaded.parameters, mask.layers)
        results.append(_write_model(Path(output) / name, source, narrower, [name], mask))
        if progress:
            progress(name)
    return results


@dataclass(frozen=True)
class _Source:
    """What all model directories of a system are made from."""

    checkpoint: Checkpoint
    sha256: str
    symbols: list[str]
    segmentation: Path | None
    quantization: str
    system: str | None


@dataclass(frozen=True)
class _Mask:
    """A direction's mask: layer → bool[d_ff], the sha256 of its file, what the file says of itself."""

    layers: Mapping[str, Tensor]
    sha256: str
    metadata: Mapping[str, str]


def read_symbols(vocabulary: str | Path, languages: Sequence[str]) -> list[str]:
    """Return the dictionary by token id: fairseq's special symbols, the file's pieces, the language tags.

    Raises:
        CheckpointError: there is no dictionary.
        CorpusError: it is malformed, naming the line.
    """
    from neuron_specialization.binarize import read_dictionary

    folder = Path(vocabulary)
    path = next(
        (one for one in (folder / "dict.txt", *sorted(folder.glob("dict.*.txt"))) if one.is_file()), None
    )
    if path is None:
        raise CheckpointError(
            "no dictionary (dict.txt or dict.<lang>.txt) in the vocabulary folder", where=folder
        )
    return [*read_dictionary(path), *(tag_of(code) for code in languages)]


def check_masks_belong(
    checkpoint: Checkpoint, masks: LayerMasks, path: str | Path, *, sha256: str | None = None
) -> None:
    """Refuse a mask that was made for another model.

    Layers and widths must be the checkpoint's. A direction whose mask the checkpoint holds must have just
    that one. Else, where both say what they come from, the mask must have been derived from the baseline the
    specialised model started from (or from this very model, if it was not trained with masks).

    Raises:
        MaskError: naming the difference.
    """
    shapes = {
        f"{side}.layers.{index}": int(checkpoint.parameters[f"{side}.layers.{index}.fc1.bias"].shape[0])
        for side, count in (("encoder", checkpoint.encoder_layers), ("decoder", checkpoint.decoder_layers))
        for index in range(count)
    }
    if masks.shapes != shapes:
        odd = next(name for name in {**shapes, **masks.shapes} if shapes.get(name) != masks.shapes.get(name))
        raise MaskError(
            f"the mask does not fit the model: {odd} has {masks.shapes.get(odd, 'no')} neurons in the mask,"
            f" {shapes.get(odd, 'none')} in the model",
            where=path,
            cause=f"it was made for another model than {checkpoint.path}",
        )
    direction = masks.metadata.get("direction") or Path(path).stem
    if direction in checkpoint.masks:
        trained = checkpoint.masks[direction]
        for name, given in masks.tensors().items():
            if not bool((given == trained[name]).all()):
                raise MaskError(
                    f"this is not the mask that {direction} was trained with: {name} differs in"
                    f" {int((given != trained[name]).sum())} neurons",
                    where=path,
                    cause="another selection, or masks made anew since (another k, other activations)",
                    hint=f"leave the masks out: {checkpoint.path} holds its own",
                )
        return
    derived_from = masks.metadata.get("model_sha256")
    inputs = checkpoint.provenance.get("inputs")
    if not derived_from or not isinstance(inputs, Mapping):
        return
    if "masks" in inputs:
        expected, which = inputs.get("init"), "the baseline this model started from"
    else:
        expected, which = sha256 or sha256_of(checkpoint.path), "this model, which was trained without masks,"
    if expected and derived_from != expected:
        raise MaskError(
            f"the mask was derived from model {derived_from[:12]}…, {which} is {expected[:12]}…",
            where=path,
            cause=f"mask and checkpoint {checkpoint.path} come from different runs",
            hint="give the masks this model was trained with",
        )


def mask_of(checkpoint: Checkpoint, direction: str) -> Mapping[str, Tensor]:
    """Return the mask of a direction that the checkpoint itself holds, layer → bool[d_ff].

    Raises:
        MaskError: it holds none for this direction.
    """
    if direction not in checkpoint.masks:
        raise MaskError(
            f"the checkpoint holds no mask for {direction}",
            where=checkpoint.path,
            hint=f"it has: {', '.join(checkpoint.masks) or 'none'}; give others with --masks",
        )
    return checkpoint.masks[direction]


def _refuse_unmasked(checkpoint: Checkpoint) -> None:
    inputs = checkpoint.provenance.get("inputs")
    if checkpoint.mask_files or (isinstance(inputs, Mapping) and "masks" in inputs):
        raise MaskError(
            "a specialised model is exported with its masks",
            where=checkpoint.path,
            hint="give --masks R/masks/<selection>",
        )


def _check_languages(directions: Sequence[str], checkpoint: Checkpoint) -> None:
    if not directions:
        raise CheckpointError(
            "the checkpoint does not say what it translates", where=checkpoint.path, hint="give --directions"
        )
    for text in directions:
        direction = Direction.parse(text)
        for code in (direction.source, direction.target):
            if code not in checkpoint.languages:
                raise CheckpointError(
                    f"the model knows no language {code} (direction {text})",
                    where=checkpoint.path,
                    hint=f"its languages: {', '.join(checkpoint.languages)}",
                )


def _write_model(
    folder: Path,
    source: _Source,
    parameters: Mapping[str, Tensor],
    directions: Sequence[str],
    mask: _Mask | None,
) -> Path:
    """Build a model directory beside its place and move it there when it is complete."""
    from neuron_specialization.ctranslate2_converter import convert

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model = building / "model"
        convert(
            parameters, source.checkpoint.settings, source.symbols, model, quantization=source.quantization
        )
        if source.segmentation is not None:
            shutil.copyfile(source.segmentation, model / SEGMENTATION)
        write_json(model / PROVENANCE, _provenance(model, source, parameters, directions, mask))
        if folder.exists():
            foreign = sorted({path.name for path in folder.iterdir()} - FILES)
            if foreign:
                raise TranslationError(
                    f"the place for the model is taken: {foreign[0]} is no part of an exported model",
                    where=folder,
                    hint="choose another --output, or remove it",
                )
            folder.rename(building / "old")
        model.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _provenance(
    model: Path,
    source: _Source,
    parameters: Mapping[str, Tensor],
    directions: Sequence[str],
    mask: _Mask | None,
) -> dict[str, Any]:
    import ctranslate2
    import torch

    checkpoint = source.checkpoint
    widths = {
        name.removesuffix(".fc1.bias"): int(tensor.shape[0])
        for name, tensor in parameters.items()
        if name.endswith(".fc1.bias")
    }
    languages = sorted({code for text in directions for code in text.split("-")})
    return {
        "format": FORMAT,
        "system": source.system,
        "directions": list(directions),
        "languages": languages,
        "input_format": "pieces" if source.segmentation is None else "text",
        "tags": {code: tag_of(code) for code in languages},
        "max_source_positions": int(checkpoint.settings["max_source_positions"]),
        "max_target_positions": int(checkpoint.settings["max_target_positions"]),
        "quantization": source.quantization,
        "neurons": widths,
        "mask": None
        if mask is None
        else {
            "sha256": mask.sha256,
            "kept": round(sum(widths.values()) / sum(layer.numel() for layer in mask.layers.values()), 6),
            **{key: mask.metadata[key] for key in sorted(mask.metadata) if key not in ("packed", "d_ff")},
        },
        "checkpoint": {
            "sha256": source.sha256,
            "kind": checkpoint.kind,
            "updates": checkpoint.updates,
            "fingerprint": checkpoint.provenance.get("fingerprint"),
            "inputs": checkpoint.provenance.get("inputs"),
        },
        "versions": {
            "neuron_specialization": __version__,
            "ctranslate2": ctranslate2.__version__,
            "torch": torch.__version__,
        },
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(model.iterdir())
        },
    }
