"""The typed, closed configuration: one object for the whole workflow.

Every section forbids unknown keys; an error names the key, its place and the nearest valid one.
Machine matters (threads, GPUs, memory, run time) are not here: they live in ``profiles/``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from neuron_specialization.corpora.catalogue import catalogue
from neuron_specialization.directions import LANGUAGE_PATTERN, Direction, branch_of, known_languages
from neuron_specialization.errors import ConfigError
from neuron_specialization.files import hash_of
from neuron_specialization.validation import ModelT, validated

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$", max_length=64)]
LanguageCode = Annotated[str, Field(pattern=rf"^{LANGUAGE_PATTERN}$")]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


def _in_catalogue(key: str, name: str) -> None:
    """Raise ValueError (for pydantic) unless the catalogue of downloads has the name."""
    known = catalogue()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{key}: data/catalogue.tsv has no {name!r}{suggestion}")


def _is_file_name(text: str) -> bool:
    return "/" in text or text.endswith(".pt")


class Section(BaseModel):
    """A closed section: unknown keys are errors, values are not changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cleaning(Section):
    """What the cleaning stage drops. Lengths are white-space words."""

    max_words: Positive = 120
    max_characters: Positive = 600
    max_ratio: Annotated[float, Field(gt=1)] = 3.0
    # short segments (labels, buttons) may legitimately differ more in length than the ratio allows
    ratio_free_words: Annotated[int, Field(ge=0)] = 4


class Corpus(Section):
    """Where the text comes from and how much of it is used.

    ``homeassistant`` is downloaded (data/catalogue.tsv); ``local`` reads plain text from ``path``;
    ``data-bin`` takes text that fairseq binarised elsewhere (EC30): ``path`` is its folder or archive,
    ``dataset`` its name in the catalogue.
    """

    source: Literal["homeassistant", "local", "data-bin"] = "homeassistant"
    path: str | None = None
    dataset: str | None = None
    shards: Positive = 1
    # the SentencePiece model a data-bin's text was segmented with, where it is known
    segmentation: str | None = None
    train_caps: dict[Name, Positive] = {}
    valid_size: Positive = 250
    heldout_size: Positive = 500
    heldout_min_words: Annotated[int, Field(ge=0)] = 4
    cleaning: Cleaning = Cleaning()

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source == "local" and not self.path:
            raise ValueError(
                "corpus.source is local: set corpus.path to the folder with train.<src>-<tgt>.<lang>"
            )
        if self.source == "data-bin" and not (self.path or self.dataset):
            raise ValueError("corpus.source is data-bin: set corpus.path or corpus.dataset")
        if self.source == "data-bin" and self.path and self.dataset:
            raise ValueError("corpus.path and corpus.dataset are both set: keep one")
        for key in ("dataset", "segmentation"):
            if self.source != "data-bin" and getattr(self, key):
                raise ValueError(f"corpus.{key} is for corpus.source: data-bin")
        if self.source != "data-bin" and self.shards != 1:
            raise ValueError("corpus.shards is for corpus.source: data-bin; other text is binarised as one")
        if self.dataset:
            _in_catalogue("corpus.dataset", self.dataset)
        return self


class Vocabulary(Section):
    """The joint SentencePiece model."""

    size: Annotated[int, Field(ge=32)] = 4000
    model_type: Literal["bpe", "unigram"] = "unigram"
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 1.0
    # sentences the largest language contributes to its training; the temperature balances the others
    sample_size: Positive = 200_000
    temperature: Annotated[float, Field(ge=1)] = 2.0


class Model(Section):
    """The Transformer. Pre-norm, ReLU, sinusoidal positions: what the method is defined for."""

    encoder_layers: Positive = 3
    decoder_layers: Positive = 3
    d_model: Positive = 128
    d_ff: Positive = 512
    heads: Positive = 4
    embeddings: Literal["shared", "decoder-tied", "separate"] = "shared"
    max_positions: Positive = 256

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"model.heads ({self.heads}) must divide model.d_model ({self.d_model})")
        return self


