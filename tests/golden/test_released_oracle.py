"""Released models, taken over as configs/ec30-released.yaml does it; the oracle's stand in for EC30's.

The reference's data-bin, baseline and specialised checkpoint go through the functions behind the rules; the
translations of the data-bin's test split must be the reference's.
"""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from neuron_specialization.checkpoints import take_over as released
from neuron_specialization.checkpoints.checkpoint import load_checkpoint
from neuron_specialization.config import Config, Recipe, parse_config, recipe_of
from neuron_specialization.corpora.zero_shot import pair_by_pivot
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, MaskError, TranslationError
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.masks.zero_shot import compose_zero_shot
from neuron_specialization.preprocessing.take_over import take_over
from neuron_specialization.preprocessing.take_over import testset_from_data_bin as data_bin_testset
from neuron_specialization.storage.files import read_json, read_lines, sha256_of
from neuron_specialization.storage.layer_masks import write_masks
from neuron_specialization.translation.fairseq_engine import open_checkpoint
from neuron_specialization.translation.translator import Translator
from tests.conftest import shared_file

LANGUAGES = ["en", "de", "sv", "es", "it"]
SENTENCES = 200


def oracle_config(**changes: object) -> Config:
    values: dict[str, object] = {
        "experiment": "oracle",
        "languages": LANGUAGES,
        "directions": ["en-de", "de-en", "en-es", "es-en"],
        "corpus": {"source": "data-bin", "path": "data-bin"},
        "model": {"max_positions": 256},
        "systems": {
            "baseline": {"checkpoint": "./baseline.pt"},
            "ns": {"from": "baseline", "masks": "k95", "checkpoint": "./ns.pt"},
        },
        "testsets": {"test": {"source": "data-bin", "splits": ["test"]}},
    }
    return parse_config(values | changes)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The folders of a taken-over experiment."""

    root: Path

    @property
    def data_bin(self) -> Path:
        return self.root / "binarized"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    def system(self, name: str) -> Path:
        return self.root / "training" / name

    def take_over(
        self, checkpoint: Path, recipe: Recipe, output: Path, **options: object
    ) -> dict[str, object]:
        return released.take_over_model(checkpoint, output, recipe, data_bin=self.data_bin, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    result = Experiment(tmp_path_factory.mktemp("released"))
    config = oracle_config()
    take_over(
        shared_file("oracle", "data-bin"),
        result.data_bin,
        languages=config.languages,
        pairs=config.pairs(),
        shards=1,
        splits=config.data_bin_splits(),
        vocabulary=result.root / "vocabulary",
    )
    data_bin_testset(result.data_bin, ["test"], config.all_directions(), result.root / "testset")
    baseline = result.take_over(
        shared_file("oracle", "baseline.pt"), recipe_of(config, "baseline"), result.system("baseline")
    )
    with np.load(shared_file("oracle", "masks.npz")) as archive:
        for direction in map(str, config.all_directions()):
            layers = {
                "{}.layers.{}".format(*key.split("/")[1].split("_layer_")): archive[key]
                for key in archive
                if key.startswith(f"{direction}/")
            }
            metadata = {"k": "95", "direction": direction, "model_sha256": str(baseline["model_sha256"])}
            write_masks(result.masks / f"{direction}.safetensors", layers, metadata)
    result.take_over(
        shared_file("oracle", "ns.pt"),
        recipe_of(config, "ns"),
        result.system("ns"),
        masks=result.masks,
        init=result.system("baseline") / "model.json",
    )
    return result


def test_test_split_is_the_references_text(experiment: Experiment) -> None:
    lines = [
        line.split("\t")
        for line in read_lines(shared_file("oracle", "gen_en-de.ST.pieces.txt"))
        if line.startswith(("S-", "T-"))
    ]
    printed = {line[0]: line[-1] for line in lines}
    sources = read_lines(experiment.root / "testset" / "pieces" / "de-en.en")
    targets = read_lines(experiment.root / "testset" / "pieces" / "de-en.de")
    for number, text in ((int(key[2:]), text) for key, text in printed.items() if key.startswith("S-")):
        assert text == f"__en__ {sources[number]}"
        assert printed[f"T-{number}"] == targets[number].replace("<unk>", "<<unk>>")


def test_models(experiment: Experiment) -> None:
    for name in ("baseline", "ns"):
        folder = experiment.system(name)
        facts = read_json(folder / "model.json")
        assert facts["model_sha256"] == sha256_of(folder / "model.pt")
        assert facts["taken_over_from"] == f"{name}.pt"
        assert facts["inputs"]["checkpoint"] == sha256_of(shared_file("oracle", f"{name}.pt"))
        taken, original = (
            load_checkpoint(path) for path in (folder / "model.pt", shared_file("oracle", f"{name}.pt"))
        )
        assert taken.languages == LANGUAGES and taken.parameter_count == original.parameter_count == 1_901_824
        assert all(torch.equal(taken.parameters[key], value) for key, value in original.parameters.items())
    specialised = load_checkpoint(experiment.system("ns") / "model.pt")
    assert sorted(specialised.masks) == ["de-en", "en-de", "en-es", "es-en"]
    # with which it refuses other masks, as a model trained here does
    facts = read_json(experiment.system("ns") / "model.json")
    assert facts["inputs"]["init"] == read_json(experiment.system("baseline") / "model.json")["model_sha256"]


def test_translations_are_the_references(experiment: Experiment) -> None:
    export_system(
        experiment.system("ns") / "model.pt",
        experiment.root / "vocabulary",
        experiment.root / "models",
        masks=experiment.masks,
        directions=["en-de"],
        input_format="pieces",
    )
    sources = read_lines(experiment.root / "testset" / "pieces" / "de-en.en")[:SENTENCES]
    translator = Translator.load(experiment.root / "models" / "en-de", input_format="pieces")
    expected = {
        int(line.split("\t")[0][2:]): line.split("\t")[2]
        for line in read_lines(shared_file("oracle", "gen_en-de.H.detok.txt"))
    }
    assert translator.translate(sources, "en-de") == [expected[number] for number in range(SENTENCES)]
    # without the SentencePiece model there is no way to take text
    with pytest.raises(TranslationError, match="exported without a SentencePiece model"):
        Translator.load(experiment.root / "models" / "en-de").translate(["hello"], "en-de")


def test_a_zero_shot_direction_of_the_released_model(experiment: Experiment, tmp_path: Path) -> None:
    """Text by way of English from the data-bin, a composed mask, the same translations by both engines."""
    for part in ("", "pieces"):
        shutil.copytree(experiment.root / "testset" / part, tmp_path / "testset" / part, dirs_exist_ok=True)
        pair_by_pivot(tmp_path / "testset" / part, ["de-es"], "en")
    assert read_lines(tmp_path / "testset/de-es.es") == read_lines(experiment.root / "testset/en-es.es")
    sources = read_lines(tmp_path / "testset/pieces/de-es.de")[:5]
    (composed,) = compose_zero_shot(experiment.masks, ["de-es"], "en").values()
    write_masks(tmp_path / "masks/de-es.safetensors", composed.layers, composed.metadata, packed=True)
    model, vocabulary = experiment.system("ns") / "model.pt", experiment.root / "vocabulary"
    export_system(
        *(model, vocabulary, tmp_path / "models"),
        masks=tmp_path / "masks",
        directions=["de-es"],
        input_format="pieces",
    )
    exported = Translator.load(tmp_path / "models/de-es", input_format="pieces").translate(sources, "de-es")
    masked = open_checkpoint(
        model, vocabulary, mask=tmp_path / "masks/de-es.safetensors", input_format="pieces"
    )
    assert exported == masked.translate(sources, "de-es")
    assert all(exported)


def test_checkpoint_in_an_archive(experiment: Experiment, tmp_path: Path) -> None:
    archive = tmp_path / "released.tar.gz"
    with tarfile.open(archive, "w:gz") as handle:
        handle.add(shared_file("oracle", "baseline.pt"), "mT-big/checkpoint.pt")
        handle.add(shared_file("oracle", "README.md"), "mT-big/README")
    experiment.take_over(archive, recipe_of(oracle_config(), "baseline"), tmp_path / "system")
    model = load_checkpoint(tmp_path / "system" / "model.pt")
    original = load_checkpoint(shared_file("oracle", "baseline.pt"))
    assert all(torch.equal(model.parameters[key], value) for key, value in original.parameters.items())
    assert sorted(path.name for path in (tmp_path / "system").iterdir()) == ["model.json", "model.pt"]


def test_half_precision_becomes_single(experiment: Experiment, tmp_path: Path) -> None:
    state = torch.load(experiment.system("baseline") / "model.pt", weights_only=True)
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    experiment.take_over(tmp_path / "half.pt", recipe_of(oracle_config(), "baseline"), tmp_path / "system")
    model = load_checkpoint(tmp_path / "system" / "model.pt")
    assert {tensor.dtype for tensor in model.parameters.values()} == {torch.float32}


def test_what_does_not_fit_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    baseline, specialised = shared_file("oracle", "baseline.pt"), shared_file("oracle", "ns.pt")

    def refused(
        checkpoint: Path, recipe: Recipe, error: type[Exception], message: str, **options: object
    ) -> None:
        with pytest.raises(error, match=message):
            experiment.take_over(checkpoint, recipe, tmp_path / "system", **options)
        assert not (tmp_path / "system" / "model.pt").exists()

    other_order = oracle_config(languages=["en", "de", "es", "sv", "it"])
    refused(
        baseline, recipe_of(other_order, "baseline"), CheckpointError, "not the configuration's in this order"
    )
    fewer = oracle_config(languages=["en", "de", "es"])
    refused(baseline, recipe_of(fewer, "baseline"), CheckpointError, "not the configuration's\n")
    network = oracle_config(model={"max_positions": 256, "d_ff": 1024, "encoder_layers": 6})
    refused(baseline, recipe_of(network, "baseline"), CheckpointError, "(?s)encoder_layers: 6.*d_ff: 1024")
    recipe = recipe_of(oracle_config(), "ns")
    refused(specialised, recipe, MaskError, "specialised model and the configuration gives it no masks")
    refused(tmp_path / "missing.pt", recipe, CheckpointError, "missing")
    # another dictionary
    other = tmp_path / "binarized"
    other.mkdir()
    (other / "manifest.json").write_text('{"vocabulary_size": 3000}')
    with pytest.raises(CheckpointError, match=r"4006 symbols; .* are 3005"):
        released.take_over_model(
            baseline, tmp_path / "system", recipe_of(oracle_config(), "baseline"), data_bin=other
        )


def test_masks_of_another_selection_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    """A model of this project holds its masks; others do not replace them silently."""
    other = tmp_path / "masks"
    layers = {f"{side}.layers.{i}": np.ones(512, bool) for side in ("encoder", "decoder") for i in range(3)}
    for direction in map(str, oracle_config().all_directions()):
        write_masks(other / f"{direction}.safetensors", layers, {"direction": direction})
    with pytest.raises(MaskError, match="not those the model was trained with"):
        experiment.take_over(
            experiment.system("ns") / "model.pt",
            recipe_of(oracle_config(), "ns"),
            tmp_path / "system",
            masks=other,
        )


def test_direction_names(experiment: Experiment) -> None:
    """The test set serves both directions of a pair under one name."""
    manifest = read_json(experiment.root / "testset" / "manifest.json")
    assert manifest["pairs"] == [Direction("en", "de").pair, Direction("en", "es").pair]
    assert manifest["segments"] == {"de-en": 400, "en-es": 400}
