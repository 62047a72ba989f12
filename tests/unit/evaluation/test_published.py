"""The paper's table: where outputs are found, how means are rounded, what a gap looks like."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from neuron_specialization.cli import main
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation import published
from neuron_specialization.evaluation.published import PublishedScore, find_outputs, paper_table

CODES = published._languages_by_tier()


def output_text(hypotheses: list[str], references: list[str]) -> str:
    blocks = [
        f"S-{i}\ts\nT-{i}\t{r}\nH-{i}\t0\t{h}\nD-{i}\t0\t{h}\nP-{i}\t0\n"
        for i, (h, r) in enumerate(zip(hypotheses, references, strict=True))
    ]
    return "".join(blocks) + "Generate test with beam=5: BLEU4 = 1\n"


def scores_of(**bleu: float) -> list[PublishedScore]:
    """Scores of 60 directions: 20.0 but for those given as de_en=…"""
    directions = [f"en-{code}" for code in CODES["all"]] + [f"{code}-en" for code in CODES["all"]]
    return [
        PublishedScore("ns", Direction.parse(name), {"bleu": bleu.get(name.replace("-", "_"), 20.0)}, False)
        for name in directions
    ]


def cell(scores: list[PublishedScore], rule: published.Rule, tier: str, column: str) -> published.Cell:
    return next(c for c in paper_table(scores, rule) if (c.tier, c.column) == (tier, column))


def test_ec30_has_ten_languages_a_tier() -> None:
    assert {tier: len(codes) for tier, codes in CODES.items()} == {
        "high": 10,
        "medium": 10,
        "low": 10,
        "all": 30,
    }


def test_the_two_rounding_rules() -> None:
    scores = scores_of(**{f"en_{code}": 20.46 for code in CODES["low"]})
    assert cell(scores, "paper", "low", "O2M").value == pytest.approx(20.5)
    assert cell(scores, "exact", "low", "O2M").value == pytest.approx(20.46)
    assert cell(scores, "exact", "low", "Avg").value == pytest.approx(20.23)
    assert cell(scores, "exact", "all", "O2M").value == pytest.approx(20 + 0.46 / 3)


def test_a_missing_direction_is_a_gap_in_every_cell_it_belongs_to() -> None:
    scores = [score for score in scores_of() if str(score.direction) != "de-en"]
    texts = {(c.tier, c.column): c.text() for c in paper_table(scores, "paper")}
    assert texts["high", "M2O"] == "– (9/10)"
    assert texts["high", "Avg"] == "– (19/20)"
    assert texts["all", "M2O"] == "– (29/30)"
    assert texts["high", "O2M"] == texts["low", "Avg"] == "20.0"


def test_finds_both_layouts(tmp_path: Path) -> None:
    for name in (
        "ns/de-en/generate-test.txt",
        "baseline.en-de.generate-test.txt.gz",
        "fr-en/generate-test.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert find_outputs(tmp_path) == {
        ("ns", "de-en"): tmp_path / "ns/de-en/generate-test.txt",
        ("baseline", "en-de"): tmp_path / "baseline.en-de.generate-test.txt.gz",
        (tmp_path.name, "fr-en"): tmp_path / "fr-en/generate-test.txt",
    }
    (tmp_path / "ns.de-en.generate-test.txt").write_text("")
    with pytest.raises(ScoringError, match="ns/de-en is there twice"):
        find_outputs(tmp_path)


def test_no_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no output of fairseq-generate"):
        find_outputs(tmp_path)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    references = ["the house is very old .", "nobody knows why it was built ."]
    for system, hypotheses in {
        "ns": references,
        "baseline": [references[0], "nobody knows why this was done ."],
    }.items():
        path = tmp_path / "outputs" / f"{system}.de-en.generate-test.txt.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(output_text(hypotheses, references).encode()))
    return tmp_path / "outputs"


def test_command(outputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["published-table", "--outputs", str(outputs), "--processes", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    scores = {score["system"]: score for score in result["scores"]}
    assert scores["ns"]["bleu"] == pytest.approx(100)
    assert 30 < scores["baseline"]["bleu"] < 90
    assert list(result["tables"]) == ["paper", "exact"]
    main(["published-table", "--outputs", str(outputs), "--processes", "1", "--directions"])
    printed = capsys.readouterr().out
    assert "the paper's rule" in printed and "this project's rule" in printed
    assert "ns de-en" in printed and "– (1/10)" in printed


def test_command_compares_with_recorded_scores(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = tmp_path / "scores.csv"
    header = "system,direction,bleu,chrfpp\n"
    recorded.write_text(header + "ns,de-en,100.0,100.0\n", encoding="utf-8")
    arguments = [
        "published-table",
        "--outputs",
        str(outputs),
        "--recorded",
        str(recorded),
        "--processes",
        "1",
    ]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    assert "baseline/de-en: not among the recorded scores" in capsys.readouterr().err
    (outputs / "baseline.de-en.generate-test.txt.gz").unlink()
    main(arguments)
    assert "1 outputs: all scores equal" in capsys.readouterr().err
    recorded.write_text(header + "ns,de-en,99.9,100.0\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "ns/de-en: bleu 100.0, recorded 99.9" in capsys.readouterr().err


def test_different_test_sets_are_refused(outputs: Path) -> None:
    other = outputs / "third.de-en.generate-test.txt"
    other.write_text(output_text(["a b c d"], ["a b c e"]), encoding="utf-8")
    with pytest.raises(ScoringError, match="decoded from different test sets"):
        published.score_outputs(find_outputs(outputs), processes=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system,direction,bleu\n", "lacks the column chrfpp"),
        ("system,direction,bleu,chrfpp\n", "is empty"),
        ("system,direction,bleu,chrfpp\nns,de-en,high,50\n", "line 2"),
        ("system,direction,bleu,chrfpp\nns,de-en,,\n", "a line without a score"),
        ("system,direction,bleu,chrfpp\nns,de-en,1,2\nns,de-en,1,2\n", "listed twice"),
    ],
)
def test_bad_recorded_scores(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScoringError, match=message):
        published.read_recorded(path)


def test_directions_outside_the_table() -> None:
    scores = [PublishedScore("ns", Direction.parse(name), {}, True) for name in ("de-fr", "xx-en", "de-en")]
    assert published.outside_the_table(scores) == ["de-fr", "xx-en"]
