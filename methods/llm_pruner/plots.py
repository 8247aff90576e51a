"""Pictures: importance by layer, kept widths by layer, and channels by rank."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from espalier.figures import (
    BLUE,
    INK,
    VERMILLION,
    house_style,
    legend_below,
    new_figure,
    plottable,
    show_layers,
    show_log,
    title,
)
from espalier.models.shapes import Shapes
from methods.llm_pruner.scored import Scored

BAND = (5, 95)
"""Percentiles between which the band of neurons lies."""
FAINTEST = 1e-4
"""Of the largest: what is less is not shown."""


@house_style()
def draw_importance(scored: Scored, shapes: Shapes) -> Figure:
    """Every head of every layer, and its neurons' median with a band."""
    form = "param_first" if scored.about["importance"] == "taylor" else "l1"
    found = scored.importance(form, shapes, reference=False)
    figure = new_figure(height=3.8)
    heads, neurons = figure.subplots(ncols=2)
    points = np.stack([plottable(layer.heads.tolist(), positive=True) for layer in found])  # [L, K]
    numbers = np.arange(len(found))
    for column in points.T:
        heads.plot(numbers, column, "o", color=BLUE, markersize=4, alpha=0.7)
    spread = np.stack([plottable(layer.neurons.tolist(), positive=True) for layer in found])
    low, middle, high = np.nanpercentile(spread, (BAND[0], 50, BAND[1]), axis=1)
    neurons.fill_between(numbers, low, high, color=VERMILLION, alpha=0.25, linewidth=0)
    neurons.plot(numbers, middle, "o-", color=VERMILLION, markersize=4)
    for axes, values, name in (
        (heads, points, "attention: each key-value head"),
        (neurons, np.stack([low, middle, high]), f"FFN: median and {BAND[0]} to {BAND[1]} %"),
    ):
        show_layers(axes, len(found), "layer")
        show_log(axes, values, FAINTEST)
        axes.set_title(name, fontsize="medium", loc="center")
    heads.set_ylabel("sum of |weight x gradient|" if form == "param_first" else "sum of |weight|")
    figure.suptitle(title(scored.about, f"importance by {form}"), x=0.01, ha="left")
    return figure


@house_style()
def draw_kept(shares: Sequence[tuple[float, float]]) -> Figure:
    """The share of heads and of neurons that each layer keeps."""
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    numbers = np.arange(len(shares))
    handles: list[Any] = []
    for offset, index, colour, name in (
        (-0.2, 0, BLUE, "heads"), (0.2, 1, VERMILLION, "neurons"),
    ):  # fmt: skip
        values = [100 * share[index] for share in shares]
        handles.append(axes.bar(numbers + offset, values, 0.4, color=colour, label=name))
    show_layers(axes, len(shares), "layer")
    axes.set_ylim(0, 105)
    axes.set_ylabel("kept, %")
    axes.set_title("what each layer keeps")
    legend_below(figure, handles)
    return figure


@house_style()
def draw_channels(importance: Tensor, kept: int) -> Figure:
    """Channels by rank, with a line after the last that is kept."""
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    ordered = -np.sort(-plottable(importance.tolist(), positive=True))
    axes.plot(np.arange(1, len(ordered) + 1), ordered, color=BLUE)
    axes.axvline(kept + 0.5, color=INK, linestyle="--", linewidth=1.2)
    axes.text(kept + 0.5, 1.02, f"{kept} kept", transform=axes.get_xaxis_transform(), ha="center")
    show_log(axes, ordered, FAINTEST)
    axes.set_xlabel("rank, the most important first")
    axes.set_ylabel("importance")
    axes.set_title("channels of the hidden state\n")
    return figure
