"""The corpus stage from input to manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.config import Cleaning, load_config, parse_config, parse_spec
from neuron_specialization.corpora.layout import CorpusFolder
from neuron_specialization.corpora.near_duplicates import with_near_duplicate
from neuron_specialization.corpora.prepare import prepare_corpus
from neuron_specialization.corpora.spec import CorpusSpec, KeptOut, corpus_spec_of
from neuron_specialization.corpora.testsets import prepare_testset
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ConfigError, CorpusError
from neuron_specialization.storage.files import read_lines, sha256_of
from tests.fakes.corpora import (
    corpus_spec,
    local_files,
    make_parallel_wheel,
    make_wheel,
    sentence,
    write_text,
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_those_of_the_contract(small_corpus: Path) -> None:
    manifest = json.loads((small_corpus / "manifest.json").read_text())
    names = {
        f"{s}/{p}.{c}"
        for s in ("train", "valid", "heldout")
        for p in ("de-en", "en-ru")
        for c in p.split("-")
    }
    assert set(tree(small_corpus)) == names | {"manifest.json"}
    assert manifest["files"] == {name: sha256_of(small_corpus / name) for name in manifest["files"]}
    assert set(manifest["files"]) == names
    assert (
        manifest["source"] == "homeassistant" and manifest["licence"] == "Apache-2.0" and manifest["citation"]
    )
    assert manifest["input"]["sha256"] == sha256_of(small_corpus.parent / "small.whl")
    for split, size in (("train", 285), ("valid", 5), ("heldout", 10)):
        for pair in ("de-en", "en-ru"):
            counts = manifest["splits"][split][pair]
            assert counts["segments"] == size
            for code in pair.split("-"):
                lines = read_lines(small_corpus / f"{split}/{pair}.{code}")
                assert len(lines) == size
                assert counts["words"][code] == sum(len(line.split()) for line in lines)
    # every extracted segment is accounted for
    for pair in ("de-en", "en-ru"):
        lost = (
            sum(manifest["dropped"][pair].values())
            + manifest["decontaminated"][pair]
            + manifest["capped"][pair]
        )
        assert manifest["extracted"][pair] == lost + 285
        assert manifest["decontaminated"][pair] == 15
    heldout = read_lines(small_corpus / "heldout/de-en.en")
    training = read_lines(small_corpus / "train/de-en.en")
    near = sum(with_near_duplicate(heldout, training))
    assert manifest["near_duplicates"] == {
        "language": "en",
        "jaccard": 0.6,
        "segments": 10,
        "near": near,
        "training_segments": 285,
        "searched": 285,
    }
    assert near > 0


def test_held_out_sets_are_multi_parallel(small_corpus: Path) -> None:
    for split in ("valid", "heldout"):
        assert read_lines(small_corpus / f"{split}/de-en.en") == read_lines(
            small_corpus / f"{split}/en-ru.en"
        )


def naive_key(text: str) -> str:
    """The issue's words, taken literally and independently of splits.comparison_key."""
    text = re.sub(r"\{[^}]*\}|%s|%d", "", text.casefold())
    return " ".join(re.sub(r"[\W\d_]+", " ", text).split())


def test_near_copies_of_held_out_text_leave_the_training_text(tmp_path: Path) -> None:
    translations: dict[tuple[str, str], Any] = {}
    for code in ("en", "de", "ru"):
        plain = {f"m{n}": sentence(n, code) for n in range(100)}
        shouted = {f"u{n}": sentence(n, code).upper() + " {name}!" for n in range(100)}
        reworded = {
            f"w{n}": sentence(n, code) if code == "en" else f"so: {sentence(n, code)}" for n in range(100)
        }
        translations["hue", code] = plain | shouted | reworded
    wheel = make_wheel(tmp_path / "a.whl", translations)
    manifest = prepare_corpus("homeassistant", wheel, corpus_spec(), tmp_path / "corpus")
    for pair in ("de-en", "en-ru"):
        held = [
            line
            for split in ("valid", "heldout")
            for line in read_lines(tmp_path / f"corpus/{split}/{pair}.en")
        ]
        train = {naive_key(line) for line in read_lines(tmp_path / f"corpus/train/{pair}.en")}
        assert len({naive_key(line) for line in held}) == 15
        assert not train & {naive_key(line) for line in held}
        assert manifest["decontaminated"][pair] == 45
        assert manifest["splits"]["train"][pair]["segments"] == 255


