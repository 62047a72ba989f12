"""The report page: complete, self-contained, and drawn without a complaint in a browser."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuron_specialization.cli import main
from neuron_specialization.config import parse_config
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.evaluation.tables import DirectionGroup
from neuron_specialization.figures.masks import plot_masks
from neuron_specialization.figures.scores import plot_deltas
from neuron_specialization.masks.overlap import overlap
from neuron_specialization.reporting.page import build_page
from neuron_specialization.reporting.svg import inline
from neuron_specialization.storage.files import read_json, sha256_of, write_json
from neuron_specialization.storage.layer_masks import LayerMasks
from tests.browser import Browser
from tests.unit.reporting.test_report_scores import DIRECTIONS, comparison, write_tables

CONFIG = {
    "experiment": "page",
    "languages": ["en", "de"],
    "systems": {
        "baseline": {},
        "continued": {"from": "baseline"},
        "ns": {"from": "baseline", "masks": "k95"},
    },
}
# what a page must not be harmed by
HOSTILE = '<script>document.title="x"</script> & "Licence"'


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an experiment with the files that a page is made of."""
    folder = tmp_path_factory.mktemp("results") / "page"
    write_tables(folder / "tables")
    write_json(folder / "comparisons/heldout/ns-continued.json", comparison().as_json())
    generator = np.random.default_rng(0)
    names = ["en-de", "en-sv", "en-es", "en-fr"]
    masks = {name: LayerMasks({"encoder.layers.0": generator.random(8) < 0.5}, {}) for name in names}
    write_json(folder / "masks/k95/overlap.json", overlap(masks, "en"))
    plot_masks(overlap(masks, "en"), "k95", folder / "figures")
    groups = [DirectionGroup(name, group, "high", "Germanic") for name, (group, _) in DIRECTIONS.items()]
    plot_deltas(comparison(), groups, folder / "figures")
    write_json(
        folder / "corpus/manifest.json",
        {
            "source": "local",
            "input": {"name": "my text"},  # a folder has no checksum of its own
            "licence": HOSTILE,
            "pairs": ["de-en"],
            "extracted": {"de-en": 1234},
            "dropped": {"de-en": {"empty": 1, "duplicate": 2}},
            "splits": {"train": {"de-en": {"segments": 1000, "words": {"de": 10, "en": 11}}}},
        },
    )
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    path = results / "report.html"
    path.write_text(build_page(results, parse_config(CONFIG), "snakemake --cores 1"), encoding="utf-8")
    return path


