"""The picture of blocks' scores, and of what went and what was protected."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from espalier.figures import (
    BLUE,
    FAINT,
    INK,
    TIMES,
    VERMILLION,
    house_style,
    legend_below,
    new_figure,
    plottable,
    show_layers,
    show_log,
    title,
)

FEW_BLOCKS = 40
"""Up to so many leave room for large marks, and for the turn of each that went."""
NAMES = {
    "taylor": f"sum of |w {TIMES} dL/dw|",
    "magnitude": "sum of |w|",
}


@house_style()
def draw_blocks(
    scores: Mapping[str, Any], gone: Sequence[int] = (), protected: Sequence[int] = ()
) -> Figure:
    """A stem a block, on a logarithmic axis; what went is ringed and numbered by its turn.

    Args:
        scores: what `scores.json` holds.
        gone: the blocks that were removed, the first to go first.
        protected: those that stay in any case.
    """
    figure = new_figure(height=3.8)
    axes = figure.subplots()
    found = plottable(scores["block_score"], positive=True)
    large = len(found) <= FEW_BLOCKS
    for block in protected:
        axes.axvspan(block - 0.5, block + 0.5, color=FAINT, linewidth=0)
    axes.plot(found, "o", color=BLUE, markersize=7 if large else 4)
    seen = [*found, scores["unpruned"]] if "unpruned" in scores else [*found]
    show_layers(axes, len(found), "block")
    show_log(axes, seen)
    axes.vlines(np.arange(len(found)), axes.get_ylim()[0], found, color=BLUE, linewidth=1.2)
    if "unpruned" in scores:
        axes.axhline(scores["unpruned"], color=INK, linestyle="--", linewidth=1)
        beside = axes.get_yaxis_transform()
        text = f"unpruned\n{scores['unpruned']:.4g}"
        axes.text(1.01, scores["unpruned"], text, transform=beside, va="center")
    handles = _draw_gone(axes, found, gone, large)
    if protected:
        handles.append(Patch(color=FAINT, label="protected"))
    if handles:
        legend_below(figure, handles)
    axes.set_ylabel(_what(scores))
    axes.set_title(title(scores))
    return figure


def _what(scores: Mapping[str, Any]) -> str:
    if scores["importance"] == "ppl":
        return "perplexity without it"
    return NAMES[scores["importance"]] + ("\u00b2" if scores["norm"] == "l2" else "")


def _draw_gone(axes: Any, found: np.ndarray, gone: Sequence[int], large: bool) -> list[Any]:
    """Rings; above each its turn."""
    if not gone:
        return []
    for turn, block in enumerate(gone, 1):
        if large and np.isfinite(found[block]):
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            axes.annotate(str(turn), (block, found[block]), color=VERMILLION, **place)
    style: dict[str, Any] = {"markersize": 13 if large else 8, "markerfacecolor": "none"}
    label = "removed, by its turn" if large else "removed"
    return list(
        axes.plot(
            gone,
            found[list(gone)],
            "o",
            markeredgecolor=VERMILLION,
            markeredgewidth=1.6,
            label=label,
            **style,
        )
    )
