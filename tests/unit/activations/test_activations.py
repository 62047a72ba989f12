"""Counting activations: against fairseq's own model, on small random models of any shape."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from neuron_specialization.activations.counting import count_activations
from neuron_specialization.activations.counts import Counts, read_activations, write_activations
from neuron_specialization.activations.real_tokens import Tally, batches
from neuron_specialization.activations.texts import DirectionText, open_texts
from neuron_specialization.checkpoints.checkpoint import Checkpoint, load_checkpoint, plain_state, write_model
from neuron_specialization.checkpoints.fairseq_model import build_model
from neuron_specialization.cli import cli
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CheckpointError, CorpusError, MaskError, NeuronSpecializationError
from neuron_specialization.formats.data_bin import Sentences, tagged
from neuron_specialization.formats.fairseq_settings import MODEL_DEFAULTS
from neuron_specialization.preprocessing.binarize import write_mmap
from neuron_specialization.storage.layer_masks import read_masks

LANGUAGES = ["en", "de", "es"]
WORDS = 40
VOCABULARY = 4 + WORDS + len(LANGUAGES)


def random_checkpoint(folder: Path, seed: int = 0, **settings: Any) -> Checkpoint:
    """A small model with random parameters; as made by the training stage."""
    torch.manual_seed(seed)
    merged = {
        **MODEL_DEFAULTS,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_embed_dim": 16,
        "decoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 20,
        "decoder_ffn_embed_dim": 12,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
        "share_decoder_input_output_embed": True,
        "max_source_positions": 64,
        "max_target_positions": 64,
        **settings,
    }
    import argparse
    from types import SimpleNamespace

    from fairseq.data import Dictionary
    from fairseq.models.transformer import TransformerModel

    dictionary = Dictionary()
    for number in range(VOCABULARY - len(dictionary)):
        dictionary.add_symbol(str(number))
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerModel.build_model(argparse.Namespace(**merged), task)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Checkpoint(
        path=folder / "model.pt",
        kind="project",
        parameters=dict(model.state_dict()),
        settings=merged,
        languages=LANGUAGES,
        directions=["en-de", "en-es", "de-en"],
        tags={"encoder_langtok": "src", "decoder_langtok": True, "lang_tok_style": "multilingual"},
    )


def write_data_bin(
    folder: Path, sentences: int = 23, longest: int = 19, seed: int = 0, *, multi_parallel: bool = True
) -> Path:
    """Text in three languages; de and es are translations of the same English if multi-parallel."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for code in LANGUAGES:
        lines = "".join(f"w{number} 1\n" for number in range(WORDS))
        (folder / f"dict.{code}.txt").write_text(lines, encoding="utf-8")

    def write(name: str, texts: list[np.ndarray]) -> None:
        sizes = np.array([len(text) for text in texts], dtype=np.int32)
        write_mmap(folder / name, np.concatenate(texts).astype(np.uint16), sizes)

    def text() -> list[np.ndarray]:
        return [
            np.append(generator.integers(4, 4 + WORDS, generator.integers(1, longest)), 2)
            for _ in range(sentences)
        ]

    english = text()
    for code in ("de", "es"):
        write(f"valid.{code}-en.{code}", text())
        write(f"valid.{code}-en.en", english if multi_parallel else text())
    return folder


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    return write_data_bin(tmp_path / "data-bin")


