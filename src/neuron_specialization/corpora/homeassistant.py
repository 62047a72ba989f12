"""The embedded corpus: the interface texts of Home Assistant, read straight from its wheel.

``homeassistant/components/<component>/translations/<lang>.json`` are nested objects with strings as leaves.
The path to a leaf names one message; its text in the several languages is one multi-parallel segment.
References between messages (``[%key:…%]``) are resolved in the published files.
"""

from __future__ import annotations

import difflib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuron_specialization.corpora.splits import Row
from neuron_specialization.corpora.text import normalise
from neuron_specialization.errors import CorpusError

_MEMBER = re.compile(r"homeassistant/components/([^/]+)/translations/([A-Za-z0-9-]+)\.json")
# one translation file is some hundred kB at most, all of them some hundred MB
_MAX_MEMBER = 16 << 20
_MAX_TOTAL = 4 << 30
_REFERENCE = re.compile(r"\[%key:[^\]]*%\]")


def language_tag(code: str) -> str:
    """Return Home Assistant's name of a language: zh_Hans → zh-Hans (BCP 47)."""
    return code.replace("_", "-")


def extract(wheel: str | Path, languages: list[str]) -> list[Row]:
    """Read the multi-parallel segments of the wheel.

    Args:
        wheel: the homeassistant wheel (a zip file); it is not installed or unpacked.
        languages: codes as the configuration writes them.

    Returns:
        One row a message, language code → normalised text, sorted by component and key. A language without
        the message is left out of the row.

    Raises:
        CorpusError: the file is no such wheel, or a language has no text in it.
    """
    tags = {language_tag(code): code for code in languages}
    messages: dict[tuple[str, ...], Row] = {}
    available: set[str] = set()
    unpacked = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = info.filename
                member = _MEMBER.fullmatch(name)
                if not member:
                    continue
                component, tag = member.groups()
                available.add(tag)
                if tag in tags:
                    unpacked += info.file_size
                    if info.file_size > _MAX_MEMBER or unpacked > _MAX_TOTAL:
                        raise ValueError(f"{name} unpacks to more than any translation file holds")
                    for key, text in _leaves(_read(archive, info, wheel), (component,)):
                        # an unresolved reference is no text; it counts as an empty side
                        messages.setdefault(key, {})[tags[tag]] = "" if _REFERENCE.search(text) else text
    except FileNotFoundError:
        raise CorpusError(
            "the corpus download is missing", where=wheel, hint="run the fetch command"
        ) from None
    # RuntimeError: encrypted, an unknown compression, or nested deeper than can be read
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError) as error:
        raise CorpusError(
            f"cannot read the wheel: {error}", where=wheel, hint="delete it and fetch it again"
        ) from None
    _check_languages(tags, available, wheel)
    return [messages[key] for key in sorted(messages)]


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, wheel: str | Path) -> Any:
    try:
        return json.loads(archive.read(info).decode("utf-8"))
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise CorpusError(
            f"damaged translation file: {error}",
            where=f"{wheel}, {info.filename}",
            hint="delete the wheel and fetch it again",
        ) from None


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (path, normalised text) of every string in a nested object."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, str):
        yield path, normalise(value)


def _check_languages(tags: dict[str, str], available: set[str], wheel: str | Path) -> None:
    if not available:
        raise CorpusError(
            "the file holds no Home Assistant translations",
            where=wheel,
            cause="it is another package's wheel",
        )
    missing = []
    for tag, code in tags.items():
        if tag not in available:
            near = [other for other in sorted(available) if other.split("-")[0] == tag.split("-")[0]]
            near = near or difflib.get_close_matches(tag, sorted(available), n=2)
            written = ", ".join(other.replace("-", "_") for other in near)
            missing.append(f"{code} (there is {written})" if near else code)
    if missing:
        raise CorpusError(
            f"the corpus has no text in: {', '.join(missing)}",
            where=wheel,
            hint="take them out of languages; the corpus has "
            + ", ".join(tag.replace("-", "_") for tag in sorted(available)),
        )
