"""The published outputs and scores of the reference implementation (EC30, FLORES-200 dev + devtest).

Recorded with sacrebleu 2.3.1 and sacremoses 0.0.53, to one decimal.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from neuron_specialization.cli import main
from neuron_specialization.directions import Direction
from neuron_specialization.evaluation.published import (
    differences,
    find_outputs,
    paper_table,
    read_recorded,
    score_outputs,
)
from neuron_specialization.formats.fairseq_output import read_generate_output
from tests.conftest import shared_file

# the table in the reference implementation's README (its paper's Table 11): for high, medium, low, all
# languages each O2M M2O Avg
README = """
baseline bleu   28.1 31.6 29.9  29.7 31.6 30.6  18.9 26.0 22.4  25.6 29.7 27.6
baseline chrf++ 52.4 57.6 55.0  54.0 56.6 55.3  42.5 50.0 46.2  49.6 54.7 52.2
baseline comet  0.824 0.839 0.831  0.811 0.801 0.806  0.738 0.734 0.736  0.791 0.791 0.791
ns bleu         29.9 33.0 31.5  31.0 32.7 31.9  20.2 26.9 23.5  27.1 30.9 29.0
ns chrf++       53.9 58.7 56.3  55.0 57.5 56.3  43.6 50.7 47.2  50.8 55.6 53.2
ns comet        0.837 0.849 0.843  0.820 0.808 0.814  0.747 0.741 0.744  0.801 0.799 0.800
"""
# language tags inside hypotheses; <unk>; split viramas; double spaces; Latin Serbian; plain German
QUICK = ["baseline/lb-en", "ns/cs-en", "ns/en-hi", "ns/en-am", "baseline/en-de"]


def check(wanted: list[str] | None) -> int:
    recorded = read_recorded(shared_file("published", "scores.csv"))
    found = find_outputs(shared_file("published", "outputs"))
    outputs = {key: path for key, path in found.items() if wanted is None or "/".join(key) in wanted}
    scores = score_outputs(outputs)
    assert differences(scores, recorded) == []
    for score in scores:
        assert score.segments == 2009
        assert score.bleu_verbose  # was compared
    return len(scores)


def test_recorded_scores_are_reproduced() -> None:
    assert check(QUICK) == len(QUICK)


@pytest.mark.slow
def test_recorded_scores_are_reproduced_in_every_output() -> None:
    assert check(None) >= 20


def test_all_cells_of_the_published_table() -> None:
    cells = paper_table(read_recorded(shared_file("published", "scores.csv")), "paper")
    printed: dict[str, list[str]] = {}
    for cell in cells:
        printed.setdefault(f"{cell.system} {cell.metric}", []).append(cell.text())
    expected = {" ".join(line.split()[:2]): line.split()[2:] for line in README.strip().splitlines()}
    assert printed == expected
    assert sum(len(row) for row in printed.values()) == 72


def test_score_command_on_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    path = shared_file("published", "outputs", "ns.en-hi.generate-test.txt.gz")
    main(
        [
            "score",
            "--fairseq-output",
            str(path),
            "--direction",
            "en-hi",
            "--detokenize",
            "moses",
            "--bootstrap",
            "0",
            "--json",
        ]
    )
    result = json.loads(capsys.readouterr().out)
    with shared_file("published", "scores.csv").open(encoding="utf-8") as handle:
        row = next(r for r in csv.DictReader(handle) if (r["system"], r["direction"]) == ("ns", "en-hi"))
    assert f"{result['metrics']['bleu']['score']:.1f}" == row["bleu"]
    assert f"{result['metrics']['chrf++']['score']:.1f}" == row["chrfpp"]
    assert result["metrics"]["bleu"]["verbose"] == row["bleu_verbose"]
    assert result["compares_with_paper"] == "metrics"
    # split viramas inflate BLEU by ten points
    assert result["alternative"]["metrics"]["bleu"]["score"] == pytest.approx(31.9, abs=0.1)


def test_parsed_text_is_the_published_test_set() -> None:
    path = shared_file("published", "outputs", "ns.de-en.generate-test.txt.gz")
    output = read_generate_output(path, Direction("de", "en"))
    assert (len(output.hypotheses), output.beam, output.subset) == (2009, 5, "test")
    assert not any(line.startswith(("__", " ")) for line in output.sources)
    reverse = read_generate_output(
        shared_file("published", "outputs", "ns.en-de.generate-test.txt.gz"), Direction("en", "de")
    )
    # id i is the same sentence in every direction: order and numbering are right
    assert output.references == reverse.sources
    same = sum(a == b for a, b in zip(output.sources, reverse.references, strict=True))
    assert same == 2008  # fairseq writes <unk> as <<unk>> in the one reference that holds it


def test_tags_inside_hypotheses_are_kept() -> None:
    path: Path = shared_file("published", "outputs", "baseline.lb-en.generate-test.txt.gz")
    output = read_generate_output(path, Direction("lb", "en"))
    assert [i for i, line in enumerate(output.hypotheses) if "__" in line] == [498, 970, 1091, 1163]
