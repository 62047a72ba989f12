"""Masks chosen otherwise than by activity: pure functions, and the selections made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuron_specialization.activations.counts import Counts, read_activations, write_activations
from neuron_specialization.checkpoints.checkpoint import Checkpoint, plain_state, write_model
from neuron_specialization.cli import main
from neuron_specialization.config import MaskSpec, parse_spec
from neuron_specialization.errors import ConfigError, MaskError
from neuron_specialization.masks import making as mask_making
from neuron_specialization.masks import methods
from neuron_specialization.masks.making import SETTINGS, Origins, recorded_settings
from neuron_specialization.masks.selection import select
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import LayerMasks, read_masks, write_masks
from tests.fakes.models import SMALL, random_parameters

MASKS = hnp.arrays(np.bool_, st.integers(1, 70)).filter(lambda mask: bool(mask.any()))
STACKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 40))).filter(
    lambda masks: bool(masks.any(axis=1).all())
)
SEEDS = st.integers(0, 2**31 - 1)
LAYERS = ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0")
DIRECTIONS = ["en-de", "en-nl", "en-es", "de-en", "nl-en", "es-en"]
D_FF = 32


# ---- pure functions ----


@given(MASKS, SEEDS)
def test_random_masks_keep_as_many_neurons_and_repeat(mask: np.ndarray, seed: int) -> None:
    layers = dict.fromkeys(LAYERS, mask)
    drawn = methods.drawn(layers, seed, "de-en")
    assert all(drawn[name].sum() == mask.sum() and drawn[name].shape == mask.shape for name in LAYERS)
    again = methods.drawn(layers, seed, "de-en")
    assert all((drawn[name] == again[name]).all() for name in LAYERS)


def test_random_masks_differ_by_seed_direction_and_layer() -> None:
    mask = np.arange(512) < 256
    layers = dict.fromkeys(LAYERS, mask)
    one = methods.drawn(layers, 222, "de-en")
    assert (one[LAYERS[0]] != one[LAYERS[1]]).any()
    for other in (methods.drawn(layers, 223, "de-en"), methods.drawn(layers, 222, "en-de")):
        assert all((one[name] != other[name]).any() for name in LAYERS)
    # a direction's draw does not depend on what else is drawn
    assert (methods.drawn({LAYERS[1]: mask}, 222, "de-en")[LAYERS[1]] == one[LAYERS[1]]).all()


def test_every_neuron_is_as_likely_to_be_drawn() -> None:
    mask = np.arange(10) < 3
    drawn = [
        methods.drawn({"encoder.layers.0": mask}, seed, "de-en")["encoder.layers.0"] for seed in range(2000)
    ]
    # 600 expected of each, standard deviation 20.5
    assert np.abs(np.sum(drawn, axis=0) - 600).max() < 90


@given(STACKS, SEEDS)
def test_permuted_masks_overlap_as_before(masks: np.ndarray, seed: int) -> None:
    permuted = np.stack(
        [methods.permuted({"decoder.layers.0": mask}, seed)["decoder.layers.0"] for mask in masks]
    )
    before, after = masks.astype(int), permuted.astype(int)
    assert (before @ before.T == after @ after.T).all()


def test_permuted_masks_are_not_the_same_neurons() -> None:
    mask = np.arange(512) < 256
    assert (methods.permuted({"decoder.layers.0": mask}, 222)["decoder.layers.0"] != mask).any()


@given(STACKS)
def test_the_union_holds_each_and_the_intersection_is_held_by_each(masks: np.ndarray) -> None:
    union = methods.combined(list(masks), "union")
    assert all((union | mask == union).all() for mask in masks)
    assert (union <= masks.any(axis=0)).all()
    intersection = methods.combined(list(masks), "intersection")
    assert intersection.any()
    common = masks.all(axis=0)
    if common.any():
        assert (intersection == common).all()
    else:
        # the neuron that most keep, and no other
        assert intersection.sum() == 1
        assert masks.sum(axis=0)[intersection][0] == masks.sum(axis=0).max()


def test_only_known_combinations() -> None:
    with pytest.raises(MaskError, match="union or intersection, not by 'sum'"):
        methods.combined([np.ones(3, np.bool_)], "sum")


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(0, 9).map(float)), st.data())
def test_the_largest_are_kept(scores: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, scores.size))
    mask = methods.largest(scores, count)
    assert mask.sum() == count
    if count < scores.size:
        kept, left = np.flatnonzero(mask), np.flatnonzero(~mask)
        assert scores[kept].min() >= scores[left].max()
        # of equal ones the lower index
        tied = scores[kept].min()
        assert max(kept[scores[kept] == tied]) < min([*left[scores[left] == tied], scores.size])


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(MaskError, match="not finite"):
        methods.largest(np.array([1.0, float("nan")]), 1)
    for count in (0, 3):
        with pytest.raises(MaskError, match=f"{count} of 2 neurons"):
            methods.largest(np.ones(2), count)


def test_row_magnitudes() -> None:
    assert methods.row_magnitudes(np.array([[1, -2], [0, 0.5]], np.float32)).tolist() == [3.0, 0.5]


@pytest.mark.parametrize(
    ("width", "percent", "count"), [(512, 70, 359), (10, 30, 3), (10, 0.1, 1), (7, 100, 7), (1000, 0.1, 1)]
)
def test_the_fewest_neurons_that_are_a_share(width: int, percent: float, count: int) -> None:
    assert methods.count_of(width, percent) == count


def test_one_side() -> None:
    layers = {name: np.arange(4) < 2 for name in LAYERS}
    kept = methods.only_side(layers, "encoder")
    assert [mask.sum() for mask in kept.values()] == [2, 2, 4]
    assert [mask.sum() for mask in methods.only_side(layers, "decoder").values()] == [4, 4, 2]
    assert [mask.sum() for mask in methods.only_side(layers, "both").values()] == [2, 2, 2]


def test_families() -> None:
    found = methods.members([*DIRECTIONS, "de-es", "en-xx"], "en")
    assert found == {
        "en→Germanic": ["en-de", "en-nl"],
        "en→Romance": ["en-es"],
        "Germanic→en": ["de-en", "nl-en"],
        "Romance→en": ["es-en"],
        "Germanic→Romance": ["de-es"],
        "en→xx": ["en-xx"],  # no branch is known: a family of its own
    }


# ---- selections ----


@pytest.fixture
def activations(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    for name in DIRECTIONS:
        layers = {layer: generator.integers(0, 100, D_FF) ** 3 for layer in LAYERS}
        counts = Counts(layers, {"encoder": 9, "decoder": 9}, sentences=3, skipped=0)
        write_activations(
            tmp_path / f"activations/{name}.safetensors", counts, {"direction": name, "model_sha256": "m"}
        )
    return tmp_path / "activations"


def spec(selection: dict[str, Any], **values: Any) -> MaskSpec:
    given = {"selection": selection, "directions": DIRECTIONS, "pivot": "en", **values}
    return parse_spec(MaskSpec, json.dumps(given))


def make_masks(spec: MaskSpec, origins: Origins) -> dict[str, LayerMasks]:
    """Make them, and hold what their metadata say of settings against what is expected of such masks."""
    made = mask_making.make_masks(spec, origins)
    for name, masks in made.items():
        told = {key: value for key, value in masks.metadata.items() if key in SETTINGS}
        assert told == recorded_settings(spec, name)
    return made


@pytest.fixture
def k80(activations: Path, tmp_path: Path) -> Path:
    for name, masks in make_masks(spec({"k": 80}), Origins(activations)).items():
        write_masks(tmp_path / f"k80/{name}.safetensors", masks.layers, masks.metadata)
    return tmp_path / "k80"


def kept(masks: LayerMasks) -> list[int]:
    return [int(mask.sum()) for mask in masks.layers.values()]


def counts_of(activations: Path, name: str, layer: str) -> np.ndarray:
    return read_activations(activations / f"{name}.safetensors")[0][layer]


def test_a_k_for_each_side_and_group(activations: Path) -> None:
    chosen = {"from_pivot": 50, "to_pivot": {"encoder": 95, "decoder": 60}}
    made = make_masks(spec({"k": chosen}), Origins(activations))
    for name, ks in (("en-de", (50, 50)), ("nl-en", (95, 60))):
        for layer in LAYERS:
            k = ks[0] if layer.startswith("encoder") else ks[1]
            assert (made[name].layers[layer] == select(counts_of(activations, name, layer), k)).all()
    assert made["en-de"].metadata["k"] == "50.0"
    assert json.loads(made["nl-en"].metadata["k"]) == {"encoder": 95.0, "decoder": 60.0}
    # a direction without the pivot
    other = make_masks(spec({"k": {**chosen, "other": 30}}, pivot="es"), Origins(activations))
    assert other["en-de"].metadata["k"] == "30.0" and other["en-es"].metadata["k"] != "30.0"


def test_the_default_selection_writes_what_it_always_did(activations: Path) -> None:
    masks = make_masks(spec({"k": 95}), Origins(activations))["en-de"]
    assert masks.metadata == {
        "method": "activations",
        "direction": "en-de",
        "k": "95.0",
        "tie_break": "index",
        "activations_sha256": sha256_of(activations / "en-de.safetensors"),
        "model_sha256": "m",
    }


def test_one_side_is_in_the_metadata(activations: Path) -> None:
    masks = make_masks(spec({"k": 50, "sides": "decoder"}), Origins(activations))["en-de"]
    assert kept(masks)[:2] == [D_FF, D_FF] and kept(masks)[2] < D_FF
    assert masks.metadata["sides"] == "decoder"


@pytest.mark.parametrize("draw", ["neurons", "permutation"])
def test_random(k80: Path, draw: str) -> None:
    selection = {"method": "random", "like": "k80", "draw": draw}
    made = make_masks(spec(selection, seed=5), Origins(like=k80))
    for name in DIRECTIONS:
        parent = read_masks(k80 / f"{name}.safetensors")
        assert kept(made[name]) == kept(parent)
        assert any((made[name].layers[layer] != parent.layers[layer]).any() for layer in LAYERS)
        assert json.loads(made[name].metadata["parents"]) == {"k80": sha256_of(k80 / f"{name}.safetensors")}
        assert made[name].metadata["seed"] == "5" and made[name].metadata["model_sha256"] == "m"
    again = make_masks(spec(selection, seed=6), Origins(like=k80))
    assert any((again["en-de"].layers[layer] != made["en-de"].layers[layer]).any() for layer in LAYERS)


@pytest.mark.parametrize("combine", ["union", "intersection", "pooled"])
def test_family(activations: Path, k80: Path, combine: str) -> None:
    selection = {"method": "family", "like": "k80", "combine": combine}
    made = make_masks(spec(selection, like={"k": 80}), Origins(activations, like=k80))
    assert list(made) == DIRECTIONS
    parents = {name: read_masks(k80 / f"{name}.safetensors") for name in DIRECTIONS}
    for layer in LAYERS:
        germanic = made["en-de"].layers[layer]
        assert (germanic == made["en-nl"].layers[layer]).all()
        both = parents["en-de"].layers[layer], parents["en-nl"].layers[layer]
        if combine == "pooled":
            total = counts_of(activations, "en-de", layer) + counts_of(activations, "en-nl", layer)
            assert (germanic == select(total, 80)).all()
        else:
            assert (germanic == (both[0] | both[1] if combine == "union" else both[0] & both[1])).all()
        # a family of one keeps its own
        assert (made["en-es"].layers[layer] == parents["en-es"].layers[layer]).all()
    metadata = made["en-nl"].metadata
    assert (metadata["direction"], metadata["family"], metadata["combine"]) == (
        "en-nl",
        "en→Germanic",
        combine,
    )
    assert list(json.loads(metadata["parents"])) == ["en-de", "en-nl"]


TUNED = ["en-de", "de-en"]
WIDTH = int(SMALL["encoder_ffn_embed_dim"])
RANKS = {name: (np.arange(WIDTH) * 7 + 5 * shift) % WIDTH for shift, name in enumerate(TUNED)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model a direction; the weights of neuron i of every layer are ± RANKS[direction][i]."""
    signs = torch.tensor([1.0, -1.0]).repeat(8)
    for name, ranks in RANKS.items():
        parameters = random_parameters(SMALL, vocabulary_size=20)
        for layer in LAYERS:
            parameters[f"{layer}.fc1.weight"] = torch.tensor(ranks).float().unsqueeze(1) * signs
        path = tmp_path / "models" / name / "model.pt"
        checkpoint = Checkpoint(path, "project", parameters, SMALL, ["en", "de"], [name])
        write_model(path, plain_state(checkpoint, provenance={}, sampling_temperature=1.0))
        facts = {"model_sha256": f"tuned-{name}", "inputs": {"init": "baseline"}}
        path.with_name("model.json").write_text(json.dumps(facts))
    return tmp_path / "models"


