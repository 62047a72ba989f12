"""The CTranslate2 engine: fairseq's beam search reproduced with CTranslate2's, without importing torch.

Both search alike (2 × beam candidates a step, a hypothesis finishes where ``</s>`` is among the first
``beam``, the search ends at ``beam`` finished ones, scores are normalised by length). CTranslate2's own call
still ends in other translations, for three reasons, each undone here:

1. *The tag's score.* fairseq counts log p(tag) in the score it normalises; CTranslate2 scores a forced
   prefix 0. With c = log p(tag) a hypothesis of N tokens and summed score S ranks by (S + c) / N instead of
   S / N. One short scoring pass gives c, and log p(</s> | tag) for point 3.
2. *The length limit.* fairseq forces ``</s>`` as token ``max_length`` + 1; CTranslate2 stops at the limit
   with an unfinished hypothesis. Sentences that may get there are searched again keeping all hypotheses,
   and the missing log p(</s>) is scored.
3. *An empty translation.* Directly after the prefix, CTranslate2 does not let ``</s>`` finish a hypothesis
   unless it is the very best candidate; fairseq does. Where that happens the sentence is searched again with
   ``</s>`` kept out of that step, which leaves the other hypotheses as fairseq has them, and the empty one
   is added.

What remains are differences of rounding (order 1e-6 in a log-probability) that tip near-ties. This holds for
the best hypothesis. Further down an n-best list fairseq cuts at ``beam`` finished hypotheses in the order
they finish, CTranslate2 among all of the last step by score: its list is as long, and never worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, TranslationError
from neuron_specialization.export.model_directory import (
    SEGMENTATION,
    InputFormat,
    check_contents,
    read_provenance,
    served_directions,
)
from neuron_specialization.formats.fairseq_conventions import tag_of
from neuron_specialization.preprocessing.pieces import Pieces, Segmentation, Segmenter
from neuron_specialization.translation.engine import PieceHypothesis, SearchOptions

END = "</s>"
# Below this log p(</s> | tag) an empty translation is not among the first candidates of any realistic step.
EMPTY_CAN_MATTER = -9.0
# where a search decodes one sentence, a scoring pass takes so many tokens
SCORED_TOKENS = 16
# Sentences searched to the length limit together on a CPU. Every step copies what is kept of all tokens so
# far: of two sentences it stays in the processor's cache, with 64 the search takes about twice as long.
FAR_SENTENCES = 2
# CTranslate2 gives such a candidate -1e10
PUT_AWAY = -1e9


@dataclass
class _Candidate:
    """A hypothesis with the score summed, without the tag's."""

    tokens: list[str]
    length: int
    total: float

    @property
    def finished(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] == END


