"""The pictures of Minitron's scores: depth by block, width by rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.markers import CARETUP
from matplotlib.ticker import MaxNLocator

from espalier.figures import (
    BLUE,
    INK,
    PALETTE,
    VERMILLION,
    house_style,
    layer_ranges,
    layer_ticks,
    legend_below,
    new_figure,
    plain,
    plottable,
    show_layers,
    show_log,
    title,
)

MARKERS = "osD^vP"
PANELS = {"hidden": "embedding channels", "intermediate": "FFN neurons", "heads": "attention heads"}
FAINTEST = 1e-5
"""Of the largest importance; what is less is as good as nothing."""
BEYOND = 5
"""Perplexities of so many times the median are ruins: shown at full height they would press what
is worth comparing into one line."""
FEW_LAYERS, FEW_RANKS = 40, 16
"""Up to so many layers leave room for large marks; so many ranks are shown one by one."""


@house_style()
def draw_depth(
    scores: Mapping[str, Any], chosen: tuple[int, Sequence[int]] | None = None
) -> Figure:
    """A curve a block size, over the block's first layer.

    Args:
        scores: what `scores.json` holds.
        chosen: the size of the blocks that were chosen from, and the layers removed.
    """
    figure = new_figure(height=4.6)
    axes = figure.subplots()
    logarithmic = bool(scores["lower_is_better"])
    curves = {
        int(block): plottable(found, positive=logarithmic)
        for block, found in scores["by_first_removed"].items()
    }
    handles = [
        _curve(axes, index, block, curve) for index, (block, curve) in enumerate(curves.items())
    ]
    unpruned = plottable([scores["unpruned"]], positive=logarithmic)
    _draw_unpruned(axes, float(unpruned[0]))
    show_layers(axes, scores["layers"], "first removed layer")
    if logarithmic:
        found = np.concatenate([unpruned, *curves.values()])
        cap = BEYOND * np.nanmedian(found) if np.isfinite(found).any() else np.inf
        show_log(axes, found[~(found > cap)])
        handles += _beyond(axes, curves, float(cap))
    handles += _broken(axes, curves)
    if chosen and chosen[1]:
        handles += _chosen(axes, curves, *chosen)
    legend_below(figure, handles)
    perplexity = scores["score"] == "ppl"
    axes.set_ylabel("perplexity" if perplexity else f"{scores['score']} accuracy")
    axes.set_title(title(scores))
    return figure


def _curve(axes: Any, index: int, block: int, curve: np.ndarray) -> Any:
    (line,) = axes.plot(
        curve,
        color=PALETTE[index % len(PALETTE)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=5 if len(curve) <= FEW_LAYERS else 3.5,
        label=f"{block} layer{'s' if block > 1 else ''} removed",
    )
    return line


def _draw_unpruned(axes: Any, score: float) -> None:
    if not np.isnan(score):
        axes.axhline(score, color=INK, linestyle="--", linewidth=1)
        beside = axes.get_yaxis_transform()
        axes.text(1.01, score, f"unpruned\n{score:.4g}", transform=beside, va="center")


def _beyond(axes: Any, curves: Mapping[int, np.ndarray], cap: float) -> list[Any]:
    """Arrows at the top, in the curves' colours, for scores above `cap`."""
    above = axes.get_xaxis_transform()
    style: dict[str, Any] = {"linestyle": "", "marker": CARETUP, "markersize": 9}
    largest = 0.0
    for index, curve in enumerate(curves.values()):
        places = np.flatnonzero(curve > cap)
        if len(places):
            largest = max(largest, float(curve[places].max()))
            colour, tops = PALETTE[index % len(PALETTE)], [1.0] * len(places)
            axes.plot(places, tops, color=colour, transform=above, clip_on=False, **style)
    if not largest:
        return []
    label = f"above, up to {plain(float(f'{largest:.3g}'))}"
    return list(axes.plot([], [], "^", markersize=7, color=INK, label=label))


def _broken(axes: Any, curves: Mapping[int, np.ndarray]) -> list[Any]:
    """Crosses at the top where a cut left nothing that can be measured."""
    places = sorted(
        {int(first) for curve in curves.values() for first in np.flatnonzero(np.isnan(curve))}
    )
    if not places:
        return []
    above = axes.get_xaxis_transform()
    label = "no finite score"
    return list(
        axes.plot(
            places, [1.0] * len(places), "x", color=INK, transform=above, clip_on=False, label=label
        )
    )


