"""Translating text line by line: segmentation, long lines, engines, order, and the files written.

What is here does not know which engine runs. An engine (translation_ctranslate2, translation_fairseq)
turns lists of pieces into scored lists of pieces; everything around that, and `Translator`, is here.
This module imports neither torch nor numpy, so that a translation starts in a fraction of a second.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal, Protocol

from neuron_specialization.directions import Direction
from neuron_specialization.errors import TranslationError
from neuron_specialization.model_directory import find_models, zero_shot_models

# pieces times beam translated between two calls of before_chunk; a part takes at least so many pieces' time
_CHUNK = 4096
_LEAST_COST = 16
WORD_START = "\u2581"  # SentencePiece writes the space before a word as this
TooLong = Literal["split", "refuse"]
InputFormat = Literal["text", "pieces"]


@dataclass(frozen=True)
class SearchOptions:
    """How an engine searches. The defaults are the paper's (fairseq-generate's, with beam 5).

    Attributes:
        beam: beam size.
        length_penalty: a hypothesis scores its summed log-probability over length ** length_penalty.
        max_length: target tokens, tag included and ``</s>`` not, after which ``</s>`` is forced
            (fairseq's ``--max-len-b``).
        batch_size: sentences decoded together.
        nbest: hypotheses returned a sentence, at most ``beam``.
    """

    beam: int = 5
    length_penalty: float = 1.0
    max_length: int = 200
    batch_size: int = 64
    nbest: int = 1

    def __post_init__(self) -> None:
        for name in ("beam", "max_length", "batch_size", "nbest"):
            if getattr(self, name) < 1:
                raise TranslationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.nbest > self.beam:
            raise TranslationError(
                f"{self.nbest} hypotheses were asked for but the beam holds {self.beam}",
                hint=f"use --beam {self.nbest} or more",
            )


@dataclass(frozen=True)
class PieceHypothesis:
    """A hypothesis as an engine gives it.

    Attributes:
        pieces: target pieces without tag and ``</s>``.
        tokens: target tokens scored: pieces, tag and ``</s>``.
        score: summed log-probability (natural logarithm, tag and ``</s>`` included) over
            tokens ** length_penalty. fairseq-generate prints this divided by ln 2.
    """

    pieces: tuple[str, ...]
    tokens: int
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """A translation of one line and its score (see PieceHypothesis)."""

    text: str
    score: float


class Engine(Protocol):
    """What turns source pieces into target pieces."""

    def serves(self, direction: Direction) -> bool:
        """Whether this very engine translates the direction."""
        ...

    def generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        """Translate; sources without tags, results in the order of the sources, best hypothesis first."""
        ...


class Segmentation(Protocol):
    """What turns lines into source pieces: text.Segmenter, or Pieces."""

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the pieces of every line."""
        ...


class Pieces:
    """Lines that are segmented already (``--input-format pieces``): pieces with spaces between them."""

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        """See Segmentation."""
        return [[piece for piece in line.split(" ") if piece] for line in lines]


def join_pieces(pieces: Iterable[str]) -> str:
    """Join SentencePiece pieces to text exactly as fairseq's ``--remove-bpe sentencepiece`` does."""
    return "".join(pieces).replace(" ", "").replace(WORD_START, " ").strip()


_SENTENCE_END = re.compile(r"[.!?…:;][\"'”’»)\]]*$")
_FULL_STOP_WITHOUT_SPACE = re.compile(r"[。！？]$")


def split_pieces(pieces: Sequence[str], limit: int) -> list[list[str]]:
    """Split a segmented line into parts of at most ``limit`` pieces.

    A part ends, in this order of preference, after a sentence, between words, anywhere; a cut before
    the middle of what is allowed is not made, so that parts do not become tiny.
    """
    parts: list[list[str]] = []
    start = 0
    while len(pieces) - start > limit:
        window = range(start + limit, start + limit // 2, -1)
        cut = (
            next((i for i in window if _ends_sentence(pieces, i)), None)
            or next((i for i in window if pieces[i].startswith(WORD_START)), None)
            or start + limit
        )
        parts.append(list(pieces[start:cut]))
        start = cut
    parts.append(list(pieces[start:]))
    return parts


def _ends_sentence(pieces: Sequence[str], cut: int) -> bool:
    before = pieces[cut - 1]
    if _FULL_STOP_WITHOUT_SPACE.search(before):
        return True
    return pieces[cut].startswith(WORD_START) and bool(_SENTENCE_END.search(before))


class Translator:
    """Translates lines with an exported model. Build it with `Translator.load`.

    Thread safety: with the ``ctranslate2`` engine one Translator may be used from many threads at
    once (the model is shared and read-only; loading another direction is serialised by a lock).
    The ``fairseq`` engine lets one thread in at a time.

    Example:
        >>> from neuron_specialization import Translator
        >>> translator = Translator.load("results/demo/models/ns")       # doctest: +SKIP
        >>> translator.translate(["Gerät hinzufügen"], direction="de-en")  # doctest: +SKIP
        ['Add device']
    """

    def __init__(
        self,
        directions: Sequence[Direction],
        open_engine: Callable[[Direction], tuple[Engine, Segmentation, int]],
        *,
        name: str,
        keep: int = 8,
        zero_shot: Collection[Direction] = (),
    ) -> None:
        """See `load`; ``open_engine`` gives engine, segmenter and the longest source in pieces.

        ``zero_shot``: what a dense model also translates, though it was not trained to.
        """
        self.directions = list(directions)
        self._zero_shot = frozenset(zero_shot)
        self._open_engine = open_engine
        self._name = name
        self._opened: dict[Direction, tuple[Engine, Segmentation, int]] = {}
        self._recent: list[tuple[Engine, Segmentation, int]] = []
        self._keep = keep
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int = 1,
        compute_type: str = "default",
        device: str = "cpu",
        input_format: InputFormat = "text",
        keep: int = 8,
        cache: str | Path | None = None,
    ) -> Translator:
        """Open an exported model or a bundle with the ctranslate2 engine.

        Args:
            path: the model directory of one direction (``models/ns/de-en``), of a dense system
                (``models/baseline/dense``), the folder of a system (``models/ns``), or a bundle
                (``bundles/ns``). Of several directions each is opened when it is first used.
            threads: batches translated at the same time, each on one core.
            compute_type: ``default`` (as exported), ``int8``, ``float32``, …: what CTranslate2 accepts.
            device: ``cpu``, ``cuda`` or ``auto``.
            input_format: ``text``, or ``pieces``: lines that are segmented already.
            keep: models kept in memory, the most recently used ones. Beside its weights each holds working
                memory for each thread (some 70 MB for the demonstration's model).
            cache: folder of the models made from a bundle; default: see model_cache.default_folder.

        Raises:
            TranslationError: the path is no model directory, or one that is damaged.
        """
        from neuron_specialization.bundle import Bundle
        from neuron_specialization.model_cache import ModelCache
        from neuron_specialization.translation_ctranslate2 import open_model

        def opened(folder: Path, *, verified: bool = False) -> tuple[Engine, Segmentation, int]:
            return open_model(
                folder,
                threads=threads,
                compute_type=compute_type,
                device=device,
                input_format=input_format,
                verified=verified,
            )

        def from_bundle(direction: Direction) -> tuple[Engine, Segmentation, int]:
            # CTranslate2 reads the files while it loads the model, and not later
            with bundle.model(direction) as folder:
                return opened(folder, verified=True)

        def from_folder(direction: Direction) -> tuple[Engine, Segmentation, int]:
            return opened(folders.get(direction) or untrained[direction])

        if Bundle.is_one(path):
            bundle = Bundle(path, ModelCache(cache))
            return cls(
                bundle.directions, from_bundle, name=str(path), keep=keep, zero_shot=bundle.untrained()
            )
        folders = find_models(path)
        untrained = zero_shot_models(folders)
        return cls(list(folders), from_folder, name=str(path), keep=keep, zero_shot=untrained)

    def translate(
        self,
        lines: Sequence[str],
        direction: str | Direction,
        *,
        beam: int = 5,
        length_penalty: float = 1.0,
        max_length: int = 200,
        batch_size: int = 64,
        too_long: TooLong = "split",
    ) -> list[str]:
        """Translate lines; the result has as many, in their order. A blank line stays blank.

        Args:
            lines: source text, one segment each.
            direction: e.g. ``de-en``.
            beam, length_penalty, max_length, batch_size: see SearchOptions.
            too_long: what to do with a line longer than the model was trained for.

        Raises:
            TranslationError: the model does not translate this direction (the known ones are listed),
                ``lines`` is one string, or a line is too long and ``too_long`` is ``refuse``.
            ConfigError: ``direction`` is no direction.
        """
        options = SearchOptions(beam, length_penalty, max_length, batch_size)
        return [best.text for best, *_ in self.hypotheses(lines, direction, options, too_long=too_long)]

    def hypotheses(
        self,
        lines: Sequence[str],
        direction: str | Direction,
        options: SearchOptions | None = None,
        *,
        too_long: TooLong = "split",
        first_line: int = 1,
        before_chunk: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Translate lines into n-best lists (``options.nbest``; fewer where the search found fewer).

        A blank line has the one hypothesis ``""``; a line that was split has one, its parts' best joined.

        Args:
            lines, direction, too_long: see `translate`.
            options: how to search.
            first_line: the number of the first line, for messages.
            before_chunk: called with the pieces that are left, before some of them are translated, again
                and again. What it raises ends the translation.
        """
        if isinstance(lines, str | bytes):  # a sequence, too: of its letters
            raise TranslationError(
                "one string was given where a list of lines is needed",
                hint='put it into a list: translate(["…"], …); split a text into its lines first',
            )
        options = options or SearchOptions()
        engine, segmenter, limit = self.open(direction)
        parts: list[list[str]] = []
        owners: list[slice] = []
        for number, pieces in enumerate(segmenter.encode(lines), first_line):
            begin = len(parts)
            if len(pieces) > limit:
                if too_long == "refuse":
                    raise TranslationError(
                        f"a line has {len(pieces)} pieces; the model was trained for at most {limit}",
                        where=f"line {number}",
                        hint="shorten it, or let it be split: --too-long split",
                    )
                parts.extend(split_pieces(pieces, limit))
            elif pieces:
                parts.append(pieces)
            owners.append(slice(begin, len(parts)))
        parsed = direction if isinstance(direction, Direction) else Direction.parse(direction)
        found: list[list[PieceHypothesis]] = []
        left = sum(map(len, parts))
        for chunk in _chunks(parts, options.beam, _CHUNK if before_chunk else math.inf):
            if before_chunk:
                before_chunk(left)
            found += engine.generate(chunk, parsed, options)
            left -= sum(map(len, chunk))
        return [
            _of_line(found[owner], [bool(part[0].startswith(WORD_START)) for part in parts[owner]], options)
            for owner in owners
        ]

    def open(self, direction: str | Direction) -> tuple[Engine, Segmentation, int]:
        """Load the model of a direction if it is not loaded yet, so that errors and delays come early."""
        direction = direction if isinstance(direction, Direction) else Direction.parse(direction)
        if direction not in self.directions and direction not in self._zero_shot:
            known = ", ".join(str(one) for one in sorted(self.directions))
            raise TranslationError(
                f"the model does not translate {direction}", where=self._name, hint=f"it knows: {known}"
            )
        with self._lock:
            if direction not in self._opened:
                ready = (one for one in self._recent if one[0].serves(direction))
                opened = next(ready, None) or self._open_engine(direction)
                # a dense model is one engine for all its directions: do not load it once for each
                served = [other for other in self.directions if opened[0].serves(other)]
                self._opened.update((other, opened) for other in {direction, *served})
                if opened not in self._recent:
                    self._recent.append(opened)
            opened = self._opened[direction]
            self._recent.remove(opened)
            self._recent.append(opened)
            while len(self._recent) > self._keep:
                # whoever still translates with it keeps it alive that long
                oldest = self._recent.pop(0)
                self._opened = {key: value for key, value in self._opened.items() if value is not oldest}
            return opened


def _chunks(parts: list[list[str]], beam: int, most: float) -> Iterator[list[list[str]]]:
    """Divide parts into chunks that take about the same time each: as long as ``most`` pieces at beam 1."""
    chunk: list[list[str]] = []
    cost = 0
    for part in parts:
        more = beam * max(len(part), _LEAST_COST)
        if chunk and cost + more > most:
            yield chunk
            chunk, cost = [], 0
        chunk.append(part)
        cost += more
    if chunk:
        yield chunk


def _of_line(
    found: list[list[PieceHypothesis]], spaced: list[bool], options: SearchOptions
) -> list[Hypothesis]:
    if not found:
        return [Hypothesis("", 0.0)]
    if len(found) == 1:
        return [Hypothesis(join_pieces(one.pieces), one.score) for one in found[0][: options.nbest]]
    best = [candidates[0] for candidates in found]
    text = "".join(
        (" " if space else "") + join_pieces(one.pieces) for one, space in zip(best, spaced, strict=True)
    )
    power = options.length_penalty
    total = sum(one.score * one.tokens**power for one in best)
    length = sum(one.tokens for one in best)
    return [Hypothesis(text.strip(), total / length**power)]


def translate_stream(
    translator: Translator,
    source: Iterable[str],
    direction: str | Direction,
    options: SearchOptions,
    *,
    too_long: TooLong = "split",
    buffer: int = 2048,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[str, list[Hypothesis]]]:
    """Translate a stream of lines in bounded memory; yields (source line, hypotheses) in order.

    Args:
        source: lines, with or without their line end.
        buffer: lines read before they are translated together: sorting by length within it is what
            makes batches efficient; 1 answers every line at once.
        progress: called with the number of lines done so far.
    """
    lines = (line.rstrip("\n").removesuffix("\r") for line in source)
    done = 0
    while chunk := list(islice(lines, buffer)):
        results = translator.hypotheses(chunk, direction, options, too_long=too_long, first_line=done + 1)
        yield from zip(chunk, results, strict=True)
        done += len(chunk)
        if progress:
            progress(done)


def write_translations(
    results: Iterable[tuple[str, list[Hypothesis]]],
    handle: IO[str],
    *,
    style: Literal["text", "json", "nbest"] = "text",
) -> int:
    """Write results as lines and return how many source lines they were.

    ``text``: the best hypothesis, a line each. ``json``: an object a line (``source``, ``translation``,
    ``score``, ``hypotheses``). ``nbest``: Moses' n-best format, ``index ||| text ||| score``.
    """
    import json

    count = 0
    for source, hypotheses in results:
        best = hypotheses[0]
        if style == "text":
            text = best.text + "\n"
        elif style == "nbest":
            text = "".join(f"{count} ||| {one.text} ||| {one.score:.6f}\n" for one in hypotheses)
        else:
            value = {
                "source": source,
                "translation": best.text,
                "score": best.score,
                "hypotheses": [{"text": one.text, "score": one.score} for one in hypotheses],
            }
            text = json.dumps(value, ensure_ascii=False) + "\n"
        handle.write(text)
        count += 1
    return count
