"""The CTranslate2 engine: fairseq's beam search reproduced with CTranslate2's, without importing torch.

Both search alike (2 × beam candidates a step, a hypothesis finishes where ``</s>`` is among the first
``beam``, the search ends at ``beam`` finished ones, scores are normalised by length). CTranslate2's own call
still ends in other translations, for three reasons, each undone here:

1. *The tag's score.* fairseq counts log p(tag) in the score it normalises; CTranslate2 scores a forced
   prefix 0. With c = log p(tag) a hypothesis of N tokens and summed score S ranks by (S + c) / N instead of
   S / N. c ≤ 0 is shared by all hypotheses of a sentence, so it only ever favours longer ones; it is
   computed (one short scoring pass) where a longer hypothesis could still win.
2. *The length limit.* fairseq forces ``</s>`` as token ``max_length`` + 1; CTranslate2 stops at the limit
   with an unfinished hypothesis. Sentences that get there are searched again keeping all hypotheses, and
   the missing log p(</s>) is scored.
3. *An empty translation.* Directly after the prefix, CTranslate2 does not let ``</s>`` finish a hypothesis
   unless it is the very best candidate; fairseq does. Where the scoring pass shows that it could
   matter, the sentence is searched again with ``</s>`` kept out of that step, which leaves the other
   hypotheses as fairseq has them, and the empty one is added.

What remains are differences of rounding (order 1e-6 in a log-probability) that tip near-ties. This holds for
the best hypothesis. Further down an n-best list fairseq cuts at ``beam`` finished hypotheses in the order
they finish, CTranslate2 among all of the last step by score: its list is as long, and never worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, TranslationError
from neuron_specialization.model_directory import SEGMENTATION, read_provenance
from neuron_specialization.text import Segmenter
from neuron_specialization.translation import (
    InputFormat,
    PieceHypothesis,
    Pieces,
    SearchOptions,
    Segmentation,
    tag_of,
)

END = "</s>"
# No trained model gives the tag of its own direction less than e^-24: a hypothesis that needs less has lost.
LEAST_TAG_SCORE = -24.0
# Below this log p(</s> | tag) an empty translation is not among the first candidates of any realistic step.
EMPTY_CAN_MATTER = -9.0


@dataclass
class _Candidate:
    """A hypothesis with the score summed, without the tag's."""

    tokens: list[str]
    length: int
    total: float

    @property
    def finished(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] == END


