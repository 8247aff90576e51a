"""The loss against the tokens trained on, beside the result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from espalier.figures import BLUE, VERMILLION, house_style, legend_below, new_figure, save
from training.protocol.parameters import compact

SMOOTHED = 50
"""Parts of the run; the line is the mean of the steps within each."""


def draw_losses(metrics: Path, title: str, stem: Path) -> None:
    """Write `<stem>.png` and `<stem>.svg` from metrics.jsonl.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    rows: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "tokens" in row]
    tokens, losses = (np.array([row[key] for row in rows]) for key in ("tokens", "loss"))
    valid = [(row["tokens"], row["valid_loss"]) for row in rows if "valid_loss" in row]
    with house_style():
        figure = new_figure(4.2)
        axes = figure.subplots()
        means = smoothed(tokens, losses)
        long = len(losses) > SMOOTHED
        if long:
            axes.plot(tokens, losses, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(*means, color=BLUE, linewidth=1.6)
        if valid:
            axes.plot(*zip(*valid, strict=True), color=VERMILLION, marker="o", markersize=4)
        _limit(axes, [*losses[len(losses) // 20 :], *means[1][1:], *(loss for _, loss in valid)])
        axes.set_title(title)
        axes.set_xlabel("tokens trained on")
        axes.set_ylabel("cross-entropy, nats a token")
        axes.set_xlim(0, tokens[-1] * 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(round(value))))
        label = "training, means of a fiftieth of the run" if long else "training, every step"
        handles = [Line2D([], [], color=BLUE, label=label)]
        if valid:
            handles.append(Line2D([], [], color=VERMILLION, marker="o", label="validation"))
        legend_below(figure, handles)
        save(figure, stem)


def smoothed(tokens: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal parts of the run: tokens and losses, float64 [parts]."""
    parts = min(SMOOTHED, len(losses))
    means = [
        np.array([part.mean() for part in np.array_split(values, parts)])
        for values in (tokens, losses)
    ]
    return means[0], means[1]


def _limit(axes: Any, shown: list[float]) -> None:
    """Show all but the first steps' fall, which would flatten the rest."""
    low, high = float(min(shown)), float(max(shown))
    margin = 0.05 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