def test_same_input_same_bytes(tmp_path: Path) -> None:
    wheel = make_parallel_wheel(tmp_path / "a.whl", 120)
    for name in ("one", "two"):
        prepare_corpus("homeassistant", wheel, corpus_spec(train_caps={"de-en": 20}), tmp_path / name)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_caps_and_what_an_earlier_run_left(tmp_path: Path) -> None:
    wheel = make_parallel_wheel(tmp_path / "a.whl", 120)
    prepare_corpus("homeassistant", wheel, corpus_spec(train_caps={"de-en": 50, "en-ru": 10}), tmp_path / "c")
    large = set(read_lines(tmp_path / "c/train/de-en.de"))
    assert len(large) == 50 and len(read_lines(tmp_path / "c/train/en-ru.ru")) == 10
    (tmp_path / "c/notes.txt").write_text("mine")
    smaller = corpus_spec(languages=["en", "de"], pairs=["de-en"], train_caps={"de-en": 20})
    prepare_corpus("homeassistant", wheel, smaller, tmp_path / "c")
    assert not (tmp_path / "c/train/en-ru.ru").exists()
    assert (tmp_path / "c/notes.txt").read_text() == "mine"
    assert len(read_lines(tmp_path / "c/train/de-en.de")) == 20


def test_local_text_is_cleaned_decontaminated_and_capped_in_train_only(tmp_path: Path) -> None:
    files = local_files()
    files["train.de-en.de"] += ["", "gleich", files["test.de-en.de"][0] + "!", files["train.de-en.de"][0]]
    files["train.de-en.en"] += ["x", "gleich", "something else", files["train.de-en.en"][0]]
    # held out in another pair, in the shared language
    files["train.en-ru.en"][0] = files["valid.de-en.en"][0].upper()
    files["valid.en-ru.en"][0], files["valid.en-ru.ru"][0] = files["test.en-ru.en"][1], "другой"
    files["test.en-ru.ru"][2] = files["test.en-ru.en"][2]  # identical sides stay in a test set
    write_text(tmp_path / "text", files)
    spec = corpus_spec(train_caps={"de-en": 150})
    manifest = prepare_corpus("local", tmp_path / "text", spec, tmp_path / "corpus")
    assert manifest["dropped"]["de-en"] == {
        "empty": 1,
        "identical": 1,
        "too_long": 0,
        "length_ratio": 0,
        "duplicate": 1,
    }
    assert manifest["decontaminated"] == {"de-en": 1, "en-ru": 1}
    assert manifest["capped"] == {"de-en": 50, "en-ru": 0}
    assert manifest["valid_in_heldout"] == {"de-en": 0, "en-ru": 1}
    assert manifest["splits"]["heldout"]["en-ru"]["segments"] == 6
    assert read_lines(tmp_path / "corpus/heldout/de-en.de") == files["test.de-en.de"]


@pytest.mark.parametrize(
    ("cleaning", "ratio", "long"),
    [({}, 0, 1), ({"max_ratio": 1.4, "ratio_free_words": 0, "max_words": 6}, 1, 2)],
)
def test_training_text_is_cleaned_by_the_given_settings(
    tmp_path: Path, cleaning: dict[str, Any], ratio: int, long: int
) -> None:
    files = local_files()
    files["train.de-en.de"][:3] = ["eins zwei", "x" * 100_000, "eins zwei drei vier fünf sechs sieben"]
    files["train.de-en.en"][:3] = ["one two three", "y z", "one two three four five six seven"]
    write_text(tmp_path / "text", files)
    spec = corpus_spec(cleaning=Cleaning.model_validate(cleaning))
    dropped = prepare_corpus("local", tmp_path / "text", spec, tmp_path / "c")["dropped"]["de-en"]
    assert (dropped["length_ratio"], dropped["too_long"]) == (ratio, long)


