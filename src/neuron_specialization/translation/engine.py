"""What an engine is: it turns lists of pieces into scored lists of pieces, and says nothing of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from neuron_specialization.directions import Direction
from neuron_specialization.errors import TranslationError


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
