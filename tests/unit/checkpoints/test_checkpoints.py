"""Reading checkpoints safely, writing them plainly."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_specialization.checkpoints.checkpoint import Checkpoint, load_checkpoint, plain_state, write_model
from neuron_specialization.checkpoints.exporting import fairseq_state, fold, reference_state
from neuron_specialization.checkpoints.importing import import_model
from neuron_specialization.cli import cli, main
from neuron_specialization.errors import CheckpointError, MaskError
from neuron_specialization.formats.reference_checkpoints import mask_files
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import write_masks
from neuron_specialization.storage.safe_loading import SAFE_GLOBALS, check_intact, read_state
from tests.fakes import checkpoints as fake


def save(path: Path, update: int = 10, **changes: Any) -> Path:
    torch.save(fake.training_state(update, **changes), path)
    return path


# ---- hostile and damaged files ----


class Payload:
    """Pickles as a call of os.system, the classic."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_payload_is_refused_by_name_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    state = fake.training_state(10)
    state["cfg"]["extra"] = Payload(tmp_path / "ran")
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"it asks to load (posix|os)\.system") as caught:
        load_checkpoint(tmp_path / "evil.pt")
    assert "--allow-unsafe-pickle" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    # the flag does what it says
    load_checkpoint(tmp_path / "evil.pt", unsafe=True)
    assert (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "odd", [Path("x"), argparse.ArgumentParser, os.getcwd], ids=["object", "class", "function"]
)
def test_anything_off_the_list_is_refused(tmp_path: Path, odd: Any) -> None:
    state = fake.training_state(10)
    state["cfg"]["extra"] = odd
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(tmp_path / "odd.pt")


def test_what_is_allowed_is_allowed_for_one_call_only(tmp_path: Path) -> None:
    load_checkpoint(save(tmp_path / "c.pt"))
    assert not set(SAFE_GLOBALS) & set(torch.serialization.get_safe_globals())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(min_value=0, max_value=0.999))
def test_a_truncated_checkpoint_is_an_error_wherever_it_is_cut(tmp_path: Path, cut: float) -> None:
    path = save(tmp_path / "whole.pt")
    data = path.read_bytes()
    broken = tmp_path / "cut.pt"
    broken.write_bytes(data[: int(len(data) * cut)])
    assert check_intact(broken) is not None
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(broken)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(min_value=0, max_value=0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path, where: float, bit: int) -> None:
    path = save(tmp_path / "whole.pt")
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1 << bit
    broken = tmp_path / "flipped.pt"
    broken.write_bytes(data)
    if check_intact(broken) is None:  # in padding or a field nobody reads: then all content is as it was
        before, after = load_checkpoint(path), load_checkpoint(broken)
        assert all(torch.equal(after.parameters[key], value) for key, value in before.parameters.items())


