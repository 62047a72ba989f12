"""The fairseq engine: fairseq's own SequenceGenerator, for parity with fairseq-generate.

Slower than CTranslate2 by a factor of three or so, but it needs no export and is what the reference uses.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, MaskError
from neuron_specialization.export.model_directory import InputFormat
from neuron_specialization.formats.fairseq_conventions import tag_of
from neuron_specialization.preprocessing.pieces import Pieces, Segmentation, Segmenter
from neuron_specialization.translation.engine import Engine, PieceHypothesis, SearchOptions
from neuron_specialization.translation.translator import Translator


class FairseqEngine:
    """A fairseq Transformer under one mask (or none). One thread at a time: calls wait for each other."""

    def __init__(
        self,
        model: Any,
        dictionary: Any,
        *,
        languages: Sequence[str],
        direction: Direction | None = None,
        device: str = "cpu",
    ) -> None:
        """Wrap a built model.

        Args:
            model: fairseq's encoder-decoder, masks applied.
            dictionary: fairseq's, with the language tags.
            languages: those with a tag.
            direction: the one whose mask is applied; None for a dense model.
            device: a torch device.
        """
        self._model = model.to(device).eval()
        self._dictionary = dictionary
        self._languages = set(languages)
        self._direction = direction
        self._device = device
        self._lock = threading.Lock()
        self.longest_source = int(model.encoder.max_positions()) - 2

    def serves(self, direction: Direction) -> bool:
        """Whether the model, under its mask, translates this direction."""
        if self._direction is not None:
            return direction == self._direction
        return {direction.source, direction.target} <= self._languages

    def generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        """See translation.Engine."""
        from fairseq.sequence_generator import SequenceGenerator

        words = self._dictionary
        source_tag, target_tag = words.index(tag_of(direction.source)), words.index(tag_of(direction.target))
        with self._lock:
            generator = SequenceGenerator(
                [self._model],
                words,
                beam_size=options.beam,
                max_len_a=0,
                max_len_b=options.max_length,
                min_len=1,
                normalize_scores=True,
                len_penalty=options.length_penalty,
            )
            encoded = [
                [source_tag, *(words.index(piece) for piece in pieces), words.eos()] for pieces in sources
            ]
            results: list[list[PieceHypothesis]] = [[] for _ in encoded]
            # longest first: what does not fit into memory fails at once
            order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
            for begin in range(0, len(order), options.batch_size):
                batch = order[begin : begin + options.batch_size]
                for i, found in zip(
                    batch, self._decode(generator, [encoded[i] for i in batch], target_tag), strict=True
                ):
                    results[i] = [self._hypothesis(one, target_tag) for one in found[: options.nbest]]
        return results

    def _decode(self, generator: Any, rows: list[list[int]], target_tag: int) -> list[list[dict[str, Any]]]:
        """Decode token ids [B][S]; source padding on the left, as fairseq batches it."""
        import torch

        width = max(len(row) for row in rows)
        tokens = torch.full((len(rows), width), self._dictionary.pad(), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, width - len(row) :] = torch.tensor(row)
        sample = {
            "net_input": {
                "src_tokens": tokens.to(self._device),
                "src_lengths": torch.tensor([len(row) for row in rows], device=self._device),
            }
        }
        prefix = torch.full((len(rows), 1), target_tag, dtype=torch.long, device=self._device)
        with torch.inference_mode():
            found: list[list[dict[str, Any]]] = generator.generate(
                [self._model], sample, prefix_tokens=prefix
            )
        return found

    def _hypothesis(self, found: dict[str, Any], target_tag: int) -> PieceHypothesis:
        tokens = found["tokens"].tolist()
        return PieceHypothesis(
            pieces=tuple(
                self._dictionary[token]
                for token in tokens
                if token not in (target_tag, self._dictionary.eos())
            ),
            tokens=len(tokens),
            score=float(found["score"]),
        )


def open_checkpoint(
    checkpoint: str | Path,
    vocabulary: str | Path,
    *,
    mask: str | Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    unsafe: bool = False,
    input_format: InputFormat = "text",
) -> Translator:
    """Make a Translator that runs fairseq on a checkpoint.

    Args:
        checkpoint: ours, fairseq's or the reference's format (see checkpoint.load_checkpoint).
        vocabulary: folder with ``spm.model`` and ``dict.txt`` (or ``dict.<lang>.txt``).
        mask: one direction's mask file; its direction is then the only one. Default: the checkpoint's own
            masks, if it holds any; each direction's model is then built when it is first used.
        threads: torch threads.
        device: a torch device.
        unsafe: let the checkpoint run code while it is loaded.
        input_format: ``text``, or ``pieces``: lines that are segmented already; needs no ``spm.model``.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit the dictionary.
        MaskError: the mask cannot be read, does not fit, or was made from another model.
    """
    import torch

    from neuron_specialization.checkpoints.checkpoint import load_checkpoint
    from neuron_specialization.checkpoints.exporting import fold
    from neuron_specialization.checkpoints.fairseq_model import build_model, read_dictionary
    from neuron_specialization.export.exportable import check_masks_belong
    from neuron_specialization.storage.layer_masks import read_masks

    torch.set_num_threads(threads)
    loaded = load_checkpoint(checkpoint, unsafe=unsafe)
    vocabulary = Path(vocabulary)
    if mask is not None:
        read = read_masks(mask)
        check_masks_belong(loaded, read, mask)
        masked_direction = Direction.parse(read.metadata.get("direction") or Path(mask).stem)
        loaded = replace(loaded, masks={str(masked_direction): read.tensors()})
    elif not loaded.masks and loaded.mask_files:
        raise MaskError(
            "the checkpoint is a specialised model and does not hold its masks",
            where=checkpoint,
            hint="give --mask R/masks/<selection>/<direction>.safetensors",
        )
    if not loaded.languages:
        raise CheckpointError("the checkpoint names no languages", where=checkpoint)
    dictionary = read_dictionary(vocabulary, loaded.languages)
    segmenter = Pieces() if input_format == "pieces" else Segmenter(vocabulary / "spm.model")

    def open_engine(direction: Direction) -> tuple[Engine, Segmentation, int]:
        # fairseq's own Transformer, masked by its weights: no hook of ours runs while it translates
        engine = FairseqEngine(
            build_model(fold(loaded, str(direction)) if loaded.masks else loaded, vocabulary),
            dictionary,
            languages=loaded.languages,
            direction=direction if loaded.masks else None,
            device=device,
        )
        return engine, segmenter, engine.longest_source

    directions = [Direction.parse(name) for name in loaded.masks] or [
        Direction(a, b) for a in loaded.languages for b in loaded.languages if a != b
    ]
    return Translator(directions, open_engine, name=str(checkpoint))
