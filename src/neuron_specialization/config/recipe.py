"""The recipe of one training run: the part of the configuration that decides what it computes."""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.sections import LanguageCode, Model, Name, Positive, Section, Training
from neuron_specialization.files import hash_of


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
