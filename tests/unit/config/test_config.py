"""The configuration: closed, typed, consistent, and what is derived from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.config import (
    Config,
    Recipe,
    Training,
    load_config,
    parse_config,
    parse_recipe,
    parse_spec,
    recipe_of,
)
from neuron_specialization.config.advice import advice
from neuron_specialization.config.comparisons import unequal_training
from neuron_specialization.corpora.spec import CorpusSpec, corpus_spec_of
from neuron_specialization.errors import ConfigError
from neuron_specialization.evaluation.tables import DirectionGroup, direction_sets
from tests.conftest import REPOSITORY


def values(**changes: Any) -> dict[str, Any]:
    """A small valid configuration, with top-level keys replaced."""
    base: dict[str, Any] = {
        "experiment": "small",
        "languages": ["en", "de", "es", "ru"],
        "tiers": {"high": ["de"], "low": ["es", "ru"]},
        "corpus": {"train_caps": {"high": 200, "low": 100}},
        "training": {"max_updates": 50, "lr": 1e-3},
        "finetuning": {"max_updates": 20},
        "masks": {"k95": {"k": 95}, "k80": {"k": 80}},
        "systems": {
            "baseline": {},
            "continued": {"from": "baseline", "training": {"lr": 2e-3}},
            "ns": {"from": "baseline", "masks": "k95"},
        },
    }
    return base | changes


def parsed(**changes: Any) -> Config:
    return parse_config(values(**changes))


def test_the_default_configuration_is_as_the_commented_file_says() -> None:
    config = load_config(REPOSITORY / "config.yaml")
    assert len(config.all_directions()) == 18
    assert list(config.systems) == ["baseline", "continued", "ns"]
    assert config.systems["ns"].masks == "k95" and config.masks["k95"].k == 95


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sead": 1}, ["sead: unknown key; did you mean 'seed'?"]),
        ({"model": {"dmodel": 4}}, ["model.dmodel: unknown key; did you mean 'd_model'?"]),
        (
            {"corpus": {"cleaning": {"max_word": 3}}},
            ["corpus.cleaning.max_word", "did you mean 'max_words'?"],
        ),
        ({"masks": {"k95": {"kk": 3}}}, ["masks.k95.kk: unknown key", "valid here: sides, k, tie_break"]),
        ({"systems": {"b": {"form": "b"}}}, ["systems.b.form: unknown key; did you mean 'from'?"]),
        ({"systems": {"b": {"training": {"lrr": 1}}}}, ["systems.b.training.lrr", "did you mean 'lr'?"]),
        ({"testsets": {"t": {"sauce": "folder"}}}, ["testsets.t.sauce", "did you mean 'source'?"]),
        ({"nothing_like_it_at_all": 1}, ["nothing_like_it_at_all: unknown key (valid here: experiment,"]),
        ({"masks": {"k95": {"k": 0}}}, ["masks.k95.k", "greater than 0"]),
        ({"masks": {"k95": {"k": 100.01}}}, ["masks.k95.k", "less than or equal to 100"]),
        ({"training": {"lr": "fast"}}, ["training.lr", "'fast'"]),
        ({"training": {"dropout": 1.0}}, ["training.dropout", "less than 1"]),
        ({"training": {"lr": float("nan")}}, ["training.lr is not a finite number"]),
        ({"training": {"adam_betas": [0.9]}}, ["training.adam_betas"]),
        ({"languages": ["en"]}, ["at least two languages"]),
        ({"languages": ["en", "de", "de"]}, ["listed twice: de"]),
        ({"languages": ["en", "de; rm -rf ~", "es", "ru"]}, ["languages.1"]),
        ({"languages": ["en", "pt-BR"]}, ["languages.1: 'pt-BR' is not a language code", "perhaps 'pt_BR'"]),
        ({"languages": ["en", "DE"]}, ["languages.1: 'DE' is not a language code", "perhaps 'de'"]),
        ({"languages": ["en", "German"]}, ["languages.1: 'German' is not a language code"]),
        ({"experiment": "a/b"}, ["experiment"]),
        ({"experiment": ".."}, ["experiment"]),
        ({"experiment": "my run"}, ["experiment: 'my run' is not a name", "perhaps 'my_run'"]),
        ({"experiment": 2024}, ["experiment: YAML reads it as a number (2024)", 'e.g. "2024"']),
        ({"languages": ["en", "de", False]}, ["languages.2: YAML reads no", 'in quotes, e.g. "no"']),
        ({"pivot": False}, ["pivot: YAML reads no"]),
        ({"masks": {95: {"k": 95}}}, ["masks.95", "in quotes"]),
        ({"pivot": "fr"}, ["pivot 'fr' is not among languages"]),
        ({"directions": []}, ["directions: is empty"]),
        ({"directions": ["en-de", "en-de"]}, ["directions: en-de is listed twice"]),
        ({"directions": ["en-fr"]}, ["directions: en-fr uses 'fr', which languages: does not list"]),
        ({"directions": ["en"]}, ["directions: 'en' is not a direction: write <source>-<target>"]),
        ({"directions": ["de-de"]}, ["translates a language into itself"]),
        ({"tiers": {"high": ["fr"]}, "corpus": {}}, ["tiers.high: 'fr' is not among languages"]),
        ({"tiers": {"high": ["de"], "low": ["de"]}}, ["'de' is in both high and low"]),
        ({"tiers": {"high": "de"}}, ["tiers.high: must be a list, e.g. [a, b] (given: 'de')\n  next"]),
        ({"tiers": "ec40"}, ["valid:\n  - tiers: Input should be 'ec30' (given: 'ec40')\n  next"]),
        ({"mirror": 5}, ["valid:\n  - mirror: must be a mapping"]),
        ({"systems": {"baseline": None}}, ["systems.baseline: must be a mapping", "(given: nothing)"]),
        ({"masks": {"k95": 95}}, ["masks.k95: must be a mapping of keys", "(given: 95)"]),
        ({"corpus": {"train_caps": {"middle": 5}}}, ["no tier is called middle"]),
        ({"corpus": {"source": "local"}}, ["set corpus.path"]),
        ({"corpus": {"source": "internet"}}, ["corpus.source", "'internet'"]),
        ({"model": {"d_model": 100, "heads": 3}}, ["model.heads (3) must divide model.d_model (100)"]),
        ({"systems": {}}, ["systems: is empty"]),
        ({"systems": {"ns": {"masks": "k95"}}}, ["systems.ns: masks need a trained model", "set from:"]),
        ({"systems": {"a": {"from": "a"}}}, ["no other system is called 'a'"]),
        ({"systems": {"a": {"from": "b"}}}, ["no other system is called 'b'"]),
        (
            {"systems": {"a": {}, "b": {"from": "a"}, "c": {"from": "b"}}},
            ["systems.c.from: 'b' is not a baseline"],
        ),
        ({"systems": {"a": {}, "b": {"from": "a", "masks": "k9"}}}, ["no selection is called 'k9'"]),
        (
            {
                "systems": {
                    **{"a": {}, "b": {}},
                    **{"c": {"from": "a", "masks": "k95"}, "d": {"from": "b", "masks": "k95"}},
                }
            },
            ["masks are made from one baseline", "go on from a, b"],
        ),
        ({"testsets": {"t": {"source": "folder"}}}, ["needs path:"]),
        ({"testsets": {"t": {"path": "mine"}}}, ["testsets.t: path: is for source: folder or flores200"]),
        ({"tiers": {"all": ["de"]}}, ["tiers: 'all' has a meaning in the tables"]),
        # what scoring would refuse after the trainings
        ({"testsets": {}}, ["testsets: is empty"]),
        ({"testsets": {"t": {"splits": []}}}, ["testsets.t.splits: List should have at least 1 item"]),
        ({"testsets": {"t": {"splits": ["dev", "dev"]}}}, ["testsets.t.splits: listed twice: dev"]),
        ({"scoring": {"metrics": []}}, ["scoring.metrics: List should have at least 1 item"]),
        ({"scoring": {"metrics": ["bleu", "bleu"]}}, ["scoring.metrics: listed twice: bleu"]),
        ({"scoring": {"bootstrap_samples": 1}}, ["one resample makes no interval"]),
        ({"report": {"trials": 1}}, ["report.trials: Input should be greater than or equal to 2"]),
        ({"corpus": {"path": "mine"}}, ["corpus.path is for corpus.source: local or data-bin"]),
        ({"corpus": {"keep_out": ["heldout"]}}, ["corpus.keep_out: 'heldout' is no test set with source"]),
        (
            {"corpus": {"source": "data-bin", "path": "x", "keep_out": ["t"]}},
            ["corpus.keep_out: a data-bin is taken as it is"],
        ),
        ({"zero_shot": ["de-fr"]}, ["zero_shot: de-fr uses 'fr', which languages: does not list"]),
        ({"zero_shot": ["de-es", "de-es"]}, ["zero_shot: de-es is listed twice"]),
        ({"zero_shot": ["de-en"]}, ["zero_shot: de-en is among the trained directions"]),
        ({"zero_shot": ["de"]}, ["'de' is not a direction"]),
        (
            {"zero_shot": ["en-ru"], "directions": ["en-de", "de-en"]},
            ["zero_shot: en-ru must lead", "around the pivot (en)"],
        ),
        (
            {"zero_shot": ["de-ru"], "directions": ["de-es"], "pivot": None},
            ["around the pivot (none is set)"],
        ),
        (
            {"zero_shot": ["de-ru"], "directions": ["de-en", "ru-en"]},
            ["zero_shot: de-ru needs de-en and en-ru to be trained", "directions: lacks en-ru"],
        ),
        ({"scoring": {"comet": {"modell": "x"}}}, ["scoring.comet.modell: unknown key"]),
        ({"scoring": {"metrics": ["bleurt"]}}, ["scoring.metrics.0", "'bleurt'"]),
    ],
)
def test_refused(changes: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(**changes)
    for part in told:
        assert part in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(sead=1, model={"heads": -1}, scoring={"confidence": 2})
    for part in ("sead", "model.heads", "scoring.confidence"):
        assert part in str(caught.value)


@pytest.mark.parametrize("given", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError):
        parse_config(given)


def test_k_of_100_and_just_above_0_are_allowed() -> None:
    assert parsed(masks={"k95": {"k": 100}, "x": {"k": 1e-9}}).masks["k95"].k == 100


def test_directions_around_the_pivot() -> None:
    config = parsed()
    assert [str(one) for one in config.all_directions()] == [
        "en-de",
        "en-es",
        "en-ru",
        "de-en",
        "es-en",
        "ru-en",
    ]
    assert config.pairs() == ["de-en", "en-es", "en-ru"]


def test_listed_directions_keep_their_order() -> None:
    config = parsed(directions=["ru-de", "de-ru", "en-de"], pivot=None)
    assert [str(one) for one in config.all_directions()] == ["ru-de", "de-ru", "en-de"]
    assert config.pairs() == ["de-ru", "de-en"]
    assert [row["group"] for row in config.groups()] == ["X→Y"] * 3


def test_groups() -> None:
    rows = {row["direction"]: row for row in parsed().groups()}
    assert rows["en-de"] == {"direction": "en-de", "group": "en→X", "tier": "high", "branch": "Germanic"}
    assert rows["ru-en"] == {"direction": "ru-en", "group": "X→en", "tier": "low", "branch": "Slavic"}


def test_languages_in_no_tier_are_no_mean_of_all() -> None:
    config = parsed(tiers={"low": ["es", "ru"]}, corpus={})
    groups = [DirectionGroup(**row) for row in config.groups()]
    assert {row.direction: row.tier for row in groups}["en-de"] == "no tier"
    # nor are they where a list of groups calls them so
    for rows in (groups, [replace(row, tier="all") if row.tier == "no tier" else row for row in groups]):
        sets = direction_sets(rows)
        assert len({entry[:3] for entry in sets}) == len(sets)
        assert [len(entry[3]) for entry in sets if entry[:3] == ("all", "all", "all")] == [6]


def test_zero_shot_directions_are_scored_and_never_trained() -> None:
    config = parsed(zero_shot=["de-es", "es-ru", "es-de"])
    plain = parsed()
    assert config.all_directions() == plain.all_directions() and config.pairs() == plain.pairs()
    assert config.scored_directions() == [*plain.all_directions(), *config.zero_shot_directions()]
    assert [str(one) for one in config.zero_shot_directions()] == ["de-es", "es-ru", "es-de"]
    assert config.zero_shot_pairs() == ["de-es", "es-ru"]
    # what is trained, and what with, stays as it was
    for system in config.systems:
        assert recipe_of(config, system) == recipe_of(plain, system)
    assert corpus_spec_of(config) == corpus_spec_of(plain)
    rows = config.groups()
    assert rows[:6] == plain.groups()
    assert rows[6:] == [
        {"direction": "de-es", "group": "zero-shot", "tier": "mixed tiers", "branch": "mixed branches"},
        {"direction": "es-ru", "group": "zero-shot", "tier": "low", "branch": "mixed branches"},
        {"direction": "es-de", "group": "zero-shot", "tier": "mixed tiers", "branch": "mixed branches"},
    ]


def test_a_trained_pair_may_have_a_zero_shot_direction_back() -> None:
    config = parsed(directions=["de-en", "en-es", "es-de"], zero_shot=["de-es"])
    assert config.zero_shot_pairs() == []


def test_a_language_in_no_tier_is_in_the_tier_all() -> None:
    rows = {row["direction"]: row["tier"] for row in parsed(tiers={}, corpus={}).groups()}
    assert set(rows.values()) == {"all"}


def test_train_caps_of_a_pair_are_the_smaller_of_its_languages() -> None:
    config = parsed(directions=["de-ru", "en-de", "en-ru"])
    assert [config.train_cap(pair) for pair in ("de-ru", "de-en", "en-ru")] == [100, 200, 100]
    assert parsed(corpus={}).train_cap("de-en") is None


def test_training_of_layers_finetuning_and_the_systems_own() -> None:
    config = parsed()
    assert (config.training_of("baseline").max_updates, config.training_of("baseline").lr) == (50, 1e-3)
    assert (config.training_of("continued").max_updates, config.training_of("continued").lr) == (20, 2e-3)
    assert (config.training_of("ns").max_updates, config.training_of("ns").lr) == (20, 1e-3)


def test_a_key_given_with_its_default_overrides() -> None:
    # `dropout: 0.1` under finetuning: is a decision, though 0.1 is the default
    config = parsed(training={"dropout": 0.3}, finetuning={"dropout": Training().dropout})
    assert config.training_of("baseline").dropout == 0.3
    assert config.training_of("ns").dropout == 0.1


def test_mask_baseline() -> None:
    systems = {"old": {}, "base": {}, "ns": {"from": "base", "masks": "k95"}}
    assert parsed(systems=systems).mask_baseline() == "base"
    assert parsed(systems={"old": {}, "base": {}}).mask_baseline() == "old"


def test_unequal_training_of_two_systems_is_told() -> None:
    systems = {
        "baseline": {},
        "continued": {"from": "baseline"},
        "ns": {"from": "baseline", "masks": "k95"},
        "ns_long": {"from": "baseline", "masks": "k95", "training": {"max_updates": 80}},
        "often": {"from": "baseline", "training": {"validate_every": 7}},
        "scratch": {"training": {"max_updates": 20}},
        "theirs": {"checkpoint": "theirs.pt"},
        "theirs_too": {"checkpoint": "theirs.pt"},
    }
    config = parsed(systems=systems)

    def told(system: str, control: str) -> str:
        return unequal_training(config, system, control)

    assert told("ns", "continued") == told("often", "continued") == told("theirs", "theirs_too") == ""
    assert "ns had 20 more updates than baseline" in told("ns", "baseline")
    assert told("ns_long", "continued") == (
        "ns_long and continued were not trained alike: max_updates 80 against 20."
    )
    assert "from baseline against from scratch" in told("ns", "scratch")
    assert "theirs was not trained here" in told("ns", "theirs")


def test_the_recipe_survives_json_and_names_a_run() -> None:
    recipe = recipe_of(parsed(), "ns")
    again = parse_recipe(recipe.model_dump_json())
    assert again == recipe
    assert again.fingerprint(data="0" * 64) == recipe.fingerprint(data="0" * 64)


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"seed": 1},
            {"languages": ["de", "en", "es", "ru"]},
            {"training": {"max_updates": 50, "lr": 1.1e-3}},
        ),
        *(
            {"model": {"d_ff": 1024}},
            {"directions": ["en-de"]},
            {"finetuning": {"max_updates": 20, "dropout": 0}},
        ),
    ],
)
def test_the_fingerprint_tells_runs_apart(change: dict[str, Any]) -> None:
    assert recipe_of(parsed(**change), "ns").fingerprint() != recipe_of(parsed(), "ns").fingerprint()
    assert recipe_of(parsed(), "ns").fingerprint(data="a") != recipe_of(parsed(), "ns").fingerprint(data="b")


@pytest.mark.parametrize(
    "change",
    [
        {"translation": {"beam": 4}},
        {"masks": {"k95": {"k": 90}}},
        {"downloads": "/x"},
        {"mirror": "/y"},
        {"tiers": {}},
    ],
)
def test_the_fingerprint_holds_only_what_changes_the_training(change: dict[str, Any]) -> None:
    config = parsed(**{"corpus": {}, **change})
    assert recipe_of(config, "ns").fingerprint() == recipe_of(parsed(), "ns").fingerprint()


@pytest.mark.parametrize(
    ("key", "other"), [("sentence_multiple", 1), ("optimizer", "muon"), ("muon_lr_ratio", 0.5)]
)
def test_a_younger_key_at_its_default_leaves_older_runs_valid(key: str, other: object) -> None:
    plain, full = (recipe_of(parsed(training=training), "ns") for training in ({}, {key: other}))
    assert key not in plain.model_dump(mode="json")["training"]
    assert full.fingerprint() != plain.fingerprint()
    assert parse_recipe(full.model_dump_json()) == full
    default = getattr(plain.training, key)
    back = parsed(training={key: other}, finetuning={key: default})
    assert getattr(back.training_of("ns"), key) == default


@pytest.mark.parametrize("text", ["", "[]", "{", '{"system": "a"}', "null", "!!python/object:os.system {}"])
def test_broken_recipes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_recipe(text)


def test_specs_travel_as_json() -> None:
    spec = corpus_spec_of(parsed())
    assert parse_spec(CorpusSpec, spec.model_dump_json()) == spec
    with pytest.raises(ConfigError, match="not valid JSON"):
        parse_spec(CorpusSpec, "{", "corpus spec")
    with pytest.raises(ConfigError, match="unknown key"):
        parse_spec(CorpusSpec, json.dumps(spec.model_dump(mode="json") | {"x": 1}))


def test_files_merge_key_by_key(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(yaml.safe_dump(values()), encoding="utf-8")
    second.write_text("training: {lr: 0.5}\nlanguages: [en, de, es, ru, fr]\n", encoding="utf-8")
    config = load_config(first, second)
    assert (config.training.lr, config.training.max_updates) == (0.5, 50)
    assert config.languages[-1] == "fr"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"- a\n- b\n", b"a: [", b"a: !!python/object/apply:os.system [ls]"]
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("training: {lr: 0.5}\nmasks:\n  k95: {k: 95}\n  k95: {k: 90}\ntraining: {dropout: 0.2}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for part in ("training: in line 1 and in line 5", "masks.k95: in line 3 and in line 4", str(path)):
        assert part in str(caught.value)


def test_what_an_alias_overrides_stands_once(tmp_path: Path) -> None:
    text = yaml.safe_dump(values(training={})) + "finetuning: &f {lr: 0.5}\ntraining: {<<: *f, lr: 0.25}\n"
    path = tmp_path / "merged.yaml"
    path.write_text(text.replace("training: {}\n", "", 1).replace("finetuning:\n  max_updates: 20\n", ""))
    config = load_config(path)
    assert (config.training.lr, config.finetuning.lr) == (0.25, 0.5)


def test_an_error_names_the_files_of_the_configuration(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(yaml.safe_dump(values()), encoding="utf-8")
    second.write_text("sead: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"where: {first}, {second}"):
        load_config(first, second)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_the_configuration_does_not_change_after_validation() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        parsed().seed = 3  # type: ignore[misc]


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Config.model_fields)), yaml_values)
def test_any_value_anywhere_is_accepted_or_refused_with_a_message(key: str, value: Any) -> None:
    try:
        config = parsed(**{key: value})
    except ConfigError as error:
        assert "next:" in str(error) or "finite" in str(error)
    else:
        assert isinstance(recipe_of(config, next(iter(config.systems))), Recipe)


def test_the_comparison_is_of_the_demonstrations_systems() -> None:
    """As configs/comparison.yaml says: the same text and systems; vocabulary, model, recipe are its own."""
    demo, comparison = (load_config(REPOSITORY / name) for name in ("config.yaml", "configs/comparison.yaml"))
    for key in ("languages", "pivot", "tiers", "corpus", "testsets"):
        assert getattr(demo, key) == getattr(comparison, key), key
    assert (demo.vocabulary.size, demo.model.encoder_layers, demo.model.heads) == (8000, 2, 2)
    assert demo.vocabulary.model_copy(update={"size": 4000}) == comparison.vocabulary
    assert demo.model.model_copy(update={"heads": 4, "encoder_layers": 3}) == comparison.model
    assert demo.systems.items() <= comparison.systems.items()
    shorter = {
        "sentence_multiple",
        "max_updates",
        "warmup_updates",
        "validate_every",
        "save_every",
        "dropout",
    }
    for name, system in demo.systems.items():
        one, other = (config.training_of(name).model_dump() for config in (demo, comparison))
        # what goes on from the baseline has Adam in both
        also = set() if system.init else {"optimizer", "lr"}
        assert {key for key in one if one[key] != other[key]} == shorter | {"muon_lr_ratio"} | also
        assert other["optimizer"] == "adam"
        assert one["max_updates"] < other["max_updates"]


def test_twice_the_width_goes_on_as_documented() -> None:
    """docs/evaluation.md has its scores: it keeps what it was trained with, whatever config.yaml becomes."""
    wide = load_config(REPOSITORY / "config.yaml", REPOSITORY / "configs/overrides/wide.yaml")
    comparison = load_config(REPOSITORY / "configs/comparison.yaml")
    assert wide.vocabulary == comparison.vocabulary
    assert wide.model == comparison.model.model_copy(update={"d_model": 256, "d_ff": 1024})
    for name in ("continued", "ns"):
        assert wide.training_of(name) == comparison.training_of(name)
    assert wide.training_of("baseline") == comparison.training_of("baseline").model_copy(
        update={"max_updates": 2000, "lr": 1.5e-3, "validate_every": 1000, "save_every": 1000}
    )


@pytest.mark.parametrize(
    ("k", "told"),
    [
        (95, []),
        (1.01, []),
        (
            0.95,
            ["masks.k95.k is 0.95, in percent: next to no neuron is kept; if a share was meant, write 95"],
        ),
        ({"from_pivot": 90, "to_pivot": {"encoder": 95, "decoder": 0.8}}, ["masks.k95.k.to_pivot.decoder"]),
    ],
)
def test_a_share_in_the_place_of_percent_is_told(k: Any, told: list[str]) -> None:
    found = advice(parsed(masks={"k95": {"k": k}, "unused": {"k": 0.5}}))
    assert len(found) == len(told)
    assert all(text in line for text, line in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("languages", "metrics", "told"),
    [
        (["en", "th", "de", "my_Mymr"], ["bleu", "chrf++"], "th, my_Mymr"),
        (["en", "th"], ["bleu", "spbleu"], None),
        (["en", "th"], ["chrf++"], None),
        (["en", "zh", "ja", "ko", "de"], ["bleu"], None),
    ],
)
def test_bleu_of_text_without_spaces_is_told(
    languages: list[str], metrics: list[str], told: str | None
) -> None:
    found = advice(parsed(languages=languages, tiers={}, corpus={}, scoring={"metrics": metrics}))
    assert [f"BLEU finds no words in {told}, " in line for line in found] == ([True] if told else [])
