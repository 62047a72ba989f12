"""Neuron selection and mask files."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from neuron_specialization.errors import MaskError
from neuron_specialization.masks.selection import select
from neuron_specialization.masks.zero_shot import compose
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import (
    LayerMasks,
    read_all_masks,
    read_mask_folder,
    read_masks,
    write_masks,
)

COUNTS = hnp.arrays(np.int64, st.integers(1, 70), elements=st.integers(0, 40))
PERCENT = st.one_of(
    st.integers(1, 100).map(float),
    st.integers(1, 1000).map(lambda n: n / 10),
    st.floats(0.001, 100, allow_nan=False),
)
TIES = st.sampled_from(["index", "torch-sort"])


def reaches(kept_sum: int, total: int, k: float) -> bool:
    """kept/total ≥ k %, without floating point."""
    return Fraction(kept_sum) >= Fraction(repr(k)) / 100 * total


def test_the_example_of_the_documentation() -> None:
    counts = np.array([10, 3, 50, 34, 3])
    assert select(counts, 95).tolist() == [True, True, True, True, False]
    assert select(counts, 94).tolist() == [True, False, True, True, False]  # 94 is reached exactly
    assert select(counts, 50).tolist() == [False, False, True, False, False]


@given(COUNTS, PERCENT, TIES)
def test_the_prefix_is_the_smallest_that_reaches_k_percent(
    counts: np.ndarray, k: float, tie_break: str
) -> None:
    mask = select(counts, k, tie_break)  # type: ignore[arg-type]
    total = int(counts.sum())
    assert mask.dtype == np.bool_ and mask.shape == counts.shape and mask.any()
    kept = counts[mask]
    assert reaches(int(kept.sum()), total, k)
    if total:
        assert not reaches(int(kept.sum() - kept.min()), total, k)
    else:
        assert mask.sum() == 1
    if not mask.all():
        assert kept.min() >= counts[~mask].max()


@given(COUNTS, PERCENT, PERCENT)
def test_a_smaller_k_keeps_a_subset(counts: np.ndarray, first: float, second: float) -> None:
    small, large = select(counts, min(first, second)), select(counts, max(first, second))
    assert not (small & ~large).any()


@given(COUNTS, PERCENT, st.integers(1, 10**9), TIES)
def test_scaling_all_counts_changes_nothing(
    counts: np.ndarray, k: float, factor: int, tie_break: str
) -> None:
    assert (select(counts, k, tie_break) == select(counts * factor, k, tie_break)).all()  # type: ignore[arg-type]


@given(COUNTS, PERCENT)
def test_ties_go_to_the_lower_index(counts: np.ndarray, k: float) -> None:
    mask = select(counts, k)
    cut = counts[mask].min()
    tied = mask[counts == cut]
    assert (np.diff(tied.astype(int)) <= 0).all()


@given(COUNTS, PERCENT)
def test_both_tie_breaks_keep_equally_many(counts: np.ndarray, k: float) -> None:
    index, unstable = select(counts, k), select(counts, k, "torch-sort")
    assert sorted(counts[index]) == sorted(counts[unstable])


def test_all_that_fire_are_kept_at_100_and_no_others() -> None:
    counts = np.array([0, 5, 0, 1, 7], dtype=np.int64)
    assert select(counts, 100).tolist() == [False, True, False, True, True]


def test_k_is_the_decimal_that_was_written() -> None:
    # 0.07 as a binary fraction is more than 7/100: with it, 7 of 10,000 would not reach 0.07 %
    counts = np.array([7, *([1] * 9993)], dtype=np.int64)
    assert select(counts, 0.07).sum() == 1


def test_large_counts_are_compared_exactly() -> None:
    # float32, and at this size float64 too, cannot tell these sums apart
    counts = np.array([2**59, 2**59 - 1, 1, 1], dtype=np.int64)
    assert select(counts, 50).tolist() == [True, True, False, False]


@pytest.mark.parametrize("k", [0, -1, 100.001, float("nan"), float("inf")])
def test_k_out_of_range_is_refused(k: float) -> None:
    with pytest.raises(MaskError, match="percentage"):
        select(np.ones(4, dtype=np.int64), k)


def test_an_unknown_tie_break_is_refused() -> None:
    with pytest.raises(MaskError, match="tie_break is index or torch-sort, not 'first'"):
        select(np.ones(4, dtype=np.int64), 95, "first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones(4), "int64"),
        (np.ones((2, 2), dtype=np.int64), "int64"),
        (np.zeros(0, dtype=np.int64), "int64"),
        (np.array([1, -1]), "negative"),
        (np.array([2**62, 2**62]), "too large"),
    ],
)
def test_wrong_counts_are_refused(counts: np.ndarray, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        select(counts, 95)


@st.composite
def layer_masks(draw: st.DrawFn) -> dict[str, np.ndarray]:
    layers = {}
    for side, depth in (("encoder", draw(st.integers(0, 3))), ("decoder", draw(st.integers(1, 3)))):
        for number in range(depth):
            mask = draw(hnp.arrays(np.bool_, st.integers(1, 40)))
            mask[draw(st.integers(0, mask.size - 1))] = True
            layers[f"{side}.layers.{number}"] = mask
    return layers


@settings(max_examples=40)
@given(layers=layer_masks(), packed=st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, layers: dict[str, np.ndarray], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("masks") / "de-en.safetensors"
    write_masks(path, layers, {"k": "95", "direction": "de-en"}, packed=packed)
    masks = read_masks(path)
    assert list(masks.layers) == list(layers)
    for name, mask in layers.items():
        assert masks.layers[name].dtype == np.bool_ and (masks.layers[name] == mask).all()
    assert masks.metadata["k"] == "95"


def test_a_packed_file_is_an_eighth(tmp_path: Path) -> None:
    layers = {f"encoder.layers.{i}": np.ones(4096, dtype=np.bool_) for i in range(12)}
    write_masks(tmp_path / "packed", layers, {}, packed=True)
    assert (tmp_path / "packed").stat().st_size < 12 * 512 + 2000


def test_equal_masks_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    code = (
        "import numpy as np, sys; from neuron_specialization.storage.layer_masks import write_masks;"
        "m = {f'decoder.layers.{i}': np.arange(9) % (i + 2) == 0 for i in range(3)};"
        "write_masks(sys.argv[1], dict(reversed(m.items())), {c: '1' for c in 'hgfedcba'})"
    )
    for number in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(number))], check=True)
    assert len({sha256_of(tmp_path / str(number)) for number in range(3)}) == 1


def test_selecting_and_writing_masks_does_not_import_torch() -> None:
    code = (
        "import sys; import neuron_specialization.storage.layer_masks, numpy as np;"
        "from neuron_specialization.masks.selection import select;"
        "select(np.arange(5), 95); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def write(folder: Path, direction: str, **layers: int) -> None:
    """Write all-ones masks; encoder0=8 means encoder.layers.0 of 8 neurons."""
    masks = {f"{key[:-1]}.layers.{key[-1]}": np.ones(width, dtype=np.bool_) for key, width in layers.items()}
    write_masks(folder / f"{direction}.safetensors", masks, {"direction": direction})


def test_a_folder_gives_a_tensor_per_direction_and_layer(tmp_path: Path) -> None:
    for direction in ("de-en", "en-de"):
        write(tmp_path, direction, encoder0=8, decoder0=8, decoder1=16)
    masks = read_all_masks(tmp_path, ["en-de", "de-en"])
    assert list(masks) == ["en-de", "de-en"]
    assert {name: mask.shape[0] for name, mask in masks["de-en"].items()} == {
        "encoder.layers.0": 8,
        "decoder.layers.0": 8,
        "decoder.layers.1": 16,
    }
    assert all(mask.dtype == torch.bool for mask in masks["de-en"].values())


def test_a_missing_direction_is_named(tmp_path: Path) -> None:
    write(tmp_path, "de-en", encoder0=8)
    with pytest.raises(MaskError, match="1 of 2 directions have no mask: en-de"):
        read_mask_folder(tmp_path, ["de-en", "en-de"])


def test_masks_of_different_models_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "de-en", encoder0=8)
    write(tmp_path, "en-de", encoder0=8, encoder1=8)
    with pytest.raises(MaskError, match=r"encoder\.layers\.1 has 8 neurons, expected none"):
        read_mask_folder(tmp_path, ["de-en", "en-de"])
    with pytest.raises(MaskError, match=r"encoder\.layers\.0 has 8 neurons, expected 16"):
        read_mask_folder(tmp_path, ["de-en"], shapes={"encoder.layers.0": 16})


def test_a_file_of_another_direction_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "de-en", encoder0=8)
    (tmp_path / "de-en.safetensors").rename(tmp_path / "en-de.safetensors")
    with pytest.raises(MaskError, match="the mask of de-en, not of en-de"):
        read_mask_folder(tmp_path, ["en-de"])


def hostile(path: Path, kind: str) -> None:
    ok = np.ones(9, dtype=np.bool_)
    write_masks(path, {"encoder.layers.0": ok}, {})
    data = path.read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("<html>quota exceeded</html>")
        case "cut short":
            path.write_bytes(data[:-3])
        case "longer":
            path.write_bytes(data + b"x")
        case "header length":
            path.write_bytes(b"\xff" * 8 + data[8:])
        case "beyond the end":
            path.write_bytes(data.replace(b"[0,9]", b"[0,99]"))
        case "byte 2":
            path.write_bytes(data[:-1] + b"\x02")
        case "no neuron":
            path.write_bytes(data[:-9] + b"\x00" * 9)
        case "floats":
            save_file({"encoder.layers.0": np.ones(9, dtype=np.float32)}, path)
        case "matrix":
            save_file({"encoder.layers.0": np.ones((3, 3), dtype=np.bool_)}, path)
        case "zero width":
            save_file({"encoder.layers.0": np.ones(0, dtype=np.bool_)}, path)
        case "foreign name":
            save_file({"encoder.layers.0": ok, "encoder.layers.0.fc1.weight": ok}, path)
        case "padded number":
            save_file({"encoder.layers.00": ok}, path)
        case "gap":
            save_file({"encoder.layers.0": ok, "encoder.layers.2": ok}, path)
        case "nothing":
            save_file({}, path)
        case "bytes not packed":
            save_file({"encoder.layers.0": np.ones(9, dtype=np.uint8)}, path)
        case "packed without width":
            save_file({"encoder.layers.0": np.ones(2, dtype=np.uint8)}, path, {"packed": "true"})
        case "packed width":
            save_file(
                {"encoder.layers.0": np.ones(2, dtype=np.uint8)},
                path,
                {"packed": "true", "d_ff": json.dumps({"encoder.layers.0": 17})},
            )
        case "packed trailing bits":
            save_file({"encoder.layers.0": np.full(2, 255, np.uint8)}, path, {"packed": "true", "d_ff": "9"})
        case "packed width no number":
            save_file({"encoder.layers.0": np.ones(2, np.uint8)}, path, {"packed": "true", "d_ff": '["x"]'})
        case "folder":
            path.unlink()
            path.mkdir()


HOSTILE = [
    "empty", "text", "cut short", "longer", "header length", "beyond the end", "byte 2", "no neuron",
    "floats", "matrix", "zero width", "foreign name", "padded number", "gap", "nothing", "bytes not packed",
    "packed without width", "packed width", "packed trailing bits", "packed width no number", "folder",
]  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "de-en.safetensors"
    hostile(path, kind)
    with pytest.raises(MaskError, match=r"de-en\.safetensors"):
        read_masks(path)


@pytest.mark.parametrize("mask", [np.ones((2, 2), dtype=np.bool_), np.ones(2, dtype=np.uint8)])
def test_what_is_no_vector_of_bools_is_not_written(tmp_path: Path, mask: np.ndarray) -> None:
    for packed in (False, True):
        with pytest.raises(MaskError, match=r"a mask is bool\[d_ff\]"):
            write_masks(tmp_path / "de-en.safetensors", {"encoder.layers.0": mask}, {}, packed=packed)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "de-en.safetensors"
    write_masks(path, {"encoder.layers.0": np.ones(3, dtype=np.bool_)}, {})
    before = path.read_bytes()
    with pytest.raises(MaskError, match="keeps no neuron"):
        write_masks(path, {"encoder.layers.0": np.zeros(3, dtype=np.bool_)}, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_composed_masks_take_encoder_and_decoder_from_different_directions() -> None:
    def masks(direction: str, encoder: list[int], decoder: list[int]) -> LayerMasks:
        layers = {
            "encoder.layers.0": np.array(encoder, dtype=np.bool_),
            "decoder.layers.0": np.array(decoder, dtype=np.bool_),
        }
        return LayerMasks(layers, {"direction": direction, "k": "95.0"})

    composed = compose(masks("de-en", [1, 0], [1, 1]), masks("en-fr", [0, 1], [0, 1]))
    assert composed.layers["encoder.layers.0"].tolist() == [True, False]
    assert composed.layers["decoder.layers.0"].tolist() == [False, True]
    assert composed.metadata == {
        "k": "95.0",
        "encoder_from": "de-en",
        "decoder_from": "en-fr",
        "method": "composed",
    }


def test_masks_of_different_models_are_not_composed() -> None:
    one = LayerMasks({"encoder.layers.0": np.ones(4, dtype=np.bool_)}, {})
    other = LayerMasks({"encoder.layers.0": np.ones(5, dtype=np.bool_)}, {})
    with pytest.raises(MaskError, match="different layers or widths"):
        compose(one, other)
