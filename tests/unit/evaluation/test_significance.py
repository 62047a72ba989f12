"""Paired tests: equal to sacrebleu's, corrected as Holm says, over groups drawn jointly."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from neuron_specialization.cli import main
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation.significance import (
    LEVEL,
    PairedFiles,
    Settings,
    bootstrap_p_value,
    compare,
    compare_direction,
    enough,
    holm,
    interval,
    read_comparison,
)
from neuron_specialization.evaluation.tables import DirectionGroup
from neuron_specialization.reporting.answer import answer

SENTENCE = "the a small house stands near old river and nobody knows why it was built there"
WORDS = SENTENCE.split()
SETTINGS = Settings(samples=200, trials=300, seed=7)


def corrupted(references: list[str], rate: float, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(generator.choice(WORDS) if generator.random() < rate else word for word in line.split())
        for line in references
    ]


def texts(segments: int = 80) -> dict[str, list[str]]:
    generator = random.Random(0)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(5, 12))) for _ in range(segments)]
    return {"r": references, "good": corrupted(references, 0.15, 1), "bad": corrupted(references, 0.3, 2)}


def write(folder: Path, lines: dict[str, list[str]]) -> dict[str, Path]:
    paths = {}
    for name, text in lines.items():
        paths[name] = folder / f"{name}.txt"
        paths[name].write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return paths


def files(
    paths: dict[str, Path], system: str = "good", control: str = "bad", name: str = "de-en"
) -> PairedFiles:
    return PairedFiles(name, paths[system], paths[control], paths["r"])


def test_p_values_are_sacrebleus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = texts()
    results, _ = compare_direction(files(write(tmp_path, lines)), SETTINGS)
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    metrics = {"bleu": BLEU(), "chrf++": CHRF(word_order=2)}
    systems = [("bad", lines["bad"]), ("good", lines["good"])]
    for kind, samples, field in (("bs", 200, "p_bootstrap"), ("ar", 300, "p_randomisation")):
        _, scores = PairedTest(systems, metrics, [lines["r"]], test_type=kind, n_samples=samples)()
        for result, name in zip(results, ("BLEU", "chrF2++"), strict=True):
            theirs = scores[name][1]
            assert getattr(result, field) == pytest.approx(theirs.p_value)
            assert result.score == pytest.approx(theirs.score)
    assert results[0].delta > 0
    assert "bs:200|ar:300|seed:7" in results[0].signature


def test_a_clear_difference_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    paths = write(tmp_path, texts())
    (bleu, _), _ = compare_direction(files(paths), SETTINGS)
    assert bleu.p_bootstrap < 0.05 and bleu.p_randomisation < 0.05
    assert 0 < bleu.low < bleu.delta < bleu.high
    (same, _), differences = compare_direction(files(paths, "good", "good"), SETTINGS)
    assert same.delta == same.low == same.high == 0
    # sacrebleu gives the smallest p-value it has to identical translations
    assert same.p_bootstrap == same.p_randomisation == 1.0
    assert set(differences["bleu"]) == {0.0}
    (reverse, _), _ = compare_direction(files(paths, "bad", "good"), SETTINGS)
    assert reverse.delta == pytest.approx(-bleu.delta)
    assert reverse.p_bootstrap == pytest.approx(bleu.p_bootstrap)


def test_holm() -> None:
    # the example of Holm (1979): 4 tests
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_never_helps(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [c for _, c in pairs] == sorted(c for _, c in pairs)


@pytest.mark.parametrize("directions", [1, 18, 50, 51, 60, 199, 200, 500, 870, 2000])
def test_a_difference_in_one_of_many_directions_can_be_found(directions: int) -> None:
    for drawn, most in ((1000, 50), (10_000, 500)):
        made = enough(drawn, directions)
        smallest = holm([1 / (made + 1)] + [1.0] * (directions - 1))[0]
        assert smallest < LEVEL
        # what was enough stays as it was: the same draws, the same p-values
        assert (made == drawn) == (directions <= most)
        assert made >= drawn and made <= max(drawn, 20_000, 20 * directions)
    assert (enough(1000, 60), enough(1000, 870), enough(1000, 2000)) == (6000, 20_000, 40_000)


def test_interval_and_p_value_of_a_bootstrap() -> None:
    values = [float(i) for i in range(-10, 190)]
    assert interval([*values[90:], *values[:90]], 0.95) == (-5.0, 184.0)  # in any order
    assert bootstrap_p_value(values) == pytest.approx(2 * 12 / 201)
    assert bootstrap_p_value([1.0] * 99) == pytest.approx(0.02)
    assert bootstrap_p_value([0.0] * 99) == 1.0


def test_groups_are_drawn_jointly(tmp_path: Path) -> None:
    """Two directions with the same texts are one direction's evidence, not two's."""
    paths = write(tmp_path, texts())
    both = [files(paths, name="de-en"), files(paths, name="nl-en")]
    groups = [DirectionGroup(item.direction, "X→en", "high", "Germanic") for item in both]
    result = compare("good", "bad", "heldout", both, groups, SETTINGS, processes=1)
    group = next(row for row in result.groups if row.metric == "bleu" and row.tier == "all")
    one = result.directions[0]
    assert (group.directions, group.better) == (2, 2)
    assert (group.delta, group.low, group.high) == pytest.approx((one.delta, one.low, one.high))
    assert one.p_bootstrap_holm == pytest.approx(min(1, 2 * one.p_bootstrap))


def test_all_directions_or_none(tmp_path: Path) -> None:
    paths = write(tmp_path, texts(10))
    groups = [DirectionGroup(name, "X→en", "high", "Germanic") for name in ("de-en", "nl-en")]
    with pytest.raises(ScoringError, match="no texts of nl-en"):
        compare("good", "bad", "heldout", [files(paths)], groups, SETTINGS)


def test_a_metric_that_is_not_available_is_skipped_for_all_directions(tmp_path: Path) -> None:
    paths = write(tmp_path, texts(20))
    groups = [DirectionGroup(name, "en→X", "high", "other") for name in ("en-de", "en-ja")]
    both = [files(paths, name=row.direction) for row in groups]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "MeCab", None)
        result = compare("good", "bad", "heldout", both, groups, SETTINGS, processes=1)
        with pytest.raises(ScoringError, match="no metric could be computed"):
            compare("good", "bad", "heldout", both, groups, replace(SETTINGS, metrics=("bleu",)))
    assert result.settings.metrics == ("chrf++",)
    assert {row.metric for row in (*result.directions, *result.groups)} == {"chrf++"}
    assert "en-ja needs a tokenizer" in result.skipped["bleu"]
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(result.as_json()))
    assert read_comparison(path) == result
    assert any("Not compared by BLEU: BLEU for en-ja" in text for text in answer([result]).sentences)


def test_short_translation_is_refused(tmp_path: Path) -> None:
    lines = texts(10)
    paths = write(tmp_path, lines | {"bad": lines["bad"][:9]})
    with pytest.raises(ScoringError, match="has 9 segments"):
        compare_direction(files(paths), SETTINGS)


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"trials": 0}, {"confidence": 1.0}, {"seed": 0}])
def test_bad_settings(wrong: dict) -> None:
    with pytest.raises(ScoringError):
        Settings(**wrong)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = texts(40)
    for system, name in (("ns", "good"), ("continued", "bad")):
        folder = tmp_path / "translations" / system / "heldout"
        folder.mkdir(parents=True)
        for direction in ("de-en", "en-de"):
            (folder / f"{direction}.txt").write_text("\n".join(lines[name]) + "\n", encoding="utf-8")
    for language in ("de", "en"):
        (tmp_path / f"de-en.{language}").write_text("\n".join(lines["r"]) + "\n", encoding="utf-8")
    groups = [
        {"direction": "de-en", "group": "X→en", "tier": "high", "branch": "Germanic"},
        {"direction": "en-de", "group": "en→X", "tier": "high", "branch": "Germanic"},
    ]
    output = tmp_path / "comparison.json"
    main(
        [
            *("compare", "ns", "continued", "--translations", str(tmp_path / "translations")),
            *("--texts", str(tmp_path), "--testset", "heldout", "--groups", json.dumps(groups)),
            *("--samples", "30", "--trials", "100", "--processes", "1", "--output", str(output)),
        ]
    )
    printed, warned = capsys.readouterr()
    assert "with --samples 30 no direction can be significant" in warned and "--trials" not in warned
    assert "BLEU, heldout: ns − continued" in printed and "better in 2" in printed
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["system"], written["control"], written["testset"]) == ("ns", "continued", "heldout")
    assert [(r["metric"], r["direction"]) for r in written["directions"]] == [
        ("bleu", "de-en"),
        ("bleu", "en-de"),
        ("chrf++", "de-en"),
        ("chrf++", "en-de"),
    ]
    assert {row["group"] for row in written["groups"]} == {"X→en", "en→X", "all"}
