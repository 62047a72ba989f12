"""Exported models: what they compute, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron_specialization.checkpoints.fairseq_model import read_dictionary
from neuron_specialization.config.recipe import Recipe
from neuron_specialization.config.sections import Model, Training
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, CorpusError, MaskError, TranslationError
from neuron_specialization.export import ctranslate2_converter
from neuron_specialization.export.bundle import write_bundle
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.export.exportable import read_symbols
from neuron_specialization.export.model_directory import find_models, read_provenance
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.translation.ctranslate2_engine import CTranslate2Engine
from neuron_specialization.translation.engine import SearchOptions
from neuron_specialization.translation.translator import Translator
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

LANGUAGES = ["en", "de", "ru"]
DIRECTIONS = ["en-de", "de-en", "en-ru", "ru-en"]
LINES = ["Turn on the light", "Open the door", "", "the battery of the sensor", "window", "12:30"]


@pytest.fixture
def model(tmp_path: Path, trained_vocabulary: Path) -> Path:
    """A dense model."""
    return write_random_model(tmp_path / "dense.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)


@pytest.fixture
def masks() -> dict[str, dict[str, Any]]:
    return random_masks(SMALL, DIRECTIONS)


def zero_rows(path: Path, mask: dict[str, Any], target: Path) -> Path:
    """The masked model written out wide: the rows of masked neurons are 0."""
    state = torch.load(path, weights_only=True)
    for layer, kept in mask.items():
        state["model"][f"{layer}.fc1.weight"][~torch.from_numpy(kept)] = 0
    torch.save(state, target)
    return target


# ---- what a model computes ----


def test_compacted_equals_masked(
    model: Path, masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    folder = write_mask_folder(tmp_path / "masks", masks)
    written = export_system(model, trained_vocabulary, tmp_path / "narrow", masks=folder)
    assert sorted(path.name for path in written) == sorted(DIRECTIONS)
    narrow = Translator.load(tmp_path / "narrow")
    options = SearchOptions(max_length=20)
    texts = {}
    for name in DIRECTIONS:
        wide_model = zero_rows(model, masks[name], tmp_path / f"{name}.pt")
        export_system(wide_model, trained_vocabulary, tmp_path / f"wide-{name}")
        wide = Translator.load(tmp_path / f"wide-{name}")
        expected = wide.hypotheses(LINES, name, options)
        found = narrow.hypotheses(LINES, name, options)
        for (mine, *_), (other, *_) in zip(found, expected, strict=True):
            assert mine.text == other.text
            assert mine.score == pytest.approx(other.score, abs=1e-5)
        texts[name] = [best.text for best, *_ in found]
    dense = Translator.load(export_system(model, trained_vocabulary, tmp_path / "dense")[0])
    assert texts["de-en"] != dense.translate(LINES, "de-en", max_length=20), "the masks do something"


def test_masks_in_the_checkpoint_need_no_folder(
    masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    path = write_random_model(tmp_path / "ns.pt", trained_vocabulary, LANGUAGES, DIRECTIONS, masks=masks)
    folder = write_mask_folder(tmp_path / "masks", masks)
    export_system(path, trained_vocabulary, tmp_path / "a", directions=["ru-en"])
    export_system(path, trained_vocabulary, tmp_path / "b", directions=["ru-en"], masks=folder)
    assert sha256_of(tmp_path / "a" / "ru-en" / "model.bin") == sha256_of(
        tmp_path / "b" / "ru-en" / "model.bin"
    )
    assert not (tmp_path / "a" / "de-en").exists()
    with pytest.raises(MaskError, match="holds no mask for de-ru"):
        export_system(path, trained_vocabulary, tmp_path / "c", directions=["de-ru"])


def test_export_is_reproducible(
    model: Path, masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    folder = write_mask_folder(tmp_path / "masks", masks)
    for name in ("one", "two"):
        export_system(model, trained_vocabulary, tmp_path / name, masks=folder, directions=["en-de"])
    assert (tmp_path / "one" / "en-de" / "provenance.json").read_bytes() == (
        tmp_path / "two" / "en-de" / "provenance.json"
    ).read_bytes()


def test_inputs_as_long_as_the_positions_do_not_crash(trained_vocabulary: Path, tmp_path: Path) -> None:
    path = write_random_model(
        tmp_path / "m.pt",
        trained_vocabulary,
        LANGUAGES,
        DIRECTIONS,
        max_source_positions=256,
        max_target_positions=256,
    )
    export_system(path, trained_vocabulary, tmp_path / "models")
    engine = CTranslate2Engine(tmp_path / "models" / "dense")
    piece = read_symbols(trained_vocabulary, [])[10]
    assert engine.longest_source == 254
    for length in (254, 255, 300):  # beyond 254 only if a caller insists
        (found,) = engine.generate([[piece] * length], Direction("de", "en"), SearchOptions(max_length=250))
        assert 2 <= found[0].tokens <= 251


@pytest.mark.parametrize("form", ["models", "bundle"])
@pytest.mark.parametrize(("source", "target"), [(40, 60), (60, 40)])
def test_models_of_many_positions(
    form: str,
    source: int,
    target: int,
    trained_vocabulary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No row of the table is missing, and none is needed beyond the model's own positions."""
    monkeypatch.setattr(ctranslate2_converter, "LEAST_POSITIONS", 1)
    path = write_random_model(
        tmp_path / "m.pt",
        trained_vocabulary,
        LANGUAGES,
        DIRECTIONS,
        max_source_positions=source,
        max_target_positions=target,
    )
    write = export_system if form == "models" else write_bundle
    write(path, trained_vocabulary, tmp_path / "m")
    translator = Translator.load(tmp_path / "m", cache=tmp_path / "cache", input_format="pieces")
    piece = read_symbols(trained_vocabulary, [])[10]
    engine, _, longest = translator.open("de-en")
    assert longest == source - 2
    for beam in (1, 3):
        options = SearchOptions(beam, max_length=1000)
        found = engine.generate([[piece] * longest] * 4, Direction("de", "en"), options)
        assert max(one.tokens for one, *_ in found) == target, "the random model never ends by itself"
    with pytest.raises(
        TranslationError, match=r"CTranslate2 cannot translate(.|\n)*position(.|\n)*export it again"
    ):
        engine.generate([[piece] * 60], Direction("de", "en"), SearchOptions())


