"""Folders that come from elsewhere: model directories, bundles, archives."""

from __future__ import annotations

import copy
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.corpora.archives import safe_extract
from neuron_specialization.directions import Direction
from neuron_specialization.export.bundle import BUNDLE, Bundle, write_bundle
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.export.model_cache import ModelCache
from neuron_specialization.export.model_directory import PROVENANCE, find_models, zero_shot_models
from neuron_specialization.serve.directions import describe_directions, model_name
from neuron_specialization.storage.files import sha256_of
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model
from tests.fuzz.harness import Edits, Grafts, edited, edits, fuzz, grafted, grafts, reads_or_explains

LANGUAGES, DIRECTIONS = ["en", "de"], ["en-de", "de-en"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, trained_vocabulary: Path) -> Path:
    """``bundle`` and ``models`` of a random system. Read it only."""
    made = tmp_path_factory.mktemp("exported")
    model = write_random_model(made / "dense.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    masks = write_mask_folder(made / "masks", random_masks(SMALL, DIRECTIONS))
    write_bundle(model, trained_vocabulary, made / "bundle", masks=masks, system="ns")
    export_system(model, trained_vocabulary, made / "models", masks=masks, system="ns")
    # readers import what they need on first use, which is no business of the guard's
    with Bundle(made / "bundle", ModelCache(made / "cache")).model(Direction("de", "en")):
        pass
    return made


def as_text(description: Any) -> str:
    return json.dumps(description)


@fuzz
@given(as_tree=grafts, as_bytes=edits, kind=st.sampled_from(["tree", "bytes"]))
def test_model_directories(folder: Path, exported: Path, as_tree: Grafts, as_bytes: Edits, kind: str) -> None:
    model = folder / "model"
    if not model.exists():
        shutil.copytree(exported / "models" / "de-en", model)
    text = (exported / "models" / "de-en" / PROVENANCE).read_bytes()
    if kind == "tree":
        (model / PROVENANCE).write_text(as_text(grafted(json.loads(text), as_tree)), encoding="utf-8")
    else:
        (model / PROVENANCE).write_bytes(edited(text, as_bytes))

    def read() -> list[str]:
        found = find_models(model)
        described = describe_directions(model)
        model_name(model)
        return [*described, *map(str, [*found, *zero_shot_models(found)])]

    names = reads_or_explains("model directory", folder, read)
    assert names is None or all(name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert names is not None or kind == "tree" or as_bytes


@fuzz
@given(as_tree=grafts, as_bytes=edits, kind=st.sampled_from(["tree", "bytes"]))
def test_descriptions_of_bundles(
    folder: Path, exported: Path, as_tree: Grafts, as_bytes: Edits, kind: str
) -> None:
    bundle = folder / "bundle"
    if not bundle.exists():
        shutil.copytree(exported / "bundle", bundle)
    text = (exported / "bundle" / BUNDLE).read_bytes()
    if kind == "tree":
        (bundle / BUNDLE).write_text(as_text(grafted(json.loads(text), as_tree)), encoding="utf-8")
    else:
        (bundle / BUNDLE).write_bytes(edited(text, as_bytes))

    def read() -> list[str]:
        opened = Bundle(bundle, ModelCache(folder / "cache"))
        opened.untrained()
        describe_directions(bundle)
        model_name(bundle)
        # the model of a direction is made from the files, as the description says
        with opened.model(opened.directions[0]) as made:
            assert made.resolve().is_relative_to(folder.resolve())
        return [str(one) for one in opened.directions]

    names = reads_or_explains("description of a bundle", folder, read)
    assert names is not None or kind == "tree" or as_bytes
    shutil.rmtree(folder / "cache", ignore_errors=True)


@fuzz
@given(changes=edits, name=st.sampled_from(["weights.safetensors", "masks.safetensors", "dict.txt"]))
def test_files_of_bundles(folder: Path, exported: Path, changes: Edits, name: str) -> None:
    """The checksums are right: whoever changes a file of a bundle can change those, too."""
    bundle = folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(exported / "bundle", bundle)
    (bundle / name).write_bytes(edited((bundle / name).read_bytes(), changes))
    description = json.loads((bundle / BUNDLE).read_text(encoding="utf-8"))
    description = copy.deepcopy(description)
    description["files"][name] = {"bytes": (bundle / name).stat().st_size, "sha256": sha256_of(bundle / name)}
    (bundle / BUNDLE).write_text(as_text(description), encoding="utf-8")

    def read() -> bool:
        with Bundle(bundle, ModelCache(folder / "cache")).model(Direction("de", "en")) as made:
            return (made / "model.bin").is_file()

    found = reads_or_explains("files of a bundle", folder, read)
    assert changes or found is True
    shutil.rmtree(folder / "cache", ignore_errors=True)


def archive_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/a.txt", "text\n" * 20)
            archive.writestr("data/b.txt", "")
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, entry_type, link in (
            *(("data", tarfile.DIRTYPE, ""), ("data/a.txt", tarfile.REGTYPE, "")),
            *(("data/link", tarfile.SYMTYPE, "a.txt"), ("data/hard", tarfile.LNKTYPE, "data/a.txt")),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = entry_type, link
            entry.size = 9 if entry_type == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"some text"))
    return buffer.getvalue()


ARCHIVES = [archive_bytes(kind) for kind in ("", "gz", "bz2", "xz", "zip")]


@fuzz
@given(changes=edits, data=st.sampled_from(ARCHIVES))
def test_archives(folder: Path, changes: Edits, data: bytes) -> None:
    path, target = folder.parent / "archive", folder / "unpacked"
    path.write_bytes(edited(data, changes))
    found = reads_or_explains("archive", folder, lambda: safe_extract(path, target, max_bytes=1 << 20))
    assert changes or found
    if found is None:
        assert not any(folder.iterdir()), "a refused archive leaves nothing"
    for each in folder.rglob("*"):
        assert each.resolve().is_relative_to(folder.resolve())
        assert each.is_file() or each.is_dir()
    shutil.rmtree(target, ignore_errors=True)