@dataclass(eq=False)
class _Search:
    """The search for one sentence.

    Attributes:
        tag: of the target language.
        source: tokens with the source tag, without ``</s>``.
        candidates: what the search has found.
        tag_score: log p(tag).
        empty_score: log p(``</s>`` | tag).
        empty: whether an empty hypothesis belongs to those found, and the others were found with ``</s>``
            kept out of the first step.
    """

    tag: str
    source: list[str]
    candidates: list[_Candidate] = field(default_factory=list)
    tag_score: float = 0.0
    empty_score: float = -math.inf
    empty: bool = False

    @property
    def finished(self) -> bool:
        return all(one.finished for one in self.candidates)

    def ranked(self, options: SearchOptions) -> list[PieceHypothesis]:
        """The hypotheses as fairseq scores and orders them."""
        totals = [(one.tokens, one.length, one.total) for one in self.candidates]
        if self.empty:
            # kept out of the first step, </s> left the others a distribution normalised without it
            correction = math.log1p(-math.exp(self.empty_score))
            totals = [(tokens, length, total + correction) for tokens, length, total in totals]
            totals.insert(0, ([self.tag, END], 2, self.empty_score))
        hypotheses = [
            PieceHypothesis(
                pieces=tuple(token for token in tokens if token not in (END, self.tag)),
                tokens=length,
                score=(total + self.tag_score) / length**options.length_penalty,
            )
            for tokens, length, total in totals
        ]
        # stable: on equal scores the earlier finished stays first, as in fairseq
        hypotheses.sort(key=lambda one: -one.score)
        return hypotheses[: options.nbest]


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
        self._directions = served_directions(provenance)
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
                cause=_unsupported(compute_type, device),
                hint="export it again, or choose another --compute-type or --device",
            ) from None

    def serves(self, direction: Direction) -> bool:
        """Whether the model translates this direction."""
        return direction in self._directions

    def generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        """See translation.Engine.

        Raises:
            TranslationError: CTranslate2 fails, saying with what.
        """
        try:
            return self._generate(sources, direction, options)
        except RuntimeError as error:
            raise TranslationError(
                f"CTranslate2 cannot translate: {error}",
                where=f"{self.folder}, {direction}",
                cause="an older version exported it, with 1024 positions however many it was trained with"
                if "position" in str(error)
                else None,
                hint="export it again",
            ) from None

    def _generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        options = replace(options, max_length=min(options.max_length, self._longest_target))
        searches = [
            _Search(tag_of(direction.target), [tag_of(direction.source), *pieces]) for pieces in sources
        ]
        self._search(searches, options)
        for one, scores in zip(searches, self._score([(one, []) for one in searches], options), strict=True):
            one.tag_score, one.empty_score = scores
        self._admit_empty([one for one in searches if one.empty_score > EMPTY_CAN_MATTER], options)
        self._search_to_the_limit([one for one in searches if not one.finished], options)
        return [one.ranked(options) for one in searches]

    def _search(self, searches: list[_Search], options: SearchOptions) -> None:
        """Search up to a generous length; a sentence that has not ended there is left unfinished.

        All but a few end much earlier. Those that run away are searched to the limit together, later: here
        each would hold up its batch.
        """
        groups: dict[int, list[_Search]] = {}
        for one in searches:
            rounded = -(-len(one.source) // 16) * 16
            generous = min(2 * rounded + 48, rounded + 80)
            groups.setdefault(min(generous, options.max_length), []).append(one)
        # all are handed over before any is waited for: the threads share them out
        pending = [
            self._submit(group, options, max_decoding_length=length) for length, group in groups.items()
        ]
        for batch in pending:
            _collect(batch, options)

    def _search_to_the_limit(self, searches: list[_Search], options: SearchOptions) -> None:
        """Search up to the length limit; hypotheses cut off there get the ``</s>`` that fairseq forces."""
        # fairseq's hypotheses are the first `beam` that finish; CTranslate2 returns those that score best
        # among all that it lets finish, so it is let finish and return more
        most = 2 * options.beam
        if self._translator.device == "cpu":
            options = replace(options, batch_size=min(options.batch_size, FAR_SENTENCES))
        if options.beam == 1:
            self._run(searches, options)
        else:
            self._run(searches, options, patience=2, num_hypotheses=most)
        ended = [one for one in searches if len(one.candidates) < most]
        # Where it returns as many as it may, it has perhaps dropped some; but then `beam` of them
        # finished before the limit, and the plain search ends there.
        self._run([one for one in searches if len(one.candidates) == most], options)
        cut_off = [
            (one, candidate) for one in ended for candidate in one.candidates if not candidate.finished
        ]
        scored = self._score([(one, candidate.tokens[1:]) for one, candidate in cut_off], options)
        for (_, candidate), scores in zip(cut_off, scored, strict=True):
            candidate.tokens.append(END)
            candidate.length += 1
            candidate.total += scores[-1]
        for one in ended:
            # fairseq stops at `beam` finished hypotheses, filled up with the best of the last step
            one.candidates.sort(key=lambda candidate: (candidate.length, -candidate.total))
            del one.candidates[options.beam - one.empty :]

    def _run(self, searches: list[_Search], options: SearchOptions, **changes: Any) -> None:
        """Search with CTranslate2, and replace the candidates by what is found."""
        _collect(self._submit(searches, options, **changes), options)

    def _submit(
        self, searches: list[_Search], options: SearchOptions, **changes: Any
    ) -> list[tuple[_Search, Any]]:
        """Start a search; ``changes`` are to the arguments that give fairseq's."""
        arguments = {
            "beam_size": options.beam,
            "num_hypotheses": options.beam,
            "length_penalty": _power(options),
            "max_decoding_length": options.max_length,
            "max_input_length": 0,
            "max_batch_size": options.batch_size,
            "return_scores": True,
            "return_end_token": True,
        }
        # the empty hypothesis has one of the places; </s> may not come first again
        fewer = options.beam - 1
        without_empty = {
            "patience": fewer / options.beam,
            "num_hypotheses": fewer,
            "min_decoding_length": 2,
        }
        pending: list[tuple[_Search, Any]] = []
        for alike, differing in (
            ([one for one in searches if not one.empty], {}),
            ([one for one in searches if one.empty], without_empty),
        ):
            if alike:
                futures = self._translator.translate_batch(
                    [one.source for one in alike],
                    target_prefix=[[one.tag] for one in alike],
                    asynchronous=True,
                    **arguments | differing | changes,
                )
                pending.extend(zip(alike, futures, strict=True))
        return pending

    def _score(self, targets: list[tuple[_Search, list[str]]], options: SearchOptions) -> list[list[float]]:
        """Log-probabilities of the tag, of the tokens after it, and of ``</s>`` after those."""
        if not targets:
            return []
        results = self._translator.score_batch(
            [one.source for one, _ in targets],
            [[one.tag, *tokens] for one, tokens in targets],
            max_input_length=0,
            # one pass over all positions: long sentences in large batches would leave the cache
            max_batch_size=options.batch_size * SCORED_TOKENS,
            batch_type="tokens",
        )
        return [list(result.log_probs) for result in results]

    def _admit_empty(self, searches: list[_Search], options: SearchOptions) -> None:
        """Search again where fairseq finishes an empty hypothesis that CTranslate2 passes over."""
        if options.beam == 1 or options.max_length < 2:
            return
        # two tokens: the prefix and one step, whose candidates show whether </s> was met and put away
        probes = [_Search(one.tag, one.source) for one in searches]
        self._run(probes, options, max_decoding_length=2)
        for one, probe in zip(searches, probes, strict=True):
            one.empty = any(candidate.total < PUT_AWAY for candidate in probe.candidates)
        self._search([one for one in searches if one.empty], options)


def _unsupported(compute_type: str, device: str) -> str | None:
    import ctranslate2

    try:
        known = ctranslate2.get_supported_compute_types(device)
    except (RuntimeError, ValueError):
        return f"this machine has no device {device!r} that CTranslate2 can use"
    if compute_type in ("default", "auto", *known):
        return None
    return f"this device does not compute in {compute_type}; here it supports {', '.join(sorted(known))}"


def _power(options: SearchOptions) -> float:
    """The length penalty as CTranslate2 is given it: at exactly 0 it would stop at the first finished one."""
    return options.length_penalty or 1e-9


def _collect(pending: list[tuple[_Search, Any]], options: SearchOptions) -> None:
    """Wait for a search, and replace the candidates by what it found."""
    for one, future in pending:
        result = future.result()
        one.candidates = [
            _Candidate(tokens, len(tokens), score * len(tokens) ** _power(options))
            for tokens, score in zip(result.hypotheses, result.scores, strict=True)
        ]


def open_model(
    folder: Path,
    *,
    threads: int,
    compute_type: str,
    device: str,
    input_format: InputFormat = "text",
    verified: bool = False,
) -> tuple[CTranslate2Engine, Segmentation, int]:
    """Load a model directory: engine, segmenter, and the longest source in pieces.

    Args:
        folder: the model directory.
        threads, compute_type, device: see CTranslate2Engine.
        input_format: see Translator.load.
        verified: its files were just compared with their checksums; else they are here.

    Raises:
        TranslationError: damaged, foreign, or not loadable on this machine.
        OSError: a file cannot be read.
    """
    provenance = read_provenance(folder)
    if not verified:
        check_contents(folder, provenance["files"], "model")
    engine = CTranslate2Engine(folder, threads=threads, compute_type=compute_type, device=device)
    if input_format == "pieces":
        return engine, Pieces(), engine.longest_source
    if provenance.get("input_format") == "pieces":
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
