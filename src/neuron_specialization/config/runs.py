"""Runs: each system, with the masks it needs, once for every seed of ``seeds:``.

The run of the first seed has the system's own name, so that a further seed changes no path: ``ns``, then
``ns@223``. A run under a further seed goes on from its baseline's run under that seed, and under masks made
from it: ``k95@223``, from ``activations@223``. Models that were not trained here have one run.
"""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import MaskSelection
from neuron_specialization.config.sections import System
from neuron_specialization.run_names import SEPARATOR, split_run


def seed_of_run(config: Config, run: str) -> int:
    """Return the seed of a run of a system or a selection."""
    seed = split_run(run)[1]
    return config.seed if seed is None else seed


def run_name(config: Config, name: str, seed: int) -> str:
    """Return the name of the run of a system, a selection or a folder under a seed."""
    return name if seed == config.seed else f"{name}{SEPARATOR}{seed}"


def systems_by_run(config: Config) -> dict[str, System]:
    """Return run → system, whose ``from`` and ``masks`` name runs too; seed by seed, in config order."""
    runs = {}
    for seed in config.all_seeds():
        for name, system in config.systems.items():
            if seed not in config.seeds_of(name):
                continue
            names: dict[str, str] = {}
            if system.init:
                names["init"] = run_of(config, system.init, seed)
            if system.masks:
                names["masks"] = run_name(config, system.masks, seed)
            runs[run_name(config, name, seed)] = system.model_copy(update=names)
    return runs


def selections_by_run(config: Config) -> dict[str, MaskSelection]:
    """Return run → selection, whose ``like`` names a run too: those in use and those they are made from."""
    used = {system.masks for system in systems_by_run(config).values() if system.masks}
    runs = {}
    for seed in config.all_seeds():
        for name in config.selections_in_use():
            run, selection = run_name(config, name, seed), config.masks[name]
            children = {other for other in config.selections_in_use() if config.masks[other].parent == name}
            if not used & {run, *(run_name(config, child, seed) for child in children)}:
                continue
            if selection.parent is not None:
                selection = selection.model_copy(update={"like": run_name(config, selection.parent, seed)})
            runs[run] = selection
    return runs


def run_of(config: Config, name: str, seed: int) -> str:
    """Return the run of a system under a seed; the one run of a system that is not trained here."""
    return name if config.systems[name].checkpoint is not None else run_name(config, name, seed)


def mask_baseline_run(config: Config, run: str) -> str:
    """Return the run of the baseline that the masks (or activations) of a run are made from."""
    return run_of(config, config.mask_baseline(), seed_of_run(config, run))
