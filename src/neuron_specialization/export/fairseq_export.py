"""Export for stock fairseq: one dense-shaped checkpoint a direction, the mask folded into the weights.

A compacted model has another width in each layer, which fairseq's Transformer cannot have: it builds every
FFN layer of a side from one number. So the checkpoints keep the dense shape: in W1 the rows of masked neurons
are zero, b1 and W2 stay, and a masked neuron emits relu(b1_i), just as under the mask.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from neuron_specialization.export.model_directory import README, SEGMENTATION

if TYPE_CHECKING:
    from neuron_specialization.export.exportable import Reading

CHECKPOINT = "checkpoint.pt"
FACTS = "checkpoint.json"


def export_fairseq(
    checkpoint: str | Path,
    vocabulary: str | Path,
    output: str | Path,
    *,
    progress: Callable[[str], None] | None = None,
    **reading: Unpack[Reading],
) -> list[Path]:
    """Write a folder a direction (``dense`` for a dense system) that stock fairseq opens without a user-dir.

    Each holds ``checkpoint.pt`` (architecture ``transformer``, task ``translation_multi_simple_epoch``),
    ``dict.<lang>.txt`` of its languages, ``spm.model``, ``checkpoint.json`` (provenance) and the model card.

    Args and errors: as export.export_system.
    """
    from neuron_specialization.checkpoints.checkpoint import write_model
    from neuron_specialization.checkpoints.exporting import fairseq_state
    from neuron_specialization.export.exportable import read_system
    from neuron_specialization.export.model_card import model_card
    from neuron_specialization.export.provenance import (
        describe_folder,
        direction_facts,
        model_provenance,
        system_facts,
        written_whole,
    )

    source = read_system(checkpoint, vocabulary, **reading)
    facts = system_facts(source)
    widths = source.checkpoint.layer_widths
    results = []
    for name, mask in source.models.items():
        served = [name] if mask else source.directions
        masks = {name: mask.tensors()} if mask else {}
        model = replace(source.checkpoint, directions=served, masks=masks)
        provenance = model_provenance(
            facts,
            direction_facts(widths, mask),
            served,
            quantization="float32",
            scores=source.scores,
        )
        target = Path(output) / name
        languages = provenance["languages"]
        dictionaries = [f"dict.{code}.txt" for code in languages]
        with written_whole(target, {CHECKPOINT, FACTS, README, SEGMENTATION, *dictionaries}) as folder:
            state = fairseq_state(model, name if mask else None)
            write_model(folder / CHECKPOINT, state, plain=False)
            for dictionary in dictionaries:
                shutil.copyfile(source.dictionary, folder / dictionary)
            if source.segmentation is not None:
                shutil.copyfile(source.segmentation, folder / SEGMENTATION)
            describe_folder(folder, FACTS, provenance, partial(model_card, library="fairseq"))
        results.append(target)
        if progress:
            progress(name)
    return results
