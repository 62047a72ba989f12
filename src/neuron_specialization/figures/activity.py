"""Figures of activations: how few neurons make up most of the activity, and which prefer some directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.activations.counts import read_activations
from neuron_specialization.errors import MaskError
from neuron_specialization.figures.drawing import DASHES, new_figure, save, style_of
from neuron_specialization.figures.masks import branch_ticks, by_branch, layer_label, nothing_to_compare

Rates = dict[str, dict[str, NDArray[np.float64]]]

_NEURONS = 24
# of a curve, beside its first point: those of wider layers are finer than a figure
_POINTS = 512


def read_rates(folder: str | Path, directions: Sequence[str]) -> Rates:
    """Read direction → layer → float64[d_ff]: the share of positions at which each neuron is active.

    Raises:
        MaskError: a direction without counts, or counts without their positions.
    """
    rates: Rates = {}
    for direction in directions:
        path = Path(folder) / f"{direction}.safetensors"
        layers, metadata = read_activations(path)
        try:
            positions = json.loads(metadata["positions"])
            rates[direction] = {
                layer: counts / max(1, int(positions[layer.partition(".")[0]]))
                for layer, counts in layers.items()
            }
        except (KeyError, ValueError, TypeError):
            raise MaskError(
                "the counts do not say of how many positions they are",
                where=path,
                hint="count again: neuron-specialization activations",
            ) from None
    return rates


def plot_activity(rates: Rates, overlap: Mapping[str, Any], selection: str, folder: str | Path) -> list[Path]:
    """Draw the cumulative share of the activity against the share of neurons, most active first, by layer.

    The curve is the mean over all directions, the band their range; the mark is where the selection cuts.
    """
    layers = list(overlap["neurons"])
    sides = [side for side in ("encoder", "decoder") if any(layer.startswith(side) for layer in layers)]
    figure, axes = new_figure(2.9, 1, len(sides), sharey=True)
    for column, side in enumerate(sides):
        panel = axes[0, column]
        of_side = [layer for layer in layers if layer.startswith(side)]
        for index, layer in enumerate(of_side):
            curves = np.array([_cumulative(values[layer]) for values in rates.values()])
            width = curves.shape[1] - 1
            shown = np.linspace(0, width, 1 + min(width, _POINTS)).round().astype(np.int64)
            curves, neurons = curves[:, shown], 100 * shown / width
            style = style_of(index)
            if len(of_side) > len(DASHES):
                style["linestyle"] = DASHES[index // 8 % len(DASHES)]
            panel.plot(neurons, curves.mean(axis=0), label=layer_label(layer), **style)
            panel.fill_between(
                neurons, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
            )
            kept, share = _cut(rates, overlap, layer)
            panel.plot(kept, share, marker="o", markersize=4, color=style["color"], markeredgecolor="black",
                       markeredgewidth=0.6, linestyle="none")  # fmt: skip
        panel.set_title(f"{side}, n = {len(rates)} directions")
        panel.set_xlabel("neurons, %, most active first")
        panel.set_xlim(0, 100)
        panel.set_ylim(0, 101)
        panel.legend(ncols=1 + len(of_side) // 7, loc="lower right")
    axes[0, 0].set_ylabel("share of the activity, %")
    figure.supxlabel(
        f"dots: what {selection} keeps, mean over directions; bands: lowest to highest", fontsize=6.5
    )
    return save(
        figure,
        folder,
        f"activity-{selection}",
        f"Cumulative share of the activity against the share of neurons by layer, and where {selection} cuts",
    )


def _cumulative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[d_ff] → float64[d_ff + 1], from 0 to 100 %."""
    ordered = np.sort(values)[::-1]
    total = ordered.sum()
    return np.concatenate([[0.0], 100 * np.cumsum(ordered) / (total if total else 1.0)])


