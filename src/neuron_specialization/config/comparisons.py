"""Which systems are tested against which."""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import ActivationMasks
from neuron_specialization.config.runs import run_name

CONTROL = "continued"


def control_of(config: Config, system: str | None = None) -> str:
    """The system that others are compared with: ``report.compare_to``, or the control, or the baseline.

    That of a ``system`` may be another one: the first of its own ``compare_to``.
    """
    if system is not None and config.systems[system].compare_to:
        return config.systems[system].compare_to[0]
    if config.report.compare_to is not None:
        return config.report.compare_to
    return CONTROL if CONTROL in config.systems else config.mask_baseline()


def comparisons(config: Config) -> list[tuple[str, str]]:
    """(run, run it is compared with), those with the control first.

    Every system is compared with its control, with what else its ``compare_to`` names, and with the system
    it goes on from, under each seed apart; two systems are compared once, never a second time with the sign
    turned.
    """
    pairs = _with_controls(config)
    for name, system in config.systems.items():
        if system.init:
            _add(pairs, name, system.init)
    runs = []
    for seed in config.all_seeds():
        for pair in pairs:
            trained = [config.systems[name].checkpoint is None for name in pair]
            if seed != config.seed and not any(trained):
                continue  # neither was trained here: there is one run of each
            if any(
                ours and seed not in config.seeds_of(name) for ours, name in zip(trained, pair, strict=True)
            ):
                continue
            runs.append(
                (
                    run_name(config, pair[0], seed) if trained[0] else pair[0],
                    run_name(config, pair[1], seed) if trained[1] else pair[1],
                )
            )
    return runs


def _with_controls(config: Config) -> list[tuple[str, str]]:
    control = control_of(config)
    pairs: list[tuple[str, str]] = []
    for name, system in config.systems.items():
        for other in system.compare_to or [control]:
            if other == name:
                continue
            # a control is compared with its own baseline, not the baseline with the control
            turned = config.systems[other].init == name
            _add(pairs, *((other, name) if turned else (name, other)))
    # those with the common control first; a control's comparison with its baseline is none of them
    pairs.sort(key=lambda pair: pair[1] != control)
    return pairs


def _add(pairs: list[tuple[str, str]], name: str, other: str) -> None:
    if (name, other) not in pairs and (other, name) not in pairs:
        pairs.append((name, other))


def main_comparisons(config: Config) -> list[tuple[str, str]]:
    """The comparisons with a control under the first seed: those that get a figure."""
    control = control_of(config)
    wanted = {
        (name, other) for name, system in config.systems.items() for other in system.compare_to or [control]
    }
    return [pair for pair in comparisons(config) if pair in wanted]


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
