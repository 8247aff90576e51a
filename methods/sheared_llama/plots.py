"""The pictures of dynamic data loading: proportions and losses of domains over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from espalier.figures import INK, PALETTE, house_style, legend_below, new_figure, plottable

COLOURS = (*PALETTE, "#8A8A8A")
"""RedPajama has seven domains."""
MARKERS = "osD^vPX"
HATCHES = ("", "////", "....", "xxxx")
"""Of areas that have no colour of their own, of more domains than that."""


@house_style()
def draw_proportions(
    history: Sequence[Mapping[str, Any]], steps: int, title: str, masks: int | None = None
) -> Figure:
    """Areas as high as the domains' shares, one upon the other.

    Args:
        history: what the sampler keeps: `step` and the `proportions` that hold from it on.
        steps: where the run ends.
        title: above the picture.
        masks: the step from which on the model that masks left is trained; None: it is not.
    """
    figure = new_figure(height=4.2)
    axes = figure.subplots()
    domains = list(history[0]["proportions"])
    places = [change["step"] for change in history]
    end = max(steps, places[-1] + 1)
    shares = np.array([list(change["proportions"].values()) for change in history])
    shares = np.concatenate([shares, shares[-1:]])  # the last hold to the end
    tops = shares.cumsum(1)
    handles = []
    for index, name in enumerate(domains):
        look = {
            "facecolor": COLOURS[index % len(COLOURS)],
            "hatch": HATCHES[index // len(COLOURS) % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.6,
        }
        low, high = tops[:, index] - shares[:, index], tops[:, index]
        axes.fill_between([*places, end], low, high, step="post", **look)
        first, last = shares[0, index], shares[-1, index]
        handles.append(Patch(label=f"{name}: {first:.1%} to {last:.1%}", **look))
    handles += _masks_end(axes, masks)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.grid(visible=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("step")
    axes.set_ylabel("share of the rows drawn")
    axes.set_title(title)
    legend_below(figure, handles)
    return figure


@house_style()
def draw_domain_losses(
    evaluations: Sequence[Mapping[str, Any]],
    references: Mapping[str, float],
    title: str,
    masks: int | None = None,
) -> Figure:
    """A line a domain over the steps, and a dashed one at its reference loss.

    Args:
        evaluations: `step` and the `losses` of each domain then, None where it had no token.
        references: reference losses; empty: there are none.
        title: above the picture.
        masks: as in `draw_proportions`.
    """
    figure = new_figure(height=4.6)
    axes = figure.subplots()
    steps = [evaluation["step"] for evaluation in evaluations]
    handles: list[Any] = []
    for index, name in enumerate(evaluations[0]["losses"]):
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)] if index < len(COLOURS) else "x"
        losses = plottable([evaluation["losses"][name] for evaluation in evaluations])
        handles += axes.plot(steps, losses, color=colour, marker=marker, markersize=5, label=name)
        if name in references:
            axes.axhline(references[name], color=colour, linestyle="--", linewidth=1)
    if references:
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1, label="reference"))
    handles += _masks_end(axes, masks)
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy, nats a token")
    axes.set_title(title)
    legend_below(figure, handles)
    return figure


def _masks_end(axes: Axes, step: int | None) -> list[Line2D]:
    """Mark the step up to which masks were learned; the legend's line for it."""
    if step is None:
        return []
    label = f"step {step}: masks are learned"
    return [axes.axvline(step, color=INK, linestyle=":", linewidth=1.5, label=label)]
