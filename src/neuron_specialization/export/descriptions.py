"""Whether what a model or bundle says of itself can be: types, names, ranges; before anything relies on them.

A folder comes from anywhere. Its description decides which files are opened and how much memory is asked
for, so a file is a plain name inside the folder and a size a number of sane magnitude. Hand-written, as a
translation would pay more for importing a validation library than for translating a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuron_specialization.directions import DIRECTION_PATTERN, LANGUAGE_PATTERN
from neuron_specialization.errors import TranslationError
from neuron_specialization.formats.fairseq_settings import MODEL_DEFAULTS, setting_fits
from neuron_specialization.storage.files import canonical_json

# positions and neurons of a layer; models have some thousands
_MOST = 1_000_000

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _number(value: Any, least: int = 0, most: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _matching(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and 0 < len(value) <= 100_000 and all(map(check, value))


def _mapping_of(key: Check, value: Check) -> Check:
    return lambda found: (
        isinstance(found, dict) and all(key(name) and value(item) for name, item in found.items())
    )


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


_layer = _matching(r"(encoder|decoder)\.layers\.(0|[1-9][0-9]{0,3})")
_sha256 = _matching(r"[0-9a-f]{64}")
_file_name = _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_two_codes = _matching(DIRECTION_PATTERN)


def _direction(value: Any) -> bool:
    return _two_codes(value) and len(set(value.split("-"))) == 2


def _file(value: Any) -> bool:
    return isinstance(value, dict) and _number(value.get("bytes"), 0, 2**50) and _sha256(value.get("sha256"))


def _mask(value: Any) -> bool:
    kept = value.get("kept", 1.0) if isinstance(value, dict) else None
    return isinstance(kept, int | float) and not isinstance(kept, bool) and 0 <= kept <= 1


def _model(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _optional(_mask)(value.get("mask"))
        and _optional(_mapping_of(_layer, _number))(value.get("neurons"))
    )


def _settings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key in value and setting_fits(key, value[key]) for key in MODEL_DEFAULTS
    )


_WIDTHS = _mapping_of(_layer, lambda value: _number(value, 1))

# what is said in words of a wrong value → for the message
_CHECKS: dict[str, tuple[Check, str]] = {
    "directions": (_list_of(_direction), "a list of directions such as de-en"),
    "languages": (_list_of(_matching(LANGUAGE_PATTERN)), "a list of language codes"),
    "files": (_mapping_of(_file_name, _file), "plain file names with their bytes and sha256"),
    "max_source_positions": (lambda value: _number(value, 3), "a number of positions"),
    "max_target_positions": (lambda value: _number(value, 3), "a number of positions"),
    "input_format": (lambda value: value in ("text", "pieces"), "text or pieces"),
    "system": (_optional(_text), "a name"),
    "mask": (_optional(_mask), "what is known of the mask"),
    "neurons": (_optional(_mapping_of(_layer, _number)), "layers with their neurons"),
    "d_ff": (_optional(_WIDTHS), "layers with their neurons"),
    # of bundles
    "models": (_mapping_of(_text, _model), "a model for each direction"),
    "settings": (_settings, "the settings of a model"),
    "tied": (_mapping_of(_text, _text), "names of weights"),
    "dtype": (lambda value: value in ("float32", "float16"), "float32 or float16"),
    "scores": (_optional(_mapping_of(_text, lambda _: True)), "scores by direction"),
}


def check_description(description: Mapping[str, Any], path: Path, kind: str) -> None:
    """Refuse a description whose values cannot be.

    Args:
        description: of a model directory or a bundle; keys that are not there are not missed here.
        path: the file, for the message.
        kind: what it describes.

    Raises:
        TranslationError: naming the key.
    """

    def refused(what: str) -> TranslationError:
        return TranslationError(
            f"the {kind}'s description has {what}",
            where=path,
            cause="it was changed by hand or damaged, or made to mislead",
            hint=f"export the {kind} again",
        )

    try:
        # 1e999 is valid JSON, and half a surrogate pair; neither can be written again
        canonical_json(description).encode()
    except (ValueError, RecursionError):
        raise refused("values that no export writes") from None
    for key, (is_valid, expected) in _CHECKS.items():
        if key in description and not is_valid(description[key]):
            raise refused(f"a {key} that is not {expected}")
    widths = description.get("d_ff") or {}
    for model in description["models"].values() if "models" in description else (description,):
        neurons = model.get("neurons") or {}
        too_many = [layer for layer, width in widths.items() if neurons.get(layer, width + 1) > width]
        if too_many:
            raise refused("neurons that are not those of its layers")
