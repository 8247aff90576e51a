"""The loss curve: from a handful of steps to thousands, and the same bytes twice."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from training.protocol.plots import draw_losses, smoothed

pytestmark = pytest.mark.fsdp


def write_metrics(path: Path, steps: int, valid: bool) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "tokens": step * 4096, "loss": 3 + 6 / step + random.normal() / 9}
        if valid and step % max(1, steps // 10) == 0:
            row["valid_loss"] = 5.0
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("steps", [1, 7, 3000])
@pytest.mark.parametrize("valid", [True, False])
def test_it_draws(tmp_path: Path, steps: int, valid: bool) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", steps, valid)
    for name in ("one", "two"):
        draw_losses(metrics, "sapling", tmp_path / name)
    for kind in ("png", "svg"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_smoothing_keeps_the_mean() -> None:
    tokens, losses = np.arange(1, 101) * 10.0, np.linspace(5, 3, 100)
    parts, means = smoothed(tokens, losses)
    assert len(parts) == len(means) == 50
    assert means.mean() == pytest.approx(losses.mean())
    assert smoothed(tokens[:3], losses[:3])[1] == pytest.approx(losses[:3])
