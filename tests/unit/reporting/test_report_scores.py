"""Score tables and the answer in words: what they say is what the comparisons say."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_specialization.cli import main
from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation.significance import (
    Comparison,
    DirectionResult,
    GroupResult,
    Settings,
    read_comparison,
)
from neuron_specialization.reporting.answer import answer, context, effects, family_sentences, overall
from neuron_specialization.reporting.scores import mark, read_evaluation, score_tables
from neuron_specialization.reporting.table import (
    Column,
    Row,
    Table,
    fixed,
    latex,
    number_cell,
    text_cell,
    to_csv,
    to_latex,
    to_markdown,
)
from neuron_specialization.storage.files import write_json

SIGNATURE = "nrefs:1|tok:13a|version:2.6.0"
DIRECTIONS = {"en-de": ("en→X", 10.0), "de-en": ("X→en", 20.0)}


def comparison(
    delta: float = 0.5,
    p: float = 0.01,
    *,
    system: str = "ns",
    control: str = "continued",
    metric: str = "bleu",
) -> Comparison:
    """ns against continued: ``delta`` in every direction, p-values all ``p``."""
    rows = [
        DirectionResult(
            *(name, metric, 500, control_score + delta, control_score, delta, delta - 0.3, delta + 0.3),
            *(p / 2, p / 2, SIGNATURE, p, p / 2),
        )
        for name, (_, control_score) in DIRECTIONS.items()
    ]
    groups = [
        GroupResult(group, "all", "all", metric, n, n * (delta > 0), score + delta, score, delta,
                    delta - 0.2, delta + 0.2, p)
        for group, n, score in (("en→X", 1, 10.0), ("X→en", 1, 20.0), ("all", 2, 15.0))
    ]  # fmt: skip
    return Comparison(system, control, "heldout", Settings(metrics=(metric,)), rows, groups)


def write_tables(folder: Path, missing: tuple[str, str] | None = None, more: Sequence[str] = ()) -> Path:
    """scores.csv and summary.csv of two systems; ``missing`` is a (system, direction) without a score.

    ``more`` are further systems, which score as `ns` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    systems = {"continued": 0.0, "ns": 0.5, **dict.fromkeys(more, 0.5)}
    with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            [
                *("system", "seed", "testset", "direction", "group", "tier", "branch"),
                *("segments", "bleu", "bleu_signature"),
            ]
        )
        for system, gain in systems.items():
            for name, (group, score) in DIRECTIONS.items():
                gap = (system, name) == missing
                cells = ["", "", ""] if gap else [500, score + gain, SIGNATURE]
                writer.writerow([system, 222, "heldout", name, group, "high", "Germanic", *cells])
    with (folder / "summary.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            [
                *("testset", "group", "tier", "branch", "metric", "system"),
                *("mean", "sd", "seeds", "directions", "expected"),
            ]
        )
        for group, n, score in (("en→X", 1, 10.0), ("X→en", 1, 20.0), ("all", 2, 15.0)):
            for system, gain in systems.items():
                names = [name for name, (of, _) in DIRECTIONS.items() if group in (of, "all")]
                present = sum((system, name) != missing for name in names)
                mean = score + gain if present == n else ""
                writer.writerow(["heldout", group, "all", "all", "bleu", system, mean, "", 1, present, n])
    return folder


def test_a_testset_without_a_score_keeps_the_notes_on_means(tmp_path: Path) -> None:
    evaluation = read_evaluation(write_tables(tmp_path, more=["k70", "k80"]), [comparison()])
    whole, bare = (score_tables(one)[0] for one in (evaluation, replace(evaluation, segments={})))
    assert whole.caption == "BLEU on heldout: systems"
    assert whole.notes == bare.notes and "A mean is given only" in bare.notes[-1]


def tables_of(folder: Path, *comparisons: Comparison) -> list[Table]:
    return score_tables(read_evaluation(folder, comparisons))


def cells_of(table: Table) -> dict[str, list[str]]:
    return {row.cells[0].text: [cell.text + cell.mark for cell in row.cells[1:]] for row in table.rows}


def test_tables_hold_scores_differences_intervals_and_marks(tmp_path: Path) -> None:
    means, directions = tables_of(write_tables(tmp_path), comparison(p=0.03))
    assert [column.title for column in means.columns] == [
        "directions", "n", "continued", "ns", "Δ ns\n− continued",
    ]  # fmt: skip
    assert cells_of(means)["all"] == ["2", "15.00", "15.50", "+0.50 [+0.30, +0.70]*"]
    assert cells_of(directions)["de-en"] == ["500", "20.00", "20.50", "+0.50 [+0.20, +0.80]*"]
    assert means.signatures == [SIGNATURE]
    assert "Holm-corrected" in directions.notes[0] and "10,000 trials" in directions.notes[0]
    assert directions.records[1]["delta_ns_continued_p_bootstrap_holm"] == 0.03


