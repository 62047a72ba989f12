"""Sparsity and overlap of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuron_specialization.errors import MaskError
from neuron_specialization.masks.overlap import iou_matrix, likely_pivot, overlap
from neuron_specialization.storage.layer_masks import LayerMasks

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 40)))


@given(MASKS)
def test_iou_is_intersection_over_union_of_the_kept_sets(masks: np.ndarray) -> None:
    masks[:, 0] = True
    found = iou_matrix(masks)
    sets = [set(np.flatnonzero(mask).tolist()) for mask in masks]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert found[i, j] == pytest.approx(len(a & b) / len(a | b), abs=1e-15)
    assert (found >= 0).all() and (found <= 1).all() and (np.diag(found) == 1).all()


def test_two_empty_masks_are_equal_and_not_a_division_by_zero() -> None:
    assert iou_matrix(np.zeros((2, 3), dtype=np.bool_)).tolist() == [[1, 1], [1, 1]]


def selection(**masks: str) -> dict[str, LayerMasks]:
    """``de_en="110"``: one encoder layer, one decoder layer with the mask reversed."""
    result = {}
    for name, bits in masks.items():
        mask = np.array([bit == "1" for bit in bits])
        layers = {"encoder.layers.0": mask, "decoder.layers.0": mask[::-1].copy()}
        result[name.replace("_", "-")] = LayerMasks(layers, {})
    return result


BRANCHES = {"de": "Germanic", "nl": "Germanic", "es": "Romance", "it": "Romance", "en": "Germanic"}


def branch(code: str) -> str:
    return BRANCHES.get(code, "other")


def test_pairs_are_split_into_within_and_across_branches() -> None:
    masks = selection(en_de="1100", en_nl="1100", en_es="0110", en_it="0011", de_en="1111", es_en="1000")
    found = overlap(masks, "en", branch)
    group = found["groups"]["en→X"]
    assert group["directions"] == ["en-de", "en-nl", "en-es", "en-it"]
    # within: de-nl 1, es-it 1/3; across: de-es 1/3, de-it 0, nl-es 1/3, nl-it 0
    assert group["within"]["pairs"] == 2 and group["across"]["pairs"] == 4
    assert group["within"]["iou"]["encoder.layers.0"] == pytest.approx(2 / 3, abs=1e-6)
    assert group["across"]["iou"]["decoder.layers.0"] == pytest.approx(1 / 6, abs=1e-6)
    assert group["within"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert group["matrix"]["encoder.layers.0"][0] == [1.0, 1.0, pytest.approx(1 / 3, abs=1e-6), 0.0]
    back = found["groups"]["X→en"]
    assert back["within"] == {"pairs": 0, "iou": dict.fromkeys(masks["de-en"].layers), "mean": None}
    assert back["across"]["mean"] == 0.25
    assert found["directions"]["en-es"] == {
        "group": "en→X",
        "branch": "Romance",
        "kept": {"encoder.layers.0": 0.5, "decoder.layers.0": 0.5},
        "kept_mean": 0.5,
    }
    assert found["neurons"] == {"encoder.layers.0": 4, "decoder.layers.0": 4}
    assert json.loads(json.dumps(found)) == found


def test_languages_of_unknown_branch_enter_no_mean() -> None:
    found = overlap(selection(en_de="10", en_xx="10", en_yy="01"), "en", branch)
    assert found["groups"]["en→X"]["within"]["pairs"] == found["groups"]["en→X"]["across"]["pairs"] == 0
    assert found["directions"]["en-xx"]["branch"] == "other"


def test_without_a_pivot_both_languages_must_be_of_one_branch() -> None:
    found = overlap(selection(de_es="10", nl_it="10", es_de="01", de_xx="11"), None, branch)
    group = found["groups"]["X→Y"]
    assert found["directions"]["nl-it"]["branch"] == "Germanic-Romance"
    assert found["directions"]["de-xx"]["branch"] == "other"
    assert group["within"]["pairs"] == 1 and group["within"]["mean"] == 1
    assert group["across"]["pairs"] == 2 and group["across"]["mean"] == 0


def test_branches_come_from_the_language_table_by_default() -> None:
    found = overlap(selection(en_de="10", en_sv="10", en_es="01"), "en")
    assert found["groups"]["en→X"]["within"]["pairs"] == 1


@pytest.mark.parametrize(
    ("directions", "pivot"),
    [
        (["en-de", "de-en", "en-es", "es-en"], "en"),
        (["en-de", "de-en", "en-es", "es-en", "de-es"], "en"),
        (["en-de", "de-en"], None),
        (["en-de"], None),
        (["de-es", "fr-it", "de-nl", "cs-pl"], None),
        ([], None),
    ],
)
def test_the_pivot_is_the_language_most_directions_have(directions: list[str], pivot: str | None) -> None:
    assert likely_pivot(directions) == pivot


def test_no_masks_is_an_error() -> None:
    with pytest.raises(MaskError, match="no masks"):
        overlap({}, "en")
