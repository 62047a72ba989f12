"""What is exported: a checkpoint with the masks and the vocabulary that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from neuron_specialization.checkpoints.fairseq_model import dictionary_file
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, MaskError
from neuron_specialization.export.model_directory import DENSE, SEGMENTATION, InputFormat
from neuron_specialization.formats.fairseq_conventions import tag_of
from neuron_specialization.storage.files import read_json, sha256_of
from neuron_specialization.storage.layer_masks import LayerMasks, read_mask_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neuron_specialization.checkpoints.checkpoint import Checkpoint


class Reading(TypedDict, total=False):
    """What is read beside checkpoint and vocabulary; every export takes it (meanings: read_system)."""

    masks: str | Path | None
    directions: Sequence[str] | None
    system: str | None
    unsafe: bool
    input_format: InputFormat
    manifest: str | Path | None
    scores: str | Path | None


@dataclass(frozen=True)
class DirectionMask(LayerMasks):
    """A direction's mask.

    Attributes:
        sha256: of its file; of its bits, layer by layer, if the checkpoint holds it.
    """

    sha256: str


@dataclass(frozen=True)
class System:
    """A model that can be exported.

    Attributes:
        checkpoint: the dense weights.
        sha256: of the checkpoint's file.
        dictionary: the file.
        symbols: the dictionary with special symbols and tags, by token id.
        segmentation: the SentencePiece model; None for text that comes segmented.
        name: the system's.
        directions: what it is exported for.
        masks: of each direction; empty for a dense system.
        manifest: the corpus's (``corpus/manifest.json``), if given.
        scores: direction → test set → metric → score, as far as given.
    """

    checkpoint: Checkpoint
    sha256: str
    dictionary: Path
    symbols: list[str]
    segmentation: Path | None
    name: str | None
    directions: list[str]
    masks: dict[str, DirectionMask]
    manifest: Mapping[str, Any] | None = None
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None

    @property
    def models(self) -> dict[str, DirectionMask | None]:
        """The models it becomes: one a direction under its mask, or ``dense``."""
        return {**self.masks} or {DENSE: None}


def read_system(
    checkpoint: str | Path,
    vocabulary: str | Path,
    *,
    masks: str | Path | None = None,
    directions: Sequence[str] | None = None,
    system: str | None = None,
    unsafe: bool = False,
    input_format: InputFormat = "text",
    manifest: str | Path | None = None,
    scores: str | Path | None = None,
) -> System:
    """Read what is exported, and make sure that it belongs together.

    Args:
        checkpoint: the model, in any format checkpoints.load_checkpoint reads.
        vocabulary: folder with ``spm.model`` and ``dict.txt`` (or a ``dict.<lang>.txt``).
        masks: folder with ``<direction>.safetensors`` for a specialised system. None: a dense system, or one
            whose checkpoint holds its masks.
        directions: what to export; default: all the checkpoint was trained for (and, with masks, all
            further ones that have a mask).
        system: its name in the provenance; default: what the checkpoint says.
        unsafe: let the checkpoint run code while it is loaded.
        input_format: ``pieces`` where the SentencePiece model is not known (a data-bin made elsewhere): the
            models then translate text that is segmented already, and only that.
        manifest: the corpus's ``manifest.json``: source, licence and citation of the data.
        scores: the system's folder of scores (``<testset>/<direction>.json``).

    Raises:
        CheckpointError: checkpoint and vocabulary do not fit, or the checkpoint cannot be read.
        MaskError: checkpoint and masks do not belong together, or a mask is missing.
        ConfigError: one of ``directions`` is no direction.
    """
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint
    from neuron_specialization.storage.layer_tensors import present_directions

    loaded = load_checkpoint(checkpoint, unsafe=unsafe)
    sha256 = sha256_of(checkpoint)
    dictionary = dictionary_file(Path(vocabulary))
    symbols = read_symbols(vocabulary, loaded.languages)
    if len(symbols) != loaded.vocabulary_size:
        raise CheckpointError(
            f"the dictionary has {len(symbols)} entries with its language tags,"
            f" the model {loaded.vocabulary_size}",
            where=dictionary,
            cause="the vocabulary of another model",
        )
    segmentation = None if input_format == "pieces" else Path(vocabulary) / SEGMENTATION
    if segmentation is not None and not segmentation.is_file():
        raise CheckpointError(
            "the vocabulary has no SentencePiece model",
            where=segmentation,
            hint="put it there; or, for text that is segmented already: --input-format pieces",
        )
    if masks is not None:
        wanted = list(directions or sorted({*loaded.directions, *present_directions(masks)}))
    elif loaded.masks:
        wanted = list(directions or loaded.masks)
    else:
        _refuse_unmasked(loaded)
        wanted = list(directions or loaded.directions)
    _check_languages(wanted, loaded)
    if masks is not None:
        used = _masks_of_folder(Path(masks), wanted, loaded, sha256)
    else:
        used = _own_masks(loaded, wanted) if loaded.masks else {}
    return System(
        checkpoint=loaded,
        sha256=sha256,
        dictionary=dictionary,
        symbols=symbols,
        segmentation=segmentation,
        name=system or loaded.provenance.get("system"),
        directions=wanted,
        masks=used,
        manifest=None if manifest is None else read_json(manifest),
        scores=None if scores is None else read_scores(scores),
    )


def _masks_of_folder(
    folder: Path, directions: Sequence[str], checkpoint: Checkpoint, sha256: str
) -> dict[str, DirectionMask]:
    """Read the masks of a selection and see that they are the checkpoint's (of that ``sha256``)."""
    used = {}
    for direction, found in read_mask_folder(folder, directions).items():
        path = folder / f"{direction}.safetensors"
        check_masks_belong(checkpoint, found, path, sha256=sha256)
        used[direction] = DirectionMask(found.layers, found.metadata, sha256_of(path))
    return used


