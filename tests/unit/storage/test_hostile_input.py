"""What a stranger's files may not do, case by case; tests/fuzz tries many at random."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from neuron_specialization.cli import cli
from neuron_specialization.config import load_config, parse_config
from neuron_specialization.corpora.homeassistant import extract
from neuron_specialization.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    NeuronSpecializationError,
    TranslationError,
)
from neuron_specialization.export.bundle import BUNDLE, Bundle, write_bundle
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.export.model_directory import PROVENANCE, find_models, read_provenance
from neuron_specialization.storage import files
from neuron_specialization.storage.files import gunzip, read_json
from neuron_specialization.storage.plain_pickle import load_plain
from neuron_specialization.storage.safe_loading import read_state
from tests.conftest import REPOSITORY
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

SMOKE = yaml.safe_load((REPOSITORY / "configs/smoke.yaml").read_text(encoding="utf-8"))


class Payload:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch pwned",))


# ---- configurations ----


@pytest.mark.parametrize(
    "text",
    [
        "experiment: !!python/object/apply:os.system ['touch pwned']",
        "experiment: !!python/name:os.system",
        "experiment: !!python/module:os",
        "experiment: !include /etc/passwd",
    ],
)
def test_tags_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(tmp_path / "config.yaml")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["de; rm -rf ~", "$(touch pwned)", "`touch pwned`", "../de", "-de", "de\nen", "d|e", "DE'"]
)
def test_names_that_are_commands_are_refused(name: str) -> None:
    """Names become words of commands and parts of paths. Every place that takes one refuses these."""
    systems = {"base": {}, name: {"from": "base"}}
    changes: list[dict[str, Any]] = [
        {"languages": ["en", name]},
        {"pivot": name},
        {"directions": [f"{name}-en"]},
        {"experiment": name},
        {"systems": systems},
        {"masks": {name: {"k": 95}}},
        {"testsets": {name: {"source": "corpus"}}},
    ]
    for change in changes:
        with pytest.raises(ConfigError):
            parse_config({**SMOKE, **change})


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for one, other in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{one}: &{one} [{', '.join([f'*{other}'] * 10)}]")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="too large"):
        load_config(tmp_path / "bomb.yaml")
    (tmp_path / "endless.yaml").write_text("systems: &a {base: *a}")
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_config(tmp_path / "endless.yaml")


def test_aliases_that_do_not_are_read(tmp_path: Path) -> None:
    text = yaml.safe_dump(SMOKE) + "\n"
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == parse_config(SMOKE)


# ---- text ----


def test_what_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gunzip(gzip.compress(b"a" * 10**6)) == b"a" * 10**6
    with pytest.raises(OSError, match="unpacks to more than"):
        monkeypatch.setattr(files, "_RATIO_FREE_BYTES", 1000)
        gunzip(gzip.compress(b"\0" * 10**6, compresslevel=9))
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("homeassistant/components/a/translations/de.json", b" " * (20 << 20))
    with pytest.raises(CorpusError, match="unpacks to more"):
        extract(tmp_path / "bomb.whl", ["de"])


def test_json_that_no_reader_survives(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder.json").mkdir()
    for name in ("deep.json", "folder.json"):
        with pytest.raises(NeuronSpecializationError, match=name):
            read_json(tmp_path / name)


# ---- checkpoints ----


@pytest.mark.parametrize("where", ["model", "args", "extra_state", "last_optimizer_state"])
def test_a_payload_in_a_checkpoint_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    state: dict[str, Any] = {
        "model": {"a": torch.zeros(1)},
        "args": None,
        "extra_state": {},
        where: Payload(),
    }
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(state))
    for name in ("model.pt", "bare.pt"):
        with pytest.raises(CheckpointError):
            read_state(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(10_000)}}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as old,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert read_state(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="compressed"):
        read_state(tmp_path / "bomb.pt")


def test_a_checkpoint_whose_records_overlap_is_refused(tmp_path: Path) -> None:
    """Every tensor is the same bytes of the file, and another megabyte once it is read."""
    torch.save({"model": {f"p{i}": torch.zeros(250_000) for i in range(20)}}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as old,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_STORED) as new,
    ):
        large = [record for record in old.infolist() if record.file_size == 1_000_000]
        for record in old.infolist():
            if record not in large[1:]:
                new.writestr(record.filename, old.read(record))
        for record in large[1:]:
            again = copy.copy(new.getinfo(large[0].filename))
            again.filename = again.orig_filename = record.filename
            new.filelist.append(again)
    assert len(large) == 20 and (tmp_path / "bomb.pt").stat().st_size < 1_100_000
    assert read_state(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="overlap"):
        read_state(tmp_path / "bomb.pt")


def test_what_a_pickle_holds_is_looked_at_as_a_file_is(tmp_path: Path) -> None:
    """Activations may hold tensors as torch saves them, bytes within bytes."""

    def holding(content: bytes) -> bytes:
        name = b"ctorch.storage\n_load_from_bytes\n"
        return b"\x80\x04" + name + b"B" + len(content).to_bytes(4, "little") + content + b"\x85R."

    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(10_000).storage(), saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert len(load_plain(holding(saved.getvalue()), tmp_path)) == 10_000
    with pytest.raises(ValueError, match="compressed"):
        load_plain(holding(packed.getvalue()), tmp_path)


# ---- model directories, as translate and serve are given them ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, trained_vocabulary: Path) -> Path:
    """A model directory. Copy it."""
    folder = tmp_path_factory.mktemp("hostile")
    model = write_random_model(folder / "dense.pt", trained_vocabulary, ["en", "de"], ["en-de", "de-en"])
    masks = write_mask_folder(folder / "masks", random_masks(SMALL, ["de-en"]))
    export_system(
        model, trained_vocabulary, folder / "models", masks=masks, system="ns", directions=["de-en"]
    )
    return folder / "models" / "de-en"


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def change(model: Path, **changes: Any) -> None:
    path = model / PROVENANCE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def translate(model: Path) -> Result:
    arguments = ["translate", "--model", str(model), "--direction", "de-en", "--max-length", "5"]
    return CliRunner().invoke(cli, arguments, input="open the door\n")


def test_the_model_itself_translates(model: Path) -> None:
    result = translate(model)
    assert result.exception is None and result.output.count("\n") == 1


def entry(size: int = 1) -> dict[str, Any]:
    return {"bytes": size, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"/etc/passwd": entry()}}, "plain file names"),
        ({"files": {"../dense.pt": entry()}}, "plain file names"),
        ({"files": {"model.bin": entry(), "..": entry()}}, "plain file names"),
        ({"files": [["model.bin", 1]]}, "plain file names"),
        ({"files": {"model.bin": {"bytes": -1, "sha256": "0" * 64}}}, "plain file names"),
        ({"directions": ["../../x"]}, "directions"),
        ({"directions": ["de-de"]}, "directions"),
        ({"directions": []}, "directions"),
        ({"directions": "de-en"}, "directions"),
        ({"languages": ["de; rm -rf ~", "en"]}, "languages"),
        ({"max_source_positions": 10**30}, "positions"),
        ({"max_source_positions": True}, "positions"),
        ({"d_ff": {"encoder.layers.0": 10**12}}, "layers with their neurons"),
        ({"neurons": {}}, "neurons that are not those"),
        ({"mask": {"kept": float("inf")}}, "no export writes"),
        ({"system": "\ud800"}, "no export writes"),
        ({"format": 2}, "format 2"),
    ],
)
def test_descriptions_that_mislead_are_refused(model: Path, changes: dict[str, Any], message: str) -> None:
    change(model, **changes)
    for read in (lambda: find_models(model), lambda: translate(model).exception):
        try:
            result = read()
        except NeuronSpecializationError as error:
            result = error
        assert isinstance(result, TranslationError) and message in str(result)


def test_links_lead_to_regular_files_or_nowhere(model: Path, tmp_path: Path) -> None:
    """A cache of models may consist of links; a device, a pipe or a folder is no file of a model."""
    whole = tmp_path / "elsewhere.bin"
    (model / "model.bin").rename(whole)
    (model / "model.bin").symlink_to(whole)
    assert read_provenance(model)["directions"] == ["de-en"]
    os.mkfifo(tmp_path / "pipe")
    for target in (Path("/dev/zero"), tmp_path / "pipe", tmp_path, tmp_path / "nothing", model / "model.bin"):
        (model / "model.bin").unlink()
        (model / "model.bin").symlink_to(target)
        with pytest.raises(TranslationError, match=r"lacks model\.bin"):
            read_provenance(model)


@pytest.mark.parametrize("name", ["model.bin", "spm.model", "config.json", PROVENANCE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short"])
def test_damaged_models_are_refused_by_name(model: Path, name: str, damage: str) -> None:
    data: Callable[[bytes], bytes] = (lambda old: b"") if damage == "empty" else (lambda old: old[:-3])
    if damage == "missing":
        (model / name).unlink()
    else:
        (model / name).write_bytes(data((model / name).read_bytes()))
    error = translate(model).exception
    assert isinstance(error, TranslationError)
    assert name in str(error)


def test_serve_refuses_them_before_it_listens(model: Path) -> None:
    change(model, files={"/etc/passwd": entry()})
    result = CliRunner().invoke(cli, ["serve", "--model", str(model), "--port", "0"])
    assert isinstance(result.exception, TranslationError) and "plain file names" in str(result.exception)


def test_a_bundle_of_a_billion_layers_is_refused_before_they_are_made(
    tmp_path: Path, trained_vocabulary: Path
) -> None:
    """Found by fuzzing: CTranslate2 makes all layers of a description before it looks for a weight."""
    weights = write_random_model(tmp_path / "dense.pt", trained_vocabulary, ["en", "de"], ["en-de", "de-en"])
    bundle = write_bundle(weights, trained_vocabulary, tmp_path / "bundle")
    assert Bundle(bundle).directions
    facts = json.loads((bundle / BUNDLE).read_text(encoding="utf-8"))
    for key, value in (
        ("encoder_layers", 2**30),
        ("encoder_attention_heads", 2**31),
        ("decoder_layers", "6"),
    ):
        changed = {**facts, "settings": {**facts["settings"], key: value}}
        (bundle / BUNDLE).write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(TranslationError, match="settings of a model"):
            Bundle(bundle)
