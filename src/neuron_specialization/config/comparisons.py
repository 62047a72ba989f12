"""Which systems are tested against which."""

from __future__ import annotations

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import ActivationMasks
from neuron_specialization.config.runs import run_of, systems_by_run

CONTROL = "continued"


def controls_of(config: Config, system: str) -> list[str]:
    """The systems that one is compared with: its own ``compare_to``, or the common control."""
    return config.systems[system].compare_to or [control_of(config)]


def control_of(config: Config, system: str | None = None) -> str:
    """The system that others are compared with: ``report.compare_to``, or the control, or the baseline.

    That of a ``system`` may be another one: the first of its own ``compare_to``.
    """
    if system is not None:
        return controls_of(config, system)[0]
    if config.report.compare_to is not None:
        return config.report.compare_to
    return CONTROL if CONTROL in config.systems else config.mask_baseline()


def comparisons(config: Config) -> list[tuple[str, str]]:
    """(run, run it is compared with), those with the control first.

    Every system is compared with its controls and with the system it goes on from, under each seed apart;
    two systems are compared once, never a second time with the sign turned.
    """
    pairs = _with_controls(config)
    for name, system in config.systems.items():
        if system.init:
            _add(pairs, name, system.init)
    runs = systems_by_run(config)
    found: dict[tuple[str, str], None] = {}
    for seed in config.all_seeds():
        for name, other in pairs:
            pair = run_of(config, name, seed), run_of(config, other, seed)
            if all(run in runs for run in pair):
                found[pair] = None  # again, where neither was trained here: there is one run of each
    return list(found)


def _with_controls(config: Config) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, other in _controlled(config):
        # a control is compared with its own baseline, not the baseline with the control
        turned = config.systems[other].init == name
        _add(pairs, *((other, name) if turned else (name, other)))
    # those with the common control first; a control's comparison with its baseline is none of them
    control = control_of(config)
    pairs.sort(key=lambda pair: pair[1] != control)
    return pairs


def _controlled(config: Config) -> list[tuple[str, str]]:
    return [(name, other) for name in config.systems for other in controls_of(config, name) if other != name]


def _add(pairs: list[tuple[str, str]], name: str, other: str) -> None:
    if (name, other) not in pairs and (other, name) not in pairs:
        pairs.append((name, other))


def main_comparisons(config: Config) -> list[tuple[str, str]]:
    """The comparisons with a control under the first seed: those that get a figure."""
    wanted = _controlled(config)
    return [pair for pair in comparisons(config) if pair in wanted]


# settings of a training that do not change what is learnt from, nor how
_NOT_LEARNING = {"validate_every", "save_every", "implementation", "products"}


def unequal_training(config: Config, system: str, control: str) -> str:
    """How the training of two systems differs beside the masks, as a sentence; empty where it does not."""
    ours, theirs = config.systems[system], config.systems[control]
    taken_over = [name for name in (system, control) if config.systems[name].checkpoint is not None]
    if len(taken_over) == 2:
        return ""
    if taken_over:
        return f"{taken_over[0]} was not trained here: whether both had equal training is not known."
    if ours.init == control:
        more = config.training_of(system).max_updates
        return (
            f"{system} had {more:,} more updates than {control}, from which it goes on: what these are "
            "worth by themselves, a control that had them, too, would show "
            f"({CONTROL}: from the same model, without masks)."
        )
    own, others = (config.training_of(name).model_dump(exclude=_NOT_LEARNING) for name in (system, control))
    differences = [
        f"{key} {value} against {others[key]}" for key, value in own.items() if value != others[key]
    ]
    if ours.init != theirs.init:
        starts = [f"from {one.init}" if one.init else "from scratch" for one in (ours, theirs)]
        differences.insert(0, " against ".join(starts))
    return f"{system} and {control} were not trained alike: {'; '.join(differences)}." if differences else ""


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
