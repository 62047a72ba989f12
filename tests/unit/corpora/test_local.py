"""Anyone's own text: what is read, and what is refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from neuron_specialization.config import load_config
from neuron_specialization.corpora.local import check_local, read_local
from neuron_specialization.corpora.local import local_files as files_of
from neuron_specialization.corpora.spec import corpus_spec_of
from neuron_specialization.errors import CorpusError
from tests.fakes.corpora import local_files, write_text

PAIRS = ["de-en", "en-ru"]


def refusal(folder: Path) -> str:
    with pytest.raises(CorpusError) as error:
        read_local(folder, PAIRS)
    return str(error.value)


def test_complete_folder(tmp_path: Path) -> None:
    files = local_files()
    write_text(tmp_path, files)
    text = read_local(tmp_path, PAIRS)
    assert {split: [len(pair) for pair in pairs.values()] for split, pairs in text.items()} == {
        "train": [200, 200],
        "valid": [5, 5],
        "heldout": [6, 6],
    }
    assert text["heldout"]["en-ru"][0] == (files["test.en-ru.en"][0], files["test.en-ru.ru"][0])


def test_either_order_of_the_pair_and_gzip(tmp_path: Path) -> None:
    files = {name.replace("de-en", "en-de"): lines for name, lines in local_files().items()}
    write_text(tmp_path, files)
    plain = tmp_path / "train.en-de.de"
    (tmp_path / "train.en-de.de.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    text = read_local(tmp_path, PAIRS)
    # the first side is the alphabetically first language, however the file is called
    assert text["train"]["de-en"][3] == (files["train.en-de.de"][3], files["train.en-de.en"][3])


def test_the_files_of_the_pairs_are_listed_and_no_others(tmp_path: Path) -> None:
    write_text(tmp_path, local_files())
    (tmp_path / "test.en-ru.en").rename(tmp_path / "test.en-ru.en.gz")
    write_text(tmp_path, {"test.de-ru.de": ["a"], "test.de-ru.ru": ["b"], "test.de-nl.nl": ["c"]})
    listed = {path.name for path in files_of(tmp_path, PAIRS, ["de-ru"])}
    assert listed == {path.name for path in tmp_path.iterdir()} - {"test.de-nl.nl"}


def test_valid_and_test_keep_every_line_but_are_normalised(tmp_path: Path) -> None:
    files = local_files()
    files["test.de-en.de"][:3] = ["Zeile\u2028zwei  ", "doppelt", "doppelt"]
    files["test.de-en.en"][:3] = ["Line two", "twice", "twice"]
    write_text(tmp_path, files)
    heldout = read_local(tmp_path, PAIRS)["heldout"]["de-en"]
    assert heldout[:3] == [("Zeile zwei", "Line two"), ("doppelt", "twice"), ("doppelt", "twice")]
    assert len(heldout) == 6


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    files = local_files()
    files["train.de-en.de"].pop()
    files["valid.en-ru.ru"][2] = " \t"
    files["test.de-en.en"] = []
    del files["valid.de-en.de"], files["test.en-ru.en"], files["test.en-ru.ru"]
    write_text(tmp_path, files)
    raw = (tmp_path / "train.en-ru.ru").read_bytes().split(b"\n")
    raw[6] = b"caf\xe9"
    (tmp_path / "train.en-ru.ru").write_bytes(b"\n".join(raw))
    text = refusal(tmp_path)
    assert "6 problems" in text
    assert "train.de-en.de has 199 lines, train.de-en.en 200: line 200 has no counterpart" in text
    assert "train.en-ru.ru, line 7: not UTF-8" in text
    assert "valid.de-en.de is missing" in text
    assert "valid.en-ru.ru, line 3: is empty" in text
    assert "test.de-en.en: is empty" in text
    assert "test.en-ru.en and test.en-ru.ru are missing" in text


def test_many_empty_lines_are_summed_up(tmp_path: Path) -> None:
    files = local_files(test=30)
    files["test.de-en.de"] = [""] * 29 + ["x"]
    write_text(tmp_path, files)
    text = refusal(tmp_path)
    assert "test.de-en.de: 26 more empty lines" in text and text.count("test.de-en.de, line") == 3


def test_ambiguous_files_are_refused(tmp_path: Path) -> None:
    files = local_files()
    write_text(tmp_path, files | {"train.en-de.en": ["x"]})
    assert "keep one, it serves both directions" in refusal(tmp_path)
    (tmp_path / "train.en-de.en").unlink()
    (tmp_path / "train.de-en.en.gz").write_bytes(gzip.compress(b"x\n"))
    assert "train.de-en.en and train.de-en.en.gz are both there" in refusal(tmp_path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    write_text(tmp_path, local_files())
    (tmp_path / "test.en-ru.ru").unlink()
    (tmp_path / "test.en-ru.ru.gz").write_bytes(gzip.compress(b"x\n" * 500)[:-6])
    assert "test.en-ru.ru.gz: cannot be read" in refusal(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    assert "set corpus.path" in refusal(tmp_path / "nowhere")


def test_the_check_by_names_reads_nothing_where_all_are_there(tmp_path: Path) -> None:
    files = local_files()
    files["train.de-en.de"].pop()
    write_text(tmp_path, files)
    check_local(tmp_path, PAIRS, names_alone=True)
    with pytest.raises(CorpusError, match="has no counterpart"):
        check_local(tmp_path, PAIRS)
    # all is told at once where it is refused anyway
    (tmp_path / "test.en-ru.ru").unlink()
    with pytest.raises(CorpusError, match=r"(?s)has no counterpart.*test\.en-ru\.ru is missing"):
        check_local(tmp_path, PAIRS, names_alone=True)


def test_the_example_configuration_is_valid(repository: Path) -> None:
    alone = load_config(repository / "configs/local.yaml")
    over_defaults = load_config(repository / "config.yaml", repository / "configs/local.yaml")
    for config in (alone, over_defaults):
        assert config.corpus.source == "local"
        spec = corpus_spec_of(config)
        assert spec.pairs == ["de-en", "en-fr"] and set(spec.train_caps.values()) == {None}
