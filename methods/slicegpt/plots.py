"""The picture of what each direction of the residual stream carries, and of what is cut off."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from espalier.figures import (
    BLUE,
    GREEN,
    INK,
    VERMILLION,
    house_style,
    layer_ticks,
    legend_below,
    new_figure,
    plottable,
    show_log,
    title,
)

EMBEDDINGS = "embeddings"
SERIES = {"before_mlp": ("before the MLP", "o", BLUE), "output": ("layer's output", "s", GREEN)}
"""Two sites of each layer."""
FAINTEST = 1e-6
"""Of a spectrum's largest value; what is less is as good as nothing."""


@house_style()
def draw_spectra(scores: Mapping[str, Any]) -> Figure:
    """Eigenvalues by rank with the cut, and beside them the share that it takes of each site.

    Args:
        scores: what `scores.json` holds.
    """
    figure = new_figure(height=4.0)
    several = len(scores["sites"]) > 1
    panels = figure.subplots(ncols=2) if several else [figure.subplots()]
    handles = _draw_spectra(panels[0], scores)
    if several:
        handles += _draw_discarded(panels[1], scores)
    legend_below(figure, handles)
    figure.suptitle(title(scores), x=0.01, ha="left")
    return figure


def _draw_spectra(axes: Any, scores: Mapping[str, Any]) -> list[Any]:
    """A curve a site, the damping taken off, the later the lighter."""
    count = len(scores["sites"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count)) if count > 1 else [BLUE]
    curves = [
        _relative(np.array(values) - damping)
        for values, damping in zip(scores["eigenvalues"], scores["damping"], strict=True)
    ]
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, linewidth=1.0)
    width, kept = len(curves[0]), scores["kept"]
    cut = axes.axvline(
        kept + 0.5,
        color=VERMILLION,
        linestyle="--",
        linewidth=1.2,
        label=f"{kept:,} of {width:,} channels left",
    )
    show_log(axes, np.concatenate(curves), FAINTEST)
    axes.set_xlim(0, width + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("direction, the one that carries most first")
    axes.set_ylabel("energy, largest = 1")
    if count > 1:
        axes.set_title("a curve a site, first dark, last light", fontsize="medium")
    return [cut]


def _relative(energies: np.ndarray) -> np.ndarray:
    """A spectrum [D] relative to its largest value, with gaps where rounding left nothing."""
    return plottable((energies / max(float(energies[0]), 1e-300)).tolist(), positive=True)


def _draw_discarded(axes: Any, scores: Mapping[str, Any]) -> list[Any]:
    """A point a site: the share of its energy that lies beyond the cut."""
    shares = dict(zip(scores["sites"], scores["discarded"], strict=True))
    handles = list(
        axes.plot([-1], [shares[EMBEDDINGS]], "D", color=INK, markersize=5, label=EMBEDDINGS)
    )
    for site, (label, marker, colour) in SERIES.items():
        values = plottable([shares[f"{layer}.{site}"] for layer in range(scores["layers"])])
        if site == "output":
            values[-1] = np.nan  # the head reads all of the last layer's output
        style: dict[str, Any] = {"marker": marker, "markersize": 4, "color": colour}
        handles += axes.plot(values, label=label, **style)
    axes.set_xticks([-1, *layer_ticks(scores["layers"], most=9)])
    axes.set_xticklabels(["", *map(str, layer_ticks(scores["layers"], most=9))])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlabel("layer")
    axes.set_ylabel("energy beyond the cut")
    axes.set_title("what goes at each site", fontsize="medium")
    return handles
