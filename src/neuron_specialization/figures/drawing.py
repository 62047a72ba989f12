"""The common style of all figures.

Every figure is written as SVG and PNG, 7 inches wide at most (a page's text), in colours that colour-blind
readers tell apart (Okabe and Ito's) and with a second cue (dashes or marks) beside them. Labels come from
the data. Equal data give equal files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAGE_WIDTH = 7.0
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
