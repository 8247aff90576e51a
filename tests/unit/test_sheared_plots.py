"""The pictures of dynamic data loading: what they show, and the same bytes every time."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.sheared_llama

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

from espalier.figures import save  # noqa: E402
from methods.sheared_llama.plots import draw_domain_losses, draw_proportions  # noqa: E402
from methods.sheared_llama.shares import PUBLISHED  # noqa: E402

HISTORY: list[dict[str, Any]] = [
    {"step": 0, "proportions": {"cc": 0.75, "wiki": 0.25}},
    {"step": 10, "proportions": {"cc": 0.5, "wiki": 0.5}},
    {"step": 20, "proportions": {"cc": 0.125, "wiki": 0.875}},
]
EVALUATIONS: list[dict[str, Any]] = [
    {"step": 10, "losses": {"cc": 3.0, "wiki": None}},
    {"step": 20, "losses": {"cc": 2.5, "wiki": 2.75}},
]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_areas_are_as_high_as_the_shares_from_their_step_on() -> None:
    figure = draw_proportions(HISTORY, 30, "sapling")
    axes = figure.axes[0]
    boxes = [area.get_datalim(axes.transData) for area in axes.collections]
    assert [(box.y0, box.y1) for box in boxes] == [(0, 0.75), (0.125, 1.0)]
    corners = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices.tolist()}
    assert {(0, 0.75), (10, 0.75), (10, 0.5), (20, 0.5), (20, 0.125), (30, 0.125)} <= corners
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 30), (0, 1))
    assert {"cc: 75.0% to 12.5%", "wiki: 25.0% to 87.5%", "sapling"} <= set(texts(figure))


def test_more_domains_than_colours_are_still_told_apart() -> None:
    many = {"step": 0, "proportions": {**PUBLISHED, **dict.fromkeys("xyzuvw", 0.0)}}
    areas = draw_proportions([many], 1, "t").axes[0].collections
    looks = {(tuple(area.get_facecolor()[0]), area.get_hatch()) for area in areas}
    assert len(looks) == len(areas) == 13


def test_lines_leave_a_gap_where_a_domain_had_no_token() -> None:
    figure = draw_domain_losses(EVALUATIONS, {"cc": 2.0, "wiki": 2.25}, "t")
    lines = figure.axes[0].get_lines()
    drawn = {line.get_label(): line for line in lines if not line.get_label().startswith("_")}
    assert drawn["cc"].get_ydata().tolist() == [3.0, 2.5]
    assert drawn["wiki"].get_ydata()[1] == 2.75
    assert drawn["wiki"].get_ydata()[0] != drawn["wiki"].get_ydata()[0]
    references = {line.get_ydata()[0] for line in lines if line.get_linestyle() == "--"}
    assert references == {2.0, 2.25}
    assert {"cc", "wiki", "reference"} <= set(texts(figure))
    assert "reference" not in texts(draw_domain_losses(EVALUATIONS, {}, "t"))


def test_saves_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save(draw_proportions(HISTORY, 30, "t"), tmp_path / f"{name}-shares")
        save(draw_domain_losses(EVALUATIONS, {"cc": 2.0}, "t"), tmp_path / f"{name}-losses")
    for picture in ("shares.png", "shares.svg", "losses.png", "losses.svg"):
        first, second = ((tmp_path / f"{name}-{picture}") for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_both_mark_where_the_training_after_the_masks_begins() -> None:
    for draw in (
        partial(draw_proportions, HISTORY, 30, "t"),
        partial(draw_domain_losses, EVALUATIONS, {}, "t"),
    ):
        marked = draw(15)
        line = marked.axes[0].get_lines()[-1]
        assert line.get_xdata() == [15, 15]
        assert line.get_label() in texts(marked)
        assert line.get_label() not in texts(draw(None))
