"""The paper's score table, from fairseq outputs or from recorded scores.

Scores are computed as the reference implementation's recorded ones were: Moses detokenisation of
hypothesis and reference, sacrebleu's BLEU (13a) and chrF++, case kept. The table has one row a system
and metric: means over the 10 high-, 10 medium- and 10 low-resource languages of EC30 and over all 30,
out of English (O2M), into English (M2O), and their average.

Two rounding rules give different last digits, so both are shown, named:

- ``paper``: every direction's score is rounded first (BLEU and chrF++ to 1 decimal, COMET to 4), as the
  published table was made, which read sacrebleu's rounded output;
- ``exact``: the mean of the scores at full precision.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from neuron_specialization.directions import DIRECTION_PATTERN, Direction, known_languages
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import scoring
from neuron_specialization.evaluation.detokenize import detokenize
from neuron_specialization.evaluation.tables import complete_mean
from neuron_specialization.formats.fairseq_output import read_generate_output
from neuron_specialization.machine import usable_cores

Rule = Literal["paper", "exact"]
RULES: tuple[Rule, ...] = get_args(Rule)
METRICS = ("bleu", "chrf++", "comet")
TIERS = ("high", "medium", "low", "all")
COLUMNS = ("O2M", "M2O", "Avg")
PIVOT = "en"

# decimals of one recorded score, and of a cell of the table
RECORDED_DECIMALS = {"bleu": 1, "chrf++": 1, "comet": 4}
CELL_DECIMALS = {"bleu": 1, "chrf++": 1, "comet": 3}
_FILE = re.compile(r"generate-[^/]+?\.txt(?:\.gz)?")
_FLAT_FILE = re.compile(rf"(?P<system>[^/]+?)\.(?P<direction>{DIRECTION_PATTERN})\.{_FILE.pattern}")


@dataclass(frozen=True)
class PublishedScore:
    """The scores of one system in one direction; ``rounded`` says they were recorded, not computed here."""

    system: str
    direction: Direction
    values: dict[str, float]
    rounded: bool
    bleu_verbose: str = ""
    signatures: dict[str, str] | None = None
    segments: int | None = None
    reference_sha256: str | None = None


@dataclass(frozen=True)
class Cell:
    """One number of the table; ``value`` is None where a direction is missing."""

    system: str
    metric: str
    tier: str
    column: str
    value: float | None
    present: int
    expected: int

    def text(self) -> str:
        """The number as the paper prints it, or how many of its directions are there."""
        if self.value is None:
            return f"– ({self.present}/{self.expected})"
        return f"{self.value:.{CELL_DECIMALS[self.metric]}f}"


def find_outputs(folder: str | Path) -> dict[tuple[str, str], Path]:
    """Find fairseq outputs: (system, direction) → file.

    Recognised: ``<system>/<direction>/generate-test.txt``, ``<direction>/generate-test.txt`` (the system is
    then called as the folder is) and ``<system>.<direction>.generate-test.txt``; each may end in ``.gz``.

    Raises:
        ScoringError: none is there, or one is there twice.
    """
    folder = Path(folder)
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*generate-*.txt*")):
        flat = _FLAT_FILE.fullmatch(path.name)
        if flat:
            key = (flat["system"], flat["direction"])
        elif _FILE.fullmatch(path.name) and re.fullmatch(DIRECTION_PATTERN, path.parent.name):
            key = (path.parent.parent.resolve().name, path.parent.name)
        else:
            continue
        if key in found:
            raise ScoringError(f"{key[0]}/{key[1]} is there twice: {found[key]} and {path}")
        found[key] = path
    if not found:
        raise ScoringError(
            "no output of fairseq-generate is here",
            where=folder,
            hint="name them <system>/<direction>/generate-test.txt or <system>.<direction>.generate-test.txt",
        )
    return found


def score_outputs(
    outputs: dict[tuple[str, str], Path],
    *,
    processes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[PublishedScore]:
    """Score fairseq outputs, in parallel.

    Args:
        outputs: (system, direction) → file.
        processes: how many at a time; None takes every CPU this process may use.
        progress: called with how many files more are done.

    Raises:
        ScoringError: a file is not whole, or two systems were decoded from different test sets.
    """
    by_direction: dict[str, list[tuple[str, Path]]] = {}
    for (system, direction), path in outputs.items():
        by_direction.setdefault(direction, []).append((system, path))
    # directions into one language share the reference: neighbours in the list find it in the cache
    jobs = sorted(by_direction.items(), key=lambda job: tuple(reversed(job[0].split("-"))))
    processes = min(processes or usable_cores(), len(jobs))
    scores: list[PublishedScore] = []
    with ProcessPoolExecutor(processes) as pool:
        for done in pool.map(_score_direction, jobs, chunksize=max(1, min(4, len(jobs) // processes))):
            scores += done
            if progress is not None:
                progress(len(done))
    return scores


def _score_direction(job: tuple[str, list[tuple[str, Path]]]) -> list[PublishedScore]:
    name, files = job
    direction = Direction.parse(name)
    scores: list[PublishedScore] = []
    for system, path in files:
        output = read_generate_output(path, direction)
        references = tuple(output.references)
        if scores and scores[0].reference_sha256 != scoring.sha256_of_lines(references):
            raise ScoringError(
                f"{system} and {scores[0].system} were decoded from different test sets",
                where=f"{name}: {path}",
            )
        hypotheses = detokenize(output.hypotheses, direction.target, "moses")
        results = {}
        for metric_name, metric in _metrics_with_references(direction.target, references).items():
            results[metric_name] = scoring.score_texts(metric, hypotheses, None, scoring.Bootstrap(samples=0))
        scores.append(
            PublishedScore(
                system,
                direction,
                {metric_name: result.score for metric_name, result in results.items()},
                rounded=False,
                bleu_verbose=results["bleu"].verbose,
                signatures={metric_name: result.signature for metric_name, result in results.items()},
                segments=len(references),
                reference_sha256=scoring.sha256_of_lines(references),
            )
        )
    return scores


# n-grams of 2,009 references take up to 250 MB
@lru_cache(maxsize=1)
def _metrics_with_references(target: str, references: tuple[str, ...]) -> dict[str, Any]:
    """BLEU and chrF++ with the references' n-grams counted once for all systems and source languages."""
    detokenized = detokenize(references, target, "moses")
    metrics = {}
    for name in ("bleu", "chrf++"):
        metric = scoring.build_metric(name, Direction("xx", target))
        metric._ref_cache = metric._cache_references([detokenized])
        metrics[name] = metric
    return metrics


