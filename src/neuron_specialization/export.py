"""Export: a checkpoint and its masks become model directories that translate without fairseq or torch.

A specialised system gives one directory a direction, its FFNs narrowed to that direction's neurons (exactly:
compaction.py); a dense system gives one, ``dense``, for all its directions. bundle.py keeps all directions in
one folder instead; fairseq_export.py writes checkpoints for fairseq.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.exportable import (
    check_masks_belong,
    mask_of,
    read_symbols,
    read_system,
)
from neuron_specialization.files import atomic_text, write_json
from neuron_specialization.model_card import model_card
from neuron_specialization.model_directory import FILES, PROVENANCE, README, SEGMENTATION
from neuron_specialization.provenance import (
    direction_facts,
    files_of,
    model_provenance,
    system_facts,
    written_whole,
)
from neuron_specialization.translation import InputFormat

if TYPE_CHECKING:
    from neuron_specialization.ctranslate2_converter import Array

__all__ = ["DENSE", "check_masks_belong", "export_system", "mask_of", "read_symbols", "write_model_directory"]

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
    manifest: str | Path | None = None,
    scores: str | Path | None = None,
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
        manifest: the corpus's ``manifest.json``: source, licence and citation of the data.
        scores: the system's folder of scores (``<testset>/<direction>.json``).
        progress: called with the name of every directory written.

    Returns:
        The directories written.

    Raises:
        CheckpointError: checkpoint and vocabulary do not fit, or the checkpoint cannot be read.
        MaskError: checkpoint and masks do not belong together, or a mask is missing.
    """
    from neuron_specialization.compaction import compact
    from neuron_specialization.ctranslate2_converter import arrays_of

    source = read_system(
        checkpoint,
        vocabulary,
        masks=masks,
        directions=directions,
        name=system,
        unsafe=unsafe,
        input_format=input_format,
        manifest=manifest,
        scores=scores,
    )
    facts = system_facts(source)
    widths = source.checkpoint.layer_widths
    parameters: dict[str, Any] = arrays_of(source.checkpoint.parameters)
    results = []
    for name, mask in source.masks.items() if source.masks else [(DENSE, None)]:
        narrower = compact(parameters, mask.layers) if mask else parameters
        provenance = model_provenance(
            facts,
            direction_facts(widths, widths_of(narrower), mask),
            [name] if mask else source.directions,
            quantization=quantization,
            scores=source.scores,
        )
        with written_whole(Path(output) / name, FILES) as folder:
            write_model_directory(
                folder,
                narrower,
                source.checkpoint.settings,
                source.symbols,
                source.segmentation,
                provenance,
            )
        results.append(Path(output) / name)
        if progress:
            progress(name)
    return results


def write_model_directory(
    folder: Path,
    parameters: Mapping[str, Array],
    settings: Mapping[str, Any],
    symbols: Sequence[str],
    segmentation: Path | None,
    provenance: dict[str, Any],
) -> None:
    """Write all files of a model directory into an empty folder.

    Args:
        folder: exists.
        parameters, settings, symbols: see ctranslate2_converter.convert.
        segmentation: the SentencePiece model.
        provenance: see model_provenance; gets ``files``.
    """
    from neuron_specialization.ctranslate2_converter import convert

    convert(parameters, settings, symbols, folder, quantization=provenance["quantization"])
    if segmentation is not None:
        shutil.copyfile(segmentation, folder / SEGMENTATION)
    provenance = {**provenance, "files": files_of(folder)}
    write_json(folder / PROVENANCE, provenance)
    with atomic_text(folder / README) as handle:
        handle.write(model_card(provenance))


def widths_of(parameters: Mapping[str, Array]) -> dict[str, int]:
    """Layer → its neurons."""
    return {
        name.removesuffix(".fc1.bias"): int(bias.shape[0])
        for name, bias in parameters.items()
        if name.endswith(".fc1.bias")
    }
