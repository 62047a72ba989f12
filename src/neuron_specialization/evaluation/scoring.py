"""BLEU, chrF++ and spBLEU of one system's translation of one test set in one direction, by sacrebleu.

A score never travels alone: it comes with sacrebleu's signature, a bootstrap interval, the number of
segments and the checksums of the two texts it compares.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, ScoringError
from neuron_specialization.evaluation.detokenize import (
    detokenize,
    has_split_words,
    has_splittable_words,
    moses_round_trip,
    rejoin_marks,
)
from neuron_specialization.formats.fairseq_output import read_generate_output
from neuron_specialization.storage.files import read_lines, sha256_of

METRICS = ("bleu", "chrf++", "spbleu")
LABELS = {"bleu": "BLEU", "chrf++": "chrF++", "spbleu": "spBLEU", "comet": "COMET"}


def label(metric: str) -> str:
    """How a metric is written: ``chrf++`` is chrF++."""
    return LABELS.get(metric, metric)


def decimals(metric: str) -> int:
    """How many decimals a score is printed with: two, four for COMET, which runs from 0 to 1."""
    return 4 if metric == "comet" else 2


# sacrebleu's own default
BOOTSTRAP_SEED = 12345

# sacrebleu knows the target languages that 13a cannot split by these codes
_SACREBLEU_CODES = {"zho": "zh", "yue": "zh", "jpn": "ja", "kor": "ko"}


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals are made: ``samples`` resamples of the test set (0: no interval)."""

    samples: int = 1000
    confidence: float = 0.95
    seed: int = BOOTSTRAP_SEED

    def __post_init__(self) -> None:
        if self.samples == 1 or self.samples < 0:
            raise ScoringError(f"{self.samples} bootstrap resamples make no interval", hint="use 0, or 1000")
        if not 0 < self.confidence < 1:
            raise ScoringError(f"confidence {self.confidence} is not between 0 and 1", hint="use 0.95")


@dataclass(frozen=True)
class Texts:
    """What is compared: two texts of equally many segments, and where they come from."""

    hypotheses: list[str]
    references: list[str]
    hypothesis_sha256: str
    reference_sha256: str


@dataclass(frozen=True)
class MetricScore:
    """One metric's result. ``low`` and ``high`` bound the bootstrap interval; None without one."""

    score: float
    signature: str
    low: float | None
    high: float | None
    confidence: float | None
    verbose: str

    def as_json(self) -> dict[str, Any]:
        """The object under ``metrics`` in a score file."""
        return vars(self).copy()


class MetricUnavailableError(ScoringError):
    """A metric needs something that is not installed here; the others can be computed."""


def read_texts(hypothesis: str | Path, reference: str | Path) -> Texts:
    """Read a hypothesis and its reference, one segment a line.

    Raises:
        ScoringError: a file is missing or empty, or they differ in length; names both counts.
    """
    if not Path(reference).is_file():
        raise ScoringError("the reference is missing", where=reference)
    references = _read_side(reference)
    if not references:
        raise ScoringError("the reference is empty: there is nothing to score against", where=reference)
    expected = f"the reference has {len(references)} ({reference})"
    remake = "translate this direction again (snakemake --forcerun translate)"
    if not Path(hypothesis).is_file():
        raise ScoringError(
            f"the hypothesis is missing: 0 segments, {expected}", where=hypothesis, hint=remake
        )
    hypotheses = _read_side(hypothesis)
    if len(hypotheses) != len(references):
        state = "is empty: 0 segments" if not hypotheses else f"has {len(hypotheses)} segments"
        raise ScoringError(
            f"the hypothesis {state}, {expected}",
            where=hypothesis,
            cause="translation stopped half-way" if len(hypotheses) < len(references) else "another test set",
            hint=remake,
        )
    return Texts(hypotheses, references, sha256_of(hypothesis), sha256_of(reference))


def _read_side(path: str | Path) -> list[str]:
    try:
        return read_lines(path)
    except CorpusError as error:
        raise ScoringError(error.what, where=error.where, hint=error.hint) from None


def read_fairseq_texts(path: str | Path, direction: Direction) -> Texts:
    """Read hypothesis and reference out of a ``generate-<subset>.txt``.

    The checksums are those of plain text files with the same segments, one a line, ordered by id, so
    that they are equal for every system that translated the same test set.
    """
    output = read_generate_output(path, direction)
    return Texts(
        output.hypotheses,
        output.references,
        sha256_of_lines(output.hypotheses),
        sha256_of_lines(output.references),
    )


