"""Scores: equal to sacrebleu's, with interval and provenance; bad input refused."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF

from neuron_specialization.cli import main
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import scoring

DE_EN = Direction("de", "en")
SENTENCE = "the a small house stands near old river and nobody knows why it was built there ."
WORDS = SENTENCE.split()


def corpus(segments: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """References of 5 to 12 words, and hypotheses with a word in five replaced."""
    generator = random.Random(seed)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(5, 12))) for _ in range(segments)]
    hypotheses = [
        " ".join(generator.choice(WORDS) if generator.random() < 0.2 else word for word in line.split())
        for line in references
    ]
    return hypotheses, references


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    hypotheses, references = corpus(40)
    return write(tmp_path / "h.txt", hypotheses), write(tmp_path / "r.txt", references)


@pytest.mark.parametrize("name, own", [("bleu", BLEU()), ("chrf++", CHRF(word_order=2))])
def test_equal_to_sacrebleu_with_its_bootstrap(
    name: str, own: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypotheses, references = corpus(97)
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    expected = own.corpus_score(hypotheses, [references], n_bootstrap=200)  # type: ignore[attr-defined]
    metric = scoring.build_metric(name, DE_EN)
    result = scoring.score_texts(metric, hypotheses, references, scoring.Bootstrap(200, 0.95, seed=7))
    assert result.score == expected.score
    assert result.signature == own.get_signature().format()  # type: ignore[attr-defined]
    assert "|bs:200|seed:7|" in result.signature
    assert result.low is not None and result.high is not None
    assert (result.high - result.low) / 2 == pytest.approx(expected._ci, abs=1e-5)
    statistics = metric._extract_corpus_statistics(hypotheses, [references])
    mean = sum(scoring.bootstrap_scores(metric, statistics, 200, 7)) / 200
    assert mean == pytest.approx(expected._mean, abs=1e-5)
    assert result.low < result.score < result.high


def test_interval_follows_confidence_and_seed() -> None:
    hypotheses, references = corpus(60)

    def interval(confidence: float, seed: int) -> tuple[float, float]:
        metric = scoring.build_metric("bleu", DE_EN)
        result = scoring.score_texts(metric, hypotheses, references, scoring.Bootstrap(200, confidence, seed))
        assert result.low is not None and result.high is not None
        return result.low, result.high

    narrow, wide = interval(0.5, 1), interval(0.99, 1)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert interval(0.95, 1) == interval(0.95, 1)
    assert interval(0.95, 1) != interval(0.95, 2)


@pytest.mark.parametrize(
    ("samples", "confidence", "told"),
    [
        (1, 0.95, "1 bootstrap resamples"),
        (-1, 0.95, "-1 bootstrap"),
        (9, 0.0, "0.0 is not"),
        (9, 1.0, "1.0 is"),
    ],
)
def test_intervals_that_cannot_be_are_refused(samples: int, confidence: float, told: str) -> None:
    with pytest.raises(ScoringError, match=told):
        scoring.Bootstrap(samples, confidence)


def test_no_interval_without_resamples() -> None:
    hypotheses, references = corpus(5)
    result = scoring.score_texts(
        scoring.build_metric("bleu", DE_EN), hypotheses, references, scoring.Bootstrap(0)
    )
    assert (result.low, result.high, result.confidence) == (None, None, None)
    assert "bs:" not in result.signature


def test_score_file(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hypothesis, reference = files
    output = tmp_path / "scores" / "de-en.json"
    main(
        [
            *(
                "score",
                "--hypothesis",
                str(hypothesis),
                "--reference",
                str(reference),
                "--direction",
                "de-en",
            ),
            *(
                "--system",
                "ns",
                "--testset",
                "heldout",
                "--bootstrap",
                "20",
                "--output",
                str(output),
                "--json",
            ),
        ]
    )
    written = json.loads(output.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == written
    assert (written["system"], written["testset"], written["direction"]) == ("ns", "heldout", "de-en")
    assert written["segments"] == 40
    assert written["hypothesis_sha256"] == hashlib.sha256(hypothesis.read_bytes()).hexdigest()
    assert written["reference_sha256"] == hashlib.sha256(reference.read_bytes()).hexdigest()
    assert written["bootstrap"] == {"samples": 20, "seed": scoring.BOOTSTRAP_SEED}
    assert list(written["metrics"]) == ["bleu", "chrf++"]
    assert set(written["metrics"]["bleu"]) == {"score", "signature", "low", "high", "confidence", "verbose"}
    assert written["metrics"]["bleu"]["verbose"].startswith("8")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (None, "missing: 0 segments"),
        (0, "empty: 0 segments"),
        (39, "has 39 segments"),
        (41, "has 41 segments"),
    ],
)
def test_incomplete_hypothesis_names_both_counts(
    files: tuple[Path, Path], count: int | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hypothesis, reference = files
    if count is None:
        hypothesis.unlink()
    else:
        write(hypothesis, ["a line"] * count)
    with pytest.raises(SystemExit) as stopped:
        main(
            ["score", "--hypothesis", str(hypothesis), "--reference", str(reference), "--direction", "de-en"]
        )
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error and "the reference has 40" in error and str(hypothesis) in error


def test_empty_or_missing_reference_is_refused(files: tuple[Path, Path]) -> None:
    hypothesis, reference = files
    write(reference, [])
    with pytest.raises(ScoringError, match="reference is empty"):
        scoring.read_texts(hypothesis, reference)
    reference.unlink()
    with pytest.raises(ScoringError, match="reference is missing"):
        scoring.read_texts(hypothesis, reference)


def test_not_utf8_names_the_line(files: tuple[Path, Path]) -> None:
    hypothesis, reference = files
    hypothesis.write_bytes(b"ok\n\xff\n" * 20)
    with pytest.raises(ScoringError, match="line 2"):
        scoring.read_texts(hypothesis, reference)


def test_blank_hypotheses_are_scored_and_counted(tmp_path: Path) -> None:
    _, references = corpus(4)
    texts = scoring.read_texts(
        write(tmp_path / "h", [references[0], "", "", ""]), write(tmp_path / "r", references)
    )
    result = scoring.score_all(texts, DE_EN, bootstrap=scoring.Bootstrap(0))
    assert result["empty_hypotheses"] == 3
    assert 0 <= result["metrics"]["bleu"]["score"] < 50


def test_tokenizer_of_the_target_language() -> None:
    metric = scoring.build_metric("bleu", Direction("en", "zh_Hans"))
    result = scoring.score_texts(metric, ["你好世界"], ["你好世界"], scoring.Bootstrap(0))
    assert "tok:zh" in result.signature
    metric = scoring.build_metric("bleu", Direction("zh_Hans", "en"))
    assert "tok:13a" in scoring.score_texts(metric, ["a"], ["a"], scoring.Bootstrap(0)).signature


def test_spbleu_skipped_with_reason_where_its_model_is_absent(tmp_path: Path) -> None:
    hypotheses, references = corpus(4)
    texts = scoring.Texts(hypotheses, references, "", "")
    result = scoring.score_all(
        texts,
        DE_EN,
        metrics=["bleu", "spbleu"],
        bootstrap=scoring.Bootstrap(0),
        spbleu_model=tmp_path / "absent.model",
    )
    assert list(result["metrics"]) == ["bleu"]
    assert str(tmp_path / "absent.model") in result["skipped"]["spbleu"]
    with pytest.raises(ScoringError, match="no metric could be computed"):
        scoring.score_all(texts, DE_EN, metrics=["spbleu"], spbleu_model=tmp_path / "absent.model")


def test_spbleu_is_bleu_over_pieces(tmp_path: Path) -> None:
    import sentencepiece

    hypotheses, references = corpus(200)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(references), model_prefix=str(tmp_path / "spm"), vocab_size=36, minloglevel=2
    )
    model = tmp_path / "spm.model"
    result = scoring.score_texts(
        scoring.build_metric("spbleu", DE_EN, spbleu_model=model),
        hypotheses,
        references,
        scoring.Bootstrap(0),
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def pieces(lines: list[str]) -> list[str]:
        return [" ".join(processor.encode(line, out_type=str)) for line in lines]

    expected = BLEU(tokenize="none", force=True).corpus_score(pieces(hypotheses), [pieces(references)])
    assert result.score == expected.score
    assert "tok:flores200" in result.signature


def test_unknown_metric() -> None:
    with pytest.raises(ScoringError, match="no metric is called 'ter'"):
        scoring.build_metric("ter", DE_EN)


def test_both_readings_of_text_that_moses_splits() -> None:
    split = ["उन ् होंने कहा ।", "यह एक शब ् द है ।", "यहाँ कुछ नहीं था ।"]
    whole = ["उन्होंने कहा ।", "यह एक शब्द है ।", "यहाँ कुछ नहीं था ।"]
    en_hi = Direction("en", "hi")
    hypotheses = list(reversed(split))
    published = scoring.score_all(
        scoring.Texts(hypotheses, split, "", ""), en_hi, detokenizer="moses", bootstrap=scoring.Bootstrap(0)
    )
    own = scoring.score_all(
        scoring.Texts(list(reversed(whole)), whole, "", ""), en_hi, bootstrap=scoring.Bootstrap(0)
    )
    assert published["compares_with_paper"] == "metrics"
    assert own["compares_with_paper"] == "alternative"
    for metric in ("bleu", "chrf++"):
        assert published["metrics"][metric]["score"] == own["alternative"]["metrics"][metric]["score"]
        assert published["alternative"]["metrics"][metric]["score"] == own["metrics"][metric]["score"]
        assert published["metrics"][metric]["score"] != own["metrics"][metric]["score"]


def test_no_second_reading_of_other_text() -> None:
    hypotheses, references = corpus(10)
    for detokenizer in ("none", "moses"):
        result = scoring.score_all(
            scoring.Texts(hypotheses, references, "", ""),
            DE_EN,
            detokenizer=detokenizer,
            bootstrap=scoring.Bootstrap(0),
        )
        assert "alternative" not in result


def test_fairseq_output_checksums_are_those_of_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "generate-test.txt"
    lines = "".join(f"S-{i}\ts\nT-{i}\tr{i}\nH-{i}\t0\th{i}\nD-{i}\t0\th{i}\nP-{i}\t0\n" for i in (1, 0))
    path.write_text(lines + "Generate test with beam=5: BLEU4 = 1\n", encoding="utf-8")
    texts = scoring.read_fairseq_texts(path, DE_EN)
    assert texts.hypothesis_sha256 == hashlib.sha256(b"h0\nh1\n").hexdigest()
    assert texts.reference_sha256 == hashlib.sha256(b"r0\nr1\n").hexdigest()


@pytest.mark.parametrize(
    "arguments", [[], ["--hypothesis", "h"], ["--fairseq-output", "o", "--reference", "r"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["score", "--direction", "de-en", *arguments])
    assert stopped.value.code == 2


def test_looks_tokenized() -> None:
    assert scoring.looks_tokenized(["this is tokenised ."] * 20 + ["No stop"] * 100)
    assert not scoring.looks_tokenized(["This is not."] * 20)
    assert not scoring.looks_tokenized(["too few ."] * 19)


def test_imports_nothing_heavy(files: tuple[Path, Path]) -> None:
    hypothesis, reference = files
    program = (
        "import sys; from neuron_specialization.cli import main\n"
        f"main(['score', '--hypothesis', {str(hypothesis)!r}, '--reference', {str(reference)!r},"
        " '--direction', 'de-en', '--bootstrap', '2'])\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'fairseq', 'sacremoses', 'pydantic', 'snakemake'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
