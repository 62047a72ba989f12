"""The recipe of one training run: the part of the configuration that decides what it computes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_serializer

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import (
    ActivationMasks,
    FamilyMasks,
    ImportedMasks,
    MagnitudeMasks,
    MaskSelection,
    RandomMasks,
)
from neuron_specialization.config.runs import seed_of_run, selections_by_run
from neuron_specialization.config.sections import LanguageCode, Model, Positive, Section, Training
from neuron_specialization.run_names import SEPARATOR, split_run
from neuron_specialization.storage.files import hash_of

# a system (`ns`), its run under a further seed (`ns@223`), or the fine-tuning of a direction (`lass/de-en`)
RunName = Annotated[
    str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.]*({SEPARATOR}[0-9]+)?(/[A-Za-z0-9_-]+)?$", max_length=128)
]

_YOUNGER_KEYS = ("sentence_multiple", "optimizer", "muon_lr_ratio")


class Recipe(Section):
    """All that decides what a training run computes, apart from its input files (``train --recipe``)."""

    system: RunName
    languages: list[LanguageCode]
    directions: list[str]
    model: Model
    training: Training
    seed: int
    shards: Positive = 1

    @field_serializer("training")
    def _recorded(self, training: Training) -> dict[str, Any]:
        """Leave out a key younger than the first recipes at its default: runs that had none stay valid."""
        recorded = training.model_dump(mode="json")
        for key in _YOUNGER_KEYS:
            if recorded[key] == Training.model_fields[key].default:
                del recorded[key]
        return recorded

    @property
    def masked_directions(self) -> list[str]:
        """The directions that need a mask when masks are given: all of them."""
        return self.directions

    def fingerprint(self, **inputs: str) -> str:
        """Hash of the recipe and of its inputs' checksums: names the checkpoint folder."""
        return hash_of({"recipe": self.model_dump(mode="json"), "inputs": inputs})[:16]


def recipe_of(config: Config, run: str) -> Recipe:
    """Return the training recipe of a system, or of its run under a further seed (see runs.py)."""
    return Recipe(
        system=run,
        languages=config.languages,
        directions=[str(direction) for direction in config.all_directions()],
        model=config.model,
        training=config.training_of(split_run(run)[0]),
        seed=seed_of_run(config, run),
        shards=config.corpus.shards,
    )


def magnitude_recipe_of(config: Config, selection: str, direction: str) -> Recipe:
    """Return the recipe of the fine-tuning on one direction that a selection by magnitude needs.

    Args:
        config: the configuration.
        selection: the selection, or its run under a further seed.
        direction: such as ``de-en``.
    """
    return Recipe(
        system=f"{selection}/{direction}",
        languages=config.languages,
        directions=[direction],
        model=config.model,
        training=config.magnitude_training_of(split_run(selection)[0]),
        seed=seed_of_run(config, selection),
        shards=config.corpus.shards,
    )


class MaskSpec(Section):
    """All that decides a selection's masks, apart from the files they are made from (``masks --spec``).

    Attributes:
        selection: the selection.
        like: the selection it is made from, if it is.
        directions: each gets a mask.
        pivot: the language in the middle, if there is one.
        seed: of what is random.
    """

    selection: MaskSelection
    like: MaskSelection | None = None
    directions: list[str]
    pivot: LanguageCode | None = None
    seed: int = 0

    @property
    def needs(self) -> list[str]:
        """What the masks are made from: ``activations``, the masks of ``like``, fine-tuned ``models``."""
        selection = self.selection
        if isinstance(selection, ActivationMasks):
            return ["activations"]
        if isinstance(selection, FamilyMasks) and selection.combine == "pooled":
            return ["activations"]
        if isinstance(selection, MagnitudeMasks):
            return ["models", *(["like"] if selection.like else [])]
        return [] if isinstance(selection, ImportedMasks) else ["like"]


def mask_spec_of(config: Config, run: str) -> MaskSpec:
    """Return what decides the masks of a selection, or of its run under a further seed."""
    runs = selections_by_run(config)
    selection = runs[run]
    if isinstance(selection, MagnitudeMasks):
        # it decides the models, which come as files
        selection = selection.model_copy(update={"finetuning": Training()})
    return MaskSpec(
        selection=selection,
        like=runs[selection.parent] if selection.parent else None,
        directions=[str(direction) for direction in config.all_directions()],
        pivot=config.pivot if config.pivot in config.languages else None,
        seed=seed_of_run(config, run) if isinstance(selection, RandomMasks) else 0,
    )
