"""Which systems are tested against which."""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
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