def sha256_of_lines(lines: Sequence[str]) -> str:
    """Return the SHA-256 of a UTF-8 text file with these segments, one a line."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def build_metric(name: str, direction: Direction, *, spbleu_model: str | Path | None = None) -> Any:
    """Return sacrebleu's metric object for ``bleu``, ``chrf++`` or ``spbleu``.

    BLEU takes sacrebleu's tokenizer for the target language: 13a, but for Chinese, Japanese and Korean.

    Raises:
        ScoringError: no such metric.
        MetricUnavailableError: spBLEU's model or a language's tokenizer is not on this machine.
    """
    from sacrebleu.metrics import BLEU, CHRF

    # sacrebleu warns of tokenised text on its own logger; we say it in our own words (looks_tokenized)
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    if name == "chrf++":
        return CHRF(char_order=6, word_order=2)
    if name == "spbleu":
        return _build_spbleu(spbleu_model)
    if name != "bleu":
        raise ScoringError(f"no metric is called {name!r}", hint=f"use {', '.join(METRICS)}")
    language = direction.target.split("_")[0]
    language = _SACREBLEU_CODES.get(language, language)
    try:
        return BLEU(trg_lang=language, force=True)
    except (ImportError, RuntimeError) as error:
        raise MetricUnavailableError(
            f"BLEU for {direction} needs a tokenizer that is not installed:"
            f" pip install 'sacrebleu[{language}]'",
            cause=" ".join(str(error).split()),
            hint="install it; what was scored without it: snakemake --cores all --forcerun score compare",
        ) from None


def unavailable_metrics(metrics: Sequence[str], directions: Sequence[Direction]) -> dict[str, str]:
    """Return the metrics that cannot be computed on this machine in every direction, each with the reason."""
    reasons: dict[str, str] = {}
    for name in metrics:
        for direction in directions:
            try:
                build_metric(name, direction)
            except MetricUnavailableError as error:
                reasons[name] = error.what
                break
    return reasons


def _build_spbleu(model: str | Path | None) -> Any:
    from sacrebleu.metrics import BLEU
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    entry = SPM_MODELS["flores200"]
    path = Path(model) if model else Path(SACREBLEU_DIR) / "models" / entry["url"].rsplit("/", 1)[-1]
    if not path.is_file():
        raise MetricUnavailableError(
            "spBLEU's SentencePiece model is not on this machine, and scoring downloads nothing",
            where=path,
            hint=f"get it once from {entry['url']} and save it there, or name the file with --spbleu-model",
        )
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    metric = BLEU(tokenize="none", force=True)
    metric.tokenizer = lambda line: " ".join(processor.encode(line, out_type=str))
    metric.tokenizer_signature = entry["signature"]
    return metric


def score_texts(
    metric: Any, hypotheses: Sequence[str], references: Sequence[str] | None, bootstrap: Bootstrap
) -> MetricScore:
    """Score a corpus with one of sacrebleu's metrics.

    Args:
        metric: from ``build_metric``.
        hypotheses: S detokenised segments.
        references: S segments; None where the metric was built with cached references.
        bootstrap: the interval; its bounds are order statistics of the resampled scores.
    """
    statistics = metric._extract_corpus_statistics(hypotheses, None if references is None else [references])
    result = metric._aggregate_and_compute(statistics)
    low = high = confidence = None
    if bootstrap.samples:
        scores = bootstrap_scores(metric, statistics, bootstrap.samples, bootstrap.seed)
        low, high = interval(scores, bootstrap.confidence)
        confidence = bootstrap.confidence
        metric.n_bootstrap, metric.seed = bootstrap.samples, str(bootstrap.seed)
    signature = metric.get_signature().format()
    return MetricScore(float(result.score), signature, low, high, confidence, getattr(result, "_verbose", ""))


def bootstrap_scores(
    metric: Any, statistics: Sequence[Sequence[float]], samples: int, seed: int
) -> list[float]:
    """Scores of ``samples`` resamples of the segments, in the order drawn.

    Draws the segments that sacrebleu's ``_bootstrap_resample`` draws for the same seed and gives its scores
    (in float64, it in float32).

    Args:
        metric: from ``build_metric``.
        statistics: S segments → sacrebleu's sufficient statistics.
        samples: number of resamples.
        seed: of the drawing.
    """
    import numpy as np

    from neuron_specialization.evaluation.resampling import bootstrap_sums, corpus_scores

    (sums,) = bootstrap_sums([np.asarray(statistics, dtype=np.float64)], samples, seed)
    scores: list[float] = corpus_scores(metric, sums).tolist()
    return scores


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """The bounds that leave (1 − confidence)/2 of the values on either side; sacrebleu's rule for 0.95."""
    ordered = sorted(values)
    tail = int(len(ordered) * (1 - confidence) / 2 + 1e-9)
    return ordered[tail], ordered[-tail - 1]


