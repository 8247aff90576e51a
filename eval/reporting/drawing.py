"""Pictures as SVG inside the page, which takes its colours from the page, light or dark.

The images that evaluate, and the host, have no matplotlib; these need no more than lines and text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 48
LETTER, LINE = 7.2, 15
"""Width and height of a letter of a label, about."""
SERIES = 6
"""Colours that the page has."""
WIDE = 20
"""An axis whose ends are further apart than this is logarithmic."""
SAME = 1e-3
"""Values that differ by less, as a fraction, have one place."""
CELL_HEIGHT = 22
NAME_WIDTH = 130


@dataclass(frozen=True)
class Point:
    """A checkpoint in a scatter plot; `error` is the standard error of `y`."""

    name: str
    group: str
    x: float
    y: float
    error: float | None = None


@dataclass(frozen=True)
class Axis:
    """From values to places between two ends of a picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """An axis on which all values have a place, with a margin."""
        low, high = min(values), max(values)
        if high - low <= SAME * abs(high):
            margin = 0.05 * abs(high) or 1.0
            return cls(low - margin, high + margin, start, end)
        if low > 0 and high / low > WIDE:
            margin = 0.06 * math.log(high / low)
            return cls(low * math.exp(-margin), high * math.exp(margin), start, end, is_log=True)
        margin = 0.08 * (high - low)
        return cls(low - margin, high + margin, start, end)

    def place(self, value: float) -> float:
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to seven round numbers."""
        if not self.is_log:
            return _even(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1,), (1, 3), (1, 2, 5)):
            all_of_them = [d * 10.0**power for power in range(first, last + 1) for d in digits]
            found = [tick for tick in all_of_them if self.low <= tick <= self.high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 7)]
        return _even(self.low, self.high)


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> ET.Element:
    """One mark a checkpoint, with its name beside it and the numbers at a pointer's touch."""
    svg = _svg(f"{y_label} against {x_label}", HEIGHT)
    across = Axis.around([point.x for point in points], LEFT, WIDTH - RIGHT)
    reach = [y for p in points for y in (p.y - (p.error or 0), p.y + (p.error or 0))]
    up = Axis.around([p.y for p in points] if min(reach) <= 0 else reach, HEIGHT - BOTTOM, TOP)
    _frame(svg, across, up, x_label, y_label)
    groups = {group: n for n, group in enumerate(dict.fromkeys(p.group for p in points))}
    for point in points:
        x, y = across.place(point.x), up.place(point.y)
        mark = ET.SubElement(svg, "g", {"class": f"s{groups[point.group] % SERIES}"})
        about = f"{point.name}: {y_label} {plain(point.y)}, {x_label} {plain(point.x)}"
        ET.SubElement(mark, "title").text = about
        if point.error and point.y - point.error > (0 if up.is_log else -math.inf):
            ends = up.place(point.y - point.error), up.place(point.y + point.error)
            _line(mark, (x, x), (max(ends[1], TOP), min(ends[0], HEIGHT - BOTTOM)), "error")
        ET.SubElement(mark, "circle", {"cx": _n(x), "cy": _n(y), "r": "4.5"})
    _names(svg, [(across.place(p.x), up.place(p.y), p.name) for p in points])
    return svg


def lines(series: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> ET.Element:
    """A line a model over its layers."""
    svg = _svg(f"{y_label} by {x_label}", HEIGHT + LINE * len(series) + 6)
    values = [value for line in series.values() for value in line]
    longest = max(map(len, series.values()))
    across = Axis(-0.5, longest - 0.5, LEFT, WIDTH - RIGHT)
    _frame(svg, across, up := Axis.around(values, HEIGHT - BOTTOM, TOP), x_label, y_label)
    for place, (name, line) in enumerate(series.items()):
        spots = [(across.place(n), up.place(value)) for n, value in enumerate(line)]
        group = ET.SubElement(svg, "g", {"class": f"s{place % SERIES}"})
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in spots)
        ET.SubElement(group, "polyline", {"points": path})
        for (x, y), (layer, value) in zip(spots, enumerate(line), strict=True):
            dot = ET.SubElement(group, "circle", {"cx": _n(x), "cy": _n(y), "r": "2.6"})
            ET.SubElement(dot, "title").text = f"{name}, layer {layer}: {plain(value)}"
        low = HEIGHT + LINE * (place + 1)
        ET.SubElement(group, "circle", {"cx": _n(LEFT), "cy": _n(low - 4), "r": "4"})
        _text(svg, LEFT + 10, low, _fitting(name, 44))
    return svg


