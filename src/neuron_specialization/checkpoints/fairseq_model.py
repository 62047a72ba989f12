"""fairseq's Transformer from a checkpoint, for everything but training."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import CheckpointError
from neuron_specialization.formats.fairseq_conventions import tag_of

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerModel

    from neuron_specialization.checkpoints.checkpoint import Checkpoint, Masks


def _quiet() -> None:
    """Keep fairseq from remarking, as it is imported, on packages nothing here needs."""
    logging.getLogger("fairseq").setLevel(logging.WARNING)


def dictionary_file(folder: Path) -> Path:
    """Return a vocabulary's ``dict.txt``, or of a data-bin the first ``dict.<lang>.txt``: all are the same.

    Raises:
        CheckpointError: there is none.
    """
    for path in (folder / "dict.txt", *sorted(folder.glob("dict.*.txt"))):
        if path.is_file():
            return path
    raise CheckpointError(
        "no dictionary (dict.txt or dict.<lang>.txt) in the vocabulary folder", where=folder
    )


def read_dictionary(source: str | Path | int, languages: list[str]) -> Any:
    """Return fairseq's dictionary with the language tags appended, as its task builds it.

    Args:
        source: ``dict.txt`` or a data-bin folder; or a number of entries, for a model without words.
        languages: in the order of their tags.
    """
    _quiet()
    from fairseq.data import Dictionary

    if isinstance(source, int):
        dictionary = Dictionary()
        for index in range(source - len(dictionary) - len(languages)):
            dictionary.add_symbol(f"<{index}>")
    else:
        path = Path(source)
        dictionary = Dictionary.load(str(path if path.is_file() else dictionary_file(path)))
    for code in languages:
        dictionary.add_symbol(tag_of(code))
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
    _quiet()
    from fairseq.models.transformer import TransformerModel

    size = checkpoint.vocabulary_size
    if not checkpoint.languages:
        raise CheckpointError(
            "the checkpoint does not say its languages (it names a file of them)",
            where=checkpoint.path,
            hint="import it with --languages: all of them, in the order of that file",
        )
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
