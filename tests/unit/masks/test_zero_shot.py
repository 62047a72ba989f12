"""Zero-shot directions: their test text, their masks, and the models that translate them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuron_specialization.cli import main
from neuron_specialization.config import parse_config
from neuron_specialization.corpora.prepare import prepare_corpus
from neuron_specialization.corpora.spec import CorpusSpec, corpus_spec_of
from neuron_specialization.corpora.zero_shot import pair_by_pivot
from neuron_specialization.errors import CorpusError, MaskError, TranslationError
from neuron_specialization.evaluation.tables import DirectionGroup, direction_sets
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.export.model_directory import read_provenance
from neuron_specialization.masks.zero_shot import compose_zero_shot
from neuron_specialization.storage.files import read_lines, sha256_of
from neuron_specialization.storage.layer_masks import read_masks, write_masks
from neuron_specialization.translation.engine import SearchOptions
from neuron_specialization.translation.translator import Translator
from tests.fakes.corpora import corpus_spec, local_files, write_text
from tests.fakes.models import SMALL, random_masks, write_random_model

LANGUAGES = ["en", "de", "ru"]
DIRECTIONS = ["en-de", "de-en", "en-ru", "ru-en"]
LINES = ["Turn on the light", "Open the door", "", "the battery of the sensor", "window", "12:30"]


# ---- test text ----


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    write_text(
        folder,
        {
            "de-en.de": ["eins", "zwei ", "drei"],
            "de-en.en": ["one", "two", "three"],
            "en-ru.en": ["one", "two", "three"],
            "en-ru.ru": ["один", "два", "три"],
        },
    )
    return folder


def test_text_is_paired_by_the_pivot(texts: Path) -> None:
    main(["pair-by-pivot", "--texts", str(texts), "--directions", "de-ru,ru-de", "--pivot", "en"])
    # byte for byte: a score is comparable only on the published references
    for code, pair in (("de", "de-en"), ("ru", "en-ru")):
        assert (texts / f"de-ru.{code}").read_bytes() == (texts / f"{pair}.{code}").read_bytes()
    assert len(list(texts.iterdir())) == 6


@pytest.mark.parametrize(
    ("english", "told"),
    [
        (["one", "2", "three"], "line 2 of de-en.en and of en-ru.en differ"),
        (["one", "two"], "en-ru.ru has 3 lines, en-ru.en has 2"),
    ],
)
def test_text_that_is_not_parallel_is_refused(texts: Path, english: list[str], told: str) -> None:
    write_text(texts, {"en-ru.en": english})
    with pytest.raises(CorpusError) as caught:
        pair_by_pivot(texts, ["de-ru"], "en")
    assert told in str(caught.value)
    assert not (texts / "de-ru.de").exists()


def test_held_out_text_of_the_embedded_corpus_can_be_paired(small_corpus: Path, tmp_path: Path) -> None:
    held = tmp_path / "heldout"
    held.mkdir()
    for path in (small_corpus / "heldout").iterdir():
        (held / path.name).write_bytes(path.read_bytes())
    files = pair_by_pivot(held, ["de-ru"], "en")
    assert files["de-ru.de"] == sha256_of(small_corpus / "heldout/de-en.de")
    assert files["de-ru.ru"] == sha256_of(small_corpus / "heldout/en-ru.ru")


def zero_shot_spec() -> CorpusSpec:
    return corpus_spec().model_copy(update={"heldout_pairs": ["de-ru"]})


def test_local_text_needs_test_files_for_them(tmp_path: Path) -> None:
    write_text(tmp_path / "text", local_files())
    with pytest.raises(CorpusError) as caught:
        prepare_corpus("local", tmp_path / "text", zero_shot_spec(), tmp_path / "corpus")
    assert "test.de-ru.de and test.de-ru.ru are missing" in str(caught.value)
    assert "de-ru (zero_shot:) only test" in str(caught.value)
    # of the zero-shot pair nothing but test text
    assert "train.de-ru" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_their_local_test_text_stays_out_of_the_training_text(tmp_path: Path) -> None:
    files = local_files()
    write_text(tmp_path / "text", files)
    plain = prepare_corpus("local", tmp_path / "text", corpus_spec(), tmp_path / "plain")
    # another English wording, but the German side is a test sentence of de-ru
    files["test.de-ru.de"] = [files["train.de-en.de"][3] + "!", "nichts davon"]
    files["test.de-ru.ru"] = ["что-то", "ничего"]
    write_text(tmp_path / "text", files)
    made = prepare_corpus("local", tmp_path / "text", zero_shot_spec(), tmp_path / "corpus")
    assert made["pairs"] == plain["pairs"]
    assert made["decontaminated"]["de-en"] == plain["decontaminated"]["de-en"] + 1
    assert made["splits"]["heldout"]["de-ru"]["segments"] == 2
    assert "de-ru" not in made["splits"]["train"] and "de-ru" not in made["splits"]["valid"]
    assert read_lines(tmp_path / "corpus/heldout/de-ru.ru") == ["что-то", "ничего"]


def test_only_local_text_must_hold_it() -> None:
    values = {"experiment": "x", "languages": LANGUAGES, "systems": {"b": {}}, "zero_shot": ["de-ru"]}
    local = {"source": "local", "path": "text"}
    flores = {"flores": {"source": "folder", "path": "flores"}}
    assert corpus_spec_of(parse_config(values)).heldout_pairs == []
    assert corpus_spec_of(parse_config(values | {"corpus": local})).heldout_pairs == ["de-ru"]
    assert corpus_spec_of(parse_config(values | {"corpus": local, "testsets": flores})).heldout_pairs == []
    # a specification without such pairs is what it was before there were any
    assert "heldout_pairs" not in corpus_spec_of(parse_config(values)).model_dump_json()


# ---- masks ----


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    made = random_masks(SMALL, DIRECTIONS)
    folder = tmp_path / "masks"
    for name, layers in made.items():
        # packed or not: all are read
        metadata = {"k": "95", "direction": name, "model_sha256": "m", "activations_sha256": name}
        write_masks(folder / f"{name}.safetensors", layers, metadata, packed=name.startswith("en"))
    return folder


def test_masks_are_composed_of_both_parts(masks: Path) -> None:
    main(["compose-masks", "--masks", str(masks), "--directions", "de-ru,ru-de", "--packed"])
    made = read_masks(masks / "de-ru.safetensors")
    encoder, decoder = read_masks(masks / "de-en.safetensors"), read_masks(masks / "en-ru.safetensors")
    assert list(made.layers) == ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0"]
    for name, mask in made.layers.items():
        part = encoder if name.startswith("encoder") else decoder
        assert (mask == part.layers[name]).all()
    assert made.metadata["direction"] == "de-ru" and made.metadata["method"] == "composed"
    assert (made.metadata["k"], made.metadata["model_sha256"]) == ("95", "m")
    assert json.loads(made.metadata["parents"]) == {
        part: sha256_of(masks / f"{part}.safetensors") for part in ("de-en", "en-ru")
    }
    # what made the parts different made neither the whole
    assert "activations_sha256" not in made.metadata


def test_what_cannot_be_composed_is_refused(masks: Path) -> None:
    with pytest.raises(MaskError, match="de-en has the pivot en"):
        compose_zero_shot(masks, ["de-en"], "en")
    (masks / "en-ru.safetensors").unlink()
    with pytest.raises(MaskError, match="have no mask: en-ru"):
        compose_zero_shot(masks, ["de-ru"], "en")


def test_masks_of_the_papers_size_take_less_than_a_megabyte(tmp_path: Path) -> None:
    """60 directions, 12 layers, 4,096 neurons."""
    generator = np.random.default_rng(0)
    names = [f"{side}.layers.{index}" for side in ("encoder", "decoder") for index in range(6)]
    sha256 = "0" * 64
    metadata = {"method": "activations", "k": "95.0", "tie_break": "torch-sort", "model_sha256": sha256}
    for number in range(60):
        layers = {name: generator.random(4096) < 0.6 for name in names}
        path = tmp_path / f"{number}.safetensors"
        origin = {"direction": "en-de", "activations_sha256": sha256, **metadata}
        write_masks(path, layers, origin, packed=True)
        assert (read_masks(path).layers["decoder.layers.5"] == layers["decoder.layers.5"]).all()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000


# ---- models ----


def test_a_specialised_model_translates_under_the_composed_mask(
    tmp_path: Path, trained_vocabulary: Path, masks: Path
) -> None:
    model = write_random_model(tmp_path / "model.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    main(["compose-masks", "--masks", str(masks), "--directions", "de-ru"])
    export_system(model, trained_vocabulary, tmp_path / "ns", masks=write_without_origin(masks))
    assert read_provenance(tmp_path / "ns/de-ru")["mask"]["encoder_from"] == "de-en"
    # the same written out wide: rows of masked neurons are 0, in a dense model that was not trained on de-ru
    state = torch.load(model, weights_only=True)
    for layer, kept in read_masks(masks / "de-ru.safetensors").layers.items():
        state["model"][f"{layer}.fc1.weight"][~torch.from_numpy(kept.copy())] = 0
    torch.save(state, tmp_path / "wide.pt")
    export_system(tmp_path / "wide.pt", trained_vocabulary, tmp_path / "wide")
    options = SearchOptions(max_length=20)
    narrow = Translator.load(tmp_path / "ns/de-ru").hypotheses(LINES, "de-ru", options)
    wide = Translator.load(tmp_path / "wide/dense").hypotheses(LINES, "de-ru", options)
    assert [[one.text for one in line] for line in narrow] == [[one.text for one in line] for line in wide]
    other = Translator.load(tmp_path / "ns/en-ru").hypotheses(LINES, "en-ru", options)
    assert [line[0].text for line in other] != [line[0].text for line in narrow]
    with pytest.raises(TranslationError, match="does not translate ru-de"):
        Translator.load(tmp_path / "ns").translate(LINES, "ru-de")


def write_without_origin(folder: Path) -> Path:
    """Masks that do not say which model they were made from, as a random model is nobody's."""
    for path in folder.iterdir():
        read = read_masks(path)
        metadata = {key: value for key, value in read.metadata.items() if key != "model_sha256"}
        write_masks(path, read.layers, {k: v for k, v in metadata.items() if k not in ("packed", "d_ff")})
    return folder


