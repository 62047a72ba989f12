"""Figures: their common style, and the training curves.

Every figure is written as SVG and PNG, 7 inches wide at most (a page's text), in colours that colour-blind
readers tell apart (Okabe and Ito's) and with a second cue (dashes or marks) beside them. Labels come from
the data. Equal data give equal files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neuron_specialization.training_curves import TrainingRun

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAGE_WIDTH = 7.0
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
    """Colour and mark of the index-th branch of a figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)]}


def style_of(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line of a figure."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def plot_training(runs: Sequence[TrainingRun], folder: str | Path) -> list[Path]:
    """Draw the loss against the updates, of all systems; and of those that go on from another, enlarged."""
    continued = [run for run in runs if run.init_sha256]
    figure, axes = new_figure(2.9, 1, 2 if continued else 1)
    _draw_curves(axes[0, 0], runs, runs, training=True)
    axes[0, 0].set_title("validation (marks) and training loss")
    axes[0, 0].set_ylabel("bits per target token")
    if continued:
        _draw_curves(axes[0, 1], continued, runs, training=False)
        axes[0, 1].set_title("validation loss of continued training")
    axes[0, 0].legend(title="circle: published model", title_fontsize=7)
    described = ", ".join(run.system for run in runs)
    return save(figure, folder, "training", f"Loss in bits per target token against updates: {described}")


def _draw_curves(
    axes: Axes, shown: Sequence[TrainingRun], all_runs: Sequence[TrainingRun], training: bool
) -> None:
    for run in shown:
        index = list(all_runs).index(run)
        style = style_of(index)
        if training:
            x, y = run.curve("train")
            axes.plot(x, y, color=style["color"], linewidth=0.6, alpha=0.45)
        x, y = run.curve("valid")
        axes.plot(x, y, label=run.system, marker=MARKS[index % len(MARKS)], markersize=3, **style)
        if run.published is not None:
            axes.plot(*run.published, marker="o", markersize=8, markerfacecolor="none", color=style["color"])
    axes.set_xlabel("updates")
    axes.locator_params(axis="x", integer=True, nbins=6)
