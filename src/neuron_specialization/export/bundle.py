"""Bundles: all directions of a system in one folder, the weights they share stored once.

==========================  ==================================================================
``weights.safetensors``     the dense weights by fairseq's names, float32 or float16, tied ones once;
                            and the sinusoidal positions (ctranslate2_converter.POSITION_TABLE)
``masks.safetensors``       ``<direction>/<layer>``: uint8[ceil(d_ff / 8)], numpy.packbits, 1 = kept
``dict.txt``, ``spm.model`` dictionary and SentencePiece model
``bundle.json``             what it translates, its provenance, sizes and SHA-256 of the files
``README.md``               the model card
==========================  ==================================================================

A direction's model directory is made from it on demand (model_cache.py), with numpy alone: the same bytes
that ``export`` writes for that direction, if the weights are stored as float32.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from neuron_specialization import __version__
from neuron_specialization.directions import Direction
from neuron_specialization.errors import TranslationError
from neuron_specialization.export.model_cache import ModelCache
from neuron_specialization.export.model_directory import (
    DENSE,
    README,
    SEGMENTATION,
    check_contents,
    missing_files,
    read_description,
)
from neuron_specialization.formats.fairseq_conventions import tag_of
from neuron_specialization.storage.files import atomic_path, canonical_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neuron_specialization.export.exportable import Reading

FORMAT = 1
BUNDLE = "bundle.json"
WEIGHTS = "weights.safetensors"
MASKS = "masks.safetensors"
DICTIONARY = "dict.txt"
FILES = {BUNDLE, WEIGHTS, MASKS, DICTIONARY, SEGMENTATION, README}
DTYPES = ("float32", "float16")
Dtype = Literal["float32", "float16"]


def write_bundle(
    checkpoint: str | Path,
    vocabulary: str | Path,
    output: str | Path,
    *,
    dtype: Dtype = "float32",
    progress: Callable[[str], None] | None = None,
    **reading: Unpack[Reading],
) -> Path:
    """Write a bundle; an older one at its place is replaced at one stroke.

    Args:
        checkpoint, vocabulary: see exportable.read_system.
        output: the bundle's folder.
        dtype: how the weights are stored. float16 takes half the space and rounds them: translations may
            differ from the checkpoint's.
        progress: called with the bundle's name.
        reading: masks, directions and what else read_system takes.

    Raises:
        CheckpointError, MaskError: see read_system.
        TranslationError: the place is taken, or weights beyond float16's range.
    """
    import numpy as np

    from neuron_specialization.export.ctranslate2_converter import (
        POSITION_TABLE,
        arrays_of,
        position_count,
        sinusoidal_positions,
    )
    from neuron_specialization.export.exportable import read_system
    from neuron_specialization.export.model_card import bundle_card
    from neuron_specialization.export.provenance import (
        describe_folder,
        direction_facts,
        system_facts,
        written_whole,
    )

    if dtype not in DTYPES:
        raise TranslationError(f"a bundle cannot store {dtype}", hint=f"one of {', '.join(DTYPES)}")
    source = read_system(checkpoint, vocabulary, **reading)
    settings = source.checkpoint.settings
    arrays = arrays_of(source.checkpoint.parameters)
    if not (settings["encoder_learned_pos"] and settings["decoder_learned_pos"]):
        arrays[POSITION_TABLE] = sinusoidal_positions(position_count(settings), source.checkpoint.d_model)
    stored, tied = _untie(arrays)
    weights = {name: _stored(array, dtype, name) for name, array in stored.items()}
    packed = {
        f"{direction}/{layer}": np.packbits(kept)
        for direction, mask in source.masks.items()
        for layer, kept in mask.layers.items()
    }
    widths = source.checkpoint.layer_widths
    bundle: dict[str, Any] = {
        "format": FORMAT,
        **system_facts(source),
        "directions": source.directions,
        "languages": source.checkpoint.languages,
        "tags": {code: tag_of(code) for code in source.checkpoint.languages},
        "settings": settings,
        "dtype": dtype,
        "tied": tied,
        "models": {name: direction_facts(widths, mask) for name, mask in source.models.items()},
        "scores": source.scores or None,
        "versions": {"neuron_specialization": __version__},
    }
    target = Path(output)
    with written_whole(target, FILES) as folder:
        _save(weights, folder / WEIGHTS)
        if packed:
            _save(packed, folder / MASKS)
        shutil.copyfile(source.dictionary, folder / DICTIONARY)
        if source.segmentation is not None:
            shutil.copyfile(source.segmentation, folder / SEGMENTATION)
        describe_folder(folder, BUNDLE, bundle, bundle_card)
    if progress:
        progress(target.name)
    return target


def _save(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save_file

    # safetensors makes files that nobody else may read; atomic_path leaves the permissions of any file
    with atomic_path(path) as temporary:
        save_file(dict(arrays), temporary)


def _untie(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Separate what is stored from names that mean the same array: {second name: first name}."""
    first: dict[int, str] = {}
    tied = {}
    for name, array in arrays.items():
        if id(array) in first:
            tied[name] = first[id(array)]
        else:
            first[id(array)] = name
    return {name: array for name, array in arrays.items() if name not in tied}, tied


def _stored(array: NDArray[np.float32], dtype: str, name: str) -> NDArray[Any]:
    import numpy as np

    from neuron_specialization.export.ctranslate2_converter import POSITION_TABLE

    if dtype == "float32" or name == POSITION_TABLE:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise TranslationError(
            f"{name} holds numbers that float16 cannot", hint="store the bundle as float32"
        )
    return half