class Training(Section):
    """How a system is trained. Every value changes the result; what does not is in the profile."""

    max_updates: Positive = 3000
    # padded tokens of one micro-batch on one device
    max_tokens: Positive = 2048
    # micro-batches of one update over all devices: update_freq follows from the number of GPUs
    micro_batches: Positive = 1
    lr: Annotated[float, Field(gt=0)] = 5e-3
    scheduler: Literal["inverse_sqrt", "linear"] = "inverse_sqrt"
    warmup_updates: Annotated[int, Field(ge=0)] = 400
    adam_betas: tuple[Probability, Probability] = (0.9, 0.98)
    adam_eps: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Probability = 0.1
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    activation_dropout: Probability = 0.0
    sampling_temperature: Annotated[float, Field(ge=1)] = 2.0
    batching: Literal["mixed", "single-direction"] = "mixed"
    validate_every: Positive = 500
    save_every: Positive = 500
    patience: Positive | None = None
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    # `fast` is this project's exact, quicker forward pass; `stock` runs fairseq's own code
    implementation: Literal["fast", "stock"] = "fast"
    # factors of the fast implementation's products on a CPU; auto: bf16 where this machine is faster so
    products: Literal["fp32", "bf16", "auto"] = "fp32"


class Activations(Section):
    """How neuron activations are counted (paper section 3; upstream ``get_neurons.py``)."""

    split: Literal["valid", "train"] = "valid"
    count_padding: bool = False
    max_tokens: Positive = 4096


class MaskSelection(Section):
    """Which neurons a direction keeps: the smallest set that makes up ``k`` % of the activity.

    Or what a folder of the reference's mask files (``source``, ``<direction>.pt``) says.
    """

    k: Annotated[float, Field(gt=0, le=100)] = 95.0
    tie_break: Literal["index", "torch-sort"] = "index"
    source: str | None = None

    @model_validator(mode="after")
    def _made_or_read(self) -> Self:
        if self.source is not None and {"k", "tie_break"} & self.model_fields_set:
            raise ValueError("masks with a source: are read, not made: k and tie_break have no use")
        return self


class System(Section):
    """One system. Without ``from`` it is a baseline; with it, it goes on from that system's model.

    It is trained here, or taken over from a released ``checkpoint``: a name of the catalogue, or a file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    init: Name | None = Field(default=None, alias="from")
    masks: Name | None = None
    checkpoint: str | None = None
    # only the keys given here differ from training: and finetuning:
    training: Training = Training()

    @property
    def released(self) -> str | None:
        """The catalogue's name of the checkpoint, None for a file or a system that is trained."""
        return None if self.checkpoint is None or _is_file_name(self.checkpoint) else self.checkpoint

    @model_validator(mode="after")
    def _checkpoint_known(self) -> Self:
        if self.checkpoint is not None:
            if "training" in self.model_fields_set:
                raise ValueError("training: has no use with a checkpoint:, which is trained already")
            if self.released:
                _in_catalogue("checkpoint", self.released)
        return self


class Testset(Section):
    """A test set: the corpus's own held-out text, FLORES-200, or a folder of parallel text.

    A folder holds ``<split>.<language>`` files, line by line parallel over the languages. ``data-bin`` is a
    split of a corpus that came binarised: its pieces are translated as they are.
    """

    source: Literal["corpus", "flores200", "folder", "data-bin"] = "corpus"
    path: str | None = None
    splits: list[Name] = ["devtest"]

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source == "folder" and not self.path:
            raise ValueError(
                "a testset with source: folder needs path: the folder of <split>.<language> files"
            )
        return self


class Translation(Section):
    """Beam search, the same for all systems."""

    engine: Literal["ctranslate2", "fairseq"] = "ctranslate2"
    beam: Positive = 5
    length_penalty: float = 1.0
    max_length: Positive = 200
    batch_size: Positive = 64


