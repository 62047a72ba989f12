"""Figures of a mask selection, from overlap.json: sparsity, overlap by layer, similarity of directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import MaskError
from neuron_specialization.figures.drawing import MARKS, PAGE_WIDTH, new_figure, save, say_instead, style_of
from neuron_specialization.reporting.answer import p_text

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)")


def plot_masks(overlap: Mapping[str, Any], selection: str, folder: str | Path) -> list[Path]:
    """Draw the three figures of a selection.

    Args:
        overlap: the content of overlap.json (see ``overlap.overlap``).
        selection: its name, part of the file names.
        folder: where to.

    Returns:
        The files: ``sparsity-``, ``overlap-`` and ``similarity-<selection>``, each ``.svg`` and ``.png``.

    Raises:
        MaskError: the content is not that of an overlap.json.
    """
    missing = [key for key in ("neurons", "directions", "groups") if key not in overlap]
    if missing:
        raise MaskError(f"not an overlap file: it lacks {', '.join(missing)}")
    layers = list(overlap["neurons"])
    return [
        *_plot_sparsity(overlap, layers, selection, folder),
        *_plot_iou(overlap, layers, selection, folder),
        *_plot_similarity(overlap, layers, selection, folder),
    ]


def layer_label(layer: str) -> str:
    """``encoder.layers.0`` → ``e1``: as papers count layers, from 1."""
    match = _LAYER.fullmatch(layer)
    if match is None:
        raise MaskError(f"{layer!r} is not a layer's name")
    return f"{match[1][0]}{int(match[2]) + 1}"


def sides_of(layers: Sequence[str]) -> list[list[int]]:
    """Positions of the encoder's and of the decoder's layers: curves do not run from one into the other."""
    sides = [[i for i, name in enumerate(layers) if name.startswith(side)] for side in ("encoder", "decoder")]
    return [side for side in sides if side]


def label_layers(axes: Any, layers: Sequence[str], neurons: Mapping[str, int]) -> None:
    """Name the layers along the x axis, and under it how wide they are (layer → d_ff)."""
    axes.set_xticks(range(len(layers)), [layer_label(layer) for layer in layers])
    widths = sorted(set(neurons.values()))
    axes.set_xlabel(
        f"layer (e encoder, d decoder), {' or '.join(f'{width:,}' for width in widths)} neurons each"
    )


def _plot_sparsity(
    overlap: Mapping[str, Any], layers: Sequence[str], selection: str, folder: str | Path
) -> list[Path]:
    """One heat map a group: share of masked neurons by direction and layer, ordered by branch."""
    groups = overlap["groups"]
    tallest = max(len(group["directions"]) for group in groups.values())
    figure, axes = new_figure(min(9.5, 1.0 + 0.19 * tallest), 1, len(groups))
    image: Any = None
    for column, (name, group) in enumerate(groups.items()):
        panel = axes[0, column]
        order, edges = by_branch(overlap, group["directions"])
        names = [group["directions"][i] for i in order]
        masked = [
            [100 * (1 - overlap["directions"][direction]["kept"][layer]) for layer in layers]
            for direction in names
        ]
        image = panel.imshow(masked, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for edge in edges:
            panel.axhline(edge - 0.5, color="white", linewidth=0.8)
        for side in sides_of(layers)[1:]:
            panel.axvline(side[0] - 0.5, color="white", linewidth=0.8)
        if len(layers) <= 8:
            for i, row in enumerate(masked):
                for j, value in enumerate(row):
                    colour = "black" if value > 55 else "white"
                    panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)
        panel.grid(False)
        panel.tick_params(length=0, pad=2)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        label_layers(panel, layers, overlap["neurons"])
        panel.set_title(f"{name} (n = {len(names)})")
    figure.colorbar(image, ax=axes, label=f"masked neurons, %, {selection}", aspect=30, pad=0.01)
    return save(
        figure,
        folder,
        f"sparsity-{selection}",
        f"Share of masked neurons by direction and layer, selection {selection}",
    )


def _plot_iou(
    overlap: Mapping[str, Any], layers: Sequence[str], selection: str, folder: str | Path
) -> list[Path]:
    groups = [name for name, group in overlap["groups"].items() if len(group["directions"]) > 1]
    if not groups:
        return nothing_to_compare(f"overlap-{selection}", folder)
    figure, axes = new_figure(2.8, 1, len(groups), sharey=True)
    for column, name in enumerate(groups):
        panel, group = axes[0, column], overlap["groups"][name]
        for index, kind in enumerate(("within", "across")):
            values = group[kind]["iou"]
            for side in sides_of(layers):
                points = [(i, 100 * values[layers[i]]) for i in side if values[layers[i]] is not None]
                if points:
                    mark = MARKS[index]
                    panel.plot(*zip(*points, strict=True), marker=mark, markersize=3.5, **style_of(index))
        panel.set_title(f"{name}: {group['within']['pairs']} pairs within, {group['across']['pairs']} across")
        label_layers(panel, layers, overlap["neurons"])
    lines = [axes[0, 0].plot([], [], marker=MARKS[i], markersize=3.5, **style_of(i))[0] for i in (0, 1)]
    labels = [f"within a branch, {selection}", f"across branches, {selection}"]
    figure.legend(lines, labels, loc="outside lower center", ncols=2)
    axes[0, 0].set_ylabel("mean IoU of two directions, %")
    return save(
        figure,
        folder,
        f"overlap-{selection}",
        f"Overlap of masks within and across branches by layer, {selection}",
    )


def _plot_similarity(
    overlap: Mapping[str, Any], layers: Sequence[str], selection: str, folder: str | Path
) -> list[Path]:
    """One heat map a layer: IoU of every two directions of a group, ordered by branch."""
    groups = {name: group for name, group in overlap["groups"].items() if len(group["directions"]) > 1}
    if not groups:
        return nothing_to_compare(f"similarity-{selection}", folder)
    # a small model's encoder and decoder stand side by side, a deep one's one below the other
    sides = [list(range(len(layers)))] if len(layers) <= 6 else sides_of(layers)
    columns = max(len(side) for side in sides)
    rows = [(name, side) for name in groups for side in sides]
    panel_size = min(2.2, (PAGE_WIDTH - 0.9) / columns)
    figure, axes = new_figure(min(9.5, len(rows) * (panel_size + 0.3) + 0.3), len(rows), columns)
    values = [
        100 * value
        for group in groups.values()
        for matrix in group["matrix"].values()
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if i != j
    ]
    image: Any = None
    for row, (name, side) in enumerate(rows):
        order, edges = by_branch(overlap, groups[name]["directions"])
        for column in range(columns):
            panel = axes[row, column]
            if column >= len(side):
                panel.set_visible(False)
                continue
            layer = layers[side[column]]
            matrix = groups[name]["matrix"][layer]
            shown = [[100 * matrix[i][j] if i != j else float("nan") for j in order] for i in order]
            image = panel.imshow(shown, cmap="cividis", vmin=min(values), vmax=max(values))
            _frame_branches(panel, edges)
            names = [groups[name]["directions"][i] for i in order]
            _label_directions(panel, overlap, names, edges, panel_size, first_column=column == 0)
            panel.set_title(_panel_title(groups[name], name, layer), fontsize=6)
    figure.colorbar(image, ax=axes, label=f"IoU, %, {selection}", shrink=0.7, aspect=30, pad=0.01)
    figure.supxlabel(
        "below the name: mean IoU within / across branches, %; p of the permutation test", fontsize=6.5
    )
    return save(
        figure,
        folder,
        f"similarity-{selection}",
        f"Overlap of the masks of every two directions by layer, ordered by branch, {selection}",
    )


def _panel_title(group: Mapping[str, Any], name: str, layer: str) -> str:
    """Group and layer, then the means within and across branches and the p-value of the family structure."""
    title = f"{name} {layer_label(layer)}"
    within, across = group["within"]["iou"][layer], group["across"]["iou"][layer]
    test = group.get("structure", {}).get("tests", {}).get(layer)
    if within is None or across is None or test is None or test["p"] is None:
        return title
    if min(within, across) == 1:
        return f"{title}\nall equal"
    return f"{title}\n{100 * within:.0f} / {100 * across:.0f}, {p_text(test['p'])}"


def nothing_to_compare(name: str, folder: str | Path) -> list[Path]:
    """The figure of a selection in which no two directions can be compared."""
    return say_instead(folder, name, "Only one direction in each group: there are no two masks to compare.")


def by_branch(overlap: Mapping[str, Any], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """(positions of the directions ordered by branch, where each branch but the first begins)."""
    branches = [overlap["directions"][name]["branch"] for name in names]
    first = {branch: i for i, branch in reversed(list(enumerate(branches)))}
    order = sorted(range(len(names)), key=lambda i: (first[branches[i]], i))
    edges = [k for k in range(1, len(order)) if branches[order[k]] != branches[order[k - 1]]]
    return order, edges


def branch_ticks(
    overlap: Mapping[str, Any], names: Sequence[str], edges: Sequence[int]
) -> tuple[list[float], list[str]]:
    """(the middle of each branch, its name), of directions that ``by_branch`` has ordered."""
    bounds = [0, *edges, len(names)]
    middles = [(a + b - 1) / 2 for a, b in pairwise(bounds)]
    return middles, [overlap["directions"][names[a]]["branch"] for a in bounds[:-1]]


def _frame_branches(panel: Any, edges: Sequence[int]) -> None:
    panel.grid(False)
    for edge in edges:
        panel.axhline(edge - 0.5, color="white", linewidth=0.8)
        panel.axvline(edge - 0.5, color="white", linewidth=0.8)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_facecolor("#cccccc")


def _label_directions(
    panel: Any,
    overlap: Mapping[str, Any],
    names: Sequence[str],
    edges: Sequence[int],
    size: float,
    *,
    first_column: bool,
) -> None:
    """Label rows and columns by language; by branch where there is no room for languages."""
    codes = [other_language(name, overlap.get("pivot")) for name in names]
    fontsize = 0.6 * 72 * size / len(codes)
    positions: list[float] = list(range(len(codes)))
    if fontsize < 4:
        positions, codes = branch_ticks(overlap, names, edges)
        fontsize = 5.0
    fontsize = min(6.5, fontsize)
    # the columns are in the order of the rows
    panel.set_xticks(positions, codes if max(map(len, codes)) <= 3 else [""] * len(codes), fontsize=fontsize)
    panel.set_yticks(positions, codes if first_column else [""] * len(codes), fontsize=fontsize)
    panel.tick_params(length=0, pad=1)


def other_language(direction: str, pivot: str | None) -> str:
    """What tells a direction from others of its group: the language that is not the pivot, or its name."""
    return Direction.parse(direction).other(pivot) or direction
