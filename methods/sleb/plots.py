"""The picture of SLEB's search: every round's losses, and what went."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from espalier.figures import (
    BLUE,
    FAINT,
    INK,
    VERMILLION,
    house_style,
    layer_ticks,
    legend_below,
    log_ticks,
    new_figure,
    plain,
    plottable,
    title,
)

FEW_ROUNDS = 24
"""Up to so many have room for the layer that went in each."""


@house_style()
def draw_removal(scores: Mapping[str, Any], removed: int = 0) -> Figure:
    """A row a round, a column a layer: the loss without each; beside it the loss that was taken.

    Args:
        scores: what `scores.json` holds.
        removed: how many layers a pruning took of the order; 0: it is the search alone.
    """
    rounds = scores["rounds"]
    figure = new_figure(height=2.6 + 0.2 * min(max(len(rounds), 5), 30))
    by_layer, by_round = figure.subplots(ncols=2, sharey=True, width_ratios=(3, 1))
    losses = _grid(rounds, scores["layers"])
    handles = _draw_losses(figure, by_layer, losses, [past["removed"] for past in rounds])
    _draw_taken(by_round, rounds, scores["unpruned"])
    if removed:
        handles += _draw_end(by_layer, by_round, min(removed, len(rounds)))
    _show_rounds(by_layer, rounds)
    by_layer.set_xticks(layer_ticks(scores["layers"]))
    by_layer.set_xlabel("layer")
    legend_below(figure, handles)
    figure.suptitle(title(scores), x=0.01, ha="left")
    return figure


def _grid(rounds: Sequence[Mapping[str, Any]], layers: int) -> np.ndarray:
    """Losses [rounds, layers]; NaN where none was tried, or none is finite."""
    return np.array(
        [
            plottable([past["losses"].get(str(layer)) for layer in range(layers)], positive=True)
            for past in rounds
        ]
    )


def _draw_losses(
    figure: Figure, axes: Any, losses: np.ndarray, removed: Sequence[int]
) -> list[Any]:
    """The grid, its colours, and a ring around what each round removed."""
    found = losses[np.isfinite(losses)]
    low, high = (found.min(), found.max()) if len(found) else (1.0, 1.0)
    mesh = axes.imshow(
        np.ma.masked_invalid(losses),
        cmap=matplotlib.colormaps["viridis_r"].with_extremes(bad=FAINT),
        norm=LogNorm(low, max(high, low * 1.0001)),
        aspect="auto",
        interpolation="nearest",
    )
    axes.grid(visible=False)
    bar = figure.colorbar(mesh, ax=axes, label="loss without the layer", aspect=30)
    bar.set_ticks(log_ticks(low, max(high, low * 1.0001)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(f"{value:.3g}"))))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)
    rings = axes.plot(
        removed,
        range(len(removed)),
        "o",
        markersize=9 if len(removed) <= FEW_ROUNDS else 5,
        markerfacecolor="none",
        markeredgecolor=VERMILLION,
        markeredgewidth=1.8,
        label="removed",
    )
    return [*rings, Patch(color=FAINT, label="gone, not tried, or no finite loss")]


def _draw_taken(axes: Any, rounds: Sequence[Mapping[str, Any]], unpruned: float) -> None:
    taken = plottable([past["losses"][str(past["removed"])] for past in rounds])
    axes.plot(taken, range(len(rounds)), "o-", color=BLUE, markersize=4)
    axes.axvline(unpruned, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        f"unpruned {unpruned:.4g}",
        (unpruned, 1.02),
        xycoords=axes.get_xaxis_transform(),
        fontsize="small",
    )
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("loss, nats a token")


def _draw_end(by_layer: Any, by_round: Any, removed: int) -> list[Any]:
    """A line below the last round that a pruning went."""
    style: dict[str, Any] = {"color": VERMILLION, "linestyle": "--", "linewidth": 1.2}
    by_round.axhline(removed - 0.5, **style)
    return [by_layer.axhline(removed - 0.5, label=f"{removed} removed here", **style)]


def _show_rounds(axes: Any, rounds: Sequence[Mapping[str, Any]]) -> None:
    """The first round on top, and what went in it."""
    count = len(rounds)
    axes.set_ylim(count - 0.5, -0.5)
    marked = range(count) if count <= FEW_ROUNDS else layer_ticks(count)
    few = count <= FEW_ROUNDS
    names = [f"{n + 1}: layer {rounds[n]['removed']}" if few else str(n + 1) for n in marked]
    axes.set_yticks(marked, names)
    axes.set_ylabel("round" if not few else "round: what went")
