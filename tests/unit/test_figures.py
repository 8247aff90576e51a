"""Pictures: the same bytes every time, and axes that survive whatever a score may be."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

from espalier.contract.paths import ROOT  # noqa: E402
from espalier.figures import (  # noqa: E402
    MINUS,
    PALE_VERMILLION,
    TIMES,
    TO,
    layer_ranges,
    layer_ticks,
    log_ticks,
    plain,
    save,
    title,
)
from methods.minitron.plots import draw_depth, draw_importance  # noqa: E402
from methods.shortgpt.plots import draw_block_influence  # noqa: E402

pytestmark = pytest.mark.minitron

DATA = {"source": "pydoc", "samples": 128, "seqlen": 512, "sha256": "0" * 64}
TITLE = f"sapling, pydoc 128 {TIMES} 512 tokens"


def influence(values: list[float]) -> dict[str, Any]:
    return {
        "kind": "block-influence",
        "model": "sapling",
        "layers": len(values),
        "block_influence": values,
        "data": DATA,
    }


def depth(curves: dict[str, list[float | None]], layers: int, score: str = "ppl") -> dict[str, Any]:
    return {
        "kind": "depth",
        "model": "sapling",
        "layers": layers,
        "score": score,
        "lower_is_better": score == "ppl",
        "unpruned": 0.5 if score != "ppl" else 3.58,
        "by_first_removed": curves,
        "data": DATA,
    }


def width(layers: int, heads: int = 8, kv_heads: int = 8) -> dict[str, Any]:
    return {
        "kind": "width",
        "model": "sapling",
        "layers": layers,
        "aggregation": {"batch": "l2", "sequence": "mean"},
        "hidden": [1 + channel % 7 for channel in range(64)],
        "intermediate": [[(1 + n) * (1 + layer) for n in range(160)] for layer in range(layers)],
        "heads": [[1.0 + head for head in range(heads)] for _ in range(layers)],
        "kv_heads": kv_heads,
        "data": DATA,
    }


TWO_CURVES = depth({"1": [116.6, 12.6, 7.5, 8.8, 8.9], "2": [1067.4, 52.6, 54.4, 40.1]}, 5)


def everything() -> dict[str, Figure]:
    return {
        "influence": draw_block_influence(influence([0.23, 0.14, 0.12, 0.12, 0.15]), [2, 3]),
        "depth": draw_depth(TWO_CURVES, (2, [3, 4])),
        "importance": draw_importance(width(5), {"hidden": 48, "intermediate": 128, "heads": 4}),
    }


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def shows(figure: Figure, *words: str) -> None:
    found = texts(figure)
    assert [word for word in words if word not in found] == []


def limits(figure: Figure, panel: int = 0) -> tuple[float, float]:
    figure.draw_without_rendering()
    return figure.axes[panel].get_ylim()


def test_saves_the_same_bytes_in_another_process_with_another_configuration(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    for name, figure in everything().items():
        save(figure, ours / name)
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 20\nbackend: template\n")
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_figures import *\n"
        "for name, figure in everything().items(): save(figure, Path(sys.argv[1]) / name)"
    )
    surroundings = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, theirs], cwd=ROOT, env=surroundings, check=True)
    names = sorted(path.name for path in ours.iterdir())
    assert names == sorted(
        f"{name}.{kind}" for name in ("influence", "depth", "importance") for kind in ("png", "svg")
    )
    assert [
        name for name in names if (ours / name).read_bytes() != (theirs / name).read_bytes()
    ] == []


def test_saves_one_figure_twice_alike(tmp_path: Path) -> None:
    figure = everything()["importance"]
    save(figure, tmp_path / "first")
    save(figure, tmp_path / "second")
    for kind in ("png", "svg"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (
            tmp_path / f"second.{kind}"
        ).read_bytes()


def test_files_are_of_a_readme_s_size_and_say_nothing_of_the_machine(tmp_path: Path) -> None:
    save(everything()["depth"], tmp_path / "llama-2.7b")
    png, svg = (tmp_path / f"llama-2.7b.{kind}" for kind in ("png", "svg"))
    assert int.from_bytes(png.read_bytes()[16:20], "big") == 1600
    assert b"Matplotlib" not in png.read_bytes() + svg.read_bytes()
    assert "<text" not in svg.read_text()
    assert "fill: #ffffff" in svg.read_text()


def test_drawing_leaves_the_configuration_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save(everything()["depth"], tmp_path / "depth")
    assert dict(matplotlib.rcParams) == before


def test_titles_say_model_and_data() -> None:
    for figure in everything().values():
        shows(figure, TITLE)
    rows = {"source": "winogrande", "rows": 1267, "shots": 5}
    assert title({"model": "m", "data": rows}) == "m, winogrande 1,267 rows, 5-shot"
    assert title({"model": "m", "data": {"source": "tokens"}}, "more") == "m, tokens, more"
    long = title({"model": "m" * 60, "data": {"source": "d" * 60}})
    assert max(map(len, long.splitlines())) < 90


def test_names_are_shown_as_they_are() -> None:
    shows(draw_block_influence({**influence([0.1]), "model": "$a$_b"}), "$a$_b")


def test_ranges_of_layers() -> None:
    assert layer_ranges([3]) == "layer 3"
    assert layer_ranges([4, 3]) == f"layers 3{TO}4"
    assert layer_ranges([7, 3, 24, 25, 26]) == f"layers 3, 7, 24{TO}26"


@pytest.mark.parametrize("layers", [1, 5, 17, 18, 32, 80, 5000])
def test_every_layer_or_a_round_step_is_marked(layers: int) -> None:
    ticks = layer_ticks(layers)
    assert ticks[0] == 0
    assert ticks[-1] < layers
    assert len(ticks) <= 17


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (3.4, 1100, [10, 30, 100, 300, 1000]),
        (60, 75, [60, 62, 64, 66, 68, 70, 72, 74]),
        (5, 60, [5, 10, 20, 50]),
        (3.9, 4.1, [3.9, 3.95, 4, 4.05, 4.1]),
        (1, 1e30, [10.0**power for power in range(0, 31, 4)]),
    ],
)
def test_marks_of_a_logarithmic_axis(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)


def test_numbers_are_plain() -> None:
    values = (3, 62.5, 0.1 * 3, 0.00001, 12000, 1e6, 1e30, 2e-9)
    assert [plain(value) for value in values] == [
        "3", "62.5", "0.3", "0.00001", "12,000", "1,000,000", "1e30", "2e-9",
    ]  # fmt: skip


def test_removed_layers_stand_out_among_the_bars() -> None:
    figure = draw_block_influence(influence([0.2, 0.1, 0.3, 0.05]), [3, 1])
    shows(figure, "layer", f"block influence\n1 {MINUS} mean cos(input, output)")
    shows(figure, "kept", "removed: layers 1, 3")
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in figure.axes[0].patches}
    assert [bars[layer].get_height() for layer in range(4)] == [0.2, 0.1, 0.3, 0.05]
    pale = matplotlib.colors.to_rgba(PALE_VERMILLION)
    assert {layer for layer in bars if bars[layer].get_facecolor() == pale} == {1, 3}
    assert {layer for layer in bars if bars[layer].get_hatch()} == {1, 3}


def test_no_legend_where_nothing_is_removed() -> None:
    assert draw_block_influence(influence([0.2, 0.1])).legends == []


@pytest.mark.parametrize(
    "values",
    [[0.2], [0.1] * 80, [0.0] * 5, [0.2, math.nan, math.inf, 0.1], [math.nan] * 3, [-1e-9, 0.1]],
)
def test_bars_of_any_influence(values: list[float], tmp_path: Path) -> None:
    figure = draw_block_influence(influence(values))
    save(figure, tmp_path / "influence")
    low, high = limits(figure)
    assert -0.01 <= low <= 0 < high <= 1


def test_depth_curves_by_block() -> None:
    figure = draw_depth(TWO_CURVES, (2, [4, 3]))
    shows(figure, "first removed layer", "perplexity", "1 layer removed", "2 layers removed")
    shows(figure, "unpruned\n3.58", f"removed: layers 3{TO}4", "above, up to 1,070", "100")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert 2 < low < 3.58
    assert 116.6 < high < 200  # what is left is worth comparing; a ruin is not


def ringed(figure: Figure) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[0].lines if "removed: " in str(line.get_label())]
    return [tuple(point) for line in lines for point in line.get_xydata().tolist()]


def test_the_chosen_block_is_ringed_on_its_curve() -> None:
    assert ringed(draw_depth(TWO_CURVES)) == ringed(draw_depth(TWO_CURVES, (2, []))) == []
    assert ringed(draw_depth(TWO_CURVES, (2, [3, 4]))) == [(3, 40.1)]
    assert ringed(draw_depth(TWO_CURVES, (1, [2]))) == [(2, 7.5)]


def test_layers_chosen_one_by_one_are_ringed_on_the_first_curve() -> None:
    assert ringed(draw_depth(TWO_CURVES, (1, [4, 2]))) == [(2, 7.5), (4, 8.9)]
    assert ringed(draw_depth(TWO_CURVES, (3, [1, 2, 3]))) == [(1, 12.6), (2, 7.5), (3, 8.8)]
    assert ringed(draw_depth(depth({"4": [9.0, 8.0]}, 5), (2, [1, 3]))) == []


def test_broken_cuts_leave_gaps() -> None:
    figure = draw_depth(depth({"1": [None, 8.0, math.inf, 9.0, 0.0]}, 5))
    shows(figure, "no finite score")
    low, high = limits(figure)
    assert 3 < low < high < 10
    curve = figure.axes[0].lines[0].get_ydata()
    assert [math.isnan(score) for score in curve] == [True, False, True, False, True]


def test_depth_of_a_task_is_linear() -> None:
    figure = draw_depth(depth({"1": [0.4, 0.45, None]}, 3, "winogrande"), (1, [1]))
    shows(figure, "winogrande accuracy", "unpruned\n0.5", "no finite score")
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    "scores",
    [
        depth({"1": [5.0]}, 1),
        depth({"1": [3.58] * 80, "16": [3.58] * 65}, 80),
        depth({"1": [None] * 5}, 5),
        depth({"1": [4.0, 1e300, 1e-300, 5.0]}, 4),
        depth({str(size): [4.0] * (33 - size) for size in range(1, 17)}, 32),
        depth({"1": [0.5] * 5}, 5, "winogrande"),
        {**depth({"1": [None] * 5}, 5), "unpruned": math.inf},
    ],
)
def test_depth_of_any_score(scores: dict[str, Any], tmp_path: Path) -> None:
    figure = draw_depth(scores)
    save(figure, tmp_path / "depth")
    low, high = limits(figure)
    assert 0 < low < high < math.inf


def test_importance_has_three_panels_and_a_colour_for_each_layer() -> None:
    figure = draw_importance(width(5), {"hidden": 48, "intermediate": 128, "heads": 4})
    shows(figure, "embedding channels", "FFN neurons", "attention heads", "layer", "largest = 1")
    shows(figure, "rank, the most important first", "mean over tokens, l2 over samples")
    shows(figure, "48 of 64 kept", "128 of 160 kept", "4 of 8 kept")
    channels, neurons, heads, _bar = figure.axes
    assert [axes.get_yscale() for axes in (channels, neurons, heads)] == ["log", "log", "linear"]
    assert len(neurons.lines) == len(heads.lines) == 5 + 1  # the line of what is kept
    assert len({matplotlib.colors.to_hex(line.get_color()) for line in neurons.lines[:5]}) == 5
    assert heads.lines[0].get_ydata().tolist() == [1 - rank / 8 for rank in range(8)]
    assert heads.lines[-1].get_xdata() == [4.5, 4.5]


def test_importance_marks_only_what_was_cut() -> None:
    found = texts(draw_importance(width(5), {"intermediate": 128}))
    assert found.count(" kept") == 1
    assert " kept" not in texts(draw_importance(width(5)))


def test_heads_that_go_by_group_are_marked_so() -> None:
    shows(draw_importance(width(2, heads=8, kv_heads=4), {"heads": 4}), "4 kept, by group")


def test_importance_of_any_value(tmp_path: Path) -> None:
    scores = width(3)
    scores["hidden"] = [0.0] * 64
    scores["intermediate"][0] = [0.0] * 160
    scores["intermediate"][1][:3] = [math.nan, math.inf, 1e-12]
    scores["heads"] = [[0.0] * 8, [2.0] * 8, [math.nan] * 8]
    figure = draw_importance(scores, {"hidden": 1, "heads": 8})
    save(figure, tmp_path / "importance")
    for panel in range(3):
        low, high = limits(figure, panel)
        assert 0 <= low < high < 20
    assert limits(figure, 1)[0] == pytest.approx(1e-5)


@pytest.mark.parametrize("layers", [1, 80])
def test_importance_of_shallow_and_deep_models(layers: int, tmp_path: Path) -> None:
    figure = draw_importance(width(layers, heads=1, kv_heads=1))
    save(figure, tmp_path / "importance")
    assert len(figure.axes) == (3 if layers == 1 else 4)
    assert len(figure.axes[1].lines) == layers