def score_all(
    texts: Texts,
    direction: Direction,
    *,
    metrics: Sequence[str] = ("bleu", "chrf++"),
    detokenizer: str = "none",
    bootstrap: Bootstrap = Bootstrap(),
    spbleu_model: str | Path | None = None,
    system: str | None = None,
    testset: str | None = None,
) -> dict[str, Any]:
    """Score a translation with every metric; returns what a score file holds (docs/architecture.md).

    A metric that is not available here is listed under ``skipped`` with the reason.

    Where Moses' tokenizer splits words (Indic scripts), ``alternative`` holds the scores of the other reading
    of the text, and ``compares_with_paper`` says which of the two, ``metrics`` or ``alternative``, to hold
    against published ones.
    """
    hypotheses = detokenize(texts.hypotheses, direction.target, detokenizer)
    references = detokenize(texts.references, direction.target, detokenizer)
    scores, skipped = _score_metrics(hypotheses, references, direction, metrics, bootstrap, spbleu_model)
    result: dict[str, Any] = {
        "system": system,
        "testset": testset,
        "direction": str(direction),
        "segments": len(texts.references),
        "empty_hypotheses": sum(not line.strip() for line in texts.hypotheses),
        "detokenizer": detokenizer,
        "bootstrap": {"samples": bootstrap.samples, "seed": bootstrap.seed},
        "hypothesis_sha256": texts.hypothesis_sha256,
        "reference_sha256": texts.reference_sha256,
        "metrics": scores,
    }
    if skipped:
        result["skipped"] = skipped
    other = _other_reading(hypotheses, references, direction, detokenizer)
    if other is not None:
        result["compares_with_paper"], text, hypotheses, references = other
        alternative, _ = _score_metrics(hypotheses, references, direction, metrics, bootstrap, spbleu_model)
        result["alternative"] = {"text": text, "metrics": alternative}
    return result


def _other_reading(
    hypotheses: list[str], references: list[str], direction: Direction, detokenizer: str
) -> tuple[str, str, list[str], list[str]] | None:
    """The second way to read text in which Moses splits words: (comparable, description, texts) or None."""
    if detokenizer == "moses":
        if not has_split_words(references):
            return None
        text = "as people write it, words that Moses split at combining marks rejoined (approximate)"
        return "metrics", text, rejoin_marks(hypotheses), rejoin_marks(references)
    if not has_splittable_words(references):
        return None
    text = "as the paper's, tokenised and detokenised by Moses, which splits words at combining marks"
    target = direction.target
    return "alternative", text, moses_round_trip(hypotheses, target), moses_round_trip(references, target)


def _score_metrics(
    hypotheses: Sequence[str],
    references: Sequence[str],
    direction: Direction,
    metrics: Sequence[str],
    bootstrap: Bootstrap,
    spbleu_model: str | Path | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    scores: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(metrics):
        try:
            metric = build_metric(name, direction, spbleu_model=spbleu_model)
        except MetricUnavailableError as error:
            skipped[name] = str(error)
            continue
        scores[name] = score_texts(metric, hypotheses, references, bootstrap).as_json()
    if not scores:
        raise ScoringError("no metric could be computed:\n" + "\n".join(skipped.values()))
    return scores, skipped


def looks_tokenized(lines: Sequence[str]) -> bool:
    """Whether text looks tokenised: most segments that end in a full stop have a space before it."""
    ends = [line for line in lines if line.endswith(".")]
    return len(ends) >= 20 and sum(line.endswith(" .") for line in ends) > len(ends) / 2