def _chosen(
    axes: Any, curves: Mapping[int, np.ndarray], size: int, removed: Sequence[int]
) -> list[Any]:
    """Rings around the block that was removed, or around its layers where it is no block."""
    layers = sorted(removed)
    if layers == list(range(layers[0], layers[0] + size)) and size in curves:
        places, curve = layers[:1], curves[size]
    elif 1 in curves:
        places, curve = layers, curves[1]
    else:
        return []
    return list(
        axes.plot(
            places,
            curve[places],
            "o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.6,
            label=f"removed: {layer_ranges(layers)}",
        )
    )


@house_style()
def draw_importance(scores: Mapping[str, Any], kept: Mapping[str, int] | None = None) -> Figure:
    """Channels, neurons and heads, the most important of each layer first.

    Args:
        scores: what `scores.json` holds.
        kept: how many are kept of each of `hidden`, `intermediate` and `heads` that shrinks.
    """
    figure = new_figure(height=3.8)
    panels = figure.subplots(ncols=len(PANELS))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, scores["layers"]))
    for axes, (axis, name) in zip(panels, PANELS.items(), strict=True):
        shared = axis == "hidden"
        layers = [scores[axis]] if shared else scores[axis]
        curves = [_descending(values, logarithmic=axis != "heads") for values in layers]
        _draw_ranks(axes, curves, [BLUE] if shared else colours)
        if axis == "heads":
            axes.set_ylim(0, 1.05)
        else:
            show_log(axes, np.concatenate(curves), FAINTEST)
        room = "\n" if kept else ""
        axes.set_title(name + room, fontsize="medium", loc="center")
        if kept and axis in kept:
            by_group = axis == "heads" and scores["kv_heads"] < len(curves[0])
            _draw_kept(axes, kept[axis], len(curves[0]), by_group)
    if scores["layers"] > 1:
        _colour_bar(figure, panels, colours)
    panels[0].set_ylabel("importance, largest = 1")
    figure.supxlabel("rank, the most important first", fontsize="medium")
    over = scores["aggregation"]
    figure.suptitle(
        title(scores, f"{over['sequence']} over tokens, {over['batch']} over samples"),
        x=0.01,
        ha="left",
    )
    return figure


def _descending(values: Sequence[float], logarithmic: bool) -> np.ndarray:
    """A layer's importances relative to its largest, what has no place on the axis last."""
    ordered = -np.sort(-plottable(values, positive=logarithmic))  # NaN sorts last
    largest = ordered[0] if len(ordered) and ordered[0] > 0 else 1.0
    return ordered / largest


def _draw_ranks(axes: Any, curves: Sequence[np.ndarray], colours: Sequence[Any]) -> None:
    count = len(curves[0])
    ranks = np.arange(1, count + 1)
    for curve, colour in zip(curves, colours, strict=True):
        few = np.isfinite(curve).sum() <= FEW_RANKS
        axes.plot(ranks, curve, ".-" if few else "-", color=colour, linewidth=1.2)
    axes.set_xlim(0, count + 1)
    spans = 5 if count < 1000 else 3  # wider labels
    axes.xaxis.set_major_locator(MaxNLocator(spans, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_kept(axes: Any, kept: int, count: int, by_group: bool) -> None:
    """A line after the last that is kept; its label lies above the axes, inside their width."""
    place = kept + 0.5
    axes.axvline(place, color=VERMILLION, linestyle="--", linewidth=1.2)
    share = place / (count + 1)
    side = "left" if share < 1 / 3 else "right" if share > 2 / 3 else "center"
    words = f"{kept:,} kept, by group" if by_group else f"{kept:,} of {count:,} kept"
    axes.annotate(
        words,
        (place, 1.02),
        xycoords=axes.get_xaxis_transform(),
        color=VERMILLION,
        fontsize="small",
        ha=side,
    )


def _colour_bar(figure: Figure, panels: Any, colours: np.ndarray) -> None:
    layers = len(colours)
    norm = BoundaryNorm(np.arange(layers + 1) - 0.5, layers)
    mappable = ScalarMappable(norm, ListedColormap(colours))
    bar = figure.colorbar(mappable, ax=panels, label="layer", aspect=30)
    bar.set_ticks(layer_ticks(layers, most=9))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