def counted_by_fairseq(checkpoint: Checkpoint, text: DirectionText) -> dict[str, np.ndarray]:
    """fairseq's model in float64, a sentence at a time (so no padding), counted by the definition."""
    model = build_model(checkpoint).double()
    counts: dict[str, np.ndarray] = {}

    def hook(name: str) -> Any:
        def count(module: Any, arguments: tuple[Tensor, ...]) -> None:
            fired = (arguments[0] > 0).sum(dim=(0, 1)).numpy()
            counts[name] = counts.get(name, 0) + fired

        return count

    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, side).layers):
            layer.fc2.register_forward_pre_hook(hook(f"{side}.layers.{number}"))
    for index in text.usable:
        source, _ = tagged(text.source, np.array([index]), first=text.source_tag)
        previous, _ = tagged(text.target, np.array([index]), first=text.target_tag, shift=True)
        with torch.no_grad():
            model(
                src_tokens=torch.from_numpy(source),
                src_lengths=torch.tensor([source.shape[1]]),
                prev_output_tokens=torch.from_numpy(previous),
            )
    return counts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoder_layers": 1, "decoder_layers": 1},
        {"encoder_learned_pos": True, "decoder_learned_pos": True},
        {"no_scale_embedding": True},
        {"share_all_embeddings": False},
        {
            "encoder_embed_dim": 15,
            "decoder_embed_dim": 15,
            "encoder_attention_heads": 3,
            "decoder_attention_heads": 5,
        },
    ],
)
def test_counts_are_those_of_fairseqs_model(tmp_path: Path, data_bin: Path, settings: dict[str, Any]) -> None:
    checkpoint = random_checkpoint(tmp_path, **settings)
    texts = open_texts(checkpoint, data_bin, ["en-de", "de-en", "en-es"])
    found = dict(count_activations(checkpoint, texts, max_tokens=100, device="cpu"))
    assert sorted(found) == ["de-en", "en-de", "en-es"]
    for text in texts:
        counts = found[str(text.direction)]
        expected = counted_by_fairseq(checkpoint, text)
        assert list(counts.layers) == list(expected)
        for layer, vector in expected.items():
            np.testing.assert_array_equal(counts.layers[layer], vector, err_msg=f"{text.direction} {layer}")
        assert counts.layers["encoder.layers.0"].shape == (20,)
        assert counts.layers["decoder.layers.0"].shape == (12,)
        assert counts.layers["encoder.layers.0"].dtype == np.int64


