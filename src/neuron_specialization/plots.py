"""Figures: their common style, and the training curves.

Every figure is written as SVG and PNG, 7 inches wide at most (a page's text), in colours that colour-blind
readers tell apart (Okabe and Ito's) and with a second cue (dashes or marks) beside them. Labels come from
the data. Equal data give equal files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.files import atomic_path
from neuron_specialization.run_names import split_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neuron_specialization.training_curves import TrainingRun

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAGE_WIDTH = 7.0
# more lines than these are named under a panel, not inside it
_NAMED_INSIDE = 6
# marks of a line; more run into one
_MARKED = 24
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    # text stays text: searchable, and small files
    "svg.fonttype": "none",
    "svg.hashsalt": "neuron-specialization",
}


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a page-wide figure in the common style and its axes, [rows, columns] always.

    Needs no display: the canvas is Agg's.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, folder: str | Path, name: str, description: str) -> list[Path]:
    """Write ``<name>.svg`` and ``<name>.png``; the description becomes the SVG's, for screen readers."""
    written = []
    for suffix, metadata in (
        ("svg", {"Date": None, "Title": name, "Description": description}),
        ("png", {"Software": None, "Description": description}),
    ):
        path = Path(folder) / f"{name}.{suffix}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)
        written.append(path)
    return written


def say_instead(folder: str | Path, name: str, text: str, height: float = 1.0) -> list[Path]:
    """Write a figure that says why there is nothing to draw: whoever expects the file finds it."""
    figure, axes = new_figure(height)
    axes[0, 0].text(0.5, 0.5, text, ha="center", va="center", transform=axes[0, 0].transAxes)
    axes[0, 0].set_axis_off()
    return save(figure, folder, name, text)


def mark_of(index: int) -> dict[str, Any]:
    """Colour and mark of the index-th branch or line of a figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[_second_cue(index) % len(MARKS)]}


def style_of(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line of a figure."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[_second_cue(index) % len(DASHES)],
    }


def _second_cue(index: int) -> int:
    """Where the colours begin again, dashes and marks are others than the first time."""
    return index + index // len(COLOURS)


def mark_every(points: int) -> int | None:
    """Every how many-th point of a line is marked: each of a few (None), of many some."""
    return math.ceil(points / _MARKED) if points > 2 * _MARKED else None


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
