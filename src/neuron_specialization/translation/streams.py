"""Streams of lines: translated in bounded memory, and written as text, JSON lines or n-best lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Literal

from neuron_specialization.directions import Direction
from neuron_specialization.translation.engine import SearchOptions
from neuron_specialization.translation.translator import Hypothesis, TooLong, Translator


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