@pytest.mark.parametrize("quantization", ["int8", "int16", "float16"])
def test_smaller_weights(quantization: str, model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    export_system(model, trained_vocabulary, tmp_path / "full")
    export_system(model, trained_vocabulary, tmp_path / "small", quantization=quantization)
    sizes = [(tmp_path / name / "dense" / "model.bin").stat().st_size for name in ("full", "small")]
    assert sizes[1] < 0.9 * sizes[0]
    found = Translator.load(tmp_path / "small").translate(LINES, "de-en", max_length=10)
    assert len(found) == len(LINES)
    assert read_provenance(tmp_path / "small" / "dense")["quantization"] == quantization


def test_positions_are_fairseqs_to_the_bit() -> None:
    from fairseq.modules import SinusoidalPositionalEmbedding

    for d_model in (16, 128, 33):
        table = SinusoidalPositionalEmbedding.get_embedding(300, d_model, padding_idx=1)
        ours = ctranslate2_converter.sinusoidal_positions(298, d_model)
        assert (torch.from_numpy(ours) == table[2:300]).all()


# ---- what it says of itself ----


def test_provenance(
    model: Path, masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    folder = write_mask_folder(tmp_path / "masks", masks, method="activations")
    export_system(model, trained_vocabulary, tmp_path / "ns", masks=folder, system="ns")
    provenance = read_provenance(tmp_path / "ns" / "ru-en")
    kept = {layer: int(mask.sum()) for layer, mask in masks["ru-en"].items()}
    total = sum(mask.size for mask in masks["ru-en"].values())
    assert provenance["system"] == "ns"
    assert provenance["directions"] == ["ru-en"]
    assert provenance["languages"] == ["en", "ru"]
    assert provenance["neurons"] == kept
    assert provenance["mask"] == {
        "sha256": sha256_of(folder / "ru-en.safetensors"),
        "kept": pytest.approx(sum(kept.values()) / total, abs=1e-6),
        "k": "95",
        "direction": "ru-en",
        "method": "activations",
    }
    assert provenance["checkpoint"]["sha256"] == sha256_of(model)
    for name, entry in provenance["files"].items():
        file = tmp_path / "ns" / "ru-en" / name
        assert (file.stat().st_size, sha256_of(file)) == (entry["bytes"], entry["sha256"])


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ({}, " tokens, Adam (β 0.9, 0.98), learning rate 0.01 after 400"),
        (
            {"optimizer": "muon"},
            "Muon for the layers' matrices and Adam (β 0.9, 0.98) for all else, learning rate 0.01 after 400",
        ),
        ({"optimizer": "muon", "muon_lr_ratio": 0.5}, " 0.01 (of those matrices 0.005) after 400 updates"),
    ],
)
def test_the_card_tells_the_optimizer(
    optimizer: dict[str, Any], told: str, trained_vocabulary: Path, tmp_path: Path
) -> None:
    training = Training(lr=0.01, **optimizer)
    recipe = Recipe(
        system="a", languages=LANGUAGES, directions=DIRECTIONS, model=Model(), training=training, seed=1
    )
    provenance = {"recipe": recipe.model_dump(mode="json")}
    model = write_random_model(
        tmp_path / "m.pt", trained_vocabulary, LANGUAGES, DIRECTIONS, provenance=provenance
    )
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "m")
    assert told in (folder / "README.md").read_text(encoding="utf-8")


