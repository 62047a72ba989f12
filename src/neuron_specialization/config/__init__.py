"""The typed, closed configuration: one object for the whole workflow.

Every section forbids unknown keys; an error names the key, its place and the nearest valid one.
Machine matters (threads, GPUs, memory, run time) are not here: they live in ``profiles/``.
"""

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.loading import load_config, parse_config, parse_recipe, parse_spec
from neuron_specialization.config.recipe import Recipe, recipe_of
from neuron_specialization.config.sections import (
    Activations,
    Cleaning,
    Corpus,
    LanguageCode,
    MaskSelection,
    Model,
    Name,
    Positive,
    Probability,
    Scoring,
    Section,
    System,
    Testset,
    Training,
    Translation,
    Vocabulary,
)

    Comet,
__all__ = [
    "Activations",
    "Cleaning",
    "Config",
    "Corpus",
    "LanguageCode",
    "MaskSelection",
    "Model",
    "Name",
    "Positive",
    "Probability",
    "Recipe",
    "Scoring",
    "Section",
    "System",
    "Testset",
    "Training",
    "Translation",
    "Vocabulary",
    "load_config",
    "Comet",
    "parse_config",
    "parse_recipe",
    "parse_spec",
    "recipe_of",
]
