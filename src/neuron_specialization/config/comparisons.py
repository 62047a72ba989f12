"""Which systems are tested against which."""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import ActivationMasks
from neuron_specialization.config.runs import run_name

CONTROL = "continued"


def control_of(config: Config) -> str:
    """The system that others are compared with: ``report.compare_to``, or the control, or the baseline."""
    if config.report.compare_to is not None:
        return config.report.compare_to
    return CONTROL if CONTROL in config.systems else config.mask_baseline()


def comparisons(config: Config) -> list[tuple[str, str]]:
    """(run, run it is compared with), those with the control first.

    Every system is compared with the control and with the system it goes on from, under each seed apart; two
    systems are compared once, never a second time with the sign turned.
    """
    control = control_of(config)
    pairs: list[tuple[str, str]] = []
    with_control = [(name, control) for name in config.systems if name != control]
    with_origin = [(name, system.init) for name, system in config.systems.items() if system.init]
    for name, other in [*with_control, *with_origin]:
        # a control is compared with its own baseline, not the baseline with the control
        pair = (other, name) if config.systems[other].init == name else (name, other)
        if pair not in pairs:
            pairs.append(pair)
    pairs.sort(key=lambda pair: pair[1] != control)
    runs = []
    for seed in config.all_seeds():
        for pair in pairs:
            trained = [config.systems[name].checkpoint is None for name in pair]
            if seed != config.seed and not any(trained):
                continue  # neither was trained here: there is one run of each
            runs.append(
                (
                    run_name(config, pair[0], seed) if trained[0] else pair[0],
                    run_name(config, pair[1], seed) if trained[1] else pair[1],
                )
            )
    return runs


def main_comparisons(config: Config) -> list[tuple[str, str]]:
    """The comparisons with the control under the first seed: those that get a figure."""
    control = control_of(config)
    return [pair for pair in comparisons(config) if pair[1] == control]


def sweep(config: Config) -> list[tuple[str, float, str]]:
    """(system, k, selection) of systems that differ in the k of their masks only; none if there is one k."""
    found: dict[float, tuple[str, float, str]] = {}
    training = None
    for name, system in config.systems.items():
        selection = config.masks[system.masks] if system.masks else None
        if not isinstance(selection, ActivationMasks) or not isinstance(selection.k, int | float):
            continue
        if selection.sides != "both" or system.checkpoint is not None or name == control_of(config):
            continue
        training = training or config.training_of(name)
        if config.training_of(name) == training:
            found.setdefault(float(selection.k), (name, float(selection.k), str(system.masks)))
    return [found[k] for k in sorted(found)] if len(found) > 1 else []