def test_directions_of_one_source_language_but_other_text_are_counted_apart(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    folder = write_data_bin(tmp_path / "data-bin", multi_parallel=False)
    together = open_texts(checkpoint, folder, ["en-de", "en-es"])
    found = dict(count_activations(checkpoint, together, max_tokens=100))
    for text in together:
        expected = counted_by_fairseq(checkpoint, text)
        for layer, vector in expected.items():
            np.testing.assert_array_equal(found[str(text.direction)].layers[layer], vector)


@pytest.mark.parametrize("encoder_tag", ["src", "tgt", None])
@pytest.mark.parametrize("decoder_tag", [True, False])
def test_tags_are_set_as_the_checkpoint_says(
    tmp_path: Path, data_bin: Path, encoder_tag: str | None, decoder_tag: bool
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    tags = {"encoder_langtok": encoder_tag, "decoder_langtok": decoder_tag, "lang_tok_style": "multilingual"}
    checkpoint = replace(checkpoint, tags=tags)
    german, spanish = open_texts(checkpoint, data_bin, ["en-de", "en-es"])
    first = 4 + WORDS
    assert german.source_tag == {"src": first, "tgt": first + 1, None: None}[encoder_tag]
    assert german.target_tag == (first + 1 if decoder_tag else None)
    # the encoder's input is the same for both unless it names the target
    assert (german.source_key == spanish.source_key) == (encoder_tag != "tgt")
    counts = dict(count_activations(checkpoint, [german], max_tokens=100))["en-de"]
    length = int(german.source.lengths.sum())
    assert counts.positions["encoder"] == length + (23 if encoder_tag else 0)
    for layer, vector in counted_by_fairseq(checkpoint, german).items():
        np.testing.assert_array_equal(counts.layers[layer], vector)


@pytest.mark.parametrize("max_tokens", [1, 7, 40, 100_000])
def test_counts_do_not_depend_on_the_batch_size(tmp_path: Path, data_bin: Path, max_tokens: int) -> None:
    checkpoint = random_checkpoint(tmp_path)
    texts = open_texts(checkpoint, data_bin, ["en-de", "en-es"])
    reference = dict(count_activations(checkpoint, texts, max_tokens=64))
    read: list[int] = []
    other = dict(count_activations(checkpoint, texts, max_tokens=max_tokens, on_batch=read.append))
    # what the progress display is told adds up to what it was promised
    assert sum(read) == sum(sum(text.positions.values()) for text in texts)
    for name, counts in reference.items():
        assert other[name].positions == counts.positions
        for layer, vector in counts.layers.items():
            np.testing.assert_array_equal(other[name].layers[layer], vector)


def test_every_sentence_is_in_one_batch_and_batches_keep_to_the_bound(tmp_path: Path, data_bin: Path) -> None:
    texts = open_texts(random_checkpoint(tmp_path), data_bin, ["en-de", "en-es"])
    for max_tokens in (1, 20, 40, 55, 70, 90, 120, 150, 1000):
        made = list(batches(texts[0], texts, max_tokens))
        assert sorted(np.concatenate(made)) == list(range(23))
        for batch in made:
            longest = max(int(side.lengths[batch].max()) for t in texts for side in (t.source, t.target)) + 1
            assert len(batch) == 1 or len(batch) * longest <= max_tokens
        # and none could have taken the first sentence of the next as well
        for batch, following in pairwise(made):
            more = np.append(batch, following[0])
            longest = max(int(side.lengths[more].max()) for t in texts for side in (t.source, t.target)) + 1
            assert len(more) * longest > max_tokens


def test_a_long_sentence_does_not_shorten_the_batches_after_its_own() -> None:
    def side(*lengths: int) -> Sentences:
        sizes = np.array(lengths)
        return Sentences(np.zeros(sizes.sum(), dtype=np.uint16), np.cumsum(sizes) - sizes, sizes)

    text = DirectionText(Direction("en", "de"), side(1, 2, 3, 3, 3), side(19, 3, 3, 3, 3), 5, 6, np.arange(5))
    assert [batch.tolist() for batch in batches(text, [text], 20)] == [[0], [1, 2, 3, 4]]


def test_padding_counts_only_where_it_is_asked_for(tmp_path: Path, data_bin: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    texts = open_texts(checkpoint, data_bin, ["en-de"])
    without = dict(count_activations(checkpoint, texts, max_tokens=1000))["en-de"]
    with_padding = dict(count_activations(checkpoint, texts, max_tokens=1000, count_padding=True))["en-de"]
    assert without.sentences == 23 and without.skipped == 0
    # fairseq makes no batch of the last 7 sentences: 23 is no multiple of 8
    assert with_padding.sentences == 16 and with_padding.skipped == 7
    chosen = np.lexsort((texts[0].target.lengths, texts[0].source.lengths))[:16]
    width = int(texts[0].source.lengths[chosen].max()) + 1
    assert with_padding.positions["encoder"] == 16 * width > without.positions["encoder"] * 16 / 23


def test_a_set_too_small_for_fairseq_is_refused_with_padding_and_counted_without(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    texts = open_texts(checkpoint, write_data_bin(tmp_path / "small", sentences=3), ["en-de"])
    assert dict(count_activations(checkpoint, texts, max_tokens=1000))["en-de"].sentences == 3
    with pytest.raises(MaskError, match="no batch of 3 sentences"):
        list(count_activations(checkpoint, texts, max_tokens=1000, count_padding=True))


def test_sentences_longer_than_the_model_are_left_out_and_counted(tmp_path: Path, data_bin: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, max_source_positions=10, max_target_positions=12)
    (text,) = open_texts(checkpoint, data_bin, ["de-en"])
    fits = (text.source.lengths + 1 <= 10) & (text.target.lengths + 1 <= 12)
    assert 0 < fits.sum() < 23 and text.usable.tolist() == np.flatnonzero(fits).tolist()
    counts = dict(count_activations(checkpoint, [text], max_tokens=1000))["de-en"]
    assert counts.sentences == fits.sum() and counts.skipped == 23 - fits.sum()
    # a sentence that just fits, with its tag, is read
    longest = int(text.target.lengths.max()) + 1
    for limit, left_out in ((longest, 0), (longest - 1, 1)):
        (text,) = open_texts(random_checkpoint(tmp_path, max_target_positions=limit), data_bin, ["de-en"])
        assert (len(text.usable) < 23) == bool(left_out)
    with pytest.raises(CorpusError, match="too long"):
        open_texts(random_checkpoint(tmp_path, max_source_positions=1), data_bin, ["de-en"])


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_refused(
    tmp_path: Path, data_bin: Path, value: float, count_padding: bool
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    checkpoint.parameters["decoder.layers.1.fc1.bias"] = torch.full((12,), value)
    texts = open_texts(checkpoint, data_bin, ["en-de"])
    with pytest.raises(MaskError, match="not finite numbers") as caught:
        list(count_activations(checkpoint, texts, max_tokens=1000, count_padding=count_padding))
    assert str(caught.value.where) == "en-de"


def test_a_model_with_other_layer_norms_is_counted_with_fairseqs_code_only(
    tmp_path: Path, data_bin: Path
) -> None:
    checkpoint = random_checkpoint(tmp_path, encoder_normalize_before=False, decoder_normalize_before=False)
    texts = open_texts(checkpoint, data_bin, ["en-de"])
    with pytest.raises(MaskError, match="encoder_normalize_before = False"):
        list(count_activations(checkpoint, texts, max_tokens=1000))
    assert dict(count_activations(checkpoint, texts, max_tokens=1000, count_padding=True))["en-de"].sentences


def test_a_specialised_model_is_refused(tmp_path: Path, data_bin: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    texts = open_texts(checkpoint, data_bin, ["en-de"])
    ones = torch.ones(20, dtype=torch.bool)
    for changes in ({"masks": {"en-de": {"encoder.layers.0": ones}}}, {"mask_files": {"en-de": "en-de.pt"}}):
        with pytest.raises(MaskError, match="specialised already"):
            count_activations(replace(checkpoint, **changes), texts, max_tokens=1000)


def test_text_of_another_dictionary_is_refused(tmp_path: Path, data_bin: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    with (data_bin / "dict.en.txt").open("a") as handle:
        handle.write("more 1\n")
    with pytest.raises(MaskError, match=f"make {VOCABULARY + 1} entries, the model has {VOCABULARY}"):
        open_texts(checkpoint, data_bin, ["en-de"])


def test_tokens_outside_the_dictionary_are_refused(tmp_path: Path, data_bin: Path) -> None:
    write_mmap(data_bin / "valid.de-en.de", np.full(23, 500, dtype=np.uint16), np.ones(23, dtype=np.int32))
    with pytest.raises(CorpusError, match="token 500"):
        open_texts(random_checkpoint(tmp_path), data_bin, ["de-en"])


def test_the_tally_counts_what_is_above_zero_at_real_positions() -> None:
    tally = Tally()
    hidden = torch.tensor([[[0.0, 1.0], [2.0, 1e-300]], [[5.0, 0.0], [7.0, 7.0]]], dtype=torch.float64)
    tally.observer(torch.tensor([[True, True], [True, False]]))("encoder.layers.0", hidden)
    assert tally.result()["encoder.layers.0"].tolist() == [2, 2]
    tally.observer(torch.ones(2, 2, dtype=torch.bool))("encoder.layers.0", hidden)
    assert tally.result()["encoder.layers.0"].tolist() == [5, 5]


def test_counts_survive_the_file(tmp_path: Path) -> None:
    layers = {"decoder.layers.0": np.array([2**40, 0]), "encoder.layers.0": np.array([3])}
    counts = Counts(layers, {"encoder": 5, "decoder": 6}, 2, 1)
    write_activations(tmp_path / "de-en.safetensors", counts, {"direction": "de-en"})
    again, metadata = read_activations(tmp_path / "de-en.safetensors")
    assert {name: vector.tolist() for name, vector in again.items()} == {
        "encoder.layers.0": [3],
        "decoder.layers.0": [2**40, 0],
    }
    assert json.loads(metadata["positions"]) == {"encoder": 5, "decoder": 6}
    assert (metadata["sentences"], metadata["skipped"], metadata["direction"]) == ("2", "1", "de-en")


def test_negative_counts_are_refused(tmp_path: Path) -> None:
    counts = Counts({"encoder.layers.0": np.array([1, -1])}, {}, 1, 0)
    write_activations(tmp_path / "x.safetensors", counts, {})
    with pytest.raises(MaskError, match="negative"):
        read_activations(tmp_path / "x.safetensors")


# ---- the commands ----


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=True)


def test_from_checkpoint_to_overlap_by_the_commands(tmp_path: Path, data_bin: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    write_model(tmp_path / "model.pt", plain_state(checkpoint))
    assert load_checkpoint(tmp_path / "model.pt").directions == checkpoint.directions

    result = run(
        "activations",
        "--checkpoint",
        tmp_path / "model.pt",
        "--data-bin",
        data_bin,
        "--output",
        tmp_path / "a",
    )
    assert result.exit_code == 0, result.output
    assert "en-es: 23 sentences" in result.stderr and result.stdout == ""
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "de-en.safetensors",
        "en-de.safetensors",
        "en-es.safetensors",
    ]

    result = run(
        "masks", "--activations", tmp_path / "a", "--k", 60, "--output", tmp_path / "m", "--packed", "--json"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    kept = json.loads(result.stdout)["kept"]
    assert list(kept) == ["de-en", "en-de", "en-es"]

    result = run("compose-masks", "--masks", tmp_path / "m", "--directions", "de-es")
    assert result.exit_code == 0, result.output
    composed = read_masks(tmp_path / "m" / "de-es.safetensors").kept
    assert round(composed["encoder.layers.0"], 6) == kept["de-en"]["encoder.layers.0"]
    assert round(composed["decoder.layers.2"], 6) == kept["en-es"]["decoder.layers.2"]

    result = run(
        "overlap", "--masks", tmp_path / "m", "--output", tmp_path / "o.json", "--directions", "en-de,en-es"
    )
    assert result.exit_code == 0, result.output
    assert "IoU en→X" in result.stdout and "across (1 pairs)" in result.stdout
    found = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert found["pivot"] == "en"
    # the same English text: the same encoder masks
    assert found["groups"]["en→X"]["across"]["iou"]["encoder.layers.1"] == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"--directions": "en-de,en-fr"}, NeuronSpecializationError, "no language 'fr'"),
        ({"--split": "test"}, CorpusError, "en-de has no test text"),
        ({"--langs": "de,en,es"}, MaskError, "not in its order"),
        ({"--checkpoint": "absent.pt"}, CheckpointError, "missing"),
    ],
)
def test_the_command_refuses_before_it_counts(
    tmp_path: Path, data_bin: Path, change: dict[str, str], error: type[Exception], message: str
) -> None:
    write_model(tmp_path / "model.pt", plain_state(random_checkpoint(tmp_path)))
    options = {
        "--checkpoint": str(tmp_path / "model.pt"), "--data-bin": str(data_bin), "--directions": "en-de",
        "--output": str(tmp_path / "out"), **change,
    }  # fmt: skip
    result = run("activations", *(item for pair in options.items() for item in pair))
    assert isinstance(result.exception, error) and message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_counting_without_padding_does_not_import_fairseq(tmp_path: Path, data_bin: Path) -> None:
    """Its import takes longer than counting does."""
    import subprocess
    import sys

    write_model(tmp_path / "model.pt", plain_state(random_checkpoint(tmp_path)))
    model, output = str(tmp_path / "model.pt"), str(tmp_path / "a")
    code = (
        "import sys; from neuron_specialization.cli import cli;"
        f"cli.main(['activations', '--checkpoint', {model!r}, '--data-bin', {str(data_bin)!r},"
        f"'--output', {output!r}], standalone_mode=False);"
        "assert 'torch' in sys.modules and 'fairseq' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_texts_of_equal_length_but_other_words_are_not_taken_for_the_same(tmp_path: Path) -> None:
    write_mmap(tmp_path / "a", np.array([5, 6, 2], dtype=np.uint16), np.array([3], dtype=np.int32))
    write_mmap(tmp_path / "b", np.array([5, 7, 2], dtype=np.uint16), np.array([3], dtype=np.int32))
    keys = {
        DirectionText(
            Direction("en", "de"),
            Sentences.read(tmp_path / name),
            Sentences.read(tmp_path / name),
            tag,
            9,
            np.arange(1),
        ).source_key
        for name in ("a", "b")
        for tag in (8, 9)
    }
    assert len(keys) == 4
