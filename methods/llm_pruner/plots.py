"""Pictures: importance and kept widths by layer, and channels by rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from espalier.figures import BLUE, INK, house_style, new_figure, plottable, show_log, title
from espalier.pruning.structured.plots import draw_unit_scores
from espalier.pruning.structured.units import LayerUnits
from methods.llm_pruner.selection import LayerImportance

FAINTEST = 1e-4
"""Of the largest: what is less is not shown."""


def draw_importance(
    about: Mapping[str, Any],
    importance: Sequence[LayerImportance],
    kept: Sequence[LayerUnits],
    form: str,
) -> Figure:
    """Every head of every layer, and the spread of its neurons, with what was removed."""
    heads = [layer.heads.numpy() for layer in importance]
    neurons = [layer.neurons.numpy() for layer in importance]
    label = f"importance ({form})"
    return draw_unit_scores(about, heads, neurons, kept, label, logarithmic=True)


@house_style()
def draw_channels(about: Mapping[str, Any], importance: Tensor, kept: int) -> Figure:
    """Channels by rank, with a line after the last that is kept."""
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    ordered = -np.sort(-plottable(importance.tolist(), positive=True))
    axes.plot(np.arange(1, len(ordered) + 1), ordered, color=BLUE)
    axes.axvline(kept + 0.5, color=INK, linestyle="--", linewidth=1.2)
    axes.text(kept + 0.5, 1.02, f"{kept} kept", transform=axes.get_xaxis_transform(), ha="center")
    show_log(axes, ordered, FAINTEST)
    axes.set_xlabel("rank, the most important first")
    axes.set_ylabel("channel's importance")
    figure.suptitle(title(about), x=0.01, ha="left")
    return figure
