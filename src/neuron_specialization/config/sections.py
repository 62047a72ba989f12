"""The sections of the configuration, a class each: keys, types, defaults, and what holds within a section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from neuron_specialization.catalogue import catalogue_entry
from neuron_specialization.directions import LANGUAGE_PATTERN
from neuron_specialization.errors import DownloadError


def _as_written(value: Any) -> Any:
    """Refuse what YAML makes of words without quotes: how they were written can no longer be told."""
    if isinstance(value, bool):
        words, example = ("yes, on and true", "yes") if value else ("no, off and false", "no")
        raise ValueError(
            f'YAML reads {words} as {str(value).lower()}: write the word in quotes, e.g. "{example}"'
        )
    if isinstance(value, int | float):
        raise ValueError(f'YAML reads it as a number ({value}): write it in quotes, e.g. "{value}"')
    return value


def _is_name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(_NAME, value):
        allowed = re.sub("[^A-Za-z0-9_.]+", "_", value).lstrip("_.")
        suggestion = f"; perhaps {allowed!r}" if re.fullmatch(_NAME, allowed) else ""
        raise ValueError(
            f"{value!r} is not a name: letters, digits, _ and ., a letter or digit first{suggestion}"
        )
    return value


def each_once(names: list[str]) -> list[str]:
    """Raise ValueError (for pydantic) where a list has a name twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"listed twice: {', '.join(repeated)}")
    return names


def _is_language(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(LANGUAGE_PATTERN, value):
        language, *subtags = re.split("[-_]", value)
        written = "_".join([language.lower(), *subtags])
        suggestion = f"; perhaps {written!r}" if re.fullmatch(LANGUAGE_PATTERN, written) else ""
        raise ValueError(
            f"{value!r} is not a language code: two or three small letters, script or region after _, such as"
            f" de, zh_Hans or pt_BR (the hyphen is that of directions, pt_BR-de){suggestion}"
        )
    return value


_NAME = "[A-Za-z0-9][A-Za-z0-9_.]*"
Name = Annotated[str, BeforeValidator(_is_name), BeforeValidator(_as_written), Field(max_length=64)]
LanguageCode = Annotated[str, BeforeValidator(_is_language), BeforeValidator(_as_written)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _word_or_mapping(value: Any) -> str:
    return "<word>" if isinstance(value, str) else "<mapping>"


# one kind or the other, told apart first, so that an error is about the one that was meant
Tiers = Annotated[
    Annotated[dict[Name, list[LanguageCode]], Tag("<mapping>")] | Annotated[Literal["ec30"], Tag("<word>")],
    Discriminator(_word_or_mapping),
]
Mirror = Annotated[
    Annotated[dict[str, str], Tag("<mapping>")] | Annotated[str, Tag("<word>")],
    Discriminator(_word_or_mapping),
]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


def in_catalogue(key: str, name: str) -> None:
    """Raise ValueError (for pydantic) unless the catalogue of downloads has the name."""
    try:
        catalogue_entry(name)
    except DownloadError as error:
        raise ValueError(f"{key}: {error.what}") from None


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
    # test sets from elsewhere whose text is removed from the training text; none, since that trains anew
    keep_out: list[Name] = []
    cleaning: Cleaning = Cleaning()

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source == "local" and not self.path:
            raise ValueError(
                "corpus.source is local: set corpus.path to the folder with train.<src>-<tgt>.<lang>"
            )
        if self.source == "homeassistant" and self.path:
            raise ValueError(
                "corpus.path is for corpus.source: local or data-bin; homeassistant is downloaded"
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
        if self.source == "data-bin" and self.keep_out:
            raise ValueError("corpus.keep_out: a data-bin is taken as it is; nothing can be removed from it")
        if self.dataset:
            in_catalogue("corpus.dataset", self.dataset)
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
    # a batch holds a multiple of so many sentences (fairseq's --required-batch-size-multiple); with 1 it is
    # as full as max_tokens lets it be
    sentence_multiple: Positive = 8
    # micro-batches of one update over all devices: update_freq follows from the number of GPUs
    micro_batches: Positive = 1
    # muon: the layers' matrices by orthogonalised momentum, the rest by Adam; adam: all, as in the paper
    optimizer: Literal["adam", "muon"] = "adam"
    # learning rate of muon's matrices over that of the rest
    muon_lr_ratio: Annotated[float, Field(gt=0)] = 1.0
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
    """How neuron activations are counted (upstream ``get_neurons.py``)."""

    split: Literal["valid", "train"] = "valid"
    count_padding: bool = False
    max_tokens: Positive = 4096


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
    # those of seeds: that it is trained with; all of them where none are named
    seeds: list[Seed] = Field(default=[])
    # the systems it is compared with, instead of report.compare_to; the first is its control
    compare_to: list[Name] = Field(default=[])

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
                in_catalogue("checkpoint", self.released)
        return self


class Testset(Section):
    """A test set: the corpus's own held-out text, FLORES-200, or a folder of parallel text.

    A folder holds ``<split>.<language>`` files, line by line parallel over the languages. ``data-bin`` is a
    split of a corpus that came binarised: its pieces are translated as they are.
    """

    source: Literal["corpus", "flores200", "folder", "data-bin"] = "corpus"
    path: str | None = None
    splits: Annotated[list[Name], Field(min_length=1), AfterValidator(each_once)] = ["devtest"]

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source == "folder" and not self.path:
            raise ValueError(
                "a testset with source: folder needs path: the folder of <split>.<language> files"
            )
        if self.source in ("corpus", "data-bin") and self.path:
            raise ValueError(
                f"path: is for source: folder or flores200; source: {self.source} takes the corpus's own text"
            )
        return self


class Translation(Section):
    """Beam search, the same for all systems."""

    engine: Literal["ctranslate2", "fairseq"] = "ctranslate2"
    beam: Positive = 5
    length_penalty: float = 1.0
    max_length: Positive = 200
    batch_size: Positive = 64


class Comet(Section):
    """COMET, run in an environment of its own (envs/comet.yaml)."""

    # a name, which COMET downloads, or a path, which works offline
    model: Annotated[str, Field(min_length=1)] = "Unbabel/wmt22-comet-da"
    # the interpreter of its environment; None: $NEURON_SPECIALIZATION_COMET_PYTHON
    python: str | None = None
    batch_size: Positive = 16

    def files(self) -> list[str]:
        """The files of a model that is given by its path; none where it is a name."""
        path = Path(self.model)
        if not (path.exists() or path.is_absolute() or self.model.startswith(".") or path.suffix == ".ckpt"):
            return []
        folder = path if path.suffix != ".ckpt" else path.parent.parent
        checkpoint = folder / "checkpoints" / "model.ckpt" if path == folder else path
        return [str(checkpoint), str(folder / "hparams.yaml")]


class Scoring(Section):
    """Metrics and their intervals."""

    metrics: Annotated[
        list[Literal["bleu", "chrf++", "spbleu"]], Field(min_length=1), AfterValidator(each_once)
    ] = ["bleu", "chrf++"]
    # how hypotheses and references are detokenised before scoring; our own text never was tokenised
    detokenizer: Literal["none", "moses"] = "none"
    bootstrap_samples: Annotated[int, Field(ge=0)] = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    comet: Comet | None = None

    @model_validator(mode="after")
    def _no_single_resample(self) -> Self:
        if self.bootstrap_samples == 1:
            raise ValueError("bootstrap_samples: one resample makes no interval; 0 is for none")
        return self
