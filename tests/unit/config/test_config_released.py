"""The configuration of data-bins, released checkpoints and mirrors; the two EC30 configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.config import Config, load_config, parse_config, recipe_of
from neuron_specialization.errors import ConfigError


def values(**changes: Any) -> dict[str, Any]:
    return {
        "experiment": "x",
        "languages": ["en", "de"],
        "corpus": {"source": "data-bin", "path": "somewhere"},
        "systems": {"baseline": {}},
        "testsets": {"test": {"source": "data-bin", "splits": ["test"]}},
    } | changes


@pytest.fixture(scope="module")
def ec30(repository: Path) -> Config:
    return load_config(repository / "configs" / "ec30.yaml")


@pytest.fixture(scope="module")
def released(repository: Path) -> Config:
    return load_config(repository / "configs" / "ec30-released.yaml")


def test_ec30_is_the_papers(ec30: Config) -> None:
    assert len(ec30.languages) == 31 and len(ec30.all_directions()) == 60
    tiers = ec30.tier_lists()
    assert " ".join(sorted(tiers["high"])) == "ar bn cs de es fr he hi nl ru"
    assert " ".join(sorted(tiers["medium"])) == "bg da ha it kn mr mt pl pt sv"
    assert " ".join(sorted(tiers["low"])) == "af am gu lb oc ro sd sr ti uk"
    for system in ("baseline", "ns"):
        training = ec30.training_of(system)
        # 645 k tokens an update: 7,680 × 21 × 4 GPUs
        assert training.max_tokens * training.micro_batches == 7680 * 21 * 4
        assert (training.lr, training.warmup_updates, training.scheduler) == (5e-4, 4000, "inverse_sqrt")
        assert (training.dropout, training.attention_dropout, training.label_smoothing) == (0.1, 0.1, 0.1)
        assert (training.sampling_temperature, training.precision, training.patience) == (5.0, "fp16", 20)
        assert training.max_updates == 900_000 and training.batching == "single-direction"
    model = ec30.model
    assert (model.encoder_layers, model.decoder_layers, model.d_model, model.d_ff, model.heads) == (
        *(6, 6, 1024, 4096, 16),
    )
    assert (model.embeddings, model.max_positions) == ("decoder-tied", 256)
    assert recipe_of(ec30, "ns").shards == 5
    assert ec30.data_bin_splits() == ["train", "valid", "test"]


def test_released_needs_no_training_text(ec30: Config, released: Config) -> None:
    assert released.data_bin_splits() == ["valid", "test"]
    assert released.systems["ns"].released == "ec30-ns"
    # language tags are numbered by this order: the same in both, and the reference's
    assert released.languages == ec30.languages
    assert released.languages[-6:] == ["ar", "he", "ha", "mt", "ti", "am"]
    for key in ("model", "activations", "masks", "corpus", "testsets", "scoring"):
        assert getattr(released, key) == getattr(ec30, key), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {"source": "data-bin"}}, "corpus.path or corpus.dataset"),
        ({"corpus": {"source": "data-bin", "dataset": "ec30-databin"}}, "did you mean 'ec30-data-bin'"),
        ({"corpus": {"source": "data-bin", "path": "x", "dataset": "ec30-data-bin"}}, "keep one"),
        ({"corpus": {"dataset": "ec30-data-bin"}, "testsets": {"t": {}}}, "corpus.dataset is for"),
        ({"corpus": {"segmentation": "spm.model"}, "testsets": {"t": {}}}, "corpus.segmentation is for"),
        ({"corpus": {"shards": 5}, "testsets": {"t": {}}}, "corpus.shards is for"),
        ({"testsets": {"heldout": {}}}, "no held-out text of its own"),
        ({"testsets": {"f": {"source": "flores200"}}}, "set corpus.segmentation"),
        ({"corpus": {}}, "the corpus is not a data-bin"),
        ({"systems": {"b": {"checkpoint": "ec30-baselin"}}}, "did you mean 'ec30-baseline'"),
        ({"systems": {"b": {"checkpoint": "ec30-ns", "training": {"lr": 1.0}}}}, "trained already"),
        ({"mirror": {"flores": "/data"}}, "did you mean 'flores200'"),
        ({"masks": {"m": {"source": "folder", "k": 90}}}, "k and tie_break have no use"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(values(**changes))


def test_checkpoint_is_a_name_or_a_file() -> None:
    systems = {
        "a": {"checkpoint": "ec30-baseline"},
        "b": {"checkpoint": "./x.tar"},
        "c": {"checkpoint": "m.pt"},
    }
    config = parse_config(values(systems=systems))
    assert [system.released for system in config.systems.values()] == ["ec30-baseline", None, None]
    assert config.data_bin_splits() == ["test"]


def test_masks_that_are_read_need_no_validation_text() -> None:
    systems = {
        "a": {"checkpoint": "ec30-baseline"},
        "b": {"from": "a", "masks": "m", "checkpoint": "ec30-ns"},
    }
    assert parse_config(values(systems=systems, masks={"m": {}})).data_bin_splits() == ["valid", "test"]
    assert parse_config(values(systems=systems, masks={"m": {"source": "x"}})).data_bin_splits() == ["test"]


def test_raw_text_needs_the_segmentation_model() -> None:
    corpus = {"source": "data-bin", "path": "x", "segmentation": "spm.model"}
    parse_config(values(corpus=corpus, testsets={"f": {"source": "flores200"}}))


def test_mirrors() -> None:
    assert parse_config(values()).mirror_of("flores200") is None
    assert parse_config(values(mirror="/data")).mirror_of("flores200") == "/data"
    some = parse_config(values(mirror={"ec30-ns": "https://example.org/ns.pt"}))
    assert some.mirror_of("ec30-ns") == "https://example.org/ns.pt" and some.mirror_of("flores200") is None
