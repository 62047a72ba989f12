"""The training curves: loss and validation loss of every run against its updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.figures.drawing import mark_every, mark_of, new_figure, save, style_of
from neuron_specialization.run_names import split_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from neuron_specialization.training.curves import TrainingRun

# more lines than these are named under a panel, not inside it
_NAMED_INSIDE = 6


def plot_training(runs: Sequence[TrainingRun], folder: str | Path) -> list[Path]:
    """Draw the loss against the updates, of all systems; and of those that go on from another, enlarged.

    A system's runs under several seeds are drawn alike and named once.
    """
    continued = [run for run in runs if run.init_sha256]
    systems = list(dict.fromkeys(split_run(run.system)[0] for run in runs))
    inside = len(systems) <= _NAMED_INSIDE
    columns = min(5, len(systems))
    below = 0 if inside else 0.2 + 0.16 * math.ceil(len(systems) / columns)
    figure, axes = new_figure(2.9 + below, 1, 2 if continued else 1)
    _draw_curves(axes[0, 0], runs, systems, training=True)
    axes[0, 0].set_title("validation (marks) and training loss")
    axes[0, 0].set_ylabel("bits per target token")
    if continued:
        _draw_curves(axes[0, 1], continued, systems, training=False)
        axes[0, 1].set_title("validation loss of continued training")
    legend: dict[str, Any] = {"title": "circle: published model", "title_fontsize": 7}
    if inside:
        axes[0, 0].legend(**legend)
    else:
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=7, **legend)
    described = ", ".join(run.system for run in runs)
    return save(figure, folder, "training", f"Loss in bits per target token against updates: {described}")


def _draw_curves(axes: Axes, shown: Sequence[TrainingRun], systems: Sequence[str], training: bool) -> None:
    named: set[str] = set()
    for run in shown:
        system = split_run(run.system)[0]
        index = systems.index(system)
        style = style_of(index)
        if training:
            x, y = run.curve("train")
            axes.plot(x, y, color=style["color"], linewidth=0.6, alpha=0.45)
        x, y = run.curve("valid")
        axes.plot(
            x, y, label=None if system in named else system, markersize=3, markevery=mark_every(len(x)),
            **(mark_of(index) | style),
        )  # fmt: skip
        named.add(system)
        if run.published is not None:
            axes.plot(*run.published, marker="o", markersize=8, markerfacecolor="none", color=style["color"])
    axes.set_xlabel("updates")
    axes.locator_params(axis="x", integer=True, nbins=6)