def heat(values: Mapping[str, Sequence[float | None]], label: str) -> ET.Element:
    """Fractions by matrix (down) and layer (across): the fuller, the more of it is gone."""
    layers = max(map(len, values.values()))
    height = CELL_HEIGHT * len(values) + 34
    svg = _svg(label, height)
    cell = (WIDTH - NAME_WIDTH - RIGHT) / layers
    for row, (name, line) in enumerate(values.items()):
        top = row * CELL_HEIGHT
        _text(svg, NAME_WIDTH - 6, top + CELL_HEIGHT * 0.7, _fitting(name), anchor="end")
        for layer, value in enumerate(line):
            box = {"x": _n(NAME_WIDTH + layer * cell), "y": _n(top + 1)}
            box |= {"width": _n(max(cell - 1, 0.5)), "height": _n(CELL_HEIGHT - 2)}
            shown = ET.SubElement(svg, "rect", {**box, "class": "cell"})
            shown.set("fill-opacity", f"{min(max(value or 0.0, 0.0), 1.0):.3f}")
            words = "not stated" if value is None else f"{value:.1%}"
            ET.SubElement(shown, "title").text = f"{name}, layer {layer}: {words}"
    low = len(values) * CELL_HEIGHT + 13
    for layer in range(0, layers, max(1, math.ceil(layers / 12))):
        _text(svg, NAME_WIDTH + (layer + 0.5) * cell, low, str(layer), anchor="middle")
    _text(
        svg, (NAME_WIDTH + WIDTH) / 2, low + 16, "layer (pale: 0 %, full: 100 %)", anchor="middle"
    )
    return svg


def plain(value: float) -> str:
    """`134.5M`, `2T`, `3.31e21`, `0.046`."""
    size = abs(value)
    if size >= 1e15 or (size < 1e-3 and value):
        mantissa, _, power = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(power)}" if power else mantissa
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if size >= scale:
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"


def _svg(label: str, height: float) -> ET.Element:
    box = {"viewBox": f"0 0 {WIDTH} {_n(height)}", "role": "img", "aria-label": label}
    svg = ET.Element("svg", box)
    ET.SubElement(svg, "title").text = label
    return svg


def _frame(svg: ET.Element, across: Axis, up: Axis, x_label: str, y_label: str) -> None:
    bottom = HEIGHT - BOTTOM
    for tick in up.ticks():
        y = up.place(tick)
        _line(svg, (LEFT, WIDTH - RIGHT), (y, y), "grid")
        _text(svg, LEFT - 6, y + 4, plain(tick), anchor="end")
    for tick in _apart(across.ticks(), across):
        x = across.place(tick)
        _line(svg, (x, x), (bottom, bottom + 4), "axis")
        _text(svg, x, bottom + 18, plain(tick), anchor="middle")
    _line(svg, (LEFT, WIDTH - RIGHT), (bottom, bottom), "axis")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle")
    turned = _text(svg, 0, 0, _fitting(y_label, 40), anchor="middle")
    turned.set("transform", f"translate(12 {_n((TOP + bottom) / 2)}) rotate(-90)")


def _apart(ticks: Sequence[float], axis: Axis) -> list[float]:
    """Those whose numbers do not touch."""
    shown: list[float] = []
    for tick in ticks:
        if not shown or axis.place(tick) - axis.place(shown[-1]) > 8 * LETTER:
            shown.append(tick)
    return shown


def _names(svg: ET.Element, spots: Sequence[tuple[float, float, str]]) -> None:
    """Names beside marks, moved up or down where they would be on each other."""
    taken: list[tuple[float, float, float]] = []
    for x, y, name in sorted(spots, key=lambda spot: (spot[1], spot[0], spot[2])):
        shown, to_left = _fitting(name, 24), x > (LEFT + WIDTH) / 2
        width = LETTER * len(shown)
        start = x - 8 - width if to_left else x + 8
        low = y + 4
        while any(
            abs(low - other) < LINE and start < end and begin < start + width
            for begin, end, other in taken
        ):
            low += LINE / 2
        taken.append((start, start + width, low))
        anchor = {"anchor": "end"} if to_left else {}
        _text(svg, x - 8 if to_left else x + 8, min(low, HEIGHT - BOTTOM - 2), shown, **anchor)


def _fitting(name: str, letters: int = 20) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"


def _even(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (5, 2, 1) if (high - low) / (m * step) >= 3)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _line(parent: ET.Element, xs: tuple[float, float], ys: tuple[float, float], kind: str) -> None:
    ends = {"x1": _n(xs[0]), "x2": _n(xs[1]), "y1": _n(ys[0]), "y2": _n(ys[1])}
    ET.SubElement(parent, "line", {**ends, "class": kind})


def _text(parent: ET.Element, x: float, y: float, words: str, anchor: str = "") -> ET.Element:
    where = {"x": _n(x), "y": _n(y)} | ({"text-anchor": anchor} if anchor else {})
    element = ET.SubElement(parent, "text", where)
    element.text = words
    return element


def _n(value: float) -> str:
    """A coordinate, the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
