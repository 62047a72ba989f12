"""Taking over a data-bin made elsewhere: what is linked, what the manifest says, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_specialization.config import Model, Recipe, Training
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, TrainingError
from neuron_specialization.preprocessing.binarize import write_mmap
from neuron_specialization.preprocessing.take_over import (
    content_of,
    find_data_bin,
    fingerprint_of,
    index_files,
    take_over,
)
from neuron_specialization.preprocessing.take_over import (
    testset_from_data_bin as data_bin_testset,
)
from neuron_specialization.storage.files import read_json, read_lines, sha256_of
from neuron_specialization.training.runs import input_checksums

PIECES = ["▁ein", "▁Haus", "▁a", "▁house", "s", "▁une"]  # ids 4 to 9
LANGUAGES = ["en", "de", "fr"]
PAIRS = ["de-en", "en-fr"]
# id 3 is <unk>, 2 is </s>
TEXT = {"de": [[4, 5, 8, 2], [5, 3, 2]], "en": [[6, 7, 2], [7, 8, 2]], "fr": [[9, 7, 2], [9, 2]]}


def write_text(folder: Path, split: str, order: str, code: str, lines: list[list[int]]) -> None:
    tokens = np.array([token for line in lines for token in line], dtype=np.uint16)
    sizes = np.array([len(line) for line in lines], dtype=np.int32)
    write_mmap(folder / f"{split}.{order}.{code}", tokens, sizes)


def make_data_bin(folder: Path, *, shards: int = 1, repeat: int = 1) -> Path:
    """As fairseq-preprocess would: pairs named en-xx, the validation and test text in every shard."""
    folders = [folder] if shards == 1 else [folder / f"shard{number}" for number in range(shards)]
    for number, each in enumerate(folders):
        each.mkdir(parents=True)
        for code in LANGUAGES:
            (each / f"dict.{code}.txt").write_text(
                "".join(f"{piece} 100\n" for piece in PIECES), encoding="utf-8"
            )
        for split in ("train", "valid", "test"):
            for other in ("de", "fr"):
                for code in ("en", other):
                    # the shards' training text differs in length
                    lines = TEXT[code] * (repeat * (1 + number) if split == "train" else 1)
                    write_text(each, split, f"en-{other}", code, lines)
    return folder


def call(source: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return take_over(source, output, **{"languages": LANGUAGES, "pairs": PAIRS, "shards": 1, **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_data_bin(tmp_path / "source")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results" / "binarized"


def test_flat(source: Path, output: Path, tmp_path: Path) -> None:
    manifest = call(source, output, vocabulary=tmp_path / "vocabulary")
    assert manifest == read_json(output / "manifest.json")
    assert manifest["vocabulary_size"] == 4 + len(PIECES)
    counts = {"segments": 2, "tokens": {"de": 7, "en": 6}, "longest": {"de": 4, "en": 3}}
    assert manifest["splits"]["test"]["de-en"] == counts
    # renamed to the pair's own name, linked and not copied, by a path that survives a move of both
    link = output / "train.de-en.de.bin"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert link.samefile(source / "train.en-de.de.bin")
    assert manifest["files"]["train.de-en.de.bin"] == sha256_of(source / "train.en-de.de.bin")
    assert len(manifest["files"]) == 3 + 3 * 2 * 2 * 2
    assert read_lines(tmp_path / "vocabulary" / "dict.txt") == [f"{piece} 100" for piece in PIECES]
    assert not (tmp_path / "vocabulary" / "spm.model").exists()


def test_again_changes_nothing(source: Path, output: Path) -> None:
    call(source, output)
    before = {path: path.lstat().st_mtime_ns for path in output.iterdir()}
    call(source, output)
    assert {path: path.lstat().st_mtime_ns for path in output.iterdir()} == before


def test_fewer_languages_remove_links_and_leave_the_source(source: Path, output: Path) -> None:
    call(source, output)
    call(source, output, languages=["en", "de"], pairs=["de-en"])
    assert not list(output.glob("*fr*"))
    assert (source / "train.en-fr.fr.bin").is_file()


def test_source_keeps_its_permissions(source: Path, output: Path) -> None:
    path = source / "test.en-de.de.bin"
    path.chmod(0o440)
    call(source, output)
    assert path.stat().st_mode & 0o777 == 0o440


def test_shards(tmp_path: Path, output: Path) -> None:
    source = make_data_bin(tmp_path / "archive" / "ec30" / "sharded", shards=3)
    manifest = call(tmp_path / "archive", output, shards=3)
    assert manifest["shards"] == 3
    assert manifest["splits"]["train"]["de-en"]["segments"] == 2 * (1 + 2 + 3)
    assert manifest["splits"]["valid"]["de-en"]["segments"] == 2
    assert (output / "shard2" / "train.de-en.en.idx").samefile(source / "shard2" / "train.en-de.en.idx")
    assert (output / "shard2" / "dict.fr.txt").is_symlink()
    # fairseq reads other text from the first shard alone
    assert not list((output / "shard1").glob("valid.*"))


def test_wrong_number_of_shards(tmp_path: Path, output: Path) -> None:
    source = make_data_bin(tmp_path / "source", shards=3)
    with pytest.raises(CorpusError, match="has 3 shards, the configuration says 5"):
        call(source, output, shards=5)
    shutil.rmtree(source / "shard1")
    with pytest.raises(CorpusError, match=r"shards are \[0, 2\]: one is missing"):
        call(source, output, shards=2)
    assert not output.exists()


def test_find_data_bin(tmp_path: Path, source: Path) -> None:
    assert find_data_bin(tmp_path) == [source]
    make_data_bin(tmp_path / "other")
    with pytest.raises(CorpusError, match="several data-bins: other, source"):
        find_data_bin(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no fairseq data-bin here"):
        find_data_bin(tmp_path / "empty")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_everything_wrong_is_listed_at_once(source: Path, output: Path) -> None:
    (source / "train.en-de.de.idx").unlink()
    truncate(source / "valid.en-de.en.idx")
    truncate(source / "valid.en-fr.en.bin")
    write_text(source, "test", "en-de", "de", TEXT["de"][:1])
    write_text(source, "test", "en-fr", "en", [])
    write_text(source, "test", "en-fr", "fr", [])
    with pytest.raises(CorpusError) as caught:
        call(source, output)
    text = str(caught.value)
    assert "train.de-en: no such text" in text
    assert "valid.en-de.en.idx: not an index" in text
    assert "valid.en-fr.en.bin: index and text do not belong together" in text
    assert "test.de-en: 1 de and 2 en sentences" in text
    assert "test.en-fr: is empty" in text
    assert not output.exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([[6, 10, 2], [6, 2]], "token 10 is not in the dictionary of 10"),
        ([[6, 7], [6, 2]], "do not end in </s>"),
    ],
)
def test_tokens_are_looked_at(source: Path, output: Path, lines: list[list[int]], message: str) -> None:
    write_text(source, "train", "en-de", "en", lines)
    with pytest.raises(CorpusError, match=message):
        call(source, output)


def test_dictionaries_must_be_one(source: Path, output: Path) -> None:
    (source / "dict.de.txt").write_text("▁other 100\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"dictionaries differ: source/dict\.de\.txt from source/dict\.en\.txt"
    ):
        call(source, output)
    (source / "dict.de.txt").unlink()
    with pytest.raises(CorpusError, match=r"dict\.de\.txt is missing"):
        call(source, output)


def test_both_orders_of_a_pair(source: Path, output: Path) -> None:
    for code in ("en", "de"):
        write_text(source, "test", "de-en", code, TEXT[code])
    call(source, output)
    write_text(source, "test", "de-en", "de", [[4, 2], [5, 5, 2]])
    with pytest.raises(CorpusError, match="de-en and en-de are both there and differ"):
        call(source, output)


def test_index_files_are_those_in_use(source: Path) -> None:
    found = index_files(source, languages=["en", "de"], pairs=["de-en"], splits=["train", "other"])
    names = ["dict.en.txt", "dict.de.txt", "train.en-de.de.idx", "train.en-de.en.idx"]
    assert [path.name for path in found] == names


def test_content_is_told_apart(source: Path) -> None:
    names = sorted(path.name for path in source.iterdir())
    before = content_of(source, names)
    assert before["files"] == len(names)
    (source / names[0]).write_text("other", encoding="utf-8")
    assert content_of(source, names)["sha256"] != before["sha256"]


def test_only_the_splits_asked_for(source: Path, output: Path) -> None:
    for path in source.glob("train.*"):
        path.unlink()
    manifest = call(source, output, splits=["valid", "test"])
    assert list(manifest["splits"]) == ["valid", "test"]
    with pytest.raises(CorpusError, match="train"):
        call(source, output)


def test_a_foreign_segmentation_model_is_refused(source: Path, output: Path, tmp_path: Path) -> None:
    import sentencepiece

    model = tmp_path / "spm.model"
    with model.open("wb") as handle:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["quite another text", "with other words"]),
            model_writer=handle,
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    with pytest.raises(CorpusError, match="SentencePiece model is another one"):
        call(source, output, vocabulary=tmp_path / "vocabulary", segmentation=model)


def test_the_segmentation_model_of_an_earlier_configuration_goes(
    source: Path, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "spm.model").write_bytes(b"of other text")
    call(source, output, vocabulary=tmp_path / "vocabulary")
    assert [path.name for path in (tmp_path / "vocabulary").iterdir()] == ["dict.txt"]


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.bin"
    content = bytearray(range(256)) * 40_000
    path.write_bytes(content)
    assert fingerprint_of(path) == sha256_of(path)
    monkeypatch.setattr("neuron_specialization.preprocessing.take_over._HASHED_WHOLE", 1000)
    first = fingerprint_of(path)
    assert first.startswith("sampled:") and fingerprint_of(path) == first
    for position in (0, len(content) // 15 * 7 + 100, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert fingerprint_of(path) != first, position
    path.write_bytes(content + b"\0")
    assert fingerprint_of(path) != first


def test_testset(source: Path, output: Path, tmp_path: Path) -> None:
    call(source, output)
    directions = [Direction("de", "en"), Direction("en", "de"), Direction("fr", "en")]
    folder = tmp_path / "testset"
    manifest = data_bin_testset(output, ["test", "valid"], directions, folder)
    assert manifest["segments"] == {"de-en": 4, "en-fr": 4}
    assert read_lines(folder / "pieces" / "de-en.de") == ["▁ein ▁Haus s", "▁Haus <unk>"] * 2
    # fairseq escapes unknown pieces of references
    assert read_lines(folder / "de-en.de") == ["ein Hauss", "Haus<<unk>>"] * 2
    assert read_lines(folder / "en-fr.fr") == ["une house", "une"] * 2
    assert manifest["files"]["pieces/de-en.de"] == sha256_of(folder / "pieces" / "de-en.de")
    data_bin_testset(output, ["test"], directions[:1], folder)
    assert not (folder / "en-fr.fr").exists() and not (folder / "pieces" / "en-fr.fr").exists()
    with pytest.raises(CorpusError, match="de-fr"):
        data_bin_testset(output, ["test"], [Direction("de", "fr")], folder)


def test_testset_of_shards(tmp_path: Path, output: Path) -> None:
    call(make_data_bin(tmp_path / "source", shards=2), output, shards=2)
    manifest = data_bin_testset(output, ["test"], [Direction("en", "fr")], tmp_path / "testset")
    assert manifest["segments"] == {"en-fr": 2}


def test_training_refuses_text_that_changed_since(source: Path, output: Path) -> None:
    call(source, output)
    recipe = Recipe(
        system="baseline",
        languages=LANGUAGES,
        directions=["de-en"],
        model=Model(),
        training=Training(),
        seed=1,
    )
    known = input_checksums(recipe, output, None, None)
    # no training reads the test split
    write_text(source, "test", "en-de", "de", TEXT["de"][::-1])
    assert input_checksums(recipe, output, None, None) == known
    write_text(source, "train", "en-de", "de", TEXT["de"][::-1])
    with pytest.raises(TrainingError, match=r"not what was taken over: train\.de-en\.de\.bin") as caught:
        input_checksums(recipe, output, None, None)
    assert "take it over again" in str(caught.value)
    call(source, output)
    assert input_checksums(recipe, output, None, None) != known