class CTranslate2Engine:
    """One CTranslate2 model: of one direction, or dense for several. Safe to use from many threads."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int = 1,
        compute_type: str = "default",
        device: str = "cpu",
    ) -> None:
        """Load the model of an exported directory.

        Args:
            folder: made by the export stage.
            threads: batches decoded at the same time (on ``cpu``), one core each.
            compute_type, device: as in CTranslate2.

        Raises:
            TranslationError: damaged, foreign, or not loadable on this machine.
        """
        import ctranslate2

        self.folder = Path(folder)
        provenance = read_provenance(self.folder)
        self._directions = {Direction.parse(text) for text in provenance["directions"]}
        # the tag's and </s>'s positions are the model's, too
        self.longest_source = int(provenance["max_source_positions"]) - 2
        self._longest_target = int(provenance["max_target_positions"]) - 1
        try:
            self._translator = ctranslate2.Translator(
                str(self.folder),
                device=device,
                compute_type=compute_type,
                inter_threads=threads,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:
            raise TranslationError(
                f"CTranslate2 cannot load the model: {error}",
                where=self.folder,
                hint="export it again, or choose another --compute-type or --device",
            ) from None

    def serves(self, direction: Direction) -> bool:
        """Whether the model translates this direction."""
        return direction in self._directions

    def generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        """See translation.Engine."""
        limit = min(options.max_length, self._longest_target)
        options = replace(options, max_length=limit)
        target_tag = tag_of(direction.target)
        tagged = [[tag_of(direction.source), *pieces] for pieces in sources]
        found = self._search(tagged, target_tag, options)

        cut = [i for i, candidates in enumerate(found) if not all(one.finished for one in candidates)]
        tag_scores: dict[int, float] = {}
        if cut:
            self._finish(cut, found, tag_scores, tagged, target_tag, options)
        wanted = [
            i
            for i, candidates in enumerate(found)
            if i not in tag_scores
            and (options.scores or options.nbest > 1 or _tag_can_decide(candidates, options.length_penalty))
        ]
        scored = self._score([tagged[i] for i in wanted], [[target_tag]] * len(wanted), options)
        tag_scores.update((i, scores[0]) for i, scores in zip(wanted, scored, strict=True))
        empty = [
            (i, scores[1]) for i, scores in zip(wanted, scored, strict=True) if scores[1] > EMPTY_CAN_MATTER
        ]
        if empty and options.beam > 1:
            self._admit_empty(empty, found, tagged, target_tag, options)

        return [
            _ranked(candidates, tag_scores.get(i, 0.0), target_tag, options)
            for i, candidates in enumerate(found)
        ]

    def _search(
        self, tagged: list[list[str]], target_tag: str, options: SearchOptions, **changes: Any
    ) -> list[list[_Candidate]]:
        # with a penalty of exactly 0 CTranslate2 would stop at the first finished hypothesis
        power = options.length_penalty or 1e-9
        arguments = {
            "beam_size": options.beam,
            "num_hypotheses": options.beam,
            "length_penalty": power,
            "max_decoding_length": options.max_length,
            "max_input_length": 0,
            "max_batch_size": options.batch_size,
            "return_scores": True,
            "return_end_token": True,
        } | changes
        results = self._translator.translate_batch(
            tagged, target_prefix=[[target_tag]] * len(tagged), **arguments
        )
        return [
            [
                _Candidate(tokens, len(tokens), score * len(tokens) ** power)
                for tokens, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]

    def _score(
        self, tagged: list[list[str]], targets: list[list[str]], options: SearchOptions
    ) -> list[list[float]]:
        """Log-probabilities of the target's tokens and of ``</s>`` after them."""
        if not tagged:
            return []
        results = self._translator.score_batch(
            tagged, targets, max_input_length=0, max_batch_size=options.batch_size
        )
        return [list(result.log_probs) for result in results]

    def _finish(
        self,
        cut: list[int],
        found: list[list[_Candidate]],
        tag_scores: dict[int, float],
        tagged: list[list[str]],
        target_tag: str,
        options: SearchOptions,
    ) -> None:
        """Give the hypotheses that reached the length limit the ``</s>`` that fairseq forces there."""
        if options.beam > 1:
            # the same search, but all finished hypotheses are kept instead of the best by CTranslate2's score
            again = self._search(
                [tagged[i] for i in cut], target_tag, options, patience=2, num_hypotheses=2 * options.beam
            )
            for i, candidates in zip(cut, again, strict=True):
                found[i] = candidates
        open_ends = [(i, one) for i in cut for one in found[i] if not one.finished]
        scored = self._score([tagged[i] for i, _ in open_ends], [one.tokens for _, one in open_ends], options)
        for (i, one), scores in zip(open_ends, scored, strict=True):
            tag_scores[i] = scores[0]
            one.tokens.append(END)
            one.length += 1
            one.total += scores[-1]
        for i in cut:
            # fairseq fills up to `beam` finished hypotheses with the best of the last step
            found[i].sort(key=lambda one: (one.length, -one.total))
            del found[i][options.beam :]

    def _admit_empty(
        self,
        empty: list[tuple[int, float]],
        found: list[list[_Candidate]],
        tagged: list[list[str]],
        target_tag: str,
        options: SearchOptions,
    ) -> None:
        """Search again where fairseq would have finished an empty hypothesis that CTranslate2 passed over."""
        # two tokens: the prefix and one step, whose candidates show whether </s> was met and put away
        first = self._search([tagged[i] for i, _ in empty], target_tag, options, max_decoding_length=2)
        met = [
            (i, log_p)
            for (i, log_p), candidates in zip(empty, first, strict=True)
            if any(one.total < -1e9 for one in candidates)
        ]
        if not met:
            return
        fewer = options.beam - 1
        again = self._search(
            [tagged[i] for i, _ in met],
            target_tag,
            options,
            min_decoding_length=2,
            patience=fewer / options.beam,
            num_hypotheses=fewer,
        )
        for (i, log_p), candidates in zip(met, again, strict=True):
            if not all(one.finished for one in candidates):
                continue  # a runaway sentence: it has been dealt with
            for one in candidates:
                # without </s> that step's distribution was renormalised
                one.total += math.log1p(-math.exp(log_p))
            found[i] = [_Candidate([target_tag, END], 2, log_p), *candidates]


def _tag_can_decide(candidates: list[_Candidate], power: float) -> bool:
    """Whether some log p(tag) in [LEAST_TAG_SCORE, 0] puts another hypothesis first.

    (S + c) / N is linear in c, so it is enough to look at both ends; within them only a longer
    hypothesis can gain on the one that leads at c = 0.
    """
    first = candidates[0]
    leading = first.length**power
    for other in candidates[1:]:
        if other.length <= first.length:
            continue
        length = other.length**power
        if (other.total + LEAST_TAG_SCORE) / length > (first.total + LEAST_TAG_SCORE) / leading:
            return True
    return False


def _ranked(
    candidates: list[_Candidate], tag_score: float, target_tag: str, options: SearchOptions
) -> list[PieceHypothesis]:
    hypotheses = [
        PieceHypothesis(
            pieces=tuple(token for token in one.tokens if token not in (END, target_tag)),
            tokens=one.length,
            score=(one.total + tag_score) / one.length**options.length_penalty,
        )
        for one in candidates
    ]
    # stable: on equal scores the earlier finished stays first, as in fairseq
    hypotheses.sort(key=lambda one: -one.score)
    return hypotheses[: options.nbest]


def open_model(
    folder: Path, *, threads: int, compute_type: str, device: str, input_format: InputFormat = "text"
) -> tuple[CTranslate2Engine, Segmentation, int]:
    """Load a model directory: engine, segmenter, and the longest source in pieces.

    Raises:
        TranslationError: damaged, foreign, or not loadable on this machine.
    """
    engine = CTranslate2Engine(folder, threads=threads, compute_type=compute_type, device=device)
    if input_format == "pieces":
        return engine, Pieces(), engine.longest_source
    if read_provenance(folder).get("input_format") == "pieces":
        raise TranslationError(
            "the model was exported without a SentencePiece model: it translates segmented text",
            where=folder,
            hint="give it pieces, with --input-format pieces",
        )
    try:
        segmenter = Segmenter(folder / SEGMENTATION)
    except CorpusError as error:
        raise TranslationError(error.what, where=error.where, hint="export the model again") from None
    return engine, segmenter, engine.longest_source