def test_an_intact_one_passes(tmp_path: Path) -> None:
    assert check_intact(save(tmp_path / "c.pt")) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "has no model parameters"),
        ({"encoder.fc1": torch.ones(2)}, "has no model parameters"),
        ([1, 2], "holds a list"),
        ({"model": fake.tiny_parameters()}, "does not say how its model is built"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_state(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "gelu"}, "gelu"),
        ({"adaptive_softmax_cutoff": [10]}, "adaptive_softmax_cutoff"),
        ({"no_decoder_final_norm": True}, "no_decoder_final_norm"),
        ({"encoder_layers": 2}, r"no encoder\.layers\.1\.fc1\.weight"),
        ({"encoder_layers": 0}, "more layers than its settings say"),
        ({"decoder_ffn_embed_dim": 32}, r"shape \(16, 8\), its settings say \(32, 8\)"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(save(tmp_path / "c.pt", **changes))


def test_the_command_refuses_and_its_flag_allows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = fake.training_state(10)
    state["cfg"]["extra"] = Payload(tmp_path / "ran")
    torch.save(state, tmp_path / "evil.pt")
    command = [
        "import-checkpoint",
        "--checkpoint",
        str(tmp_path / "evil.pt"),
        "--output",
        str(tmp_path / "m.pt"),
    ]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    assert "system, which could run code" in capsys.readouterr().err
    assert not (tmp_path / "m.pt").exists() and not (tmp_path / "ran").exists()
    main([*command, "--allow-unsafe-pickle"])
    assert (tmp_path / "m.pt").exists() and (tmp_path / "ran").exists()


# ---- languages ----


def test_languages_where_the_checkpoint_does_not_list_them(tmp_path: Path) -> None:
    sorted_ones = load_checkpoint(save(tmp_path / "a.pt", langs=None))
    assert sorted_ones.languages == ["de", "en"]
    elsewhere = save(tmp_path / "b.pt", langs=None, lang_dict="langs.txt")
    assert load_checkpoint(elsewhere).languages == []
    assert load_checkpoint(elsewhere, languages=["en", "de"]).languages == ["en", "de"]


# ---- writing ----


def masked(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "masks"
    generator = torch.Generator().manual_seed(5)
    for direction in fake.DIRECTIONS:
        layers = {
            f"{side}.layers.0": (torch.rand(fake.D_FF, generator=generator) < 0.5).numpy()
            for side in ("encoder", "decoder")
        }
        write_masks(folder / f"{direction}.safetensors", layers, {"direction": direction})
    import_model(save(tmp_path / "base.pt"), tmp_path / "ns.pt", masks=folder)
    return load_checkpoint(tmp_path / "ns.pt")


def test_masks_travel_in_the_model(tmp_path: Path) -> None:
    checkpoint = masked(tmp_path)
    plain = torch.load(tmp_path / "ns.pt", weights_only=True)
    assert plain["cfg"]["model"]["arch"] == "masked_transformer"
    assert plain["cfg"]["model"]["mask_directions"] == fake.DIRECTIONS
    assert plain["model"]["encoder.layers.0.fc1.masks"].shape == (2, fake.D_FF)
    assert list(checkpoint.masks) == fake.DIRECTIONS
    assert not any(name.endswith("masks") for name in checkpoint.parameters)
    from neuron_specialization.storage.layer_masks import read_all_masks

    for direction, layers in read_all_masks(tmp_path / "masks", fake.DIRECTIONS).items():
        assert all(torch.equal(checkpoint.masks[direction][name], mask) for name, mask in layers.items())


def test_masks_of_another_model_are_refused(tmp_path: Path) -> None:
    layers = {f"{side}.layers.0": torch.ones(7, dtype=torch.bool).numpy() for side in ("encoder", "decoder")}
    for direction in fake.DIRECTIONS:
        write_masks(tmp_path / "m" / f"{direction}.safetensors", layers, {"direction": direction})
    with pytest.raises(MaskError):
        import_model(save(tmp_path / "base.pt"), tmp_path / "ns.pt", masks=tmp_path / "m")


@pytest.mark.parametrize("layers", ["narrower", "one more", "one fewer", "none"])
def test_masks_in_a_model_that_are_not_of_its_layers_are_refused(tmp_path: Path, layers: str) -> None:
    masked(tmp_path)
    state = torch.load(tmp_path / "ns.pt", weights_only=True)
    name, content = "encoder.layers.0.fc1.masks", state["model"]
    if layers == "narrower":
        content[name] = content[name][:, 1:]
    elif layers == "one more":
        content["encoder.layers.1.fc1.masks"] = content[name]
    else:
        fewer = [name] if layers == "one fewer" else [key for key in content if key.endswith(".masks")]
        state["model"] = {key: tensor for key, tensor in content.items() if key not in fewer}
    write_model(tmp_path / "changed.pt", state)
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.[01]\.fc1\.masks has shape"):
        load_checkpoint(tmp_path / "changed.pt")


def test_numbers_that_are_masked_do_not_come_through(tmp_path: Path) -> None:
    checkpoint = masked(tmp_path)
    name, keep = "encoder.layers.0.fc1.weight", checkpoint.masks["de-en"]["encoder.layers.0"]
    checkpoint.parameters[name][~keep] = float("nan")
    assert torch.count_nonzero(fold(checkpoint, "de-en").parameters[name][~keep]) == 0


def test_folding_a_mask_gives_the_dense_equal(tmp_path: Path) -> None:
    checkpoint = masked(tmp_path)
    dense = fold(checkpoint, "de-en")
    x = torch.randn(5, fake.D_MODEL)
    w1, b1 = (
        checkpoint.parameters["encoder.layers.0.fc1.weight"],
        checkpoint.parameters["encoder.layers.0.fc1.bias"],
    )
    keep = checkpoint.masks["de-en"]["encoder.layers.0"]
    expected = torch.relu((x @ w1.T) * keep + b1)
    assert torch.allclose(torch.relu(x @ dense.parameters["encoder.layers.0.fc1.weight"].T + b1), expected)
    assert torch.equal(checkpoint.parameters["encoder.layers.0.fc1.weight"], w1)  # the original is as it was
    assert dense.masks == {}
    for direction in (None, "en-fr"):
        with pytest.raises(CheckpointError, match=r"direction|mask"):
            fairseq_state(checkpoint, direction)
    with pytest.raises(CheckpointError, match="dense model has no mask"):
        fairseq_state(load_checkpoint(tmp_path / "base.pt"), "de-en")


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    """Neither the name of the file nor the folder or the time of training is inside."""
    one = load_checkpoint(save(tmp_path / "a.pt", save_dir="/one"))
    other = load_checkpoint(save(tmp_path / "b.pt", save_dir="/another"))
    write_model(tmp_path / "x" / "model.pt", plain_state(one))
    write_model(tmp_path / "y" / "renamed.pt", plain_state(other))
    assert sha256_of(tmp_path / "x" / "model.pt") == sha256_of(tmp_path / "y" / "renamed.pt")


def test_a_model_that_is_not_plain_is_not_written(tmp_path: Path) -> None:
    state = plain_state(load_checkpoint(save(tmp_path / "a.pt")))
    with pytest.raises(CheckpointError, match="would not load safely"):
        write_model(tmp_path / "model.pt", {**state, "args": argparse.Namespace(a=1)})
    assert not (tmp_path / "model.pt").exists()
    write_model(tmp_path / "model.pt", {**state, "args": argparse.Namespace(a=1)}, plain=False)


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    write_model(tmp_path / "model.pt", plain_state(load_checkpoint(save(tmp_path / "a.pt"))))
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    names = ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")
    assert len({checkpoint.parameters[f"{name}.weight"].data_ptr() for name in names}) == 1
    layer = fake.D_FF * fake.D_MODEL * 2 + fake.D_FF
    assert checkpoint.parameter_count == fake.VOCABULARY * fake.D_MODEL + 2 * layer


# ---- the reference's format ----


def test_decoder_tied_models_keep_their_encoder_table(tmp_path: Path) -> None:
    """mT-big ties the decoder's two tables alone (EC30): the encoder's is a parameter of its own."""
    state = fake.training_state(10, share_all_embeddings=False)
    state["model"]["encoder.embed_tokens.weight"] = torch.randn(fake.VOCABULARY, fake.D_MODEL)
    torch.save(state, tmp_path / "a.pt")
    before = load_checkpoint(tmp_path / "a.pt")
    assert before.embeddings == "decoder-tied"
    write_model(tmp_path / "ref.pt", reference_state(before, "masks"), plain=False)
    saved = read_state(tmp_path / "ref.pt")["model"]
    assert "decoder.output_projection.weight" not in saved
    assert "encoder.layers.0.fc1.global_weight" in saved
    after = load_checkpoint(tmp_path / "ref.pt")
    assert set(after.parameters) == set(before.parameters)
    assert all(torch.equal(after.parameters[key], value) for key, value in before.parameters.items())
    assert after.mask_files == {name: f"masks/{name}.pt" for name in fake.DIRECTIONS}


def test_the_import_says_who_takes_the_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = reference_state(load_checkpoint(save(tmp_path / "a.pt")), "masks")
    torch.save(state, tmp_path / "ref.pt")
    main(["import-checkpoint", "--checkpoint", str(tmp_path / "ref.pt"), "--output", str(tmp_path / "m.pt"),
          "--allow-unsafe-pickle"])  # fmt: skip
    named = re.findall(r"([a-z]+(?:-[a-z]+)?)((?: --[a-z]+(?: fairseq)?)+)", capsys.readouterr().err)
    assert {name for name, _ in named} == {"import-checkpoint", "export", "translate"}
    for name, options in named:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+", options)) <= known


def test_a_table_that_is_missing_and_not_tied_is_an_error(tmp_path: Path) -> None:
    state = reference_state(load_checkpoint(save(tmp_path / "a.pt")), "masks")
    state["cfg"]["model"].share_all_embeddings = False
    torch.save(state, tmp_path / "ref.pt")
    with pytest.raises(CheckpointError, match=r"no encoder\.embed_tokens\.weight, and it is not tied"):
        load_checkpoint(tmp_path / "ref.pt")


@pytest.mark.parametrize("text", ["{", "[1]", '{"en-de": 3}', 7])
def test_mask_paths_that_are_none(text: Any) -> None:
    with pytest.raises(CheckpointError, match="not a mapping"):
        mask_files({"mask_path": text}, Path("c.pt"))


# ---- cost ----


def test_the_command_line_does_not_import_torch_to_say_what_is_wrong(tmp_path: Path) -> None:
    """Start-up time: training loads torch in the trainer, not in the wrapper around it."""
    code = (
        "import sys; import neuron_specialization.training.train, neuron_specialization.cli.train;"
        " import neuron_specialization.cli.checkpoint_formats;"
        " print([name for name in ('torch', 'fairseq') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