def read_recorded(path: str | Path) -> list[PublishedScore]:
    """Read recorded scores: CSV with system, direction, bleu, chrfpp (or chrf++); maybe comet, bleu_verbose.

    Raises:
        ScoringError: a column is missing, a score is not a number, a line has none, or a direction is listed
            twice.
    """
    scores: dict[tuple[str, str], PublishedScore] = {}
    with Path(path).open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        columns = {"chrfpp" if name == "chrf++" else name for name in reader.fieldnames or []}
        absent = [name for name in ("system", "direction", "bleu", "chrfpp") if name not in columns]
        if absent:
            raise ScoringError(f"the score table lacks the column {', '.join(absent)}", where=path)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            texts = {
                "bleu": row["bleu"],
                "chrf++": row.get("chrf++") or row.get("chrfpp"),
                "comet": row.get("comet"),
            }
            try:
                values = {metric: float(text) for metric, text in texts.items() if text}
            except ValueError as error:
                raise ScoringError(f"not a score: {error}", where=where) from None
            if not values:
                raise ScoringError("a line without a score", where=where)
            key = (row["system"], row["direction"])
            if key in scores:
                raise ScoringError(f"{key[0]}/{key[1]} is listed twice", where=where)
            scores[key] = PublishedScore(
                row["system"],
                Direction.parse(row["direction"]),
                values,
                rounded=True,
                bleu_verbose=row.get("bleu_verbose") or "",
            )
    if not scores:
        raise ScoringError("the score table is empty", where=path)
    return list(scores.values())


def paper_table(scores: Sequence[PublishedScore], rule: Rule) -> list[Cell]:
    """Return every cell of the paper's table for every system and metric that has a score.

    A cell is the unweighted mean over its languages; ``Avg`` is the mean of O2M and M2O. A cell with a
    direction missing has no value.
    """
    languages = _languages_by_tier()
    values = {
        (score.system, metric, str(score.direction)): _rounded(value, metric, rule)
        for score in scores
        for metric, value in score.values.items()
    }
    cells = []
    for system in dict.fromkeys(score.system for score in scores):
        for metric in METRICS:
            if not any(key[:2] == (system, metric) for key in values):
                continue
            for tier, codes in languages.items():
                columns = {
                    "O2M": [values.get((system, metric, f"{PIVOT}-{code}")) for code in codes],
                    "M2O": [values.get((system, metric, f"{code}-{PIVOT}")) for code in codes],
                }
                means = {name: complete_mean(found) for name, found in columns.items()}
                means["Avg"] = complete_mean(list(means.values()))
                columns["Avg"] = columns["O2M"] + columns["M2O"]
                for name in COLUMNS:
                    present = sum(value is not None for value in columns[name])
                    cells.append(Cell(system, metric, tier, name, means[name], present, len(columns[name])))
    return cells


def _languages_by_tier() -> dict[str, list[str]]:
    tiers = {
        tier: [code for code, language in known_languages().items() if language.ec30_tier == tier]
        for tier in TIERS[:-1]
    }
    return {**tiers, "all": [code for codes in tiers.values() for code in codes]}


def outside_the_table(scores: Iterable[PublishedScore]) -> list[str]:
    """The directions that no cell of the table uses: not EC30's, or without English."""
    codes = set(_languages_by_tier()["all"])
    return sorted(
        {
            str(score.direction)
            for score in scores
            if {score.direction.source, score.direction.target} - {PIVOT} - codes
            or PIVOT not in (score.direction.source, score.direction.target)
        }
    )


def _rounded(value: float, metric: str, rule: Rule) -> float:
    # through text, as sacrebleu prints it
    return float(f"{value:.{RECORDED_DECIMALS[metric]}f}") if rule == "paper" else value


def differences(computed: Sequence[PublishedScore], recorded: Sequence[PublishedScore]) -> list[str]:
    """Compare computed with recorded scores at the recorded precision; returns what differs, in words.

    sacrebleu's verbose string (n-gram precisions, brevity penalty, lengths) must be equal too, where it
    was recorded; a direction that was not recorded differs.
    """
    expected = {(score.system, str(score.direction)): score for score in recorded}
    found = []
    for score in computed:
        name = f"{score.system}/{score.direction}"
        other = expected.get((score.system, str(score.direction)))
        if other is None:
            found.append(f"{name}: not among the recorded scores")
            continue
        for metric, value in score.values.items():
            ours, theirs = (
                _rounded(v, metric, "paper") for v in (value, other.values.get(metric, float("nan")))
            )
            if ours != theirs:
                found.append(f"{name}: {metric} {ours}, recorded {theirs}")
        if other.bleu_verbose and score.bleu_verbose != other.bleu_verbose:
            found.append(f"{name}: BLEU {score.bleu_verbose}, recorded {other.bleu_verbose}")
    return found
