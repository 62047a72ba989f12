"""Whether what was made agrees with the configuration: models, activations and masks say how they were made.

A workflow engine knows it from records of its own. Where those are lost, or results came from another folder,
nothing but the results themselves can tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from neuron_specialization.config import (
    Config,
    Recipe,
    magnitude_recipe_of,
    mask_spec_of,
    recipe_of,
    run_name,
    selections_by_run,
    systems_by_run,
)
from neuron_specialization.config.validation import validated
from neuron_specialization.errors import ConfigError, NeuronSpecializationError
from neuron_specialization.storage.files import read_json
from neuron_specialization.training.runs import differences


def disagreements(config: Config, results: str | Path) -> dict[str, list[str]]:
    """Return what was made with other settings than the configuration has.

    Args:
        config: of the experiment.
        results: ``results/<experiment>``; what is not there, or cannot be read, is left out.

    Returns:
        File relative to ``results`` → how it differs, such as ``training.lr: 0.005 → 0.004``; of a folder of
        masks or activations the first file that differs.
    """
    results = Path(results)
    found: dict[str, list[str]] = {}
    for file, recipe in _recipes(config):
        lines = _recipe_differences(results / file, recipe)
        if lines:
            found[file] = lines
    for settings in (*_mask_settings(config), *_count_settings(config)):
        for file, expected in settings.items():
            lines = _metadata_differences(results / file, expected)
            if lines:
                found[file] = lines
                break
    return found


def _recipes(config: Config) -> Iterator[tuple[str, Recipe]]:
    """The summary of every training, and its recipe."""
    for run, system in systems_by_run(config).items():
        if system.checkpoint is None:
            yield f"training/{run}/model.json", recipe_of(config, run)
    for run, selection in selections_by_run(config).items():
        if selection.method == "magnitude":
            for direction in config.all_directions():
                recipe = magnitude_recipe_of(config, run, str(direction))
                yield f"magnitude/{run}/{direction}/model.json", recipe


def _recipe_differences(path: Path, recipe: Recipe) -> list[str]:
    try:
        recorded = read_json(path)["recipe"]
    except (NeuronSpecializationError, KeyError, TypeError, ValueError):
        return []
    with contextlib.suppress(ConfigError):
        # what an older version did not write has its default
        recorded = validated(Recipe, recorded, "recipe").model_dump(mode="json")
    return differences({"recipe": recorded}, {"recipe": recipe.model_dump(mode="json")})


def _mask_settings(config: Config) -> Iterator[dict[str, Mapping[str, str | None]]]:
    """Of each selection: mask file → what its metadata should say."""
    from neuron_specialization.masks.making import SETTINGS, recorded_settings

    for run in selections_by_run(config):
        spec = mask_spec_of(config, run)
        settings = {name: recorded_settings(spec, name) for name in spec.directions}
        yield {
            f"masks/{run}/{name}.safetensors": {key: values.get(key) for key in SETTINGS}
            for name, values in settings.items()
            if values is not None
        }


def _count_settings(config: Config) -> Iterator[dict[str, Mapping[str, str | None]]]:
    """Of each baseline's activations: file → what its metadata should say."""
    counting = config.activations
    settings = {
        "split": counting.split,
        "padding": "counted" if counting.count_padding else "excluded",
        # without padding the counts do not depend on it
        "max_tokens": str(counting.max_tokens) if counting.count_padding else None,
    }
    if any(selection.method == "activation" for selection in selections_by_run(config).values()):
        for seed in config.all_seeds():
            folder = run_name(config, "activations", seed)
            yield {f"{folder}/{name}.safetensors": settings for name in config.all_directions()}


def _metadata_differences(path: Path, expected: Mapping[str, str | None]) -> list[str]:
    if not path.is_file():
        return []
    from neuron_specialization.storage.layer_tensors import read_metadata

    try:
        metadata = read_metadata(path)
    except NeuronSpecializationError:
        return []
    recorded = {key: metadata.get(key) for key in expected}
    return differences({"recipe": recorded}, {"recipe": dict(expected)})