def _cut(rates: Rates, overlap: Mapping[str, Any], layer: str) -> tuple[float, float]:
    """(share of neurons that the selection keeps, share of the activity that as many make up), mean, %."""
    kept, shares = [], []
    for direction, values in rates.items():
        share = overlap["directions"][direction]["kept"][layer]
        kept.append(100 * share)
        shares.append(_cumulative(values[layer])[round(share * values[layer].size)])
    return float(np.mean(kept)), float(np.mean(shares))


def selectivity(rates: NDArray[np.float64], branches: Sequence[str]) -> NDArray[np.float64]:
    """How far the branch of a direction explains a neuron's rate: between-branch share of the variance.

    Args:
        rates: float64[n, d_ff].
        branches: the branch of each of the n directions.

    Returns:
        float64[d_ff] in [0, 1] (eta squared); 0 for a neuron whose rate is everywhere the same.
    """
    labels = np.array(branches)
    mean = rates.mean(axis=0)
    total = ((rates - mean) ** 2).sum(axis=0)
    between = np.zeros(rates.shape[1])
    for name in dict.fromkeys(branches):
        rows = rates[labels == name]
        between += len(rows) * (rows.mean(axis=0) - mean) ** 2
    result: NDArray[np.float64] = np.divide(between, total, out=np.zeros_like(between), where=total > 1e-18)
    return result


def plot_neurons(rates: Rates, overlap: Mapping[str, Any], selection: str, folder: str | Path) -> list[Path]:
    """Draw the activation rates, over all directions, of the neurons that differ most between branches.

    Chosen in each group from the side whose text is in the group's many languages where there is a pivot (the
    decoder for en→X), by the variance between branches of their rates.
    """
    groups = {name: group for name, group in overlap["groups"].items() if len(group["directions"]) > 1}
    layers = list(overlap["neurons"])
    if not groups:
        return nothing_to_compare(f"neurons-{selection}", folder)
    figure, axes = new_figure(3.6, 1, len(groups))
    for column, (name, group) in enumerate(groups.items()):
        panel = axes[0, column]
        order, edges = by_branch(overlap, group["directions"])
        names = [group["directions"][i] for i in order]
        branches = [overlap["directions"][direction]["branch"] for direction in names]
        table = np.array([np.concatenate([rates[n][layer] for layer in layers]) for n in names])
        owners = [(layer, i) for layer in layers for i in range(overlap["neurons"][layer])]
        score = selectivity(table, branches) * table.var(axis=0)
        best = np.argsort(-score, kind="stable")[:_NEURONS].tolist()
        # those most active for the same branch stand together
        chosen = sorted(best, key=lambda i: (_favourite(table[:, i], branches), owners[i]))
        image = panel.imshow(100 * table[:, chosen].T, cmap="cividis", vmin=0, aspect="auto")
        for edge in edges:
            panel.axvline(edge - 0.5, color="white", linewidth=0.8)
        panel.grid(False)
        panel.tick_params(length=0, pad=2)
        panel.set_yticks(
            range(len(chosen)), [f"{layer_label(owners[i][0])}.{owners[i][1]}" for i in chosen], fontsize=5.5
        )
        if len(names) <= 12:
            panel.set_xticks(range(len(names)), names, rotation=90, fontsize=6.5)
        else:
            panel.set_xticks(*branch_ticks(overlap, names, edges), fontsize=6)
        panel.set_title(f"{name}: {len(chosen)} of {len(owners):,} neurons")
        figure.colorbar(image, ax=panel, label="active positions, %", aspect=30, pad=0.02)
    return save(
        figure,
        folder,
        f"neurons-{selection}",
        "Activation rates over all directions of the neurons that differ most between branches",
    )


def _favourite(rates: NDArray[np.float64], branches: Sequence[str]) -> int:
    names = list(dict.fromkeys(branches))
    means = [np.mean([r for r, b in zip(rates, branches, strict=True) if b == name]) for name in names]
    return int(np.argmax(means))
