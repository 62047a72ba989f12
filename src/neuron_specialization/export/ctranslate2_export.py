"""Export: a checkpoint and its masks become model directories that translate without fairseq or torch.

A specialised system gives one directory a direction, its FFNs narrowed to that direction's neurons (exactly:
compaction.py); a dense system gives one, ``dense``, for all its directions. bundle.py keeps all directions in
one folder instead; fairseq_export.py writes checkpoints for fairseq.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from neuron_specialization.export.exportable import Reading, read_system
from neuron_specialization.export.model_card import model_card
from neuron_specialization.export.model_directory import FILES, PROVENANCE, SEGMENTATION
from neuron_specialization.export.provenance import (
    describe_folder,
    direction_facts,
    model_provenance,
    system_facts,
    written_whole,
)

if TYPE_CHECKING:
    from neuron_specialization.export.ctranslate2_converter import Array


def export_system(
    checkpoint: str | Path,
    vocabulary: str | Path,
    output: str | Path,
    *,
    quantization: str = "float32",
    progress: Callable[[str], None] | None = None,
    **reading: Unpack[Reading],
) -> list[Path]:
    """Write the model directories of a system.

    Args:
        checkpoint, vocabulary: see exportable.read_system.
        output: the system's folder; its model directories are made or replaced, each at one stroke.
        quantization: how weights are stored (ctranslate2_converter.QUANTIZATIONS).
        progress: called with the name of every directory written.
        reading: masks, directions and what else read_system takes.

    Returns:
        The directories written.

    Raises:
        CheckpointError, MaskError: see read_system.
    """
    from neuron_specialization.export.compaction import compact
    from neuron_specialization.export.ctranslate2_converter import arrays_of

    source = read_system(checkpoint, vocabulary, **reading)
    facts = system_facts(source)
    widths = source.checkpoint.layer_widths
    parameters: dict[str, Any] = arrays_of(source.checkpoint.parameters)
    results = []
    for name, mask in source.models.items():
        narrower = compact(parameters, mask.layers) if mask else parameters
        provenance = model_provenance(
            facts,
            direction_facts(widths, mask),
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
        provenance: see model_provenance; written with ``files`` beside it.
    """
    from neuron_specialization.export.ctranslate2_converter import convert

    convert(parameters, settings, symbols, folder, quantization=provenance["quantization"])
    if segmentation is not None:
        shutil.copyfile(segmentation, folder / SEGMENTATION)
    describe_folder(folder, PROVENANCE, provenance, model_card)