class Scoring(Section):
    """Metrics and their intervals."""

    metrics: list[Literal["bleu", "chrf++", "spbleu"]] = ["bleu", "chrf++"]
    # how hypotheses and references are detokenised before scoring; our own text never was tokenised
    detokenizer: Literal["none", "moses"] = "none"
    bootstrap_samples: Annotated[int, Field(ge=0)] = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Config(Section):
    """The whole configuration, validated. See config.yaml for a commented example."""

    experiment: Name
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 222
    languages: list[LanguageCode]
    pivot: LanguageCode | None = "en"
    directions: list[str] | None = None
    tiers: dict[Name, list[LanguageCode]] | Literal["ec30"] = {}
    downloads: str = "downloads"
    # where files of the catalogue are looked for first, for all or by name: a folder, a file or a URL
    mirror: str | dict[str, str] | None = None
    corpus: Corpus = Corpus()
    vocabulary: Vocabulary = Vocabulary()
    model: Model = Model()
    training: Training = Training()
    # only the keys given here differ from training:, for systems with a from:
    finetuning: Training = Training()
    activations: Activations = Activations()
    masks: dict[Name, MaskSelection] = {"k95": MaskSelection()}
    systems: dict[Name, System]
    testsets: dict[Name, Testset] = {"heldout": Testset()}
    translation: Translation = Translation()
    scoring: Scoring = Scoring()

    @field_validator("languages")
    @classmethod
    def _unique_languages(cls, languages: list[str]) -> list[str]:
        if len(languages) < 2:
            raise ValueError("at least two languages are needed")
        repeated = sorted({code for code in languages if languages.count(code) > 1})
        if repeated:
            raise ValueError(f"listed twice: {', '.join(repeated)}")
        return languages

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        languages = set(self.languages)
        if self.directions is None and self.pivot not in languages:
            raise ValueError(
                f"pivot {self.pivot!r} is not among languages; list directions: instead, or add it"
            )
        seen: set[str] = set()
        for text in self.directions or []:
            direction = Direction.parse(text)
            if text in seen:
                raise ValueError(f"directions: {text} is listed twice")
            seen.add(text)
            for code in (direction.source, direction.target):
                if code not in languages:
                    raise ValueError(f"directions: {text} uses {code!r}, which languages: does not list")
        if self.directions is not None and not self.directions:
            raise ValueError("directions: is empty; remove the key for all pairs with the pivot")
        tiered: dict[str, str] = {}
        for tier, codes in self.tier_lists().items():
            for code in codes:
                if code not in languages:
                    raise ValueError(f"tiers.{tier}: {code!r} is not among languages")
                if code in tiered:
                    raise ValueError(f"tiers: {code!r} is in both {tiered[code]} and {tier}")
                tiered[code] = tier
        unknown_caps = set(self.corpus.train_caps) - set(self.tier_lists())
        if unknown_caps:
            raise ValueError(f"corpus.train_caps: no tier is called {', '.join(sorted(unknown_caps))}")
        self._check_systems()
        self._check_testsets()
        if isinstance(self.mirror, dict):
            for name in self.mirror:
                _in_catalogue("mirror", name)
        return self

    def _check_testsets(self) -> None:
        for name, testset in self.testsets.items():
            if self.corpus.source != "data-bin":
                if testset.source == "data-bin":
                    raise ValueError(f"testsets.{name}: the corpus is not a data-bin (corpus.source)")
            elif testset.source == "corpus":
                raise ValueError(
                    f"testsets.{name}: a data-bin has no held-out text of its own; "
                    "name one of its splits, e.g. {source: data-bin, splits: [test]}"
                )
            elif testset.source != "data-bin" and not self.corpus.segmentation:
                raise ValueError(
                    f"testsets.{name}: text cannot be segmented as the data-bin was: set corpus.segmentation "
                    "to its SentencePiece model, or use the data-bin's own test split (source: data-bin)"
                )

    def _check_systems(self) -> None:
        if not self.systems:
            raise ValueError("systems: is empty")
        for name, system in self.systems.items():
            if system.init is None:
                if system.masks is not None:
                    raise ValueError(f"systems.{name}: masks need a trained model to go on from: set from:")
                continue
            if system.init == name or system.init not in self.systems:
                raise ValueError(f"systems.{name}.from: no other system is called {system.init!r}")
            if self.systems[system.init].init is not None:
                raise ValueError(
                    f"systems.{name}.from: {system.init!r} is not a baseline (it has a from: itself)"
                )
            if system.masks is not None and system.masks not in self.masks:
                raise ValueError(f"systems.{name}.masks: no selection is called {system.masks!r} in masks:")
        masked = {system.init for system in self.systems.values() if system.masks}
        if len(masked) > 1:
            raise ValueError(
                "systems: masks are made from one baseline, but those with masks: go on from "
                f"{_listed(masked)}; give each baseline its own experiment"
            )

    # ---- derived, never typed twice ----

    def all_directions(self) -> list[Direction]:
        """Every direction trained and scored, in config order."""
        if self.directions is not None:
            return [Direction.parse(text) for text in self.directions]
        others = [code for code in self.languages if code != self.pivot]
        assert self.pivot is not None  # _consistent
        return [Direction(self.pivot, code) for code in others] + [
            Direction(code, self.pivot) for code in others
        ]

    def pairs(self) -> list[str]:
        """The unordered pairs of all directions (see Direction.pair), in order of first use."""
        return list(dict.fromkeys(direction.pair for direction in self.all_directions()))

    def tier_lists(self) -> dict[str, list[str]]:
        """Tier name → languages."""
        if self.tiers == "ec30":
            table = known_languages()
            tiers: dict[str, list[str]] = {"high": [], "medium": [], "low": []}
            for code in self.languages:
                if code in table and table[code].ec30_tier in tiers:
                    tiers[table[code].ec30_tier].append(code)
            return tiers
        assert isinstance(self.tiers, dict)
        return self.tiers

    def tier_of(self, direction: Direction) -> str:
        """The tier of the direction's non-pivot language; ``all`` where no tiers are set."""
        code = direction.target if direction.source == self.pivot else direction.source
        return next((tier for tier, codes in self.tier_lists().items() if code in codes), "all")

    def train_cap(self, pair: str) -> int | None:
        """How many training segments a pair may keep; the smaller of its two languages' caps; None = all."""
        tiers = self.tier_lists()
        caps = [
            cap
            for tier, cap in self.corpus.train_caps.items()
            if any(code in tiers[tier] for code in pair.split("-"))
        ]
        return min(caps) if caps else None

    def mirror_of(self, name: str) -> str | None:
        """Where a file of the catalogue is looked for before its origin."""
        return self.mirror.get(name) if isinstance(self.mirror, dict) else self.mirror

    def data_bin_splits(self) -> list[str]:
        """The splits that are needed of a corpus that comes binarised."""
        trained = any(system.checkpoint is None for system in self.systems.values())
        counted = any(
            system.masks and not self.masks[system.masks].source for system in self.systems.values()
        )
        wanted = ["train", "valid"] if trained else []
        wanted += [self.activations.split] if counted else []
        for testset in self.testsets.values():
            wanted += testset.splits if testset.source == "data-bin" else []
        return list(dict.fromkeys(wanted))

    def mask_baseline(self) -> str:
        """The baseline whose activations give the masks; the first baseline where no system has masks."""
        masked = (system.init for system in self.systems.values() if system.masks and system.init)
        return next(masked, next(name for name, system in self.systems.items() if system.init is None))

    def training_of(self, name: str) -> Training:
        """The resolved settings of a system: training, then finetuning if it has a from, then its own."""
        system = self.systems[name]
        values = self.training.model_dump()
        layers = [self.finetuning] if system.init else []
        for override in [*layers, system.training]:
            values |= override.model_dump(exclude_unset=True)
        return Training(**values)

    def groups(self) -> list[dict[str, str]]:
        """One row a direction: direction, group (en→X …), tier, branch of the non-pivot language."""
        rows = []
        for direction in self.all_directions():
            code = direction.target if direction.source == self.pivot else direction.source
            rows.append(
                {
                    "direction": str(direction),
                    "group": direction.group(self.pivot),
                    "tier": self.tier_of(direction),
                    "branch": branch_of(code),
                }
            )
        return rows