def test_a_bad_local_folder_writes_nothing(tmp_path: Path) -> None:
    files = local_files()
    del files["test.en-ru.ru"]
    write_text(tmp_path / "text", files)
    with pytest.raises(CorpusError, match=r"test\.en-ru\.ru is missing"):
        prepare_corpus("local", tmp_path / "text", corpus_spec(), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_pair_left_without_training_text_is_an_error(tmp_path: Path) -> None:
    files = local_files()
    for name in ("train.en-ru.en", "train.en-ru.ru"):
        files[name] = ["same"] * 5
    write_text(tmp_path / "text", files)
    with pytest.raises(CorpusError, match="no training text is left for: en-ru") as error:
        prepare_corpus("local", tmp_path / "text", corpus_spec(), tmp_path / "corpus")
    assert "of 5 segments, 5 were dropped" in str(error.value)


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    wheel = make_parallel_wheel(tmp_path / "a.whl", 60)
    prepare_corpus("homeassistant", wheel, corpus_spec(), tmp_path / "c")
    corpus = CorpusFolder(tmp_path / "c")
    assert len(corpus.lines("train", "de-en", "de")) == 45
    with (tmp_path / "c/train/de-en.de").open("a") as handle:
        handle.write("one more\n")
    with pytest.raises(CorpusError, match="not the one its manifest describes"):
        corpus.lines("train", "de-en", "de")
    with pytest.raises(CorpusError, match="manifest is missing"):
        CorpusFolder(tmp_path)


def test_spec_of_the_default_configuration(repository: Path) -> None:
    spec = corpus_spec_of(load_config(repository / "config.yaml"))
    assert spec.reference_language == "en"
    assert len(spec.pairs) == 9 and spec.pairs[0] == "de-en"
    assert spec.train_caps["de-en"] == 12000 and spec.train_caps["en-pl"] == 1000
    assert parse_spec(CorpusSpec, spec.model_dump_json()) == spec


def test_spec_of_directions_without_a_pivot() -> None:
    config = parse_config(
        {
            "experiment": "x",
            "languages": ["de", "ru", "nl"],
            "pivot": "en",
            "directions": ["ru-de", "de-ru", "nl-de"],
            "systems": {"baseline": {}},
        }
    )
    spec = corpus_spec_of(config)
    assert (spec.pivot, spec.reference_language, spec.pairs) == (None, "de", ["de-ru", "de-nl"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": ["en-de"]}, "is written de-en"),
        ({"pairs": ["de-pl"]}, "a language that languages"),
        ({"train_caps": {"de-pl": 3}}, "not among pairs: de-pl"),
        ({"sed": 3}, "did you mean 'seed'"),
    ],
)
def test_spec_is_closed_and_consistent(change: dict[str, Any], message: str) -> None:
    text = json.dumps(corpus_spec().model_dump(mode="json") | change)
    with pytest.raises(ConfigError, match=message):
        parse_spec(CorpusSpec, text, "corpus spec")
    with pytest.raises(ConfigError, match="not valid JSON"):
        parse_spec(CorpusSpec, text[:-1], "corpus spec")


def test_strict_cleaning_reaches_the_choice_of_held_out_text(tmp_path: Path) -> None:
    wheel = make_parallel_wheel(tmp_path / "a.whl", 60)
    with pytest.raises(CorpusError, match="0 of them are clean"):
        prepare_corpus("homeassistant", wheel, corpus_spec(cleaning=Cleaning(max_words=3)), tmp_path / "c")


def test_real_wheel_gives_the_known_counts(tmp_path: Path, repository: Path) -> None:
    wheel = repository / "downloads/homeassistant-2026.2.3-py3-none-any.whl"
    if not wheel.is_file():
        pytest.skip(
            "the Home Assistant wheel is not in downloads/ (any run with the default config fetches it)"
        )
    spec = corpus_spec_of(load_config(repository / "config.yaml"))
    manifest = prepare_corpus("homeassistant", wheel, spec, tmp_path)
    clean = {
        pair: manifest["extracted"][pair] - sum(manifest["dropped"][pair].values()) for pair in spec.pairs
    }
    assert clean == {
        "de-en": 24641,
        "en-nl": 12682,
        "en-sv": 22280,
        "en-es": 24401,
        "en-it": 14592,
        "en-pt": 24741,
        "cs-en": 24630,
        "en-ru": 20855,
        "en-pl": 5999,
    }
    held = set()
    for split in ("valid", "heldout"):
        lines = read_lines(tmp_path / f"{split}/de-en.en")
        assert all(len(line.split()) >= 4 for line in lines)
        held |= {naive_key(line) for line in lines}
    assert len(held) == 750
    for pair in spec.pairs:
        assert not held & {naive_key(line) for line in read_lines(tmp_path / f"train/{pair}.en")}


def test_test_sets_from_elsewhere_are_kept_out_where_asked(tmp_path: Path) -> None:
    write_text(tmp_path / "text", local_files())
    spec = corpus_spec()
    prepare_corpus("local", tmp_path / "text", spec, tmp_path / "a")
    english = read_lines(tmp_path / "a/train/de-en.en")
    lines = {f"test.{code}": [f"{code} x", f"{code} y"] for code in ("de", "ru")}
    write_text(tmp_path / "f", {**lines, "test.en": [english[0].upper(), "nowhere in it"]})
    kept = spec.model_copy(
        update={"keep_out": {"mine": KeptOut(source="folder", path=str(tmp_path / "f"), splits=["test"])}}
    )
    manifest = prepare_corpus("local", tmp_path / "text", kept, tmp_path / "b")
    assert manifest["kept_out"] == ["mine"]
    assert set(english) - set(read_lines(tmp_path / "b/train/de-en.en")) == {english[0]}
    directions = [Direction("de", "en"), Direction("en", "ru")]
    for corpus, count in (("a", 1), ("b", 0)):
        made = prepare_testset(
            "folder", tmp_path / "f", ["test"], directions, tmp_path / "t", tmp_path / corpus
        )
        assert made["in_training_text"]["de-en"] == count


def test_a_spec_without_kept_out_text_is_the_one_it_was() -> None:
    assert "keep_out" not in corpus_spec().model_dump_json()