def test_magnitude(models: Path, tmp_path: Path) -> None:
    made = make_masks(spec({"method": "magnitude", "keep": 25}, directions=TUNED), Origins(models=models))
    for name, masks in made.items():
        assert all((mask == (RANKS[name] >= WIDTH - WIDTH // 4)).all() for mask in masks.layers.values())
        assert masks.metadata["model_sha256"] == "baseline" and masks.metadata["keep"] == "25.0"
        assert json.loads(masks.metadata["parents"]) == {f"{name}/model.pt": f"tuned-{name}"}
    # as many as another selection keeps, layer by layer
    parents = {layer: np.arange(WIDTH) < number for number, layer in enumerate(LAYERS, start=3)}
    for name in TUNED:
        write_masks(tmp_path / f"like/{name}.safetensors", parents, {"direction": name})
    like = {"method": "magnitude", "like": "k95"}
    made = make_masks(spec(like, directions=TUNED), Origins(models=models, like=tmp_path / "like"))
    assert kept(made["de-en"]) == [3, 4, 5]
    assert (made["de-en"].layers[LAYERS[2]] == (RANKS["de-en"] >= WIDTH - 5)).all()


def test_a_model_of_another_direction_is_refused(models: Path) -> None:
    (models / "de-en").rename(models / "en-nl")
    with pytest.raises(MaskError, match="fine-tuned on de-en, not on en-nl alone"):
        make_masks(spec({"method": "magnitude", "keep": 25}, directions=["en-nl"]), Origins(models=models))


def test_activations_of_another_direction_are_refused(activations: Path) -> None:
    name, other = DIRECTIONS[:2]
    (activations / f"{name}.safetensors").replace(activations / f"{other}.safetensors")
    with pytest.raises(MaskError, match=f"the activations are of {name}, not of {other}"):
        make_masks(spec({"k": 80}, directions=[other]), Origins(activations))


def test_the_command(activations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = spec({"k": 80, "sides": "encoder"}).model_dump_json()
    output = tmp_path / "out"
    main(["masks", "--spec", text, "--activations", str(activations), "--output", str(output)])
    assert sorted(path.stem for path in output.iterdir()) == sorted(DIRECTIONS)
    assert read_masks(output / "en-de.safetensors").metadata["sides"] == "encoder"
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["masks", "--spec", text, "--k", "95", "--output", str(output)])
    with pytest.raises(SystemExit):
        main(["masks", "--spec", text, "--output", str(output)])
    assert "--activations" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--tie-break", "index"), ("--directions", "en-de")])
def test_what_the_spec_decides_is_not_given_twice(
    option: tuple[str, str], activations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output = spec({"k": 80}).model_dump_json(), tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["masks", "--spec", text, "--activations", str(activations), "--output", str(output), *option])
    assert end.value.code == 2 and f"{option[0]} belongs to --k" in capsys.readouterr().err
    assert not output.exists()


def test_a_folder_that_is_needed_and_not_given() -> None:
    with pytest.raises(ConfigError, match="made from like"):
        make_masks(spec({"method": "random", "like": "k80"}), Origins())
    with pytest.raises(ConfigError, match="read, not made"):
        make_masks(spec({"source": "folder"}), Origins())