def _own_masks(checkpoint: Checkpoint, directions: Sequence[str]) -> dict[str, DirectionMask]:
    """Return the masks that the checkpoint itself holds.

    Raises:
        MaskError: it holds none for a direction.
    """
    used = {}
    for direction in directions:
        if direction not in checkpoint.masks:
            raise MaskError(
                f"the checkpoint holds no mask for {direction}",
                where=checkpoint.path,
                hint=f"it has: {', '.join(checkpoint.masks)}; give others with --masks",
            )
        layers = {layer: mask.numpy() for layer, mask in checkpoint.masks[direction].items()}
        used[direction] = DirectionMask(layers, {}, _digest(layers))
    return used


def read_scores(folder: str | Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read a system's scores, ``<testset>/<direction>.json``: direction → test set → metric → score."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(Path(folder).glob("*/*.json")):
        found = read_json(path)
        values = {metric: round(float(one["score"]), 2) for metric, one in found["metrics"].items()}
        scores.setdefault(found["direction"], {})[found["testset"]] = values
    return scores


def _digest(layers: Mapping[str, NDArray[np.bool_]]) -> str:
    import numpy as np

    bits = b"".join(name.encode() + np.packbits(mask).tobytes() for name, mask in layers.items())
    return hashlib.sha256(bits).hexdigest()


def read_symbols(vocabulary: str | Path, languages: Sequence[str]) -> list[str]:
    """Return the dictionary by token id: fairseq's special symbols, the file's pieces, the language tags.

    Raises:
        CheckpointError: there is no dictionary.
        CorpusError: it is malformed, naming the line.
    """
    from neuron_specialization.preprocessing.binarize import read_dictionary

    return [*read_dictionary(dictionary_file(Path(vocabulary))), *(tag_of(code) for code in languages)]


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
    shapes = checkpoint.layer_widths
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


def _refuse_unmasked(checkpoint: Checkpoint) -> None:
    """Refuse a specialised model without its masks: the reference's, or one that was trained with masks."""
    inputs = checkpoint.provenance.get("inputs")
    if checkpoint.mask_files or (isinstance(inputs, Mapping) and "masks" in inputs):
        raise MaskError(
            "a specialised model is exported with its masks",
            where=checkpoint.path,
            hint="give --masks R/masks/<selection>",
        )


def _check_languages(directions: Sequence[str], checkpoint: Checkpoint) -> None:
    """Refuse directions of languages that the model does not know, and none at all."""
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