def test_it_opens_with_the_answer(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.index("Yes: ns is better than continued by BLEU.") < text.index("<table")
    assert "trained once" in text
    assert "Do the masks k95 follow language families?" in text


def test_of_many_comparisons_the_tables_come_first(page: Path, results: Path) -> None:
    more = {f"ns{number}": {"from": "baseline", "masks": "k95"} for number in range(3)}
    config = parse_config(CONFIG | {"systems": CONFIG["systems"] | more})
    texts = [page.read_text(encoding="utf-8"), build_page(results, config)]
    places = [(text.index('id="figure-deltas'), text.index("<table")) for text in texts]
    assert [figure < table for figure, table in places] == [True, False]


def test_of_many_systems_the_answers_after_the_second_are_a_line_each(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "page")
    config = parse_config(
        CONFIG | {"systems": CONFIG["systems"] | dict.fromkeys(("other", "third"), CONFIG["systems"]["ns"])}
    )
    write_tables(tmp_path / "page/tables", more=("other", "third"))
    for name in ("other", "third"):
        made = replace(comparison(), system=name).as_json()
        write_json(tmp_path / f"page/comparisons/heldout/{name}-continued.json", made)
    text = build_page(tmp_path / "page", config)
    folded = re.findall(r'<details class="answer better">\s*<summary>(.*?)</summary>', text, re.S)
    assert len(folded) == 1 and folded[0].startswith("Yes: third is better than continued by BLEU.")
    (effect,) = re.findall(r"third is better.*?difference (\+[0-9.]+),", text, re.S)
    assert f'<span class="testset">BLEU {effect}, heldout</span>' in folded[0]


def test_it_says_where_everything_comes_from(page: Path, results: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in ("tables/scores.csv", "masks/k95/overlap.json", "figures/overlap-k95.svg"):
        assert f">{name}<" in text and sha256_of(results / name) in text
    assert f"snakemake --cores 1 --force {results}/figures/similarity-k95.svg" in text
    assert "experiment: page" in text  # the configuration
    assert "sacrebleu" in text and "1,234" in text
    assert "Read from my text." in text


def test_it_says_what_of_a_test_set_the_systems_have_seen(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "page")
    for name, counts in (("mine", {"de-en": 3, "en-nl": 0}), ("clean", {"de-en": 0})):
        manifest: dict[str, object] = {"segments": 1000, "in_training_text": counts}
        write_json(tmp_path / f"page/testsets/{name}/manifest.json", manifest)
    near = {"language": "en", "jaccard": 0.6, "segments": 500, "near": 115}
    corpus = read_json(tmp_path / "page/corpus/manifest.json")
    corpus["near_duplicates"] = {**near, "training_segments": 3000, "searched": 1500}
    write_json(tmp_path / "page/corpus/manifest.json", corpus)
    folder = {"source": "folder", "path": "x"}
    testsets = {"heldout": {"source": "corpus"}, "mine": folder, "clean": folder}
    text = build_page(tmp_path / "page", parse_config(CONFIG | {"testsets": testsets}))
    assert "Of 500 held-out segments, 115 (23 %) have a near-duplicate in the training text" in text
    assert "Searched: 1,500 of 3,000 training segments." in text
    assert "Test set mine, 1,000 segments: with a side that is in the training text: de-en 3. " in text
    assert "Test set clean: no segment has a side that is in the training text." in text


def test_text_from_files_is_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text
    assert text.count("<script>") == 1


def test_it_asks_for_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    assert all(target in identifiers for target in re.findall(r'href="#([^"]+)"', text))


def test_figures_have_texts_for_who_cannot_see(page: Path) -> None:
    drawn = re.findall(r"<svg\b[^>]*>", page.read_text(encoding="utf-8"))
    assert len(drawn) == 4
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', tag) for tag in drawn)


def test_command(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.html"
    main(["report", "--results", str(results), "--config", json.dumps(CONFIG), "--output", str(output)])
    assert (
        output.read_text(encoding="utf-8").startswith("<!doctype html>")
        and "written" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        main(["report", "--results", str(results), "--config", "{broken", "--output", str(output)])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<p>no</p>",
        '<svg viewBox="0 0 1 1"><script>1</script></svg>',
        '<svg viewBox="0 0 1 1"><a href="https://x.org"/></svg>',
        "<svg></svg>",
    ],
)
def test_only_harmless_svg_is_taken(content: str, tmp_path: Path) -> None:
    (tmp_path / "figure.svg").write_text(content, encoding="utf-8")
    with pytest.raises(NeuronSpecializationError, match="SVG"):
        inline(tmp_path / "figure.svg", "x")


def test_in_a_browser(page: Path) -> None:
    address = page.resolve().as_uri()
    with Browser() as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(address, width=width, dark=dark)
            assert browser.complaints() == []
            assert browser.asked() == [address]
            # the page itself never scrolls sideways; tables and figures do so in their own frames
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            boxes = browser.run(
                "[...document.querySelectorAll('.plot svg')].map((s) => {"
                " const b = s.getBoundingClientRect();"
                " return [b.width, b.height, s.querySelectorAll('path, image, text').length]; })"
            )
            assert len(boxes) == 4
            assert all(width > 300 and height > 100 and parts > 5 for width, height, parts in boxes)
            assert browser.run("[...document.images].every((image) => image.complete)")
        _check_sorting(browser)
        assert browser.complaints() == []


def _check_sorting(browser: Browser) -> None:
    """The second table's score column: keyboard, aria-sort, and back to the order as written."""
    column = "[...document.querySelectorAll('table')][1]"
    state = f"{column}.tHead.rows[0].cells[3].getAttribute('aria-sort')"
    names = f"[...{column}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    assert (browser.run(state), browser.run(names)) == ("none", ["en-de", "de-en"])
    browser.run(f"{column}.tHead.rows[0].cells[3].querySelector('button').focus()")
    for expected, order in (
        ("descending", ["de-en", "en-de"]),
        ("ascending", ["en-de", "de-en"]),
        ("none", ["en-de", "de-en"]),
    ):
        browser.press("Enter", 13, text="\r")
        assert (browser.run(state), browser.run(names)) == (expected, order)
