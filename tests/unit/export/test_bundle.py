"""Bundles: the same models as the export of each direction, from weights that are stored once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from neuron_specialization import Translator
from neuron_specialization.directions import Direction
from neuron_specialization.errors import TranslationError
from neuron_specialization.export.bundle import Bundle, write_bundle
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.export.model_cache import ModelCache
from neuron_specialization.export.provenance import files_of
from neuron_specialization.storage.files import sha256_of, write_json
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

LANGUAGES = ["en", "de", "ru"]
DIRECTIONS = ["en-de", "de-en", "ru-en"]
LINES = ["Turn on the light", "Open the door", "", "the battery of the sensor"]
MANIFEST = {
    "source": "a corpus",
    "licence": "CC0-1.0",
    "citation": "Nobody, 1999",
    "splits": {"train": {"de-en": {"segments": 1200}, "en-ru": {"segments": 34}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained_vocabulary: Path) -> Path:
    """A model, its masks, and of both a bundle and an export. Read it only."""
    folder = tmp_path_factory.mktemp("bundle")
    model = write_random_model(folder / "dense.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    masks = write_mask_folder(folder / "masks", random_masks(SMALL, DIRECTIONS))
    write_json(folder / "manifest.json", MANIFEST)
    more = {"masks": masks, "system": "ns", "manifest": folder / "manifest.json"}
    write_bundle(model, trained_vocabulary, folder / "bundle", **more)
    export_system(model, trained_vocabulary, folder / "models", **more)
    return folder


def test_models_from_the_bundle_are_those_of_the_export(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle(folder / "bundle", ModelCache(tmp_path))
    for name in DIRECTIONS:
        with bundle.model(Direction.parse(name)) as made:
            for path in (folder / "models" / name).iterdir():
                assert (made / path.name).read_bytes() == path.read_bytes(), path
    mine = Translator.load(folder / "bundle", cache=tmp_path)
    other = Translator.load(folder / "models")
    assert [str(one) for one in mine.directions] == sorted(DIRECTIONS)
    texts = set()
    for name in DIRECTIONS:
        found = mine.translate(LINES, name, max_length=20)
        assert found == other.translate(LINES, name, max_length=20)
        texts.add(tuple(found))
    assert len(texts) > 1, "the masks do something"


def test_weights_are_stored_once(folder: Path) -> None:
    weights = load_file(folder / "bundle" / "weights.safetensors")
    tables = [name for name, array in weights.items() if array.shape == weights_shape(weights)]
    assert tables == ["encoder.embed_tokens.weight"]
    stored = sum(array.nbytes for array in load_file(folder / "bundle" / "masks.safetensors").values())
    assert stored == len(DIRECTIONS) * 3 * 24 / 8, "a bit a neuron"


def weights_shape(weights: dict[str, Any]) -> tuple[int, ...]:
    return tuple(weights["encoder.embed_tokens.weight"].shape)


def test_neither_torch_nor_fairseq_is_needed(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['fairseq'] = None\n"
        "from neuron_specialization.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, "translate", "--model", str(folder / "bundle")),
            *("--direction", "de-en", "--max-length", "20", "--cache", str(tmp_path / "cache")),
        ],
        input="\n".join(LINES),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    expected = Translator.load(folder / "models").translate(LINES, "de-en", max_length=20)
    assert done.stdout.split("\n")[:-1] == expected


def test_float16_takes_half(folder: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    write_bundle(
        folder / "dense.pt", trained_vocabulary, tmp_path / "b", masks=folder / "masks", dtype="float16"
    )
    half = load_file(tmp_path / "b" / "weights.safetensors")
    full = load_file(folder / "bundle" / "weights.safetensors")
    for name, array in full.items():
        if name != "sinusoidal_positions":
            assert half[name].nbytes * 2 == array.nbytes
            np.testing.assert_allclose(half[name], array, rtol=1e-3, atol=1e-6)
    translated = Translator.load(tmp_path / "b", cache=tmp_path).translate(LINES, "de-en", max_length=20)
    assert len(translated) == len(LINES)


def test_a_dense_bundle(folder: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    write_bundle(folder / "dense.pt", trained_vocabulary, tmp_path / "b")
    export_system(folder / "dense.pt", trained_vocabulary, tmp_path / "m")
    mine = Translator.load(tmp_path / "b", cache=tmp_path / "cache")
    other = Translator.load(tmp_path / "m")
    for name in ("de-en", "de-ru"):  # the second was never trained
        assert mine.translate(LINES, name, max_length=20) == other.translate(LINES, name, max_length=20)
    assert len(list((tmp_path / "cache").glob("[a-z]*"))) == 1, "one model for all directions"


def test_others_may_read_it(folder: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bundle(folder / "dense.pt", trained_vocabulary, tmp_path / "b", masks=folder / "masks")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "b").iterdir()} == {"0o640"}


# ---- what it says of itself ----


def test_provenance_and_card(folder: Path) -> None:
    facts = json.loads((folder / "bundle" / "bundle.json").read_text())
    assert facts["checkpoint"]["sha256"] == sha256_of(folder / "dense.pt")
    assert facts["models"]["de-en"]["mask"]["sha256"] == sha256_of(folder / "masks" / "de-en.safetensors")
    assert facts["models"]["de-en"]["mask"]["k"] == "95"
    assert facts["files"] == {
        name: entry
        for name, entry in files_of(folder / "bundle").items()
        if name not in ("bundle.json", "README.md")
    }
    card = (folder / "bundle" / "README.md").read_text(encoding="utf-8")
    kept = facts["models"]["ru-en"]["neurons"]["encoder.layers.0"]
    for text in (
        "CC0-1.0",
        "Nobody, 1999",
        "1,234",
        sha256_of(folder / "dense.pt"),
        f"| ru-en | {100 * kept / 24:.1f} %",
        "translate --model BUNDLE --direction de-en",
    ):
        assert text in card, text


def test_scores_reach_the_card(folder: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    write_json(
        tmp_path / "scores" / "heldout" / "de-en.json",
        {"direction": "de-en", "testset": "heldout", "metrics": {"bleu": {"score": 12.345}}},
    )
    (model, *_) = export_system(
        folder / "dense.pt",
        trained_vocabulary,
        tmp_path / "m",
        masks=folder / "masks",
        directions=["de-en"],
        scores=tmp_path / "scores",
    )
    assert "| de-en | heldout | 12.35 |" in (model / "README.md").read_text().replace("12.34 ", "12.35 ")
    assert "Not recorded" in (model / "README.md").read_text(), "no manifest was given"


# ---- bad input ----


def test_an_unknown_direction_lists_the_known(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TranslationError, match=r"does not translate de-ru(.|\n)*de-en, en-de, ru-en"):
        Translator.load(folder / "bundle", cache=tmp_path).translate(["x"], "de-ru")


def copy_of(bundle: Path, target: Path) -> Path:
    target.mkdir()
    for path in bundle.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_damaged_bundle_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "masks.safetensors", "dict.txt", "spm.model"):
        copy = copy_of(folder / "bundle", tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(TranslationError, match=f"the bundle lacks {name}"):
            Translator.load(copy)
    copy = copy_of(folder / "bundle", tmp_path / "keys")
    (copy / "bundle.json").write_text('{"format": 1}')
    with pytest.raises(TranslationError, match="lacks directions, languages"):
        Translator.load(copy)


def test_a_changed_byte_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = copy_of(folder / "bundle", tmp_path / "copy")
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(data)
    translator = Translator.load(copy, cache=tmp_path / "cache")
    with pytest.raises(TranslationError, match=r"weights\.safetensors is not the file"):
        translator.translate(["x"], "de-en")
    assert not list((tmp_path / "cache").glob("[a-z]*")), "nothing was made of it"


# ---- the cache ----


def make(content: str, folder: Path) -> None:
    """The least that counts as a model directory."""
    (folder / "model.bin").write_text(content)
    keys: dict[str, Any] = dict.fromkeys(("max_source_positions", "max_target_positions"), 32)
    keys |= {"format": 1, "directions": ["de-en"], "languages": ["de", "en"]}
    write_json(folder / "provenance.json", {"files": files_of(folder), **keys})


def test_a_damaged_model_is_made_again(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    made: list[Path] = []

    def maker(folder: Path) -> None:
        made.append(folder)
        make("right", folder)

    for _ in range(2):
        with cache.model("a", maker) as model:
            assert (model / "model.bin").read_text() == "right"
    assert len(made) == 1
    (tmp_path / "a" / "model.bin").write_text("wrong")
    with cache.model("a", maker) as model:
        assert (model / "model.bin").read_text() == "right"
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["a"], "nothing half-made is left"


def test_the_least_recently_used_models_go(tmp_path: Path) -> None:
    def names(cache: ModelCache, *keys: str) -> set[str]:
        for key in keys:
            with cache.model(key, lambda folder: make("x" * 1000, folder)) as model:
                # times of files are coarser than this test is fast
                os.utime(model, (len(used), len(used)))
                used.append(key)
        return {path.name for path in cache.folder.iterdir() if path.is_dir()}

    used: list[str] = []
    assert names(ModelCache(tmp_path / "number", max_models=2), "a", "b", "a", "c") == {"a", "c"}
    size = sum(path.stat().st_size for path in (tmp_path / "number" / "a").iterdir())
    assert names(ModelCache(tmp_path / "bytes", max_bytes=2 * size), "a", "b", "c") == {"b", "c"}
    assert names(ModelCache(tmp_path / "tiny", max_bytes=1), "a", "b") == {"b"}, "the one in use stays"


def use_often(folder: Path, number: int) -> None:
    cache = ModelCache(folder, max_models=2)
    for turn in range(25):
        key = f"m{(turn + number) % 12}"
        with cache.model(key, lambda place, key=key: make(key, place)) as model:
            assert (model / "model.bin").read_text() == key


def test_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    users = [context.Process(target=use_often, args=(tmp_path, number)) for number in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert [user.exitcode for user in users] == [0, 0, 0, 0]
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert all(path.name[0] == "m" for path in left)
    assert len(left) <= 2 + len(users), "what was in use could not go"


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TranslationError, match="cannot be written"):
        Translator.load(folder / "bundle", cache=tmp_path / "file").translate(["x"], "de-en")


def test_a_bundle_that_cannot_be_read_is_no_fault_of_the_cache(folder: Path, tmp_path: Path) -> None:
    copy = copy_of(folder / "bundle", tmp_path / "copy")
    translator = Translator.load(copy, cache=tmp_path / "cache")
    (copy / "dict.txt").unlink()
    (copy / "dict.txt").mkdir()  # refused to root, too
    with pytest.raises(TranslationError, match=r"the bundle cannot be read(.|\n)*dict\.txt"):
        translator.translate(["x"], "de-en")


def test_somebody_elses_cache_serves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(tmp_path)
    with cache.model("a", lambda folder: make("theirs", folder)):
        pass
    # the tests may be run by root, to whom nothing is refused
    really_open = os.open

    def open_to_read(path: Any, flags: int, *mode: int, **more: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really_open(path, flags, *mode, **more)

    def refused(path: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "open", open_to_read)
    monkeypatch.setattr(os, "utime", refused)
    with cache.model("a", lambda folder: pytest.fail("it is there")) as model:
        assert (model / "model.bin").read_text() == "theirs"
    with (
        pytest.raises(TranslationError, match="cannot be written: Permission denied"),
        cache.model("b", print),
    ):
        pass
