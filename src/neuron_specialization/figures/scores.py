"""Figures of scores: differences of two systems by direction, and what a selection's k changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_specialization.evaluation.scoring import label
from neuron_specialization.evaluation.significance import LEVEL, Comparison, DirectionResult, GroupResult
from neuron_specialization.evaluation.tables import ALL, DirectionGroup, set_name
from neuron_specialization.figures.drawing import MARKS, mark_of, new_figure, save, style_of
from neuron_specialization.reporting.answer import effects, overall
from neuron_specialization.reporting.scores import p_of

# a direction, or the set (group, tier, branch) of a mean
ForestRow = str | tuple[str, str, str]

# directions of a group that have a line each
_MOST_ROWS = 40
_MEAN = {"color": "black", "marker": "D"}


def plot_deltas(comparison: Comparison, groups: Sequence[DirectionGroup], folder: str | Path) -> list[Path]:
    """Draw a forest plot: the difference in every direction with its interval, and the means under them.

    Colour and mark are the branch; a filled mark is a significant difference.

    Args:
        comparison: of two systems.
        groups: direction → group, tier, branch.
        folder: where to; the file is ``deltas-<testset>-<system>-<control>``.
    """
    metrics = comparison.settings.metrics
    where = {row.direction: row for row in groups}
    branches = sorted({row.branch for row in groups})
    rows = _forest_rows(comparison, where)
    height = min(9.5, 1.1 + 0.145 * len(rows))
    figure, axes = new_figure(height, 1, len(metrics), sharey=True)
    for column, metric in enumerate(metrics):
        panel = axes[0, column]
        results: dict[ForestRow, DirectionResult | GroupResult] = {
            r.direction: r for r in comparison.directions if r.metric == metric
        }
        results |= {g.place: g for g in comparison.groups if g.metric == metric}
        panel.axvline(0, color="black", linewidth=0.8)
        for y, row in enumerate(rows):
            if isinstance(row, str):
                style = mark_of(branches.index(where[row].branch))
                _draw_difference(panel, y, results[row], style, 4)
            elif row is not None:
                _draw_difference(panel, y, results[row], _MEAN, 4.5)
        for y, row in enumerate(rows):
            if row is None:
                panel.axhline(y, color="#bbbbbb", linewidth=0.5)
        panel.set_xlabel(f"Δ {label(metric)}: {comparison.system} − {comparison.control}")
        panel.grid(False, axis="y")
        panel.margins(x=0.06)
    panel = axes[0, 0]
    shown = [(y, name) for y, name in enumerate(rows) if name is not None]
    panel.set_yticks([y for y, _ in shown], [_row_label(name, where) for _, name in shown], fontsize=6.5)
    for tick, (_, name) in zip(panel.get_yticklabels(), shown, strict=True):
        tick.set_fontweight("normal" if isinstance(name, str) else "bold")
    panel.set_ylim(len(rows) - 0.3, -0.7)
    _forest_legend(figure, axes[0, 0], comparison, branches)
    return save(
        figure,
        folder,
        f"deltas-{comparison.testset}-{comparison.system}-{comparison.control}",
        f"{comparison.system} − {comparison.control} on {comparison.testset}: difference in every direction "
        f"with its {comparison.settings.confidence:.0%} interval, and the means",
    )


def _forest_rows(comparison: Comparison, where: Mapping[str, DirectionGroup]) -> list[ForestRow | None]:
    """Directions by group, tier and branch, each group's means under it; None is a line between groups.

    Of a group of more directions than a page has lines for (zero-shot ones) the means alone.
    """
    sets = list(dict.fromkeys(g.place for g in comparison.groups))
    present = list(dict.fromkeys(r.direction for r in comparison.directions))
    tiers = list(dict.fromkeys(row.tier for row in where.values()))
    rows: list[ForestRow | None] = []
    for group in dict.fromkeys(where[name].group for name in present):
        if rows:
            rows.append(None)
        of_group = [name for name in present if where[name].group == group]
        of_group.sort(key=lambda name: tiers.index(where[name].tier))
        if len(of_group) <= _MOST_ROWS:
            rows += of_group
        else:
            rows += [item for item in sets if item[0] == group and item != (group, ALL, ALL)]
        rows += [item for item in sets if item == (group, ALL, ALL)]
    of_all = [item for item in sets if item[0] == ALL]
    if of_all:
        rows += [None, *(item for item in of_all if item[1:] != (ALL, ALL)), (ALL, ALL, ALL)]
    return rows


def _row_label(row: ForestRow, where: Mapping[str, DirectionGroup]) -> str:
    if isinstance(row, str):
        tier = where[row].tier
        return row if tier == ALL else f"{tier}  {row}"
    return f"mean {set_name(*row)}"


def _draw_difference(
    panel: Any, y: float, result: DirectionResult | GroupResult, style: Mapping[str, Any], size: float
) -> None:
    significant = (p := p_of(result)) is not None and p < LEVEL
    panel.plot([result.low, result.high], [y, y], color=style["color"], linewidth=1.1)
    panel.plot(
        result.delta, y, **style, markersize=size, linestyle="none",
        markerfacecolor=style["color"] if significant else "white", markeredgewidth=0.9,
    )  # fmt: skip


def _forest_legend(figure: Any, panel: Any, comparison: Comparison, branches: Sequence[str]) -> None:
    styles = [*((mark_of(i), 4.0) for i in range(len(branches))), (_MEAN, 4.5)]
    handles = [
        panel.plot([], [], **style, markerfacecolor="white", markersize=size, linewidth=1.1)[0]
        for style, size in styles
    ]
    segments = sorted({row.segments for row in comparison.directions})
    size = f"{segments[0]:,}" if len(segments) == 1 else f"{segments[0]:,}–{segments[-1]:,}"
    figure.legend(
        handles,
        [*branches, "mean"],
        loc="outside lower center",
        ncols=min(6, len(branches) + 1),
        title=f"{comparison.testset}: {size} segments a direction; {comparison.settings.confidence:.0%} "
        "intervals; filled: p < 0.05 (directions: Holm-corrected)",
        title_fontsize=6.5,
        fontsize=7,
    )


@dataclass(frozen=True)
class SweepPoint:
    """A system trained under a selection by activity.

    Attributes:
        system: its name.
        k: percent of the activity.
        overlap: the content of the selection's overlap.json.
        comparisons: with the control, on one test set, one a seed.
    """

    system: str
    k: float
    overlap: Mapping[str, Any]
    comparisons: Sequence[Comparison]


def plot_sweep(points: Sequence[SweepPoint], folder: str | Path) -> list[Path]:
    """Draw score difference, sparsity and overlap against k; the file is ``sweep-<testset>``."""
    points = sorted(points, key=lambda point: point.k)
    first = points[0].comparisons[0]
    figure, axes = new_figure(2.6, 1, 3)
    panel = axes[0, 0]
    panel.axhline(0, color="black", linewidth=0.8)
    for index, metric in enumerate(first.settings.metrics):
        deltas = [overall(effects(point.comparisons, metric)) for point in points]
        offset = 0.25 * (index - (len(first.settings.metrics) - 1) / 2)
        panel.errorbar(
            [point.k + offset for point in points],
            [delta.delta for delta in deltas],
            yerr=[[d.delta - d.low for d in deltas], [d.high - d.delta for d in deltas]],
            label=label(metric), marker=MARKS[index], markersize=3.5, capsize=2,
            **style_of(index),
        )  # fmt: skip
    panel.set_title(f"Δ to {first.control}, {first.testset}", fontsize=7.5)
    panel.set_ylabel(f"mean over {max(mean.directions for mean in first.groups)} directions")
    panel.legend(loc="best", fontsize=6.5)
    panel.margins(y=0.25)
    for index, side in enumerate(("encoder", "decoder")):
        values = [_masked(point.overlap, side) for point in points]
        if all(value is not None for value in values):
            axes[0, 1].plot([p.k for p in points], values, label=side, marker=MARKS[index], **style_of(index))
    axes[0, 1].set_title("masked neurons, %", fontsize=7.5)
    axes[0, 1].set_ylim(bottom=0)
    axes[0, 1].legend()
    lines = [(group, kind) for group in points[0].overlap["groups"] for kind in ("within", "across")]
    for index, (group, kind) in enumerate(lines):
        means = [point.overlap["groups"][group][kind]["mean"] for point in points]
        if all(mean is not None for mean in means):
            axes[0, 2].plot(
                [point.k for point in points], [100 * mean for mean in means],
                label=f"{group} {kind}", marker=MARKS[index % len(MARKS)], **style_of(index),
            )  # fmt: skip
    axes[0, 2].set_title("mean IoU of two directions, %", fontsize=7.5)
    axes[0, 2].legend(fontsize=6.5)
    for panel in axes[0]:
        panel.set_xlabel("k, % of the activity")
        panel.set_xticks([point.k for point in points])
    return save(
        figure, folder, f"sweep-{first.testset}", "Score difference, sparsity and overlap of masks against k"
    )


def _masked(overlap: Mapping[str, Any], side: str) -> float | None:
    shares = [
        100 * (1 - share)
        for direction in overlap["directions"].values()
        for layer, share in direction["kept"].items()
        if layer.startswith(side)
    ]
    return sum(shares) / len(shares) if shares else None
