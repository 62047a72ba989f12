"""Figure of perplexity by direction over training, of every system: where one language disturbs another."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from neuron_specialization.errors import ScoringError
from neuron_specialization.plots import MARKS, PAGE_WIDTH, new_figure, save, say_instead, style_of

# more directions than these are drawn as means over tiers
_PANELS = 24
_COLUMNS = 6


def plot_perplexity(table: str | Path, folder: str | Path) -> list[Path]:
    """Draw validation loss in bits against updates: a panel a direction, a line a system (mean over seeds).

    Args:
        table: ``R/tables/perplexity.csv``.
        folder: where to; the file is ``perplexity``.

    Raises:
        ScoringError: the table is missing or has no row.
    """
    try:
        with Path(table).open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise ScoringError("the table of perplexities is missing", where=table) from None
    if not rows:
        return say_instead(folder, "perplexity", "The trainings logged no loss by direction.", 0.8)
    names = list(dict.fromkeys(row["direction"] for row in rows))
    by_direction = len(names) <= _PANELS
    curves: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        panel = row["direction"] if by_direction else f"{row['group']}, {row['tier']}"
        curves[panel][row["system"]][int(row["update"])].append(float(row["nll"]))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    columns = min(_COLUMNS, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure, axes = new_figure(
        min(9.5, 0.8 + lines * PAGE_WIDTH / columns * 0.85), lines, columns, sharex=False
    )
    for place, (name, of_panel) in enumerate(curves.items()):
        axis = axes[place // columns, place % columns]
        for index, system in enumerate(systems):
            points = sorted(of_panel[system].items())
            axis.plot(
                [update for update, _ in points],
                [fmean(values) for _, values in points],
                marker=MARKS[index % len(MARKS)],
                markersize=2.5,
                **(style_of(index) | {"linewidth": 1.0}),
            )
        axis.set_title(name, fontsize=7)
        axis.tick_params(labelsize=6)
        axis.locator_params(axis="x", integer=True, nbins=3)
    for place in range(len(curves), lines * columns):
        axes[place // columns, place % columns].set_visible(False)
    _legend(figure, axes[0, 0], systems)
    figure.supxlabel("updates; loss in bits a target piece, perplexity = 2^loss", fontsize=7.5)
    figure.supylabel("validation loss, bits", fontsize=7.5)
    described = (
        f"Validation loss in bits a target piece against updates by direction, of {', '.join(systems)}"
    )
    return save(figure, folder, "perplexity", described)


def _legend(figure: Any, axis: Any, systems: Sequence[str]) -> None:
    handles = [
        axis.plot([], [], marker=MARKS[i % len(MARKS)], markersize=3, **style_of(i))[0]
        for i in range(len(systems))
    ]
    figure.legend(handles, systems, loc="outside upper center", ncols=min(7, len(systems)), fontsize=7)
