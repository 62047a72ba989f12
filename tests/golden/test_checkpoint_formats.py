"""Checkpoints of the reference implementation and of plain fairseq: read, turned into ours, and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from neuron_specialization.checkpoints.checkpoint import load_checkpoint, write_model
from neuron_specialization.checkpoints.exporting import fairseq_state, reference_state
from neuron_specialization.checkpoints.fairseq_model import build_model
from neuron_specialization.checkpoints.importing import import_model
from neuron_specialization.cli import cli
from neuron_specialization.storage.files import sha256_of
from tests.conftest import shared_file

DIRECTIONS = ["en-de", "en-sv", "en-es", "en-it", "de-en", "sv-en", "es-en", "it-en"]


def raw(path: Path) -> dict[str, torch.Tensor]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        parameters: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return parameters


def test_plain_fairseq_checkpoint_is_read() -> None:
    checkpoint = load_checkpoint(shared_file("oracle", "baseline.pt"))
    assert checkpoint.kind == "fairseq"
    assert (checkpoint.encoder_layers, checkpoint.decoder_layers) == (3, 3)
    assert (checkpoint.d_model, checkpoint.d_ff, checkpoint.heads) == (128, 512, 4)
    assert checkpoint.vocabulary_size == 4006
    assert checkpoint.embeddings == "shared"
    assert checkpoint.languages == ["en", "de", "sv", "es", "it"]
    assert checkpoint.directions == DIRECTIONS
    assert checkpoint.updates == 1200
    assert checkpoint.settings["encoder_normalize_before"] is True
    assert checkpoint.tags["encoder_langtok"] == "src"
    # 1,901,824 learned numbers, the three tied embedding tables counted once
    unique = {tensor.data_ptr(): tensor.numel() for tensor in checkpoint.parameters.values()}
    assert checkpoint.parameter_count == sum(unique.values()) - 2  # two version marks


def test_reference_checkpoint_gets_fairseqs_names_back() -> None:
    path = shared_file("oracle", "ns.pt")
    saved, checkpoint = raw(path), load_checkpoint(path)
    assert checkpoint.kind == "reference"
    assert not any(name.endswith("global_weight") for name in checkpoint.parameters)
    assert set(checkpoint.parameters) == set(load_checkpoint(shared_file("oracle", "baseline.pt")).parameters)
    assert torch.equal(
        checkpoint.parameters["decoder.layers.2.encoder_attn.k_proj.weight"],
        saved["decoder.layers.2.encoder_attn.k_proj.global_weight"],
    )
    table = checkpoint.parameters["decoder.embed_tokens.weight"].data_ptr()
    assert checkpoint.parameters["encoder.embed_tokens.weight"].data_ptr() == table
    assert checkpoint.parameters["decoder.output_projection.weight"].data_ptr() == table
    assert list(checkpoint.mask_files) == DIRECTIONS
    assert checkpoint.mask_files["en-de"] == "run/masks/en-de.pt"


@pytest.mark.parametrize("name", ["baseline.pt", "ns.pt"])
def test_imported_model_is_plain_equal_and_reproducible(name: str, tmp_path: Path) -> None:
    source = shared_file("oracle", name)
    facts = import_model(source, tmp_path / "a" / "model.pt")
    import_model(source, tmp_path / "b" / "other-name.pt")
    assert sha256_of(tmp_path / "b" / "other-name.pt") == facts["model_sha256"]
    torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "a" / "model.pt")
    assert after.kind == "project"
    assert after.settings == before.settings
    assert (after.languages, after.directions) == (before.languages, before.directions)
    assert after.parameter_count == before.parameter_count == facts["parameters"]
    assert set(after.parameters) == set(before.parameters)
    assert all(torch.equal(after.parameters[key], tensor) for key, tensor in before.parameters.items())
    assert json.loads((tmp_path / "a" / "model.json").read_text())["model_sha256"] == facts["model_sha256"]


def test_reference_checkpoint_survives_a_round_trip(tmp_path: Path) -> None:
    source = shared_file("oracle", "ns.pt")
    import_model(source, tmp_path / "model.pt")
    write_model(
        tmp_path / "ns.pt", reference_state(load_checkpoint(tmp_path / "model.pt"), "run/masks"), plain=False
    )
    before, after = raw(source), raw(tmp_path / "ns.pt")
    assert set(after) == set(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    again = load_checkpoint(tmp_path / "ns.pt")
    assert again.kind == "reference"
    assert again.mask_files == load_checkpoint(source).mask_files
    # what the reference's own loading reads from the arguments
    with torch.serialization.safe_globals([argparse.Namespace]):
        ours = torch.load(tmp_path / "ns.pt", weights_only=True)["cfg"]
        theirs = torch.load(source, weights_only=True)["cfg"]
    for key in ("arch", "task", "mask_path", "langs", "lang_pairs", "share_all_embeddings", "mask_embedding"):
        assert getattr(ours["model"], key) == getattr(theirs["model"], key), key


@pytest.mark.parametrize("as_ours", [False, True], ids=["exported", "model.pt"])
def test_fairseq_itself_opens_what_is_written(as_ours: bool, tmp_path: Path) -> None:
    """Through fairseq's own load_model_ensemble_and_task, with its own task and dictionary."""
    from fairseq import checkpoint_utils

    from neuron_specialization.storage.safe_loading import allow_fairseq_globals

    data_bin, source = shared_file("oracle", "data-bin"), shared_file("oracle", "baseline.pt")
    path = tmp_path / "model.pt"
    import_model(source, path)
    if not as_ours:
        path = tmp_path / "plain.pt"
        write_model(path, fairseq_state(load_checkpoint(tmp_path / "model.pt")), plain=False)
        allow_fairseq_globals()
    overrides = {"data": str(data_bin), "source_lang": "en", "target_lang": "de"}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    assert len(task.target_dictionary) == 4006
    theirs, ours = models[0].eval(), build_model(load_checkpoint(source), data_bin)
    tokens = torch.tensor([[4001, 17, 23, 99, 2]])
    previous = torch.tensor([[2, 4002, 45, 7]])
    with torch.no_grad():
        expected = theirs(tokens, torch.tensor([5]), previous)[0]
        assert torch.equal(ours(tokens, torch.tensor([5]), previous)[0], expected)


def test_commands(tmp_path: Path) -> None:
    run = CliRunner()
    source, model = str(shared_file("oracle", "ns.pt")), str(tmp_path / "model.pt")
    result = run.invoke(cli, ["import-checkpoint", "--checkpoint", source, "--output", model, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["kind"] == "reference"
    assert facts["parameters"] == 1_901_824
    plain = str(tmp_path / "plain.pt")
    result = run.invoke(cli, ["export-checkpoint", "--checkpoint", model, "--output", plain, "--json"])
    assert result.exit_code == 0, result.output
    assert load_checkpoint(plain).kind == "fairseq"
    assert json.loads(result.stdout)["sha256"] == sha256_of(plain)
