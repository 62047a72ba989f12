"""Figures of what directions share: the tree of their masks, and who keeps which neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron_specialization.figures.drawing import mark_of, new_figure, save
from neuron_specialization.figures.masks import label_layers, nothing_to_compare, other_language, sides_of
from neuron_specialization.masks.structure import SHARES

# from dark (shared by all) to light (kept by none): told apart without colour, too
_SHARE_COLOURS = ("#00224E", "#35618F", "#7AA6C2", "#E69F00", "#E8E8E8")
_SIDES = {"all": "all layers", "encoder": "encoder", "decoder": "decoder"}


def plot_clusters(overlap: Mapping[str, Any], selection: str, folder: str | Path) -> list[Path]:
    """Draw the directions of each group as a tree by the overlap of their masks, coloured by branch.

    Args:
        overlap: the content of overlap.json.
        selection: its name.
        folder: where to.
    """
    trees = {
        (name, part): found
        for name, group in overlap["groups"].items()
        for part, found in group["structure"]["clusterings"].items()
        if found is not None and part != "all"
    }
    name = f"clusters-{selection}"
    if not trees:
        return nothing_to_compare(name, folder)
    groups = list(dict.fromkeys(group for group, _ in trees))
    parts = list(dict.fromkeys(part for _, part in trees))
    most = max(len(overlap["groups"][group]["structure"]["directions"]) for group in groups)
    figure, axes = new_figure(min(9.5, len(groups) * (0.75 + 0.14 * most)), len(groups), len(parts))
    # sorted: a branch has one colour and mark in all figures
    branches = sorted({b for group in groups for b in overlap["groups"][group]["structure"]["branches"]})
    for row, group in enumerate(groups):
        for column, part in enumerate(parts):
            panel = axes[row, column]
            found = trees.get((group, part))
            if found is None:
                panel.set_visible(False)
                continue
            structure = overlap["groups"][group]["structure"]
            if _height(found) <= 1e-9:
                panel.set_axis_off()
                panel.text(0, 0.5, "all masks are equal", fontsize=7.5, transform=panel.transAxes)
                panel.set_title(f"{group}, {_SIDES[part]}", fontsize=7.5)
                continue
            _draw_tree(panel, found["linkage"], structure, branches, overlap.get("pivot"))
            panel.set_title(f"{group}, {_SIDES[part]}{_agreement(found)}", fontsize=7.5)
            if row == len(groups) - 1:
                panel.set_xlabel("distance (1 − mean IoU)")
    handles = [
        axes[0, 0].plot([], [], linestyle="none", markersize=4, **mark_of(i))[0] for i in range(len(branches))
    ]
    figure.legend(handles, branches, loc="outside lower center", ncols=min(6, len(branches)))
    return save(
        figure,
        folder,
        name,
        f"Average-linkage clustering of directions by the overlap of their masks, {selection}",
    )


def _height(found: Mapping[str, Any]) -> float:
    return float(max(join[2] for join in found["linkage"]))


def _agreement(found: Mapping[str, Any]) -> str:
    rand, cophenetic = found["adjusted_rand"], found["cophenetic"]
    words = [] if rand is None else [f"adjusted Rand {rand:.2f}".replace("-", "−")]
    words += [] if cophenetic is None else [f"cophenetic r {cophenetic:.2f}".replace("-", "−")]
    return f": {', '.join(words)}" if words else ""


def _draw_tree(
    panel: Any,
    linkage: Sequence[Sequence[float]],
    structure: Mapping[str, Any],
    branches: Sequence[str],
    pivot: str | None,
) -> None:
    from scipy.cluster.hierarchy import dendrogram

    tree = dendrogram(linkage, no_plot=True)
    for x, y in zip(tree["dcoord"], tree["icoord"], strict=True):
        panel.plot(x, y, color="#555555", linewidth=0.9)
    leaves = tree["leaves"]
    names = [other_language(structure["directions"][leaf], pivot) for leaf in leaves]
    panel.set_yticks([5 + 10 * i for i in range(len(leaves))], names, fontsize=7)
    for place, leaf in enumerate(leaves):
        style = mark_of(branches.index(structure["branches"][leaf]))
        panel.plot(0, 5 + 10 * place, markersize=4.5, clip_on=False, zorder=3, linestyle="none", **style)
    panel.set_ylim(0, 10 * len(leaves))
    # zero at the leaves, on the side of their names
    panel.set_xlim(left=0, right=1.05 * max(join[2] for join in linkage))
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0, pad=5)
    panel.spines["left"].set_visible(False)


def plot_sharing(overlap: Mapping[str, Any], selection: str, folder: str | Path) -> list[Path]:
    """Draw, for each layer, how many neurons all, several, one branch's or one of the directions keep."""
    layers = list(overlap["neurons"])
    groups = {name: group for name, group in overlap["groups"].items() if len(group["directions"]) > 1}
    name = f"sharing-{selection}"
    if not groups:
        return nothing_to_compare(name, folder)
    figure, axes = new_figure(2.9, 1, len(groups), sharey=True)
    for column, (group, content) in enumerate(groups.items()):
        panel = axes[0, column]
        bottom = [0.0] * len(layers)
        for kind, colour in zip(SHARES, _SHARE_COLOURS, strict=True):
            shares = [100 * content["sharing"][layer][kind] / overlap["neurons"][layer] for layer in layers]
            panel.bar(
                range(len(layers)), shares, bottom=bottom, color=colour, width=0.75, edgecolor="white",
                linewidth=0.4, label=kind,
            )  # fmt: skip
            if len(layers) <= 8:
                _write_shares(panel, shares, bottom, dark=kind in SHARES[:2])
            bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
        label_layers(panel, layers, overlap["neurons"])
        for side in sides_of(layers)[1:]:
            panel.axvline(side[0] - 0.5, color="#555555", linewidth=0.6)
        panel.set_title(f"{group} (n = {len(content['directions'])})")
        panel.grid(False, axis="x")
        panel.set_ylim(0, 100)
    axes[0, 0].set_ylabel(f"neurons, %, {selection}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, title="kept by", title_fontsize=7, fontsize=7
    )
    return save(
        figure,
        folder,
        name,
        f"Share of neurons kept by all, by several, by one branch's or by one direction, {selection}",
    )


def _write_shares(panel: Any, shares: Sequence[float], bottom: Sequence[float], *, dark: bool) -> None:
    for i, (share, low) in enumerate(zip(shares, bottom, strict=True)):
        if share >= 5:
            panel.text(
                i, low + share / 2, f"{share:.0f}", ha="center", va="center", fontsize=5.5,
                color="white" if dark else "black",
            )  # fmt: skip