class Bundle:
    """An opened bundle. Safe to use from several threads and processes."""

    def __init__(self, folder: str | Path, cache: ModelCache | None = None) -> None:
        """Read what the bundle says of itself; the weights are read when a model is made.

        Args:
            folder: the bundle.
            cache: where models are kept; default: the user's (model_cache.ModelCache).

        Raises:
            TranslationError: damaged (naming what is missing), or of another format.
        """
        self.folder = Path(folder)
        self.facts = _read_bundle(self.folder)
        self.cache = cache or ModelCache()
        self.directions = [Direction.parse(text) for text in self.facts["directions"]]
        self._lock = threading.Lock()
        self._verified = False

    @staticmethod
    def is_one(path: str | Path) -> bool:
        """Whether the path is the folder of a bundle."""
        return (Path(path) / BUNDLE).is_file()

    @property
    def masked(self) -> bool:
        """Whether each direction is a model of its own."""
        return DENSE not in self.facts["models"]

    def untrained(self) -> list[Direction]:
        """Directions that a dense model also translates, though it was not trained to."""
        languages = [] if self.masked else self.facts["languages"]
        every = [Direction(a, b) for a in languages for b in languages if a != b]
        return [direction for direction in every if direction not in self.directions]

    @contextmanager
    def model(self, direction: Direction, quantization: str = "float32") -> Iterator[Path]:
        """Yield the model directory of a direction, made if need be; it stays while the block runs.

        Args:
            direction: one of `directions` (or `untrained`).
            quantization: how the model's weights are stored (ctranslate2_converter.QUANTIZATIONS).

        Raises:
            TranslationError: the bundle is damaged or cannot be read, or its cache cannot be written.
        """
        name = str(direction) if self.masked else DENSE
        with self.cache.model(
            self._key(name, quantization), lambda folder: self._make(folder, name, quantization)
        ) as folder:
            yield folder

    def _key(self, name: str, quantization: str) -> str:
        """A name for what the model is made from: another bundle, or another maker, is another model."""
        import ctranslate2

        made_from = [self.facts, name, quantization, __version__, ctranslate2.__version__]
        return f"{name}-{hashlib.sha256(canonical_json(made_from).encode()).hexdigest()[:24]}"

    def _make(self, folder: Path, name: str, quantization: str) -> None:
        from neuron_specialization.export.compaction import compact
        from neuron_specialization.export.ctranslate2_export import write_model_directory
        from neuron_specialization.export.exportable import read_symbols
        from neuron_specialization.export.provenance import model_provenance

        with self._reading(), self._fitting():
            self._verify()
            parameters = self._parameters()
            masks = self._mask(name) if self.masked else {}
            symbols = read_symbols(self.folder, self.facts["languages"])
        with self._fitting():
            write_model_directory(
                folder,
                compact(parameters, masks),
                self.facts["settings"],
                symbols,
                None if self.facts["input_format"] == "pieces" else self.folder / SEGMENTATION,
                model_provenance(
                    self.facts,
                    self.facts["models"][name],
                    [name] if self.masked else self.facts["directions"],
                    quantization=quantization,
                    scores=self.facts["scores"],
                ),
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Explain what cannot be read, which is no failure of the cache that is written meanwhile."""
        try:
            yield
        except OSError as error:
            raise TranslationError(
                f"the bundle cannot be read: {error.strerror or error}",
                where=error.filename or self.folder,
                hint="make it readable for the user who runs this, or copy it again",
            ) from None

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Explain what comes of weights, masks and description that do not belong together."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TranslationError(
                f"the bundle's files do not fit its description ({type(error).__name__}: {error})",
                where=self.folder,
                cause="its checksums agree, so that it was put together by another tool",
                hint="export it again",
            ) from None

    def _verify(self) -> None:
        """Compare all files with their checksums, once."""
        with self._lock:
            if self._verified:
                return
            check_contents(self.folder, self.facts["files"], "bundle")
            self._verified = True

    def _parameters(self) -> dict[str, NDArray[Any]]:
        import numpy as np
        from safetensors.numpy import load_file

        stored = load_file(self.folder / WEIGHTS)
        arrays = {name: array.astype(np.float32, copy=False) for name, array in stored.items()}
        return arrays | {name: arrays[first] for name, first in self.facts["tied"].items()}

    def _mask(self, direction: str) -> dict[str, NDArray[np.bool_]]:
        import numpy as np
        from safetensors import safe_open

        masks = {}
        with safe_open(self.folder / MASKS, framework="numpy") as file:
            for layer, width in self.facts["d_ff"].items():
                packed = file.get_tensor(f"{direction}/{layer}")
                # unpackbits would fill up whatever is missing
                if packed.dtype != np.uint8 or packed.shape != (-(-width // 8),):
                    raise ValueError(f"the mask of {layer} is not one of {width} neurons")
                masks[layer] = np.unpackbits(packed, count=width).astype(bool)
        return masks


def _read_bundle(folder: Path) -> dict[str, Any]:
    needed = (
        *("directions", "languages", "settings", "dtype", "tied", "models", "d_ff", "files"),
        *("input_format", "max_source_positions", "max_target_positions", "checkpoint", "scores"),
    )
    facts = read_description(folder / BUNDLE, "bundle", format=FORMAT, needed=needed)
    expected = {DENSE} if DENSE in facts["models"] else set(facts["directions"])
    if set(facts["models"]) != expected or facts["d_ff"] is None:
        raise TranslationError(
            "the bundle's description does not have a model for each direction", where=folder / BUNDLE
        )
    required = {WEIGHTS, DICTIONARY} | (set() if DENSE in facts["models"] else {MASKS})
    missing_files(folder, {**{name: {} for name in required}, **facts["files"]}, "bundle")
    return facts