class Recipe(Section):
    """All that decides what a training run computes, apart from its input files (``train --recipe``)."""

    system: Name
    languages: list[LanguageCode]
    directions: list[str]
    model: Model
    training: Training
    seed: int
    shards: Positive = 1

    @property
    def masked_directions(self) -> list[str]:
        """The directions that need a mask when masks are given: all of them."""
        return self.directions

    def fingerprint(self, **inputs: str) -> str:
        """Hash of the recipe and of its inputs' checksums: names the checkpoint folder."""
        return hash_of({"recipe": self.model_dump(mode="json"), "inputs": inputs})[:16]


def recipe_of(config: Config, system: str) -> Recipe:
    """Return the training recipe of one system."""
    return Recipe(
        system=system,
        languages=config.languages,
        directions=[str(direction) for direction in config.all_directions()],
        model=config.model,
        training=config.training_of(system),
        seed=config.seed,
        shards=config.corpus.shards,
    )


def parse_config(values: Mapping[str, Any]) -> Config:
    """Validate a configuration given as nested mappings (what YAML gives).

    Raises:
        ConfigError: naming every bad key, its value, and the nearest valid key for an unknown one.
    """
    return validated(Config, values, "configuration")


def parse_recipe(text: str) -> Recipe:
    """Validate a recipe given as JSON (see recipe_of)."""
    return parse_spec(Recipe, text, "recipe")


def parse_spec(kind: type[ModelT], text: str, what: str = "spec") -> ModelT:
    """Validate a section given as JSON, as a rule passes it to a command (``--spec``)."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the {what} is not valid JSON: {error}") from None
    return validated(kind, values, what)


def load_config(*paths: str | Path) -> Config:
    """Read and merge YAML files, later ones winning key by key, and validate the result."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the configuration: {error}", where=path) from None
        if not isinstance(values, dict):
            raise ConfigError("a configuration is a mapping of keys", where=path)
        merged = _merge(merged, values)
    return parse_config(merged)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(str(name) for name in names))
