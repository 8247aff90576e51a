"""Pictures of scores: one house style, and files whose bytes depend on the numbers alone.

Only the images of methods that draw hold matplotlib.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from espalier.contract.files import write_bytes

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
"""Told apart by colour-blind readers (Okabe and Ito)."""
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
INK, FAINT, PALE_VERMILLION = "#222222", "#E4E4E4", "#F8D9C4"

WIDTH = 8.0
"""Inches; a README shows about 100 pixels of each."""
DPI = 200
TITLE_LETTERS, LEGEND_LETTERS = 84, 102
"""So many fit above a picture, and below it, where letters are smaller."""
LABEL_LETTERS, MARK_LETTERS = 48, 7
"""The longest line of a legend's label, and what its mark takes."""
TIMES, TO, MINUS = "\u00d7", "\u2013", "\u2212"
STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "figure.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.columnspacing": 1.6,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.6,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "espalier",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save within it; a matplotlibrc of the machine has no say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(height: float) -> Figure:
    """An empty one of the house's width, `height` inches high."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


@house_style()
def save(figure: Figure, stem: Path) -> None:
    """Write `<stem>.png` and `<stem>.svg`, each atomically.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each layout starts from the last: one, for both and for good
    _write(figure, stem, "png", "agg", {"Software": None})
    _write(figure, stem, "svg", "svg", {"Date": None, "Creator": None})


def _write(
    figure: Figure, stem: Path, kind: str, backend: str, metadata: Mapping[str, None]
) -> None:
    """`metadata` names what matplotlib would say of itself and of today."""
    content = io.BytesIO()
    figure.savefig(content, format=kind, backend=backend, dpi=DPI, metadata=metadata)
    write_bytes(stem.with_name(f"{stem.name}.{kind}"), content.getvalue())


def title(scores: Mapping[str, Any], *details: str) -> str:
    """`sapling, pydoc 128 × 512 tokens`, and what else is to be said."""
    data = scores["data"]
    words = [str(data.get("source", ""))]
    if "rows" in data:
        words.append(f"{data['rows']:,} rows")
    elif "samples" in data and "seqlen" in data:
        words.append(f"{data['samples']:,} {TIMES} {data['seqlen']:,} tokens")
    shots = [f"{data['shots']}-shot"] if data.get("shots") else []
    parts = [str(scores["model"]), " ".join(filter(None, words)), *shots, *details]
    return textwrap.fill(", ".join(filter(None, parts)), TITLE_LETTERS)


def layer_ranges(layers: Iterable[int]) -> str:
    """`layer 3`, `layers 3, 24–31`."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    words = [str(first) if first == last else f"{first}{TO}{last}" for first, last in ranges]
    several = len(ranges) > 1 or any(first != last for first, last in ranges)
    return f"layer{'s' if several else ''} {', '.join(words)}"


def plottable(values: Sequence[float | None], positive: bool = False) -> np.ndarray:
    """Float64 [N] with NaN, which leaves a gap, for what has no place on the axis.

    Args:
        values: None and what is not finite have none.
        positive: nor have zero and less: the axis is logarithmic.
    """
    found = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    has_place = np.isfinite(found) & (found > 0) if positive else np.isfinite(found)
    return np.where(has_place, found, math.nan)


def show_layers(axes: Any, layers: int, label: str) -> None:
    """Layers 0 to `layers` - 1 as the x axis, whole numbers only."""
    width = max(layers, 6)  # few layers: bars of some inches would be no easier to read
    middle = (layers - 1) / 2
    axes.set_xlim(middle - width / 2, middle + width / 2)
    axes.set_xticks(layer_ticks(layers))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(label)


def layer_ticks(layers: int, most: int = 17) -> range:
    """Which of 0 to `layers` - 1 to mark, at most `most` of them."""
    steps = (1, 2, 5, 10, 20, 50, 100, layers)
    return range(0, layers, next(step for step in steps if layers <= most * step))


def show_log(axes: Any, values: Iterable[float | None], floor: float = 0.0) -> None:
    """A logarithmic y axis around the positive `values`, marked in plain decimals.

    Args:
        axes: whose y axis.
        values: what must be seen; what has no place there is left out.
        floor: the axis starts no lower.
    """
    found = plottable(list(values), positive=True)
    logs = np.log10(found[~np.isnan(found)])
    low, high = (logs.min(), logs.max()) if len(logs) else (0.0, 1.0)
    margin = max(0.05 * (high - low), 0.005)
    limits = 10 ** np.clip([low - margin, high + margin], -290.0, 290.0)  # no float overflows
    axes.set_ylim(max(limits[0], floor), limits[1])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """About four to eight round numbers from `low` to `high`."""
    if high < 4 * low:  # so little of a logarithmic axis is nearly even
        even = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high)
        return [float(tick) for tick in even if low <= tick <= high]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        numbers = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: math.ceil(len(ticks) / 8)]


def plain(value: float) -> str:
    """`0.003`, `12,000`; `1e9` where the zeros would have to be counted."""
    if 5e-6 < value < 5e6:
        return f"{value:,.10f}".rstrip("0").rstrip(".")
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend under the axes, where it hides nothing, in as few rows as its labels allow."""
    labels = [textwrap.fill(handle.get_label(), LABEL_LETTERS) for handle in handles]
    columns = next((n for n in range(len(labels), 1, -1) if _fits(labels, n)), 1)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _fits(labels: Sequence[str], columns: int) -> bool:
    """Whether the labels, filled in column after column, are no wider than a picture."""
    letters = np.array([max(map(len, label.splitlines())) + MARK_LETTERS for label in labels])
    widest = [int(column.max()) for column in np.array_split(letters, columns)]
    return sum(widest) <= LEGEND_LETTERS
