"""Figures: what is drawn is what the data say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_specialization.activations.counts import Counts, write_activations
from neuron_specialization.cli import main
from neuron_specialization.errors import MaskError, TrainingError
from neuron_specialization.evaluation.tables import ALL, DirectionGroup
from neuron_specialization.figures.activity import plot_activity, plot_neurons, selectivity
from neuron_specialization.figures.drawing import mark_of, style_of
from neuron_specialization.figures.masks import layer_label, plot_masks
from neuron_specialization.figures.perplexity import read_curves
from neuron_specialization.figures.scores import SweepPoint, plot_deltas, plot_sweep
from neuron_specialization.figures.structure import plot_clusters, plot_sharing
from neuron_specialization.figures.training import plot_training
from neuron_specialization.masks.overlap import overlap
from neuron_specialization.storage.layer_masks import LayerMasks
from neuron_specialization.training.curves import read_runs
from tests.unit.reporting.test_report_scores import DIRECTIONS, comparison

PNG = b"\x89PNG\r\n\x1a\n"


def texts_of(svg: Path) -> list[str]:
    """Every text in an SVG."""
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.parse(svg).iter()
        if "text" in element.tag
    ]


@pytest.fixture
def training(tmp_path: Path) -> Path:
    folder = tmp_path / "training"
    for system, losses, facts in (
        ("baseline", {100: 6.0, 200: 4.0, 300: 4.5}, {"inputs": {}, "model_sha256": "b", "updates": 200}),
        ("ns", {50: 3.9}, {"inputs": {"init": "b"}, "model_sha256": "n", "updates": 50}),
        ("other", {50: 3.8}, {"inputs": {"init": "unknown"}, "model_sha256": "o", "updates": 50}),
    ):
        (folder / system).mkdir(parents=True)
        lines = [{"kind": "train", "update": 10, "loss": 9.0, "nll": 8.0}]
        lines.append({"kind": "train", "update": 20, "loss": "nan", "nll": "nan"})
        lines += [{"kind": "valid", "update": u, "loss": v + 1, "nll": v} for u, v in losses.items()]
        (folder / system / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / system / "model.json").write_text(json.dumps(facts))
    return folder


def test_a_continued_training_starts_at_the_published_model(training: Path) -> None:
    baseline, ns, other = read_runs(training, ["baseline", "ns", "other"])
    assert baseline.curve("valid") == ([100, 200, 300], [6.0, 4.0, 4.5])
    assert baseline.published == (200, 4.0)
    assert ns.curve("valid") == ([200, 250], [4.0, 3.9])
    assert ns.curve("train") == ([210], [8.0])  # the loss that is not a number is left out
    assert other.curve("valid") == ([50], [3.8])


def test_a_training_still_running_is_drawn(training: Path) -> None:
    (training / "ns" / "model.json").unlink()
    _, ns = read_runs(training, ["baseline", "ns"])
    assert ns.curve("valid") == ([50], [3.9]) and ns.published is None


def test_training_figure(training: Path, tmp_path: Path) -> None:
    written = plot_training(read_runs(training), tmp_path / "figures")
    assert [path.name for path in written] == ["training.svg", "training.png"]
    assert written[1].read_bytes().startswith(PNG)
    texts = texts_of(written[0])
    assert {"baseline", "ns", "other", "updates", "bits per target token"} <= set(texts)


def long_training(folder: Path, systems: int, seeds: tuple[str, ...]) -> Path:
    """Trainings of many systems and seeds, each validated 600 times."""
    lines = [
        json.dumps({"kind": "valid", "update": update, "loss": 5.0, "nll": 9 / update})
        for update in range(500, 300_500, 500)
    ]
    for name in (f"s{number}{seed}" for number in range(systems) for seed in seeds):
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        facts = {"inputs": {}, "model_sha256": name, "updates": 300_000}
        (folder / name / "model.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("systems", [6, 16])
def test_many_trainings_leave_room_for_their_curves(tmp_path: Path, systems: int) -> None:
    folder = long_training(tmp_path / "training", systems, ("", "@223", "@224"))
    svg = plot_training(read_runs(folder), tmp_path)[0]
    # a system's seeds are one line of the legend
    names = [text for text in texts_of(svg) if text.startswith("s")]
    assert sorted(names) == sorted(f"s{number}" for number in range(systems))
    content = svg.read_text(encoding="utf-8")
    (box,) = re.findall(r'<g id="patch_2">\s*<path d="([^"]*)"', content)
    heights = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", box)]
    assert max(heights) - min(heights) > 100  # points
    # 600 marks would be one thick line
    assert content.count("<use ") < 3 * systems * 60


def test_no_two_lines_of_a_figure_look_alike() -> None:
    for looks in (style_of, mark_of):
        assert len({str(looks(number)) for number in range(16)}) == 16


def test_equal_data_give_equal_files(training: Path, tmp_path: Path) -> None:
    first = plot_training(read_runs(training), tmp_path / "a")
    second = plot_training(read_runs(training), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_no_training_is_an_error(training: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training is here"):
        read_runs(tmp_path / "absent")
    with pytest.raises(TrainingError, match="no metrics of random"):
        read_runs(training, ["random"])


def selection(languages: list[str], layers: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    names = [f"encoder.layers.{i}" for i in range(layers)] + ["decoder.layers.0"]
    directions = [f"en-{code}" for code in languages] + [f"{code}-en" for code in languages]
    masks = {
        direction: LayerMasks({name: generator.random(16) < 0.7 for name in names}, {})
        for direction in directions
    }
    return overlap(masks, "en")


@pytest.mark.parametrize("layers", [1, 6])
def test_mask_figures(tmp_path: Path, layers: int) -> None:
    # an order that is not by branch: sv joins de, fr joins es
    written = plot_masks(selection(["de", "es", "sv", "fr"], layers), "k95", tmp_path)
    assert [path.name for path in written] == [
        f"{name}-k95.{suffix}" for name in ("sparsity", "overlap", "similarity") for suffix in ("svg", "png")
    ]
    assert all(path.stat().st_size > 1000 for path in written)
    sparsity, iou, similarity = (texts_of(path) for path in written[::2])
    assert {"en→X (n = 4)", "X→en (n = 4)", "e1", "d1", "masked neurons, %, k95"} <= set(sparsity)
    assert [text for text in sparsity if text.startswith("en-")] == ["en-de", "en-sv", "en-es", "en-fr"]
    assert "en→X: 2 pairs within, 4 across" in iou
    assert any(text.startswith("en→X e1") for text in similarity)
    assert any(text.startswith("X→en d1") for text in similarity)
    labels = [text for text in similarity if text in ("de", "es", "sv", "fr")]
    assert labels[:4] == ["de", "sv", "es", "fr"]


def test_no_p_value_is_zero(tmp_path: Path) -> None:
    content = selection(["de", "es", "sv", "fr"], 1)
    for group in content["groups"].values():
        for test in group["structure"]["tests"].values():
            test["p"] = 1 / 10_001
    texts = texts_of(plot_masks(content, "k95", tmp_path)[4])
    assert sum("p < 0.001" in text for text in texts) == 4 and not any("0.000" in text for text in texts)


def test_many_languages_are_labelled_by_branch(tmp_path: Path) -> None:
    codes = [*("de", "nl", "sv", "da", "af", "lb", "fr", "es", "it", "pt", "ro", "oc", "ru", "cs", "pl")]
    written = plot_masks(selection(codes, 4), "ec30", tmp_path)
    texts = texts_of(written[4])
    assert {"Germanic", "Romance", "Slavic"} <= set(texts) and "de" not in texts


def test_one_direction_a_group_has_nothing_to_compare(tmp_path: Path) -> None:
    written = plot_masks(selection(["de"], 1), "k95", tmp_path)
    assert len(written) == 6
    for path in (written[2], written[4]):
        assert any("no two masks to compare" in text for text in texts_of(path))


def test_refuses_what_is_not_an_overlap_file(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="it lacks neurons"):
        plot_masks({}, "k95", tmp_path)


def test_layers_count_from_one() -> None:
    assert (layer_label("encoder.layers.0"), layer_label("decoder.layers.11")) == ("e1", "d12")
    with pytest.raises(MaskError):
        layer_label("lm_head")


def test_command(training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "masks" / "k95" / "overlap.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(selection(["de", "sv", "es"], 1)), encoding="utf-8")
    output = tmp_path / "figures"
    main(["figures", "--training", str(training), "--overlap", str(path), "--output", str(output)])
    assert len(capsys.readouterr().out.splitlines()) == len(list(output.iterdir())) == 12
    with pytest.raises(SystemExit):
        main(["figures", "--output", str(output)])


def test_selectivity_is_the_variance_between_branches() -> None:
    branches = ["Germanic", "Germanic", "Slavic", "Slavic"]
    rates = np.array([[1, 1, 0.5], [1, 0, 0.5], [0, 1, 0.5], [0, 0, 0.5]], dtype=float)
    # of one branch only; the same in both branches; everywhere the same
    assert selectivity(rates, branches) == pytest.approx([1.0, 0.0, 0.0])


def test_activity_figures(tmp_path: Path) -> None:
    content = selection(["de", "sv", "es", "fr"], 1)
    counts = tmp_path / "activations"
    generator = np.random.default_rng(1)
    for direction in content["directions"]:
        layers = {name: generator.integers(0, 50, 16) for name in content["neurons"]}
        facts = Counts(layers=layers, positions={"encoder": 50, "decoder": 50}, sentences=5, skipped=0)
        write_activations(counts / f"{direction}.safetensors", facts, {"direction": direction})
    path = tmp_path / "k95" / "overlap.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    output = tmp_path / "figures"
    main(["figures", "--activity", str(path), "--activations", str(counts), "--output", str(output)])
    assert {file.name for file in output.iterdir()} == {
        f"{name}-k95.{suffix}" for name in ("activity", "neurons") for suffix in ("svg", "png")
    }
    activity, neurons = (texts_of(output / f"{name}-k95.svg") for name in ("activity", "neurons"))
    assert {"encoder, n = 8 directions", "decoder, n = 8 directions", "e1", "d1"} <= set(activity)
    # the directions, ordered by branch, as they are in the data
    assert [text for text in neurons if text.startswith("en-")] == ["en-de", "en-sv", "en-es", "en-fr"]
    assert "en→X: 24 of 32 neurons" in neurons
    (svg, _) = plot_neurons({}, selection(["de"], 1), "k95", tmp_path)
    assert any("no two masks to compare" in text for text in texts_of(svg))


def test_curves_of_wide_layers_are_no_finer_than_a_figure(tmp_path: Path) -> None:
    content = {
        "neurons": {"encoder.layers.0": 4096},
        "directions": {"de-en": {"kept": {"encoder.layers.0": 1.0}}},
    }
    rates = {"de-en": {"encoder.layers.0": np.random.default_rng(0).random(4096)}}
    svg, _ = plot_activity(rates, content, "k95", tmp_path)
    assert svg.stat().st_size < 100_000


def test_figures_of_score_differences(tmp_path: Path) -> None:
    groups = [DirectionGroup(name, group, "high", "Germanic") for name, (group, _) in DIRECTIONS.items()]
    (svg, _) = plot_deltas(comparison(0.5, 0.01), groups, tmp_path)
    texts = texts_of(svg)
    assert svg.name == "deltas-heldout-ns-continued.svg"
    assert {"high  en-de", "high  de-en", "mean en→X", "mean all", "Δ BLEU: ns − continued"} <= set(texts)
    assert any("500 segments a direction" in text for text in texts)
    # directions may be listed in any order
    mixed = [("en-de", "en→X"), ("de-en", "X→en"), ("en-nl", "en→X"), ("nl-en", "X→en")]
    found = comparison(0.5, 0.01)
    rows = [replace(row, direction=name) for name, _ in mixed for row in found.directions[:1]]
    groups = [DirectionGroup(name, group, "high", "Germanic") for name, group in mixed]
    texts = texts_of(plot_deltas(replace(found, directions=rows), groups, tmp_path)[0])
    assert [text for text in texts if text.startswith(("high", "mean "))] == [
        *("high  en-de", "high  en-nl", "mean en→X", "high  de-en", "high  nl-en", "mean X→en", "mean all")
    ]
    content = selection(["de", "sv", "es"], 1)
    points = [SweepPoint(f"k{k}", k, content, [comparison(k / 100, 0.1)]) for k in (95, 70)]
    texts = texts_of(plot_sweep(points, tmp_path)[0])
    assert {"70", "95", "encoder", "decoder", "k, % of the activity", "BLEU", "en→X within"} <= set(texts)


def test_of_hundreds_of_directions_the_means_are_drawn(tmp_path: Path) -> None:
    found = comparison(0.5, 0.01)
    codes = ["de", "nl", "sv", "da", "fr", "es", "it", "pt", "ru", "cs", "pl"]
    names = [f"{one}-{other}" for one in codes for other in codes if one != other]
    groups = [DirectionGroup(name, group, "high", "Germanic") for name, (group, _) in DIRECTIONS.items()]
    groups += [DirectionGroup(name, "zero-shot", ALL, "mixed") for name in names]
    found = replace(
        found,
        directions=[*found.directions, *(replace(found.directions[0], direction=name) for name in names)],
        groups=[
            *found.groups,
            *(replace(found.groups[0], group="zero-shot", branch=b) for b in ("mixed", ALL)),
        ],
    )
    texts = texts_of(plot_deltas(found, groups, tmp_path)[0])
    assert {"high  en-de", "mean zero-shot, mixed", "mean zero-shot"} <= set(texts)
    assert not set(names) & set(texts)


def test_clusters_and_sharing_name_what_the_data_name(tmp_path: Path) -> None:
    content = selection(["de", "sv", "es", "fr"], 1)
    clusters, sharing = (
        texts_of(draw(content, "k95", tmp_path)[0]) for draw in (plot_clusters, plot_sharing)
    )
    assert sorted(text for text in clusters if len(text) == 2) == sorted(["de", "sv", "es", "fr"] * 4)
    rand = content["groups"]["en→X"]["structure"]["clusterings"]["encoder"]["adjusted_rand"]
    assert any(f"adjusted Rand {rand:.2f}".replace("-", "−") in text for text in clusters)
    assert {"all", "several branches", "one branch", "one direction", "none"} <= set(sharing)


def test_perplexity_by_direction(tmp_path: Path) -> None:
    table = tmp_path / "perplexity.csv"
    lines = ["system,seed,direction,group,tier,branch,update,nll,perplexity,published,from,start"]
    # the second seed's baseline was best earlier
    of_runs = (
        *(("baseline", 222, 3.0, ",0"), ("baseline", 223, 4.0, ",0"), ("baseline", 224, 9.0, ",0")),
        *(("ns", 222, 2.0, "baseline,20"), ("ns", 223, 4.0, "baseline,10")),
    )
    for system, seed, nll, origin in of_runs:
        for name, (group, _) in DIRECTIONS.items():
            place = f"{system},{seed},{name},{group},high,Germanic"
            lines += [f"{place},{u},{nll + u},{2**nll},{int(u == 20)},{origin}" for u in (10, 20)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    main(["figures", "--perplexity", str(table), "--output", str(tmp_path)])
    assert {"en-de", "de-en", "baseline", "ns"} <= set(texts_of(tmp_path / "perplexity.svg"))
    curves = read_curves(table)["en-de"]
    assert curves["baseline"] == [(10, pytest.approx(46 / 3)), (20, pytest.approx(76 / 3))]
    # from where the baselines of its two seeds ended
    assert curves["ns"] == [(15, 23.5), (25, 13), (35, 23)]
    table.write_text(lines[0] + "\n", encoding="utf-8")
    main(["figures", "--perplexity", str(table), "--output", str(tmp_path)])
    assert any("no loss by direction" in text for text in texts_of(tmp_path / "perplexity.svg"))
