"""The picture of what FLAP measures."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from espalier.figures import TIMES, house_style, legend_below, new_figure, show_layers, title
from espalier.pruning.structured.plots import draw_spread, spread_legend
from methods.flap.algorithm import metric_of
from methods.flap.scored import SITES, Figures


@house_style()
def draw_features(scores: Mapping[str, Any], figures: Figures) -> Figure:
    """How the features of each layer are spread, by fluctuation times squared weights (WIFV)."""
    figure = new_figure(height=3.8)
    panels = figure.subplots(ncols=2)
    for axes, (site, part) in zip(panels, SITES.items(), strict=True):
        draw_spread(axes, list(metric_of(figures[site], "wifv").numpy()), logarithmic=True)
        show_layers(axes, scores["layers"], "layer")
        axes.set_title(f"inputs of {part.rpartition('.')[2]}", fontsize="medium", loc="center")
    panels[0].set_ylabel(f"fluctuation {TIMES} squared weights")
    legend_below(figure, spread_legend())
    figure.suptitle(title(scores), x=0.01, ha="left")
    return figure