def test_a_dense_model_serves_its_directions(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "baseline")
    assert folder == tmp_path / "baseline" / "dense"
    expected = {Direction.parse(name): folder for name in DIRECTIONS}
    assert find_models(tmp_path / "baseline") == find_models(folder) == expected
    export_system(model, trained_vocabulary, tmp_path / "more", directions=["de-ru", "ru-de"])
    assert {str(one) for one in find_models(tmp_path / "more")} == {"de-ru", "ru-de"}


@pytest.mark.parametrize("name", ["model.bin", "spm.model", "shared_vocabulary.json"])
def test_a_changed_byte_is_refused(name: str, model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "models")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    translator = Translator.load(tmp_path / "models")
    with pytest.raises(TranslationError, match=rf"{name} is not the file that the model was made with"):
        translator.translate(LINES, "de-en")


# ---- written whole or not at all ----


def test_an_interrupted_export_leaves_what_was_there(
    model: Path, trained_vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "models")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def dies(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuron_specialization.export.provenance.write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        export_system(model, trained_vocabulary, tmp_path / "models", quantization="int8")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["dense"], "nothing half-made is left"


def test_an_export_replaces_an_older_one(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "models")
    # a workflow removes the outputs it names before a job runs; the rest of the old model is still there
    (folder / "provenance.json").unlink()
    (folder / "model.bin").unlink()
    export_system(model, trained_vocabulary, tmp_path / "models", quantization="int8")
    assert read_provenance(folder)["quantization"] == "int8"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["dense"]


def test_an_export_replaces_nothing_else(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "dense").mkdir(parents=True)
    (tmp_path / "models" / "dense" / "thesis.tex").write_text("years of work")
    with pytest.raises(TranslationError, match=r"thesis\.tex is no part of an exported model"):
        export_system(model, trained_vocabulary, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models" / "dense").iterdir()] == ["thesis.tex"]


# ---- what does not belong together ----


def test_masks_of_another_width(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    other = random_masks({**SMALL, "decoder_ffn_embed_dim": 32}, DIRECTIONS)
    folder = write_mask_folder(tmp_path / "masks", other)
    with pytest.raises(MaskError, match=r"decoder\.layers\.0 has 32 neurons in the mask, 24 in the model"):
        export_system(model, trained_vocabulary, tmp_path / "models", masks=folder)
    assert not (tmp_path / "models").exists()


def test_masks_of_another_depth(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    folder = write_mask_folder(tmp_path / "masks", random_masks({**SMALL, "encoder_layers": 1}, DIRECTIONS))
    with pytest.raises(MaskError, match=r"encoder\.layers\.1 has no neurons in the mask, 24 in the model"):
        export_system(model, trained_vocabulary, tmp_path / "models", masks=folder)


def test_a_missing_mask(
    model: Path, masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    folder = write_mask_folder(tmp_path / "masks", masks)
    (folder / "en-ru.safetensors").unlink()
    with pytest.raises(MaskError, match="no mask: en-ru"):
        export_system(model, trained_vocabulary, tmp_path / "models", masks=folder)
    assert not (tmp_path / "models").exists(), "told before the first model is written"


def test_masks_derived_from_another_model(
    masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    inputs = {"data": "0" * 64, "init": "a" * 64, "masks": "b" * 64}
    specialised = write_random_model(
        tmp_path / "ns.pt", trained_vocabulary, LANGUAGES, DIRECTIONS, provenance={"inputs": inputs}
    )
    right = write_mask_folder(tmp_path / "right", masks, model_sha256="a" * 64)
    wrong = write_mask_folder(tmp_path / "wrong", masks, model_sha256="c" * 64)
    export_system(specialised, trained_vocabulary, tmp_path / "models", masks=right)
    with pytest.raises(MaskError, match=r"derived from model cccccccccccc.*baseline this model started from"):
        export_system(specialised, trained_vocabulary, tmp_path / "models", masks=wrong)
    # a control that went on from the same baseline without masks has no use for them
    continued = write_random_model(
        tmp_path / "continued.pt",
        trained_vocabulary,
        LANGUAGES,
        DIRECTIONS,
        provenance={"inputs": {"data": "0" * 64, "init": "a" * 64}},
    )
    with pytest.raises(MaskError, match="trained without masks"):
        export_system(continued, trained_vocabulary, tmp_path / "models", masks=right)
    own = write_mask_folder(tmp_path / "own", masks, model_sha256=sha256_of(continued))
    export_system(continued, trained_vocabulary, tmp_path / "models", masks=own)


def test_masks_other_than_those_trained_with(
    masks: dict[str, dict[str, Any]], trained_vocabulary: Path, tmp_path: Path
) -> None:
    path = write_random_model(tmp_path / "ns.pt", trained_vocabulary, LANGUAGES, DIRECTIONS, masks=masks)
    changed = {name: {layer: mask.copy() for layer, mask in layers.items()} for name, layers in masks.items()}
    changed["de-en"]["encoder.layers.1"][5] ^= True
    folder = write_mask_folder(tmp_path / "masks", changed)
    with pytest.raises(
        MaskError, match=r"not the mask that de-en was trained with: encoder\.layers\.1 .* 1 neuron"
    ):
        export_system(path, trained_vocabulary, tmp_path / "models", masks=folder)


def test_a_specialised_model_without_its_masks(trained_vocabulary: Path, tmp_path: Path) -> None:
    path = write_random_model(
        tmp_path / "ns.pt",
        trained_vocabulary,
        LANGUAGES,
        DIRECTIONS,
        provenance={"inputs": {"init": "a" * 64, "masks": "b" * 64}},
    )
    with pytest.raises(MaskError, match="exported with its masks"):
        export_system(path, trained_vocabulary, tmp_path / "models")


def test_another_vocabulary(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    other = tmp_path / "vocabulary"
    shutil.copytree(trained_vocabulary, other)
    lines = (other / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "dict.txt").write_text("".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"dictionary has \d+ entries with its language tags, the model \d+"
    ):
        export_system(model, other, tmp_path / "models")
    (other / "dict.txt").write_text("piece without count\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"dict\.txt, line 1"):
        export_system(model, other, tmp_path / "models")
    (other / "dict.txt").unlink()
    with pytest.raises(CheckpointError, match="no dictionary"):
        export_system(model, other, tmp_path / "models")
    with pytest.raises(CheckpointError, match="no SentencePiece model"):
        shutil.copy(trained_vocabulary / "dict.txt", other)
        (other / "spm.model").unlink()
        export_system(model, other, tmp_path / "models")


def test_an_export_and_the_fairseq_engine_read_the_same_dictionary(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("a 1\nb 1\n", encoding="utf-8")
    (tmp_path / "dict.de.txt").write_text("b 1\na 1\n", encoding="utf-8")
    assert read_symbols(tmp_path, ["de"]) == read_dictionary(tmp_path, ["de"]).symbols
    (tmp_path / "dict.txt").unlink()
    assert read_symbols(tmp_path, ["de"]) == read_dictionary(tmp_path, ["de"]).symbols


def test_unknown_language_and_quantisation(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no language fr(.|\n)*en, de, ru"):
        export_system(model, trained_vocabulary, tmp_path / "models", directions=["fr-en"])
    with pytest.raises(TranslationError, match=r"unknown quantization 'int4'(.|\n)*int8"):
        export_system(model, trained_vocabulary, tmp_path / "models", quantization="int4")
    assert not list((tmp_path / "models").iterdir())


# ---- damaged and foreign directories ----


def test_damaged_directories_are_refused(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "models")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in whole:
        if name in ("provenance.json", "README.md"):
            continue
        (folder / name).unlink()
        with pytest.raises(TranslationError, match=f"lacks {name}"):
            Translator.load(folder)
        (folder / name).write_bytes(whole[name][:-5])
        with pytest.raises(TranslationError, match=rf"{name} has \d+ bytes, not \d+"):
            Translator.load(folder)
        (folder / name).write_bytes(whole[name])
    provenance = json.loads(whole["provenance.json"])
    (folder / "provenance.json").write_text("{")
    with pytest.raises(TranslationError, match="not valid JSON"):
        Translator.load(folder)
    for key in ("directions", "files", "format"):
        (folder / "provenance.json").write_text(json.dumps({**provenance, key: None}))
        kept = {name: value for name, value in provenance.items() if name != key}
        (folder / "provenance.json").write_text(json.dumps(kept))
        with pytest.raises(TranslationError, match=f"lacks {key}"):
            Translator.load(folder)
    (folder / "provenance.json").write_text(json.dumps({**provenance, "format": 99}))
    with pytest.raises(TranslationError, match="has format 99"):
        Translator.load(folder)
    (folder / "provenance.json").unlink()
    with pytest.raises(TranslationError, match=r"without provenance\.json"):
        Translator.load(folder)


def test_garbage_with_a_checksum_is_refused(model: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    (folder,) = export_system(model, trained_vocabulary, tmp_path / "models")
    provenance = read_provenance(folder)
    (folder / "model.bin").write_bytes(b"x" * provenance["files"]["model.bin"]["bytes"])
    provenance["files"]["model.bin"]["sha256"] = sha256_of(folder / "model.bin")
    (folder / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(TranslationError, match="CTranslate2 cannot load the model"):
        Translator.load(folder).translate(["a"], "de-en")


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(TranslationError, match="no such folder"):
        Translator.load(tmp_path / "nothing")
    with pytest.raises(TranslationError, match=r"provenance\.json is missing"):
        Translator.load(tmp_path)
