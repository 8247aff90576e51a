"""Pictures of what a method takes out of each layer: how much is left, and by which scores.

Shapes: L layers, K key-value heads, F neurons.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from espalier.figures import (
    BLUE,
    FAINT,
    INK,
    SKY,
    TO,
    VERMILLION,
    house_style,
    legend_below,
    new_figure,
    show_layers,
    show_log,
    title,
)
from espalier.pruning.structured.units import LayerUnits

FEW_BARS = 12
"""Up to so many have room for their numbers."""
LOWEST, HIGHEST = 5, 95
"""Percentiles of a layer's scores that are shown; the few beyond would press the rest together."""


@house_style()
def draw_widths(
    scores: Mapping[str, Any], kept: Sequence[LayerUnits], kv_heads: int, neurons: int
) -> Figure:
    """Key-value heads and neurons that are left in each layer, before what the parent has."""
    figure = new_figure(height=3.4)
    panels = figure.subplots(ncols=2)
    for axes, name, left, whole in (
        (panels[0], "key-value heads", [len(layer.kv_heads) for layer in kept], kv_heads),
        (panels[1], "neurons", [len(layer.neurons) for layer in kept], neurons),
    ):
        places = np.arange(len(kept))
        axes.bar(places, [whole] * len(kept), color=FAINT)
        bars = axes.bar(places, left, color=BLUE)
        if len(kept) <= FEW_BARS:
            axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize="small")
        show_layers(axes, len(kept), "layer")
        axes.set_ylim(0, 1.1 * whole)
        axes.locator_params(axis="y", nbins=5, integer=True)
        axes.set_title(name, fontsize="medium", loc="center")
    legend_below(figure, [Patch(color=BLUE, label="left"), Patch(color=FAINT, label="removed")])
    figure.suptitle(title(scores), x=0.01, ha="left")
    return figure


@house_style()
def draw_unit_scores(
    scores: Mapping[str, Any],
    heads: Sequence[ArrayLike],
    neurons: Sequence[ArrayLike],
    kept: Sequence[LayerUnits],
    label: str,
    *,
    logarithmic: bool,
) -> Figure:
    """Every head's score and the spread of the neurons', layer by layer, with what was removed.

    Args:
        scores: whose model and data the title names.
        heads: [K] of each layer.
        neurons: [F] of each layer.
        kept: what stays, as places among these.
        label: of the score.
        logarithmic: whether no score is below zero.
    """
    figure = new_figure(height=6.0)
    panels = figure.subplots(nrows=2)
    of_heads, of_neurons = ([np.asarray(layer) for layer in site] for site in (heads, neurons))
    _draw_heads(panels[0], of_heads, kept)
    draw_spread(panels[1], of_neurons, logarithmic=logarithmic)
    _draw_cuts(panels[1], of_neurons, kept)
    for axes, name in zip(panels, ("key-value heads", "neurons"), strict=True):
        show_layers(axes, len(kept), "layer")
        axes.set_ylabel(f"{label}\nof {name}")
    if logarithmic:
        show_log(panels[0], np.concatenate(of_heads))
    legend_below(
        figure,
        [
            Line2D([], [], color=BLUE, marker="o", linestyle="", label="kept"),
            Line2D([], [], color=VERMILLION, marker="x", linestyle="", label="removed"),
            *spread_legend(),
            Line2D([], [], color=VERMILLION, linewidth=2, label="lowest kept"),
        ],
    )
    figure.suptitle(title(scores), x=0.01, ha="left")
    return figure


def _draw_heads(axes: Any, heads: Sequence[np.ndarray], kept: Sequence[LayerUnits]) -> None:
    for layer, (values, units) in enumerate(zip(heads, kept, strict=True)):
        stays = np.isin(np.arange(len(values)), units.kv_heads)
        for chosen, colour, marker in ((stays, BLUE, "o"), (~stays, VERMILLION, "x")):
            found = values[chosen]
            axes.plot([layer] * len(found), found, marker, color=colour, markersize=5)


def _draw_cuts(axes: Any, neurons: Sequence[np.ndarray], kept: Sequence[LayerUnits]) -> None:
    """A dash at the lowest score that stays, in layers that lose some."""
    for layer, (values, units) in enumerate(zip(neurons, kept, strict=True)):
        if 0 < len(units.neurons) < len(values):
            lowest = values[list(units.neurons)].min()
            axes.plot([layer - 0.35, layer + 0.35], [lowest] * 2, color=VERMILLION, linewidth=2)


def draw_spread(axes: Any, values: Sequence[np.ndarray], *, logarithmic: bool) -> None:
    """Percentiles of each layer's `values`: a line, a box and a dot; nothing of an empty layer."""
    marks = [LOWEST, 25, 50, 75, HIGHEST]
    nothing = np.full(len(marks), np.nan)
    rows = [np.percentile(each, marks) if len(each) else nothing for each in values]
    low, first, middle, third, high = np.transpose(rows)
    places = np.arange(len(values))
    axes.vlines(places, low, high, color=SKY, linewidth=1.5)
    axes.vlines(places, first, third, color=SKY, linewidth=6)
    axes.plot(places, middle, "o", color=INK, markersize=3)
    if logarithmic:
        show_log(axes, np.concatenate([low, high]))


def spread_legend() -> list[Any]:
    """What `draw_spread` draws."""
    return [
        Line2D([], [], color=SKY, linewidth=1.5, label=f"{LOWEST}{TO}{HIGHEST} % of a layer's"),
        Line2D([], [], color=SKY, linewidth=6, label=f"25{TO}75 %"),
        Line2D([], [], color=INK, marker="o", markersize=3, linestyle="", label="median"),
    ]
