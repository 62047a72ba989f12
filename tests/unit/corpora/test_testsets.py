"""Multi-parallel test sets: FLORES-200's layout, a folder, and what is refused."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from neuron_specialization.corpora.testsets import prepare_testset, source_files
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, NeuronSpecializationError
from neuron_specialization.storage.files import read_lines, sha256_of
from tests.conftest import shared_file
from tests.fakes.corpora import write_text

DIRECTIONS = [Direction("en", "de"), Direction("de", "en"), Direction("en", "fr")]


def flores(root: Path) -> Path:
    """A FLORES-200 of three and two lines in three languages."""
    for split, count in (("dev", 3), ("devtest", 2)):
        for code in ("eng_Latn", "deu_Latn", "fra_Latn"):
            write_text(root / split, {f"{code}.{split}": [f"{code} {split} {n}" for n in range(count)]})
    return root


def test_flores_splits_come_in_the_given_order(tmp_path: Path) -> None:
    manifest = prepare_testset(
        "flores200", flores(tmp_path / "f"), ["dev", "devtest"], DIRECTIONS, tmp_path / "out"
    )
    german = [f"deu_Latn dev {n}" for n in range(3)] + [f"deu_Latn devtest {n}" for n in range(2)]
    assert read_lines(tmp_path / "out/de-en.de") == german
    assert read_lines(tmp_path / "out/en-fr.en") == read_lines(tmp_path / "out/de-en.en")
    assert manifest["pairs"] == ["de-en", "en-fr"] and manifest["segments"] == 5
    assert manifest["files"] == {
        name: sha256_of(tmp_path / "out" / name) for name in ("de-en.de", "de-en.en", "en-fr.en", "en-fr.fr")
    }


def test_flores_parent_folder_and_archive(tmp_path: Path) -> None:
    flores(tmp_path / "in/flores200_dataset")
    prepare_testset("flores200", tmp_path / "in", ["devtest"], DIRECTIONS, tmp_path / "a")
    with tarfile.open(tmp_path / "flores.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "in/flores200_dataset", "flores200_dataset")
    prepare_testset("flores200", tmp_path / "flores.tar.gz", ["devtest"], DIRECTIONS, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "a").iterdir())
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_folder_takes_codes_flores_codes_and_gzip(tmp_path: Path) -> None:
    write_text(tmp_path / "f", {"test.en": ["a", "b"], "test.deu_Latn": ["c", "d"]})
    (tmp_path / "f/test.fr.gz").write_bytes(gzip.compress(b"e\nf\n"))
    prepare_testset("folder", tmp_path / "f", ["test"], DIRECTIONS, tmp_path / "out")
    assert read_lines(tmp_path / "out/en-fr.fr") == ["e", "f"]
    assert read_lines(tmp_path / "out/de-en.de") == ["c", "d"]


def test_text_stays_as_published(tmp_path: Path) -> None:
    lines = ["  two  spaces\u00a0", "e\u0301", "\u200fשלום\u2028"]
    write_text(tmp_path / "f", {f"test.{code}": lines for code in ("en", "de", "fr")})
    prepare_testset("folder", tmp_path / "f", ["test"], DIRECTIONS, tmp_path / "out")
    assert read_lines(tmp_path / "out/de-en.de") == lines


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    root = flores(tmp_path / "f")
    (root / "dev/fra_Latn.dev").unlink()
    (root / "devtest/deu_Latn.devtest").write_text("only one\n")
    (root / "devtest/fra_Latn.devtest").write_bytes(b"ok\ncaf\xe9\n")
    (root / "dev/eng_Latn.dev").write_text("a\n\nc\n")
    with pytest.raises(CorpusError) as error:
        prepare_testset(
            "flores200", root, ["dev", "devtest"], [*DIRECTIONS, Direction("xx", "en")], tmp_path / "out"
        )
    text = str(error.value)
    assert "fr: dev/fra_Latn.dev or dev/fr.dev is missing" in text
    assert "xx: dev/xx.dev is missing" in text
    assert "devtest: unequal line counts: 1 in de; 2 in en" in text
    assert "fra_Latn.devtest, line 2: not UTF-8" in text
    assert "eng_Latn.dev, line 2: is empty (1 such lines)" in text
    assert not (tmp_path / "out").exists()


def test_two_files_for_a_language_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "f", {f"test.{code}": ["a"] for code in ("en", "de", "deu_Latn", "fr")})
    with pytest.raises(CorpusError, match=r"test\.de and test\.deu_Latn are both there"):
        prepare_testset("folder", tmp_path / "f", ["test"], DIRECTIONS, tmp_path / "out")


def test_nothing_to_do_and_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="folder is missing"):
        prepare_testset("folder", tmp_path / "none", ["test"], DIRECTIONS, tmp_path / "out")
    with pytest.raises(CorpusError, match="at least one direction"):
        prepare_testset("folder", tmp_path, ["test"], [], tmp_path / "out")
    (tmp_path / "text.txt").write_text("not an archive")
    with pytest.raises(NeuronSpecializationError, match="not an archive"):
        prepare_testset("folder", tmp_path / "text.txt", ["test"], DIRECTIONS, tmp_path / "out")


def test_published_flores_text(tmp_path: Path) -> None:
    folder = shared_file("flores")
    codes = sorted(path.name.split(".")[1] for path in folder.glob("test.*.gz"))
    directions = [Direction("en", code) for code in codes if code != "en"]
    manifest = prepare_testset("folder", folder, ["test"], directions, tmp_path)
    assert manifest["segments"] == 2009 and len(manifest["pairs"]) == 30
    assert read_lines(tmp_path / "de-en.de") == read_lines(folder / "test.de.gz")


def test_source_files_are_those_that_are_read(tmp_path: Path) -> None:
    root = flores(tmp_path / "outer" / "flores200_dataset")
    directions = [Direction.parse("de-en")]
    for folder in (root, root.parent):
        found = source_files("flores200", folder, ["devtest"], directions)
        assert found == [root / "devtest/deu_Latn.devtest", root / "devtest/eng_Latn.devtest"]
    archive = tmp_path / "flores.tar"
    assert source_files("flores200", archive, ["devtest"], directions) == [archive]
    assert source_files("folder", root, [], directions) == []


def test_what_is_in_the_training_text_is_counted_by_either_side(tmp_path: Path, small_corpus: Path) -> None:
    english = read_lines(small_corpus / "train/de-en.en")
    russian = read_lines(small_corpus / "train/en-ru.ru")
    write_text(
        tmp_path / "f",
        {
            "test.en": [f"{english[0].upper()}!", "quite another text", "nothing of it"],
            "test.de": ["ganz anderer text", "noch ein anderer", "nichts davon"],
            "test.ru": ["совсем другой", russian[1], "ничего"],
        },
    )
    wanted = [Direction("en", "de"), Direction("ru", "en"), Direction("de", "ru")]
    call = ("folder", tmp_path / "f", ["test"], wanted, tmp_path / "out")
    assert prepare_testset(*call, small_corpus)["in_training_text"] == {"de-en": 1, "en-ru": 2, "de-ru": 1}
    assert "in_training_text" not in prepare_testset(*call)


def test_lines_that_no_translation_can_equal_are_counted(tmp_path: Path) -> None:
    write_text(
        tmp_path / "f", {"test.en": ["a", "b"], "test.de": ["u\u0308ber", "\u00fcber"], "test.fr": ["c", "d"]}
    )
    manifest = prepare_testset("folder", tmp_path / "f", ["test"], DIRECTIONS, tmp_path / "out")
    assert manifest["not_nfc"] == {"de": 1}
    published = prepare_testset("flores200", flores(tmp_path / "g"), ["dev"], DIRECTIONS, tmp_path / "out")
    assert "not_nfc" not in published
