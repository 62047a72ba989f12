"""Figures: their common style, and the training curves.

Every figure is written as SVG and PNG, 7 inches wide at most (a page's text), in colours that colour-blind
readers tell apart (Okabe and Ito's) and with a second cue (dashes or marks) beside them. Labels come from
the data. Equal data give equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.errors import NeuronSpecializationError, TrainingError
from neuron_specialization.files import atomic_path, read_json
from neuron_specialization.progress import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


@dataclass(frozen=True)
class TrainingRun:
    """What the curves show of one system.

    Attributes:
        system: its name.
        records: of metrics.jsonl.
        init_sha256: checksum of the model it started from, None for a start from scratch.
        model_sha256: checksum of the model it ended with.
        updates: the update of that model, the one with the best validation loss.
        start: where it begins on the time axis: the updates its starting model had behind it.
        start_loss: validation loss of its starting model, where that one is shown too.
    """

    system: str
    records: Sequence[Mapping[str, Any]]
    init_sha256: str | None
    model_sha256: str | None
    updates: int | None
    start: int = 0
    start_loss: float | None = None

    @property
    def published(self) -> tuple[int, float] | None:
        """The point of the published model on the validation curve."""
        return next(
            (
                point
                for point in zip(*self.curve("valid"), strict=True)
                if point[0] - self.start == self.updates
            ),
            None,
        )

    def curve(self, kind: str, quantity: str = "nll") -> tuple[list[int], list[float]]:
        """(updates on the time axis, values) of the records of a kind; those not finite left out."""
        found = [
            (self.start + record["update"], record[quantity])
            for record in self.records
            if record["kind"] == kind and isinstance(record.get(quantity), int | float)
        ]
        if kind == "valid" and self.start_loss is not None:
            found.insert(0, (self.start, self.start_loss))
        return [x for x, _ in found], [y for _, y in found]


def read_runs(folder: str | Path, systems: Sequence[str] | None = None) -> list[TrainingRun]:
    """Read the runs below ``R/training``; one that goes on from another starts where that one ended.

    Raises:
        TrainingError: a system has no metrics, or none is there.
    """
    folder = Path(folder)
    if systems is None:
        systems = [path.parent.name for path in sorted(folder.glob("*/metrics.jsonl"))]
    runs = []
    for system in systems:
        path = folder / system / "metrics.jsonl"
        if not path.is_file():
            raise TrainingError(
                f"no metrics of {system}", where=path, hint="train it: snakemake --cores all models"
            )
        records = list(read_metrics(path))
        try:
            facts = read_json(folder / system / "model.json")
        except NeuronSpecializationError:
            facts = {}  # still training
        inputs = facts.get("inputs", {})
        runs.append(
            TrainingRun(system, records, inputs.get("init"), facts.get("model_sha256"), facts.get("updates"))
        )
    if not runs:
        raise TrainingError(
            "no training is here", where=folder, hint="train first: snakemake --cores all models"
        )
    return [_placed(run, {other.model_sha256: other for other in runs if other.model_sha256}) for run in runs]


def _placed(run: TrainingRun, by_model: Mapping[str, TrainingRun]) -> TrainingRun:
    """Put a run that goes on from another of the runs after that one's published model."""
    origin = by_model.get(run.init_sha256) if run.init_sha256 else None
    if origin is None:
        return run
    end = origin.published
    return replace(run, start=origin.updates or 0, start_loss=end[1] if end else None)


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
