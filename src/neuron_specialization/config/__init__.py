"""The typed, closed configuration: one object for the whole workflow.

Every section forbids unknown keys; an error names the key, its place and the nearest valid one.
Machine matters (threads, GPUs, memory, run time) are not here: they live in ``profiles/``.
"""

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.loading import (
    load_config,
    parse_config,
    parse_recipe,
    parse_spec,
    refuse_repeated_keys,
)
from neuron_specialization.config.mask_selections import (
    SELECTION_CLASSES,
    ActivationMasks,
    FamilyMasks,
    ImportedMasks,
    MagnitudeMasks,
    MaskSelection,
    RandomMasks,
)
from neuron_specialization.config.recipe import MaskSpec, Recipe, magnitude_recipe_of, mask_spec_of, recipe_of
from neuron_specialization.config.runs import (
    mask_baseline_run,
    run_name,
    seed_of_run,
    selections_by_run,
    systems_by_run,
)
from neuron_specialization.config.sections import (
    Activations,
    Cleaning,
    Comet,
    Corpus,
    LanguageCode,
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
from neuron_specialization.run_names import split_run

__all__ = [
    "SELECTION_CLASSES",
    "ActivationMasks",
    "Activations",
    "Cleaning",
    "Comet",
    "Config",
    "Corpus",
    "FamilyMasks",
    "ImportedMasks",
    "LanguageCode",
    "MagnitudeMasks",
    "MaskSelection",
    "MaskSpec",
    "Model",
    "Name",
    "Positive",
    "Probability",
    "RandomMasks",
    "Recipe",
    "Scoring",
    "Section",
    "System",
    "Testset",
    "Training",
    "Translation",
    "Vocabulary",
    "load_config",
    "magnitude_recipe_of",
    "mask_baseline_run",
    "mask_spec_of",
    "parse_config",
    "parse_recipe",
    "parse_spec",
    "recipe_of",
    "refuse_repeated_keys",
    "run_name",
    "seed_of_run",
    "selections_by_run",
    "split_run",
    "systems_by_run",
]
