"""Figure of perplexity by direction over training, of every system: where one language disturbs another."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from neuron_specialization.errors import ScoringError
from neuron_specialization.figures.drawing import (
    PAGE_WIDTH,
    mark_every,
    mark_of,
    new_figure,
    save,
    say_instead,
    style_of,
)

# more directions than these are drawn as means over tiers
_PANELS = 24
_COLUMNS = 6
# of no more than six
_FEW_COLUMNS = 3

Point = tuple[float, float]


def read_curves(table: str | Path) -> dict[str, dict[str, list[Point]]]:
    """Read validation losses over training, means over seeds.

    Args:
        table: ``R/tables/perplexity.csv``.

    Returns:
        direction (or ``group, tier``, where they are many) → system → points (updates, bits a target piece).
        A system that goes on from another begins with that one's published model, at the updates it had.

    Raises:
        ScoringError: the table is missing.
    """
    try:
        with Path(table).open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise ScoringError("the table of perplexities is missing", where=table) from None
    by_direction = len({row["direction"] for row in rows}) <= _PANELS
    panels: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        panel = row["direction"] if by_direction else f"{row['group']}, {row['tier']}"
        panels[panel][row["system"]].append(row)
    return {
        panel: {name: _curve(of_system, of_panel) for name, of_system in of_panel.items()}
        for panel, of_panel in panels.items()
    }


def _curve(rows: Sequence[dict[str, str]], of_panel: Mapping[str, Sequence[dict[str, str]]]) -> list[Point]:
    losses: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        losses[int(row["update"])].append(float(row["nll"]))
    # tables of earlier versions do not tell where a run started
    start = fmean(int(row.get("start") or 0) for row in rows)
    points = [(start + update, fmean(found)) for update, found in sorted(losses.items())]
    seeds = {row["seed"] for row in rows}
    of_origin = [row for row in of_panel.get(rows[0].get("from", ""), []) if row["seed"] in seeds]
    ended = [float(row["nll"]) for row in of_origin if row["published"] == "1"]
    return [(start, fmean(ended)), *points] if ended else points


def plot_perplexity(table: str | Path, folder: str | Path) -> list[Path]:
    """Draw validation loss in bits against updates: a panel a direction, a line a system (mean over seeds).

    Args:
        table: ``R/tables/perplexity.csv``.
        folder: where to; the file is ``perplexity``.

    Raises:
        ScoringError: the table is missing.
    """
    curves = read_curves(table)
    if not curves:
        return say_instead(folder, "perplexity", "The trainings logged no loss by direction.", 0.8)
    systems = list(dict.fromkeys(system for of_panel in curves.values() for system in of_panel))
    columns = _COLUMNS if len(curves) > _COLUMNS else min(_FEW_COLUMNS, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure, axes = new_figure(
        min(9.5, 0.8 + lines * PAGE_WIDTH / max(columns, _FEW_COLUMNS) * 0.85), lines, columns, sharex=False
    )
    for place, (name, of_panel) in enumerate(curves.items()):
        axis = axes[place // columns, place % columns]
        for index, system in enumerate(systems):
            points = of_panel.get(system, [])
            axis.plot(
                [updates for updates, _ in points],
                [loss for _, loss in points],
                markersize=2.5,
                markevery=mark_every(len(points)),
                **(mark_of(index) | style_of(index) | {"linewidth": 1.0}),
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
    handles = [axis.plot([], [], markersize=3, **(mark_of(i) | style_of(i)))[0] for i in range(len(systems))]
    figure.legend(handles, systems, loc="outside upper center", ncols=min(7, len(systems)), fontsize=7)
