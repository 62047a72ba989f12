"""Activation counts against the reference implementation's, integer by integer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from neuron_specialization.activations.as_reference import count_as_reference
from neuron_specialization.activations.counting import count_activations
from neuron_specialization.activations.counts import Counts, read_activations
from neuron_specialization.activations.texts import open_texts
from neuron_specialization.checkpoints.checkpoint import load_checkpoint
from neuron_specialization.cli import cli
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.storage.files import sha256_of
from tests.conftest import shared_file

DIRECTIONS = ["en-de", "de-en", "en-es", "es-en"]


@cache
def counted(max_tokens: int, *, padding: bool = False) -> dict[str, Counts]:
    model = load_checkpoint(shared_file("oracle", "baseline.pt"))
    texts = open_texts(model, shared_file("oracle", "data-bin"), DIRECTIONS)
    return dict(count_activations(model, texts, max_tokens=max_tokens, count_padding=padding))


def reference_counts() -> dict[str, dict[str, np.ndarray]]:
    """Direction → our layer name → int64[512]."""
    result: dict[str, dict[str, np.ndarray]] = {}
    with np.load(shared_file("oracle", "activations.npz")) as archive:
        for key in archive.files:
            direction, layer = key.split("/")
            side, number = layer.split("_layer_")
            result.setdefault(direction, {})[f"{side}.layers.{number}"] = archive[key]
    return result


def difference(a: dict[str, Counts], b: dict[str, Counts]) -> int:
    """How many integers differ."""
    return sum(
        int((a[name].layers[layer] != b[name].layers[layer]).sum()) for name in a for layer in a[name].layers
    )


def test_with_padding_every_integer_is_the_references() -> None:
    reference = reference_counts()
    assert sorted(reference) == sorted(DIRECTIONS)
    ours = counted(30000, padding=True)
    for name, layers in reference.items():
        assert list(ours[name].layers) == list(layers)
        for layer, counts in layers.items():
            np.testing.assert_array_equal(ours[name].layers[layer], counts, err_msg=f"{name} {layer}")


def test_without_padding_counts_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # the CPU's own limit would make most batches alike and the test empty
    monkeypatch.setattr("neuron_specialization.activations.real_tokens.CPU_BATCH", 10**9)
    model = load_checkpoint(shared_file("oracle", "baseline.pt"))
    texts = open_texts(model, shared_file("oracle", "data-bin"), ["en-de", "es-en"])
    whole = dict(count_activations(model, texts, max_tokens=30000))
    for max_tokens in (150, 2048, 4096):
        assert difference(dict(count_activations(model, texts, max_tokens=max_tokens)), whole) == 0


def test_without_padding_the_quick_pass_counts_what_fairseqs_model_counts() -> None:
    """One sentence a batch has no padding: the reference's way of counting is then ours."""
    model = load_checkpoint(shared_file("oracle", "baseline.pt"))
    (text,) = open_texts(model, shared_file("oracle", "data-bin"), ["en-de"])
    few = text.usable[::20]
    text = text.__class__(text.direction, text.source, text.target, text.source_tag, text.target_tag, few)
    (quick,) = dict(count_activations(model, [text], max_tokens=10_000)).values()

    one_by_one: dict[str, np.ndarray] = {}
    for index in few:
        single = text.__class__(
            text.direction, text.source, text.target, text.source_tag, text.target_tag, np.array([index])
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("neuron_specialization.activations.as_reference.BATCH_MULTIPLE", 1)
            ((_, counts),) = count_as_reference(model, [single], max_tokens=10_000)
        for layer, vector in counts.layers.items():
            one_by_one[layer] = one_by_one.get(layer, 0) + vector
    # float32 against float64: a sum within rounding of 0 may fall on either side
    off = sum(int(np.abs(quick.layers[layer] - one_by_one[layer]).sum()) for layer in one_by_one)
    assert off <= 2, off
    assert quick.sentences == len(few) == 10


def test_directions_from_the_same_text_share_their_encoder_counts() -> None:
    counts = counted(2048)
    for layer in ("encoder.layers.0", "encoder.layers.2"):
        assert (counts["en-de"].layers[layer] == counts["en-es"].layers[layer]).all()
        assert (counts["de-en"].layers[layer] != counts["es-en"].layers[layer]).any()
    assert (counts["en-de"].layers["decoder.layers.0"] != counts["en-es"].layers["decoder.layers.0"]).any()


def test_the_command_writes_files_that_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    from click.testing import CliRunner

    def run(output: Path, max_tokens: int) -> dict[str, object]:
        arguments = [
            "activations", "--checkpoint", str(shared_file("oracle", "baseline.pt")),
            "--data-bin", str(shared_file("oracle", "data-bin")), "--langs", "en,de,sv,es,it",
            "--directions", "en-de,de-en", "--split", "valid", "--max-tokens", str(max_tokens),
            "--output", str(output), "--json",
        ]  # fmt: skip
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        report: dict[str, object] = json.loads(result.stdout)
        return report

    report = run(tmp_path / "a", 2048)
    run(tmp_path / "b", 500)
    for name in ("en-de", "de-en"):
        path = tmp_path / "a" / f"{name}.safetensors"
        assert sha256_of(path) == sha256_of(tmp_path / "b" / f"{name}.safetensors")
        layers, metadata = read_activations(path)
        assert metadata["padding"] == "excluded" and metadata["direction"] == name
        assert metadata["model_sha256"] == sha256_of(shared_file("oracle", "baseline.pt"))
        assert all((layers[layer] == counted(2048)[name].layers[layer]).all() for layer in layers)
    # 200 sentences: 2,826 English and 4,173 German tokens as stored, and a tag each
    assert report["directions"]["en-de"]["positions"] == {"encoder": 3026, "decoder": 4373}  # type: ignore[index]


@pytest.mark.parametrize(
    ("directions", "languages", "split", "message"),
    [
        (["en-sv"], None, "valid", "en-sv has no valid text"),
        (["en-de"], None, "dev", "en-de has no dev text"),
        (["en-fr"], None, "valid", "no language 'fr'"),
        (["en-de"], ["en", "de"], "valid", "not the model's languages"),
        (["en-de"], ["de", "en", "sv", "es", "it"], "valid", "not in its order"),
    ],
)
def test_wrong_directions_languages_and_splits_are_refused(
    directions: list[str], languages: list[str] | None, split: str, message: str
) -> None:
    model = load_checkpoint(shared_file("oracle", "baseline.pt"))
    with pytest.raises(NeuronSpecializationError, match=message):
        open_texts(model, shared_file("oracle", "data-bin"), directions, split=split, languages=languages)
