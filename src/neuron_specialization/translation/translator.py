"""Translating lines with an exported model: segmentation, long lines, which engine is open, order.

What is here does not know which engine runs (engine.py says what one is).
This module imports neither torch nor numpy, so that a translation starts in a fraction of a second.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_specialization.directions import Direction
from neuron_specialization.errors import TranslationError
from neuron_specialization.export.model_directory import InputFormat, find_models, zero_shot_models
from neuron_specialization.preprocessing.pieces import WORD_START, Segmentation, join_pieces, split_pieces
from neuron_specialization.translation.engine import Engine, PieceHypothesis, SearchOptions

# pieces times beam translated between two calls of before_chunk; a part takes at least so many pieces' time
_CHUNK = 4096
_LEAST_COST = 16
TooLong = Literal["split", "refuse"]


@dataclass(frozen=True)
class Hypothesis:
    """A translation of one line and its score (see PieceHypothesis)."""

    text: str
    score: float


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
        from neuron_specialization.export.bundle import Bundle
        from neuron_specialization.export.model_cache import ModelCache
        from neuron_specialization.translation.ctranslate2_engine import open_model

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