def test_lengths_get_a_table_where_they_are_known(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    lines = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()
    ratios = iter(["0.9", "1.1", "0.8", ""])
    told = [lines[0] + ",length_ratio", *(f"{line},{next(ratios)}" for line in lines[1:])]
    (folder / "scores.csv").write_text("\n".join(told) + "\n", encoding="utf-8")
    lengths = tables_of(folder, comparison())[-1]
    assert [column.title for column in lengths.columns] == ["system", "en→X", "X→en", "all"]
    # a direction without makes no smaller mean
    assert cells_of(lengths) == {"continued": ["0.900", "1.100", "1.000"], "ns": ["0.800", "–", "–"]}


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    means, directions = tables_of(write_tables(tmp_path, missing=("ns", "de-en")))
    assert cells_of(means)["all"] == ["2", "15.00", "– (1/2)"]
    assert cells_of(means)["X→en"][2] == "–"
    assert cells_of(directions)["de-en"] == ["500", "20.00", "–"]
    assert means.records[-1]["ns"] is None
    assert all(cell.gap for row in directions.rows for cell in row.cells if cell.text == "–")


def test_the_larger_p_value_decides_on_a_mark(tmp_path: Path) -> None:
    base = comparison(p=0.001)
    rows = [replace(row, p_bootstrap_holm=0.2, p_randomisation_holm=0.001) for row in base.directions]
    _, directions = tables_of(write_tables(tmp_path), replace(base, directions=rows))
    assert not any(cell.mark for row in directions.rows for cell in row.cells)
    assert (mark(0.0099), mark(0.049), mark(0.05), mark(None)) == ("**", "*", "", "")


def test_seeds_are_put_together(tmp_path: Path) -> None:
    runs = [
        comparison(0.5, 0.01),
        comparison(0.3, 0.2, system="ns@223", control="continued@223"),
    ]
    means, _ = tables_of(write_tables(tmp_path), *runs)
    # mean and standard deviation of 0.5 and 0.3; significant under one of two seeds
    assert cells_of(means)["all"][3] == "+0.40 ± 0.14 (1/2)"


def test_a_seed_without_a_score_leaves_a_gap_and_no_mean_of_the_others(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    lines = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()
    further = [line.replace("ns,222,", "ns,223,", 1) for line in lines if line.startswith("ns,")]
    position = lines[0].split(",").index("bleu")
    cells = further[0].split(",")
    cells[position] = ""
    (folder / "scores.csv").write_text(
        "\n".join([*lines, ",".join(cells), *further[1:]]) + "\n", encoding="utf-8"
    )
    _, directions = tables_of(folder)
    assert cells_of(directions)["en-de"][2] == "– (1/2)"
    assert cells_of(directions)["de-en"][2] == "20.50 ± 0.00"


def test_many_systems_get_a_table_of_their_own(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    for name in ("scores.csv", "summary.csv"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        extra = [
            line.replace("ns,", f"{other},")
            for other in ("random", "family")
            for line in lines[1:]
            if line.startswith("ns,") or ",ns," in line
        ]
        (folder / name).write_text("\n".join(lines + extra) + "\n", encoding="utf-8")
    pairs = [comparison(0.5, 0.01, system=name) for name in ("ns", "random", "family", "baseline")]
    systems, means, directions = tables_of(folder, *pairs)
    assert [row.cells[0].text for row in systems.rows] == ["continued", "ns", "random", "family"]
    assert cells_of(systems)["ns"][:3] == ["continued", "15.50", "+0.50 [+0.30, +0.70]*"]
    assert cells_of(systems)["continued"][:3:2] == ["–", "–"]
    # differences of all would not fit in a page: they are in the records
    assert len(means.columns) == len(directions.columns) == 6
    assert "delta_random_continued" in means.records[0]


def test_renderings(tmp_path: Path) -> None:
    tables = tables_of(write_tables(tmp_path), comparison(-0.004, 0.03))
    text = to_latex(tables)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    assert r"0.00 [$-$0.30, +0.30]$^{*}$ \\" in text
    assert r"en$\rightarrow$X" in text and "→" not in text and "−" not in text
    assert r"95\% bootstrap" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {4}
    assert "| **all** | **2** | **15.00** | **15.50** | **0.00 [−0.20, +0.20]\\*** |" in to_markdown(tables)
    rows = list(csv.DictReader(to_csv(tables).splitlines()))
    assert [row["direction"] for row in rows] == ["", "", "", "en-de", "de-en"]
    assert rows[0]["delta_ns_continued"] == "-0.004"


def wide_table() -> Table:
    names = [f"system_{number}" for number in range(17)]
    return Table(
        "wide heldout bleu",
        "BLEU & more",
        [Column("directions", "text"), *map(Column, names)],
        [Row([text_cell("en→X"), *(number_cell(float(number)) for number in range(17))])],
        ["50 % of a note."],
        [SIGNATURE],
    )


def test_a_wide_table_is_continued_in_latex() -> None:
    text = to_latex([wide_table()])
    assert text.count(r"\begin{table}") == text.count(r"\bottomrule") == 3
    rows = [line for line in text.splitlines() if line.startswith(r"en$\rightarrow$X")]
    assert [row.count("&") for row in rows] == [6, 6, 5]
    # every column once, in order
    values = [cell.strip(" \\") for row in rows for cell in row.split("&")[1:]]
    assert values == [f"{number}.00" for number in range(17)]
    assert "(1 of 3)" in text and "(3 of 3)" in text and text.count("of a note") == 1
    assert text.count(r"\label{tab:wide-heldout-bleu}") == 1 and r"\label{tab:wide-heldout-bleu-3}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_and_fits_the_line(tmp_path: Path) -> None:
    tables = [*tables_of(write_tables(tmp_path / "tables"), comparison(-0.004, 0.03)), wide_table()]
    (tmp_path / "tables.tex").write_text(to_latex(tables), encoding="utf-8")
    (tmp_path / "main.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}"
        "\\begin{document}\\input{tables}\\end{document}\n",
        encoding="utf-8",
    )
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert made.returncode == 0, made.stdout[-3000:]
    # of the tables; a signature in a narrow column may stand out a little
    assert not re.search(r"Overfull \\hbox \((\d{2,})", made.stdout), made.stdout


def test_numbers_and_text() -> None:
    assert [fixed(v, signed=True) for v in (0.5, -0.5, -0.001, 0.0)] == ["+0.50", "−0.50", "0.00", "0.00"]
    assert fixed(1234.5, 0) == "1,234"
    assert latex(r"a_b & 5% \ {x}") == r"a\_b \& 5\% \textbackslash{} \{x\}"


def test_command(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables")
    write_json(tmp_path / "c.json", comparison().as_json())
    assert read_comparison(tmp_path / "c.json") == comparison()
    main(
        ["evaluation-tables", "--tables", str(tmp_path / "tables"), "--comparison", str(tmp_path / "c.json"),
         "--output", str(tmp_path / "out")]
    )  # fmt: skip
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"evaluation.{suffix}" for suffix in ("csv", "json", "md", "tex")}
    content = json.loads((tmp_path / "out/evaluation.json").read_text(encoding="utf-8"))
    assert content[0]["records"][2]["delta_ns_continued_p"] == 0.01


@pytest.mark.parametrize("content", ["[]", "{}", '{"settings": {"metrics": []}}', '{"settings": 3}'])
def test_what_is_no_comparison_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ScoringError, match="not a comparison"):
        read_comparison(tmp_path / "c.json")


def test_missing_tables_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="missing"):
        read_evaluation(tmp_path, [])


@pytest.mark.parametrize(
    ("delta", "p", "headline", "verdict"),
    [
        (0.5, 0.01, "Yes: ns is better than continued by BLEU.", "better"),
        (-0.5, 0.01, "No: ns is worse than continued by BLEU.", "worse"),
        (0.5, 0.06, "No difference found between ns and continued by BLEU.", "unclear"),
    ],
)
def test_one_seed(delta: float, p: float, headline: str, verdict: str) -> None:
    found = answer([comparison(delta, p)])
    assert (found.headline, found.verdict) == (headline, verdict)
    assert f"{15 + delta:.2f} against 15.00" in found.sentences[0]
    assert f"p = {p:.3f}" in found.sentences[0]
    # one training run each: said, and not hidden
    assert "trained once" in found.sentences[-1]


def both(bleu: tuple[float, float], chrf: tuple[float, float]) -> Comparison:
    first, second = comparison(*bleu), comparison(*chrf, metric="chrf++")
    return replace(
        first,
        settings=Settings(),
        directions=first.directions + second.directions,
        groups=first.groups + second.groups,
    )


def test_metrics_that_disagree_are_reported_as_they_are() -> None:
    mixed = answer([both((0.5, 0.01), (-0.5, 0.01))])
    assert mixed.headline == "Mixed: ns is better than continued by BLEU, worse by chrF++."
    part = answer([both((0.5, 0.01), (0.1, 0.5))])
    assert part.headline == "In part: ns is better than continued by BLEU; not clearly by chrF++."
    doubt = answer([both((-0.1, 0.5), (-0.5, 0.001))])
    assert doubt.headline == "No: ns is worse than continued by chrF++; by BLEU the difference is not clear."


def test_several_seeds_decide_by_their_spread() -> None:
    runs = [comparison(delta, 0.001) for delta in (0.5, 0.6, 0.7)]
    effect = overall(effects(runs, "bleu"))
    # t(0.975, 2) = 4.3027; standard deviation 0.1
    assert (effect.low, effect.high) == pytest.approx(
        (0.6 - 4.3027 * 0.1 / 3**0.5, 0.6 + 4.3027 * 0.1 / 3**0.5), abs=1e-4
    )
    # t = 0.6 / (0.1 / √3) = 10.39 with 2 degrees of freedom
    assert effect.verdict == "better" and effect.p == pytest.approx(0.00913, abs=1e-5)
    # each significant by itself, but the seeds disagree
    assert answer([comparison(delta, 0.001) for delta in (0.9, -0.3, 0.5)]).verdict == "unclear"
    assert "3 seeds" in answer(runs).sentences[-1]


@pytest.mark.parametrize(("confidence", "quantile"), [(0.8, 1.8856), (0.95, 4.3027), (0.99, 9.9248)])
def test_the_interval_over_seeds_is_as_wide_as_it_says(confidence: float, quantile: float) -> None:
    runs = [comparison(delta, 0.001) for delta in (0.5, 0.6, 0.7)]
    runs = [replace(run, settings=replace(run.settings, confidence=confidence)) for run in runs]
    effect = overall(effects(runs, "bleu"))
    assert effect.high - effect.delta == pytest.approx(quantile * 0.1 / 3**0.5, abs=1e-4)
    # the verdict is at 0.05 whatever the interval shows
    assert effect.verdict == "better"
    assert f"{confidence * 100:.0f} % interval {effect.low:+.2f}" in answer(runs).sentences[0]


def test_a_difference_of_unequal_training_is_no_verdict() -> None:
    found = answer([comparison(0.5, 0.01)], "ns had 240 more updates.")
    assert found.headline == "Yes: ns is better than continued by BLEU. Their training differs, too."
    assert found.verdict == "mixed" and found.sentences[0] == "ns had 240 more updates."
    assert answer([comparison(0.5, 0.5)], "ns had 240 more updates.").verdict == "unclear"


def test_where_and_context() -> None:
    base = comparison(0.5, 0.2)
    groups = [replace(row, p=0.01) if row.group == "en→X" else row for row in base.groups]
    where = next(s for s in answer([replace(base, groups=groups)]).sentences if s.startswith("Where"))
    assert "BLEU higher in en→X (+0.50)" in where and "X→en" not in where
    # a branch of one group of directions is a subset, too
    groups = [*base.groups, replace(base.groups[0], branch="Germanic", p=0.01)]
    assert any("Germanic (+0.50)" in s for s in answer([replace(base, groups=groups)]).sentences)
    assert f"none of {len(base.groups) - 1} subsets" in " ".join(answer([base]).sentences)
    assert context("continued", "baseline", [base]).startswith(
        "For comparison, continued against baseline: BLEU +0.50"
    )


def test_family_structure_in_words() -> None:
    test = {"difference": 0.035, "p": 6 / 1680, "arrangements": 1680, "exact": True, "seed": None}
    flat = test | {"difference": 0.0, "p": 1.0}
    branches = ["Germanic"] * 3 + ["Romance"] * 3 + ["Slavic"] * 3
    overlap = {
        "groups": {
            group: {"structure": {"tests": {"all": of_group}, "branches": branches}}
            for group, of_group in (("en→X", test), ("X→en", flat), ("X→Y", test | {"p": None}))
        }
    }
    (sentence,) = family_sentences({"k95": overlap})
    assert "en→X: yes (IoU within branches less IoU across +3.5 points, p = 0.004 of all 1,680" in sentence
    assert sentence.count("the smallest there can be") == 1
    assert "X→en: not shown" in sentence and "X→Y" not in sentence


def test_masks_made_by_branch_prove_nothing_of_families() -> None:
    sentences = family_sentences({"k95": {"groups": {}}, "by_branch": {"groups": {}}}, ["by_branch"])
    assert sentences == ["The masks by_branch follow language families by construction: one a branch."]


def test_too_few_directions_cannot_show_families() -> None:
    test = {"difference": 0.1, "p": 1 / 3, "arrangements": 6, "exact": True, "seed": None}
    structure = {"tests": {"all": test}, "branches": ["a", "a", "b", "b"]}
    (sentence,) = family_sentences({"k95": {"groups": {"en→X": {"structure": structure}}}})
    assert "not shown" in sentence and "0.333: too few directions to tell" in sentence
