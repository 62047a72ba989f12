"""Seeds and the runs they make; mask selections in the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_specialization.config import (
    Config,
    MaskSpec,
    Training,
    magnitude_recipe_of,
    mask_baseline_run,
    mask_spec_of,
    parse_config,
    parse_recipe,
    parse_spec,
    recipe_of,
    selections_by_run,
    systems_by_run,
)
from neuron_specialization.config.comparisons import comparisons, control_of, main_comparisons, sweep
from neuron_specialization.errors import ConfigError

MASKS: dict[str, Any] = {
    "k95": {},
    "unused": {"k": 50},
    "random": {"method": "random", "like": "k95"},
    "lass": {"method": "magnitude", "keep": 70, "finetuning": {"max_updates": 9}},
    "family": {"method": "family", "like": "k95", "combine": "pooled"},
}


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "experiment": "x",
        "languages": ["en", "de"],
        "finetuning": {"max_updates": 40, "lr": 1e-3},
        "masks": MASKS,
        "systems": {
            "baseline": {},
            "continued": {"from": "baseline"},
            "random": {"from": "baseline", "masks": "random"},
            "lass": {"from": "baseline", "masks": "lass"},
        },
    }
    return parse_config(values | changes)


def test_without_seeds_there_is_one_run_of_each() -> None:
    plain = config()
    assert systems_by_run(plain) == plain.systems
    # those in use, and those they are made from
    assert selections_by_run(plain) == {name: plain.masks[name] for name in ("k95", "lass", "random")}


def test_a_further_seed_has_runs_of_its_own_all_the_way() -> None:
    two = config(seeds=[222, 5])
    runs = systems_by_run(two)
    assert list(runs)[:4] == list(two.systems)
    assert list(runs)[4:] == [f"{name}@5" for name in two.systems]
    assert (runs["random@5"].init, runs["random@5"].masks) == ("baseline@5", "random@5")
    selections = selections_by_run(two)
    assert sorted(selections) == ["k95", "k95@5", "lass", "lass@5", "random", "random@5"]
    assert selections["random@5"].parent == "k95@5"
    assert mask_baseline_run(two, "activations@5") == mask_baseline_run(two, "k95@5") == "baseline@5"
    assert mask_baseline_run(two, "activations") == "baseline"


def test_only_the_seed_of_a_recipe_differs() -> None:
    two = config(seeds=[222, 5])
    first, other = recipe_of(two, "random"), recipe_of(two, "random@5")
    # the first seed's recipe is what it is without seeds: nothing is trained again when seeds are added
    assert (
        first == recipe_of(config(), "random")
        and first.fingerprint() == recipe_of(config(), "random").fingerprint()
    )
    changed = {"system": "random@5", "seed": 5}
    assert other.model_dump() == first.model_dump() | changed
    assert parse_recipe(other.model_dump_json()) == other


def test_the_recipe_of_a_fine_tuning_on_one_direction() -> None:
    recipe = magnitude_recipe_of(config(seeds=[222, 5]), "lass@5", "de-en")
    assert (recipe.system, recipe.directions, recipe.seed) == ("lass@5/de-en", ["de-en"], 5)
    assert recipe.languages == ["en", "de"]
    # training, then finetuning, then the selection's own
    assert (recipe.training.max_updates, recipe.training.lr) == (9, 1e-3)
    assert parse_recipe(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("run", "needs", "seed"),
    [
        ("k95", ["activations"], 0),
        ("random", ["like"], 222),
        ("random@5", ["like"], 5),
        ("lass", ["models"], 0),
    ],
)
def test_what_decides_the_masks(run: str, needs: list[str], seed: int) -> None:
    spec = mask_spec_of(config(seeds=[222, 5]), run)
    assert (spec.needs, spec.seed, spec.directions) == (needs, seed, ["en-de", "de-en"])
    assert parse_spec(MaskSpec, spec.model_dump_json()) == spec


def test_how_models_are_fine_tuned_decides_no_mask_directly() -> None:
    # it decides the models, which are files: the masks are made again when these change
    assert mask_spec_of(config(), "lass").selection.finetuning == Training()  # type: ignore[union-attr]


def test_pooled_families_are_made_of_counts() -> None:
    systems = {"baseline": {}, "family": {"from": "baseline", "masks": "family"}}
    spec = mask_spec_of(config(systems=systems), "family")
    assert spec.needs == ["activations"] and spec.like is not None


def test_models_that_were_not_trained_here_have_one_run() -> None:
    systems = {
        "baseline": {"checkpoint": "model.pt"},
        "ns": {"from": "baseline", "masks": "random"},
        "released": {"from": "baseline", "checkpoint": "other.pt"},
    }
    two = config(seeds=[222, 5], systems=systems)
    assert list(systems_by_run(two)) == ["baseline", "ns", "released", "ns@5"]
    assert systems_by_run(two)["ns@5"].init == "baseline"
    assert mask_baseline_run(two, "random@5") == "baseline"
    # masks for which there is no system are not made
    assert sorted(selections_by_run(two)) == ["k95", "k95@5", "random", "random@5"]


def test_systems_are_compared_seed_by_seed() -> None:
    pairs = comparisons(config(seeds=[222, 5]))
    assert ("random@5", "continued@5") in pairs and ("random", "continued") in pairs
    assert all(a.partition("@")[2] == b.partition("@")[2] for a, b in pairs)


def test_a_system_may_have_fewer_seeds_and_controls_of_its_own() -> None:
    systems: dict[str, Any] = {
        "baseline": {},
        "continued": {"from": "baseline"},
        "ns": {"from": "baseline", "masks": "k95"},
        "single": {"from": "baseline", "masks": "k95", "compare_to": ["control", "ns"]},
        "control": {"from": "baseline"},
        "once": {"from": "baseline", "masks": "random", "seeds": [222]},
    }
    two = config(seeds=[222, 5], systems=systems)
    runs = systems_by_run(two)
    assert [name for name in runs if name.endswith("@5")] == [
        "baseline@5",
        "continued@5",
        "ns@5",
        "single@5",
        "control@5",
    ]
    # the masks of `once` are not made for a seed that it has not; those of `ns` are
    assert sorted(selections_by_run(two)) == ["k95", "k95@5", "random"]
    pairs = comparisons(two)
    assert len(pairs) == len(set(pairs))
    assert {pair for pair in pairs if "single" in pair} == {
        ("single", "control"),
        ("single", "ns"),
        ("single", "baseline"),
    }
    assert ("single@5", "control@5") in pairs and ("once", "continued") in pairs
    assert not any("once@5" in pair for pair in pairs)
    assert control_of(two) == "continued" and control_of(two, "single") == "control"
    # a figure for each comparison with a control
    assert main_comparisons(two) == [
        ("ns", "continued"),
        ("control", "continued"),
        ("once", "continued"),
        ("single", "control"),
        ("single", "ns"),
    ]


def test_the_common_control_is_the_one_that_the_report_names() -> None:
    assert control_of(config()) == "continued"
    named = config(report={"compare_to": "random"})
    assert control_of(named) == control_of(named, "lass") == "random"
    assert ("lass", "random") in main_comparisons(named)
    without = config(systems={"baseline": {}, "lass": {"from": "baseline", "masks": "lass"}})
    assert control_of(without) == "baseline"
    with pytest.raises(ConfigError, match=r"report\.compare_to: no system is called 'nobody'"):
        config(report={"compare_to": "nobody"})


def test_a_sweep_is_over_systems_that_differ_in_k_only() -> None:
    masks: dict[str, Any] = {f"k{k}": {"k": k} for k in (95, 50, 80, 70, 60, 90)}
    masks |= {"side": {"k": 40, "sides": "encoder"}, "two": {"k": {"encoder": 30, "decoder": 35}}}
    masks["random"] = {"method": "random", "like": "k95"}
    systems: dict[str, Any] = {"baseline": {}, "continued": {"from": "baseline", "masks": "k60"}}
    for name in ("k95", "k50", "side", "two", "random"):
        systems[name] = {"from": "baseline", "masks": name}
    del systems["k50"]
    assert sweep(config(masks=masks, systems=systems)) == []
    systems |= {
        "again": {"from": "baseline", "masks": "k95"},
        "k80": {"from": "baseline", "masks": "k80"},
        "longer": {"from": "baseline", "masks": "k70", "training": {"max_updates": 41}},
        "released": {"checkpoint": "model.pt", "from": "baseline", "masks": "k90"},
    }
    assert sweep(config(masks=masks, systems=systems)) == [
        ("k80", 80.0, "k80"),
        ("k95", 95.0, "k95"),
    ]


def test_fewer_seeds_of_a_system_that_goes_on_from_a_released_model() -> None:
    systems: dict[str, Any] = {
        "baseline": {"checkpoint": "model.pt"},
        "ns": {"from": "baseline", "masks": "k95"},
        "once": {"from": "baseline", "masks": "k95", "seeds": [222]},
        "twice": {"from": "baseline", "masks": "k95", "seeds": [222, 5]},
    }
    runs = systems_by_run(config(seeds=[222, 5], systems=systems))
    assert list(runs) == ["baseline", "ns", "once", "twice", "ns@5", "twice@5"]


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ({"seeds": [5]}, "systems.late.seeds: the first must be seed"),
        ({"seeds": [222, 6]}, "systems.late.seeds: 6 is not among seeds"),
        ({"from": "few", "seeds": [222, 5]}, "it goes on from few, which has no run with 5"),
        ({"from": "few"}, "it goes on from few, which has no run with 5"),
        ({"compare_to": ["nobody"]}, "no other system is called 'nobody'"),
        ({"compare_to": ["late"]}, "no other system is called 'late'"),
        ({"checkpoint": "model.pt", "seeds": [222]}, "it has a checkpoint"),
    ],
)
def test_seeds_and_controls_that_cannot_be(system: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(seeds=[222, 5], systems={"few": {"seeds": [222]}, "late": system})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [5, 222]}, "the first must be seed"),
        ({"seeds": [222, 5, 5]}, "listed twice: 5"),
        ({"seeds": [222, -1]}, "seeds.1"),
        ({"masks": {"a": {"method": "rand"}}}, "masks.a: method is one of activation, random"),
        ({"masks": {"a": {"method": "random"}}}, "masks.a.like: Field required"),
        ({"masks": MASKS | {"a": {"method": "random", "like": "b"}}}, "no other selection is called 'b'"),
        ({"masks": MASKS | {"a": {"method": "random", "like": "a"}}}, "no other selection is called 'a'"),
        ({"masks": MASKS | {"a": {"method": "random", "like": "random"}}}, "'random' is made from another"),
        ({"masks": MASKS | {"a": {"method": "family", "like": "lass"}}}, "not so 'lass'"),
        ({"masks": {"a": {"method": "magnitude"}}}, "either like: (a selection) or keep:"),
        ({"masks": {"k95": {}, "a": {"method": "magnitude", "like": "k95", "keep": 5}}}, "either like:"),
        ({"masks": {"a": {"method": "family", "like": "b", "k": 5}}}, "masks.a.k: unknown key"),
        ({"masks": {"a": {"k": {"encoder": 95}}}}, "masks.a.k.decoder: Field required"),
        ({"masks": {"a": {"k": {"encoder": 95, "decoder": 101}}}}, "masks.a.k.decoder: Input should be less"),
        ({"masks": {"a": {"k": {"from_pivot": 95}}}}, "masks.a.k.to_pivot: Field required"),
        ({"masks": {"a": {"k": {"from_pivot": 95, "to_pivot": {"encodr": 5}}}}}, "did you mean 'encoder'?"),
        ({"masks": {"a": {"sides": "left"}}}, "masks.a.sides"),
    ],
)
def test_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert told in str(caught.value)
    assert "<" not in str(caught.value)


def test_masks_of_one_model_do_not_fit_several() -> None:
    masks = {"k95": {"source": "folder"}}
    systems = {"baseline": {}, "ns": {"from": "baseline", "masks": "k95"}}
    with pytest.raises(ConfigError, match="trains the baseline 2 times"):
        config(seeds=[222, 5], masks=masks, systems=systems)
    config(masks=masks, systems=systems)
    systems["baseline"] = {"checkpoint": "model.pt"}
    config(seeds=[222, 5], masks=masks, systems=systems)
