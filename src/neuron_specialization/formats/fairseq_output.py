"""A strict reader of what ``fairseq-generate`` writes (``generate-<subset>.txt``).

For every segment the file holds five lines, tab-separated, in the order the batches were decoded::

    S-12  __de__ Ein Satz .          source; with its language tag when the encoder is given one
    T-12  A sentence .               reference
    H-12  -0.31  A sentence .        score and hypothesis
    D-12  -0.31  A sentence .        the same, detokenised by fairseq (it never is, here)
    P-12  -0.2 -0.4 …                scores of the tokens

and one last line, ``Generate test with beam=5: BLEU4 = …``. Whatever is not exactly this is refused
with its line: a score over part of a test set, or over segments in another order, looks like any other.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from neuron_specialization.directions import LANGUAGE_PATTERN, Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.storage.files import gunzip

_BLOCK = "STHDP"
_FIELDS = {"S": 2, "T": 2, "H": 3, "D": 3, "P": 2}
_IDENTIFIER = re.compile(r"([STHDP])-(0|[1-9][0-9]{0,17})")
_TRAILER = re.compile(r"Generate (\S+) with beam=(\d+): (\S.*)")
_TAG = re.compile(rf"__({LANGUAGE_PATTERN})__(?: |$)")
_REMAKE = "make the file again with fairseq-generate --results-path"


@dataclass(frozen=True)
class GenerateOutput:
    """A parsed file; all lists are ordered by id and equally long.

    Attributes:
        sources: without the leading language tag.
        references, hypotheses: as they stand: a tag or ``<unk>`` inside is part of the text.
        scores: the hypotheses' length-normalised log probabilities (base 2, as fairseq prints them).
        subset, beam: from the last line.
        trailer: what fairseq printed as its own score; on tokenised text, not the one to report.
    """

    sources: list[str]
    references: list[str]
    hypotheses: list[str]
    scores: list[float]
    subset: str
    beam: int
    trailer: str


@dataclass
class _Segment:
    line: int
    texts: dict[str, list[str]] = field(default_factory=dict)


def read_generate_output(path: str | Path, direction: Direction | None = None) -> GenerateOutput:
    """Read and check a ``generate-<subset>.txt``, gzipped if it is called ``….gz``.

    Args:
        path: the file.
        direction: when given, a source tag that is not of this direction is an error.

    Raises:
        ScoringError: the file is missing, empty, truncated or not of this form; names file and line.
    """
    path = Path(path)
    lines = _read(path)
    trailer = _TRAILER.fullmatch(lines[-1])
    if trailer is None:
        raise ScoringError(
            f"the last line is not fairseq's closing line 'Generate … with beam=…': {_shown(lines[-1])}",
            where=f"{path}, line {len(lines)}",
            cause="fairseq-generate was killed, or the file was cut",
            hint=_REMAKE,
        )
    segments = _read_blocks(path, lines[:-1])
    for expected, identifier in enumerate(sorted(segments)):
        if identifier != expected:
            raise ScoringError(
                f"segment {expected} is missing ({len(segments)} are there, up to id {max(segments)})",
                where=path,
                cause="fairseq-generate --skip-invalid-size-inputs-valid-test leaves out long segments",
                hint=_REMAKE + ", without it",
            )
    ordered = [segments[identifier] for identifier in range(len(segments))]
    return GenerateOutput(
        sources=[_without_tag(path, segment, direction) for segment in ordered],
        references=[segment.texts["T"][0] for segment in ordered],
        hypotheses=[segment.texts["H"][1] for segment in ordered],
        scores=[_number(path, segment) for segment in ordered],
        subset=trailer[1],
        beam=int(trailer[2]),
        trailer=trailer[3],
    )


def _read(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gunzip(data)
    except FileNotFoundError:
        raise ScoringError("the fairseq output is missing", where=path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ScoringError(f"cannot be read: {error}", where=path, hint=_REMAKE) from None
    if not data:
        raise ScoringError(
            "the file is empty: 0 segments", where=f"{path}, line 1", cause="translation failed", hint=_REMAKE
        )
    try:
        # Not splitlines(): a segment may hold U+2028 or U+0085.
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScoringError(f"not UTF-8: {error.reason}", where=f"{path}, line {line}") from None
    if lines[0].endswith("\r"):
        raise ScoringError("the lines end as on Windows (CR LF)", where=f"{path}, line 1", hint=_REMAKE)
    if lines.pop() != "":
        raise ScoringError(
            "the last line has no end",
            where=f"{path}, line {len(lines) + 1}",
            cause="fairseq-generate was killed, or the file was cut",
            hint=_REMAKE,
        )
    return lines


def _read_blocks(path: Path, lines: list[str]) -> dict[int, _Segment]:
    segments: dict[int, _Segment] = {}
    current = _Segment(0)
    current_id = -1
    for number, line in enumerate(lines, 1):
        expected = _BLOCK[(number - 1) % len(_BLOCK)]
        name, *fields = line.split("\t")
        match = _IDENTIFIER.fullmatch(name)
        if match is None:
            raise ScoringError(
                f"expected {expected}-<id>, found {_shown(line)}", where=f"{path}, line {number}"
            )
        kind, identifier = match[1], int(match[2])
        if expected == kind == "S":
            if identifier in segments:
                raise ScoringError(
                    f"segment {identifier} is there twice, first at line {segments[identifier].line}",
                    where=f"{path}, line {number}",
                    cause="two outputs were joined",
                )
            current, current_id = _Segment(number), identifier
            segments[identifier] = current
        if kind != expected or identifier != current_id:
            wanted = f"{expected}-{current_id}" if expected != "S" else "S-<id>"
            raise ScoringError(
                f"expected {wanted}, found {kind}-{identifier}",
                where=f"{path}, line {number}",
                cause=_why(expected, kind, identifier == current_id),
            )
        if len(fields) + 1 != _FIELDS[kind]:
            raise ScoringError(
                f"{kind}-{identifier} has {len(fields) + 1} tab-separated fields, not {_FIELDS[kind]}",
                where=f"{path}, line {number}",
            )
        current.texts[kind] = fields
    if not segments:
        raise ScoringError("the file holds no segment", where=f"{path}, line 1", hint=_REMAKE)
    if len(current.texts) < len(_BLOCK):
        raise ScoringError(
            f"segment {current_id} has no {_BLOCK[len(current.texts)]} line",
            where=f"{path}, line {len(lines)}",
            cause="lines are missing before the closing one",
            hint=_REMAKE,
        )
    return segments


def _why(expected: str, found: str, same_id: bool) -> str | None:
    if expected == "S" and found == "H":
        return "several hypotheses a segment: decode with --nbest 1"
    if expected == "T" and found == "H" and same_id:
        return "no reference: the test set was binarised without its target side"
    return "lines are missing"


def _without_tag(path: Path, segment: _Segment, direction: Direction | None) -> str:
    source = segment.texts["S"][0]
    tag = _TAG.match(source)
    if tag is None:
        return source
    if direction is not None and tag[1] not in (direction.source, direction.target):
        raise ScoringError(
            f"the source's language tag is __{tag[1]}__, which is not of {direction}",
            where=f"{path}, line {segment.line}",
            cause="the file is of another direction",
        )
    return source[tag.end() :]


def _number(path: Path, segment: _Segment) -> float:
    text = segment.texts["H"][0]
    try:
        return float(text)
    except ValueError:
        raise ScoringError(
            f"the hypothesis's score is not a number: {_shown(text)}",
            where=f"{path}, line {segment.line + 2}",
        ) from None


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
