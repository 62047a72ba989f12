"""Checkpoints for stock fairseq: it opens them, and computes what the masked model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from neuron_specialization.checkpoints.checkpoint import load_checkpoint
from neuron_specialization.checkpoints.fairseq_model import build_model
from neuron_specialization.cli import cli
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.safe_loading import allow_fairseq_globals
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

LANGUAGES = ["en", "de", "ru"]
DIRECTIONS = ["en-de", "de-en"]


def test_stock_fairseq_computes_the_masked_model(trained_vocabulary: Path, tmp_path: Path) -> None:
    from fairseq import checkpoint_utils

    masks = random_masks(SMALL, DIRECTIONS)
    path = write_random_model(tmp_path / "ns.pt", trained_vocabulary, LANGUAGES, DIRECTIONS, masks=masks)
    folder = write_mask_folder(tmp_path / "masks", masks)
    done = CliRunner().invoke(
        cli,
        [
            *("export", "--format", "fairseq", "--checkpoint", str(path), "--masks", str(folder)),
            *("--vocabulary", str(trained_vocabulary), "--output", str(tmp_path / "out")),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    masked = build_model(load_checkpoint(path))
    size = masked.encoder.embed_tokens.num_embeddings
    tags = {code: size - len(LANGUAGES) + number for number, code in enumerate(LANGUAGES)}
    differing = []
    for direction in DIRECTIONS:
        model = tmp_path / "out" / direction
        source, target = direction.split("-")
        allow_fairseq_globals()
        (stock,), _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(model / "checkpoint.pt")],
            arg_overrides={"data": str(model), "source_lang": source, "target_lang": target},
        )
        assert type(stock).__module__.startswith("fairseq."), "no class of ours"
        assert task.dicts[source].index(f"__{target}__") == tags[target]
        generator = torch.Generator().manual_seed(3)
        words = torch.randint(4, size - len(LANGUAGES), (5, 9), generator=generator)
        end = torch.full((5, 1), 2)
        sources = torch.cat([torch.full((5, 1), tags[source]), words, end], dim=1)
        prefix = torch.cat([end, torch.full((5, 1), tags[target]), words.flip(1)], dim=1)
        lengths = torch.full((5,), sources.shape[1])
        with torch.inference_mode():
            found, _ = stock.eval()(sources, lengths, prefix)
            expected, _ = masked(sources, lengths, prefix)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        differing.append(found)
        facts = json.loads((model / "checkpoint.json").read_text())
        assert facts["mask"]["sha256"] == sha256_of(folder / f"{direction}.safetensors")
        assert "plain fairseq checkpoint" in (model / "README.md").read_text()
    assert (differing[0] - differing[1]).abs().max() > 0.1


def test_other_formats_refuse_what_they_cannot_store(trained_vocabulary: Path, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    shared = [
        "--checkpoint",
        str(path),
        "--vocabulary",
        str(trained_vocabulary),
        "--output",
        str(tmp_path / "o"),
    ]
    for target in ("fairseq", "bundle"):
        done = CliRunner().invoke(cli, ["export", *shared, "--format", target, "--quantization", "int8"])
        assert done.exit_code == 2
        assert f"--format {target}" in done.output
        assert not (tmp_path / "o").exists()
    done = CliRunner().invoke(cli, ["export", *shared, "--format", "bundle", "--quantization", "float16"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o" / "weights.safetensors").is_file()


def test_a_quantisation_the_device_lacks_is_refused(trained_vocabulary: Path, tmp_path: Path) -> None:
    import ctranslate2

    from neuron_specialization.errors import TranslationError
    from neuron_specialization.export.ctranslate2_export import export_system
    from neuron_specialization.translation.translator import Translator

    path = write_random_model(tmp_path / "m.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    export_system(path, trained_vocabulary, tmp_path / "models", quantization="bfloat16")
    known = ctranslate2.get_supported_compute_types("cpu")
    for compute_type in ("bfloat16", "float16"):
        translator = Translator.load(tmp_path / "models", compute_type=compute_type)
        if compute_type in known:
            assert translator.translate(["a"], "de-en", max_length=5)
        else:
            with pytest.raises(TranslationError, match=f"{compute_type}(.|\n)*here it supports .*float32"):
                translator.translate(["a"], "de-en")
