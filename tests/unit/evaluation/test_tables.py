"""Tables: complete or visibly not, comparable or refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from neuron_specialization.cli import main
from neuron_specialization.errors import NeuronSpecializationError, ScoringError
from neuron_specialization.evaluation.means import Means, summarise, summarise_directions
from neuron_specialization.evaluation.table_files import (
    write_directions_csv,
    write_scores_csv,
    write_summary_csv,
)
from neuron_specialization.evaluation.table_text import print_tables, write_summary_markdown
from neuron_specialization.evaluation.tables import DirectionGroup, read_scores

GROUPS = [
    DirectionGroup("en-de", "en→X", "high", "Germanic"),
    DirectionGroup("en-sv", "en→X", "low", "Germanic"),
    DirectionGroup("de-en", "X→en", "high", "Germanic"),
    DirectionGroup("sv-en", "X→en", "low", "Germanic"),
]
BLEU = {"en-de": 10.0, "en-sv": 12.0, "de-en": 20.0, "sv-en": 23.0}
GAIN = {"baseline": 0.0, "continued": 1.0, "ns": 3.0}


def score_json(system: str, direction: str, bleu: float) -> dict:
    def metric(score: float, signature: str) -> dict:
        interval = {"low": score - 1, "high": score + 1, "confidence": 0.95}
        return {"score": score, "signature": signature, **interval, "verbose": ""}

    return {
        "system": system,
        "testset": "heldout",
        "direction": direction,
        "segments": 500,
        "detokenizer": "none",
        "hypothesis_sha256": f"h-{system}-{direction}",
        "reference_sha256": f"r-{direction}",
        "metrics": {"bleu": metric(bleu, "tok:13a"), "chrf++": metric(2 * bleu, "nc:6|nw:2")},
    }


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    folder = tmp_path / "scores"
    for system, gain in GAIN.items():
        for direction, bleu in BLEU.items():
            path = folder / system / "heldout" / f"{direction}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(score_json(system, direction, bleu + gain)), encoding="utf-8")
    return folder


@pytest.fixture
def change(scores: Path) -> Callable[..., Path]:
    def changer(system: str, direction: str, /, **values: object) -> Path:
        path = scores / system / "heldout" / f"{direction}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")
        return path

    return changer


def mean_of(means: Means, system: str, group: str, tier: str = "all", metric: str = "bleu") -> dict:
    (found,) = means.rows(system=system, group=group, tier=tier, metric=metric, branch="all")
    return found


def test_means_and_differences(scores: Path) -> None:
    table = read_scores(scores, GROUPS)
    assert table.systems == ["baseline", "continued", "ns"]
    assert table.metrics == ["bleu", "chrf++"]
    means = summarise(table)
    assert mean_of(means, "baseline", "en→X")["mean"] == 11.0
    assert mean_of(means, "baseline", "X→en")["mean"] == 21.5
    assert mean_of(means, "baseline", "all")["mean"] == 16.25
    assert mean_of(means, "baseline", "all", "low")["mean"] == 17.5
    assert mean_of(means, "ns", "X→en", metric="chrf++")["mean"] == 49.0
    ns = mean_of(means, "ns", "all")
    assert (ns["delta_continued"], ns["delta_baseline"]) == (2.0, 3.0)
    continued = mean_of(means, "continued", "all")
    # two systems are compared once, not with the sign turned
    assert (continued["delta_continued"], continued["delta_baseline"]) == (None, 1.0)
    assert means.pairs == [("continued", "baseline"), ("ns", "continued"), ("ns", "baseline")]


def test_a_missing_score_is_refused_naming_it(scores: Path) -> None:
    (scores / "ns" / "heldout" / "en-de.json").unlink()
    with pytest.raises(ScoringError, match="1 of 12 scores are missing: ns/heldout/en-de"):
        read_scores(scores, GROUPS)


def test_a_shown_gap_never_makes_a_smaller_mean(scores: Path, tmp_path: Path) -> None:
    (scores / "ns" / "heldout" / "en-de.json").unlink()
    table = read_scores(scores, GROUPS, allow_missing=True)
    means = summarise(table)
    gap = mean_of(means, "ns", "en→X")
    assert (gap["mean"], gap["directions"], gap["expected"]) == (None, 1, 2)
    assert (gap["delta_continued"], gap["delta_baseline"]) == (None, None)
    assert mean_of(means, "ns", "all", "high")["mean"] is None
    assert mean_of(means, "ns", "en→X", "low")["mean"] == 15.0
    assert mean_of(means, "ns", "X→en")["mean"] == 24.5

    write_scores_csv(tmp_path / "scores.csv", table)
    rows = {(r["system"], r["direction"]): r for r in csv.DictReader((tmp_path / "scores.csv").open())}
    assert len(rows) == 12
    assert rows["ns", "en-de"]["bleu"] == "" and rows["ns", "en-de"]["tier"] == "high"
    assert rows["ns", "en-sv"]["bleu"] == "15.0000"

    write_summary_markdown(tmp_path / "summary.md", table, means)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "**Missing scores: 1**" in text and "ns/heldout/en-de" in text
    assert "| **en→X** | **2** | **11.00** | **12.00** | **– (1/2)** |" in text


def test_systems_that_are_asked_for_and_absent_are_missing(scores: Path) -> None:
    with pytest.raises(ScoringError, match="4 of 8 scores are missing: random/heldout/en-de"):
        read_scores(scores, GROUPS, systems=["ns", "random"])


def test_scores_csv(scores: Path, tmp_path: Path) -> None:
    write_scores_csv(tmp_path / "scores.csv", read_scores(scores, GROUPS, systems=["ns"]))
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8")))
    assert [row["direction"] for row in rows] == ["en-de", "en-sv", "de-en", "sv-en"]
    assert rows[2] == {
        "system": "ns",
        "seed": "",
        "testset": "heldout",
        "direction": "de-en",
        "group": "X→en",
        "tier": "high",
        "branch": "Germanic",
        "segments": "500",
        "bleu": "23.0000",
        "bleu_low": "22.0000",
        "bleu_high": "24.0000",
        "length_ratio": "",
        "chrf++": "46.0000",
        "chrf++_low": "45.0000",
        "chrf++_high": "47.0000",
        "confidence": "0.95",
        "detokenizer": "none",
        "hypothesis_sha256": "h-ns-de-en",
        "reference_sha256": "r-de-en",
        "bleu_signature": "tok:13a",
        "chrf++_signature": "nc:6|nw:2",
    }


def test_summary_csv(scores: Path, tmp_path: Path) -> None:
    write_summary_csv(tmp_path / "summary.csv", summarise(read_scores(scores, GROUPS)))
    rows = list(csv.DictReader((tmp_path / "summary.csv").open(encoding="utf-8")))
    found = [
        row
        for row in rows
        if (row["group"], row["tier"], row["system"], row["metric"]) == ("X→en", "all", "ns", "bleu")
    ]
    assert len(found) == 1
    assert (found[0]["mean"], found[0]["directions"], found[0]["expected"]) == ("24.5000", "2", "2")
    assert (found[0]["delta_continued"], found[0]["delta_baseline"]) == ("2.0000", "3.0000")


def test_markdown_has_every_number_and_the_signature(scores: Path, tmp_path: Path) -> None:
    table = read_scores(scores, GROUPS)
    write_summary_markdown(tmp_path / "summary.md", table, summarise(table))
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| en→X, high | 1 | 10.00 | 11.00 | 13.00 | +1.00 | +2.00 | +3.00 |" in text
    assert (
        "| **all** | **4** | **16.25** | **17.25** | **19.25** | **+1.00** | **+2.00** | **+3.00** |" in text
    )
    assert "`tok:13a`" in text and "Missing" not in text


@pytest.mark.parametrize("width", [200, 80, 30])
def test_terminal_shows_whole_numbers_at_any_width(scores: Path, width: int) -> None:
    table = read_scores(scores, GROUPS)
    output = io.StringIO()
    print_tables(Console(file=output, width=width), table, summarise(table), summarise_directions(table))
    text = output.getvalue()
    assert "…" not in text
    for number in ("10.00", "26.00", "52.00", "24.50", "+2.00"):
        assert number in text
    assert "BLEU: tok:13a" in text and "chrF++: nc:6|nw:2" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reference_sha256": "other"}, "different references"),
        ({"detokenizer": "moses"}, "different detokenizers"),
        (
            {"metrics": {"bleu": {"score": 1.0, "signature": "tok:intl", "low": None, "high": None}}},
            "different BLEU signatures",
        ),
        ({"direction": "sv-en"}, "misplaced"),
    ],
)
def test_refuses_scores_that_do_not_compare(
    scores: Path, change: Callable[..., Path], values: dict, message: str
) -> None:
    change("ns", "de-en", **values)
    with pytest.raises(ScoringError, match=message):
        read_scores(scores, GROUPS)


def test_refuses_what_is_not_a_score(scores: Path) -> None:
    path = scores / "ns" / "heldout" / "de-en.json"
    path.write_text('{"system": "ns"}', encoding="utf-8")
    with pytest.raises(ScoringError, match="it lacks testset, direction"):
        read_scores(scores, GROUPS)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(NeuronSpecializationError, match="not valid JSON"):
        read_scores(scores, GROUPS)


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no score file"):
        read_scores(tmp_path, GROUPS)


def test_a_metric_that_one_system_lacks_is_a_gap(scores: Path, change: Callable[..., Path]) -> None:
    metrics = score_json("ns", "de-en", 23.0)["metrics"]
    comet = {"score": 0.8, "signature": "m", "low": None, "high": None, "confidence": None, "verbose": ""}
    change("ns", "de-en", metrics=metrics | {"comet": comet})
    with pytest.raises(ScoringError, match=r"2 of 12 scores are missing: baseline/heldout/de-en \(COMET\)"):
        read_scores(scores, GROUPS)
    table = read_scores(scores, GROUPS, allow_missing=True)
    assert table.metrics == ["bleu", "chrf++", "comet"]
    means = summarise(table)
    assert mean_of(means, "ns", "X→en", "high", "comet")["mean"] == 0.8
    assert mean_of(means, "ns", "X→en", metric="comet")["mean"] is None
    assert mean_of(means, "baseline", "X→en", metric="comet")["directions"] == 0


def add_systems(scores: Path, *names: str) -> None:
    for number, name in enumerate(names):
        for direction, bleu in BLEU.items():
            path = scores / name / "heldout" / f"{direction}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(score_json(name, direction, bleu + number)), encoding="utf-8")


def test_many_systems_are_rows(scores: Path, tmp_path: Path) -> None:
    add_systems(scores, "k70", "k90")
    table = read_scores(scores, GROUPS)
    means = summarise(table)
    write_summary_markdown(tmp_path / "summary.md", table, means)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| system"))
    assert header == "| system | en→X | X→en | all, high | all, low | all |"
    # the difference is to the first control, continued; its own is to the baseline, which has none
    row = next(line for line in text.splitlines() if line.startswith("| ns |"))
    assert row.startswith("| ns | 14.00 (+2.00) | 24.50 (+2.00) |") and row.endswith("| 19.25 (+2.00) |")
    assert "| continued | 12.00 (+1.00) |" in text and "| baseline | 11.00 | 21.50 |" in text
    assert "| k70 | 11.00 (-1.00) |" in text
    output = io.StringIO()
    print_tables(Console(file=output, width=100), table, means, summarise_directions(table))
    printed = output.getvalue()
    assert "19.25 (+2.00)" in printed and "k90" in printed and "chrF++: nc:6|nw:2" in printed
    # a row each, tiers left to the files
    assert "high" not in printed and max(map(len, printed.splitlines())) <= 100


def test_lengths_are_shown_where_bleu_tells_them(
    scores: Path, change: Callable[..., Path], tmp_path: Path
) -> None:
    for direction, ratio in (("en-de", "0.900"), ("en-sv", "1.100"), ("de-en", "0.95"), ("sv-en", "0.85")):
        metrics = score_json("ns", direction, 13.0)["metrics"]
        metrics["bleu"]["verbose"] = f"40.1/17.2/9.9/6.3 (BP = 0.935 ratio = {ratio} hyp_len = 5 ref_len = 6)"
        change("ns", direction, metrics=metrics)
    table = read_scores(scores, GROUPS)
    assert table.length_ratio("ns", "heldout", "en-de") == 0.9
    assert table.length_ratio("baseline", "heldout", "en-de") is None
    write_summary_markdown(tmp_path / "summary.md", table, summarise(table))
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| ns | 1.000 | 0.900 | 0.950 |" in text and "| baseline | – | – | – |" in text
    write_scores_csv(tmp_path / "scores.csv", table)
    rows = {(r["system"], r["direction"]): r for r in csv.DictReader((tmp_path / "scores.csv").open())}
    assert rows["ns", "sv-en"]["length_ratio"] == "0.85" and rows["baseline", "sv-en"]["length_ratio"] == ""


def test_command(scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = json.dumps([vars(row) for row in GROUPS])
    main(["tables", "--scores", str(scores), "--groups", groups, "--output", str(tmp_path / "tables")])
    printed = capsys.readouterr().out
    assert "heldout: 500 segments a direction" in printed and "24.50" in printed
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "directions.csv",
        "scores.csv",
        "summary.csv",
        "summary.md",
    ]


@pytest.mark.parametrize("groups", ["[", "[]", '[{"direction": "de-en"}]', "/no/such/file.json"])
def test_command_refuses_bad_groups(scores: Path, tmp_path: Path, groups: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tables", "--scores", str(scores), "--groups", groups, "--output", str(tmp_path / "tables")])
    assert stopped.value.code == 1
    assert not (tmp_path / "tables").exists()


def test_both_readings_of_split_text_are_shown(
    scores: Path, change: Callable[..., Path], tmp_path: Path
) -> None:
    metrics = score_json("ns", "de-en", 13.5)["metrics"]
    for system in GAIN:
        change(
            *(system, "de-en"),
            compares_with_paper="metrics",
            alternative={"text": "as people write it", "metrics": metrics},
        )
    table = read_scores(scores, GROUPS)
    means = summarise(table)
    assert mean_of(means, "ns", "X→en", "high")["mean"] == 23.0
    write_scores_csv(tmp_path / "scores.csv", table)
    rows = {(r["system"], r["direction"]): r for r in csv.DictReader((tmp_path / "scores.csv").open())}
    assert (rows["ns", "de-en"]["bleu"], rows["ns", "de-en"]["bleu_alternative"]) == ("23.0000", "13.5000")
    assert rows["ns", "de-en"]["compares_with_paper"] == "metrics"
    assert rows["ns", "sv-en"]["bleu_alternative"] == ""
    output = io.StringIO()
    print_tables(Console(file=output, width=200), table, means, summarise_directions(table))
    assert "on text as people write it; those above compare with the paper's:" in output.getvalue()
    assert "de-en ns: BLEU 13.50  chrF++ 27.00" in output.getvalue()
    write_summary_markdown(tmp_path / "summary.md", table, means)
    assert "- de-en ns: BLEU 13.50  chrF++ 27.00" in (tmp_path / "summary.md").read_text(encoding="utf-8")


@pytest.fixture
def seeds(scores: Path) -> Path:
    """Two more seeds of baseline and ns: the baseline 1 and 2 better than under the first, ns 3 and 3."""
    for seed, gains in ((223, {"baseline": 1.0, "ns": 6.0}), (224, {"baseline": 2.0, "ns": 6.0})):
        for system, gain in gains.items():
            for direction, bleu in BLEU.items():
                path = scores / f"{system}@{seed}" / "heldout" / f"{direction}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(score_json(f"{system}@{seed}", direction, bleu + gain))
                path.write_text(text, encoding="utf-8")
    return scores


def test_seeds_give_means_and_deviations(seeds: Path) -> None:
    table = read_scores(seeds, GROUPS, seed=222, released=["continued"])
    assert table.systems == ["baseline", "continued", "ns"]
    means = summarise(table)
    baseline, ns = mean_of(means, "baseline", "all"), mean_of(means, "ns", "all")
    # baseline: 16.25, 17.25, 18.25; ns: 19.25, 22.25, 22.25
    assert (baseline["mean"], baseline["sd"], baseline["seeds"]) == (17.25, 1.0, 3)
    assert ns["mean"] == pytest.approx(21.25) and ns["sd"] == pytest.approx(3**0.5)
    # seed by seed: 3, 5, 4, which is no difference of deviations
    assert ns["delta_baseline"] == pytest.approx(4.0) and ns["delta_baseline_sd"] == pytest.approx(1.0)
    # the control was not trained here: its one run is compared with all of the other's
    assert mean_of(means, "continued", "all")["sd"] is None
    assert ns["delta_continued"] == pytest.approx(21.25 - 17.25)
    directions = summarise_directions(table)
    assert [row["mean"] for row in directions.rows(direction="en-de", system="ns")] == pytest.approx([15, 30])
    (chrf,) = directions.rows(direction="en-de", system="ns", metric="chrf++")
    assert chrf["sd"] == pytest.approx(2 * 3**0.5)


def test_a_system_with_fewer_seeds_is_compared_under_those_it_has(seeds: Path) -> None:
    ns = mean_of(summarise(read_scores(seeds, GROUPS, seed=222)), "ns", "all")
    # under seed 222, which both have: 19.25 and 17.25; not 21.25, the mean over all seeds
    assert ns["mean"] == pytest.approx(21.25) and ns["delta_continued"] == pytest.approx(2.0)
    assert ns["delta_continued_sd"] is None
    # so says the printed row of a direction: 13 and 11 under seed 222, not 15, the mean over all, and 11
    table, output = read_scores(seeds, GROUPS, seed=222), io.StringIO()
    print_tables(Console(file=output, width=200), table, summarise(table), summarise_directions(table))
    row = next(line.split() for line in output.getvalue().splitlines() if line.strip().startswith("en-de"))
    assert row[1:6] == ["11.00", "11.00", "15.00", "+1.00", "+2.00"]


def test_seeds_in_the_files(seeds: Path, tmp_path: Path) -> None:
    table = read_scores(seeds, GROUPS, seed=222)
    write_scores_csv(tmp_path / "scores.csv", table)
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8")))
    found = [(row["system"], row["seed"], row["bleu"]) for row in rows if row["direction"] == "en-de"]
    assert found == [
        *(("baseline", "222", "10.0000"), ("baseline", "223", "11.0000"), ("baseline", "224", "12.0000")),
        ("continued", "222", "11.0000"),
        *(("ns", "222", "13.0000"), ("ns", "223", "16.0000"), ("ns", "224", "16.0000")),
    ]
    write_directions_csv(tmp_path / "directions.csv", summarise_directions(table))
    rows = list(csv.DictReader((tmp_path / "directions.csv").open(encoding="utf-8")))
    row = next(row for row in rows if (row["direction"], row["system"]) == ("en-de", "ns"))
    assert [row[key] for key in ("mean", "sd", "seeds", "delta_baseline", "delta_baseline_sd")] == [
        *("15.0000", "1.7321", "3", "4.0000", "1.0000")
    ]
    write_summary_markdown(tmp_path / "summary.md", table, summarise(table))
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "21.25 ± 1.73" in text and "17.25 ± 1.00" in text and "1 or 3 seeds" in text


def test_a_gap_under_one_seed_is_a_gap(seeds: Path) -> None:
    (seeds / "ns@223" / "heldout" / "en-de.json").unlink()
    with pytest.raises(ScoringError, match="ns@223/heldout/en-de"):
        read_scores(seeds, GROUPS)
    ns = mean_of(summarise(read_scores(seeds, GROUPS, allow_missing=True)), "ns", "all")
    assert (ns["mean"], ns["sd"], ns["directions"], ns["expected"], ns["delta_baseline"]) == (
        None,
        None,
        3,
        4,
        None,
    )
