"""The picture of block influence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from espalier.figures import (
    BLUE,
    MINUS,
    PALE_VERMILLION,
    VERMILLION,
    house_style,
    layer_ranges,
    legend_below,
    new_figure,
    plottable,
    show_layers,
    title,
)

FEW_BARS = 12
"""Up to so many have room for their values."""


@house_style()
def draw_block_influence(scores: Mapping[str, Any], dropped: Sequence[int] = ()) -> Figure:
    """A bar a layer; the layers that were removed stand out."""
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    influence = plottable(scores["block_influence"])
    gone = np.isin(np.arange(len(influence)), dropped)
    kept_bars = axes.bar(np.flatnonzero(~gone), influence[~gone], color=BLUE, label="kept")
    if gone.any():
        removed_bars = axes.bar(
            np.flatnonzero(gone),
            influence[gone],
            color=PALE_VERMILLION,
            edgecolor=VERMILLION,
            hatch="////",
            label=f"removed: {layer_ranges(dropped)}",
        )
        legend_below(figure, [kept_bars, removed_bars])
    if len(influence) <= FEW_BARS:
        for bars in axes.containers:
            axes.bar_label(bars, fmt="%.3g", padding=2, fontsize="small")
    show_layers(axes, len(influence), "layer")
    axes.locator_params(axis="y", nbins=6)
    if not np.nan_to_num(influence).any():
        axes.set_ylim(0, 1)
    axes.set_ylabel(f"block influence\n1 {MINUS} mean cos(input, output)")
    axes.set_title(title(scores))
    return figure
