"""Small corpora made on the spot: a Home Assistant wheel, a folder of local text, a trained vocabulary."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from neuron_specialization.config import Cleaning, Vocabulary
from neuron_specialization.corpora.spec import CorpusSpec
from neuron_specialization.preprocessing.vocabulary import VocabularySpec

_TEXT = {
    "en": "light door window sensor kitchen garden switch turn open close battery time lamp music alarm",
    "de": "licht tür fenster fühler küche garten schalter drehe öffne schließe akku zeit lampe musik alarm",
    "ru": "свет дверь окно датчик кухня сад кнопка включи открой закрой батарея время лампа музыка тревога",
}
WORDS = {code: text.split() for code, text in _TEXT.items()}


def sentence(number: int, language: str, length: int = 6) -> str:
    """Return a sentence that no other number below 15 ** length has; parallel over the languages."""
    words = WORDS[language]
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(words))
        digits.append(words[digit])
    return " ".join(digits)


def make_wheel(path: Path, translations: dict[tuple[str, str], object]) -> Path:
    """Write a wheel with ``(component, language tag) → JSON value`` (bytes are written as they are)."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("homeassistant/__init__.py", "raise SystemExit('must not be imported')\n")
        for (component, tag), value in translations.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            archive.writestr(f"homeassistant/components/{component}/translations/{tag}.json", data)
    return path


def make_parallel_wheel(path: Path, count: int, languages: tuple[str, ...] = ("en", "de", "ru")) -> Path:
    """Write a wheel of ``count`` distinct messages in every language, in two components."""
    translations: dict[tuple[str, str], object] = {}
    for code in languages:
        for component, numbers in (("hue", range(count // 2)), ("mqtt", range(count // 2, count))):
            translations[component, code] = {
                "entity": {f"m{n}": {"name": sentence(n, code)} for n in numbers}
            }
    return make_wheel(path, translations)


def corpus_spec(**changes: object) -> CorpusSpec:
    """A spec for the three languages, English-centric, with small sets."""
    values: dict[str, object] = {
        "languages": ["en", "de", "ru"],
        "pivot": "en",
        "pairs": ["de-en", "en-ru"],
        "valid_size": 5,
        "heldout_size": 10,
        "cleaning": Cleaning(),
        "seed": 7,
    }
    return CorpusSpec.model_validate(values | changes)


def write_text(folder: Path, files: dict[str, list[str]]) -> None:
    """Write ``name → lines`` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def local_files(train: int = 200, valid: int = 5, test: int = 6) -> dict[str, list[str]]:
    """The files of a complete local corpus of de-en and en-ru."""
    ranges = {
        "train": range(train),
        "valid": range(10_000, 10_000 + valid),
        "test": range(20_000, 20_000 + test),
    }
    return {
        f"{split}.{pair}.{code}": [sentence(number, code) for number in numbers]
        for split, numbers in ranges.items()
        for pair in ("de-en", "en-ru")
        for code in pair.split("-")
    }


def vocabulary_spec(size: int = 90, seed: int = 1, **changes: object) -> VocabularySpec:
    """A vocabulary spec for the small corpora."""
    return VocabularySpec(vocabulary=Vocabulary.model_validate({"size": size, **changes}), seed=seed)