def test_a_dense_model_translates_them_without_being_loaded_twice(
    tmp_path: Path, trained_vocabulary: Path
) -> None:
    model = write_random_model(tmp_path / "model.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    export_system(model, trained_vocabulary, tmp_path / "baseline")
    translator = Translator.load(tmp_path / "baseline")
    assert sorted(map(str, translator.directions)) == sorted(DIRECTIONS)
    assert translator.open("de-ru")[0] is translator.open("de-en")[0] is translator.open("ru-de")[0]
    with pytest.raises(TranslationError, match="does not translate de-fr"):
        translator.translate(LINES, "de-fr")


# ---- tables ----


def test_they_are_a_group_of_their_own_outside_the_mean_of_all() -> None:
    rows = [
        DirectionGroup("en-de", "en→X", "high", "Germanic"),
        DirectionGroup("de-en", "X→en", "high", "Germanic"),
        DirectionGroup("de-ru", "zero-shot", "mixed", "mixed"),
    ]
    sets = {
        (group, tier, branch): [row.direction for row in members]
        for group, tier, branch, members in direction_sets(rows)
    }
    assert sets["all", "all", "all"] == ["en-de", "de-en"]
    assert sets["zero-shot", "all", "all"] == ["de-ru"]
    assert ("all", "mixed", "all") not in sets
