"""How long the machines of a run stay that are not the first."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from espalier.contract.manifest import MANIFEST
from espalier.ranks.parting import wait_for_the_first


@pytest.mark.parametrize(
    "ends",
    [lambda output: (output / MANIFEST).touch(), shutil.rmtree],
    ids=["complete", "published"],
)
def test_they_stay_until_the_first_one_is_done(
    tmp_path: Path, ends: Callable[[Path], object]
) -> None:
    output = tmp_path / "run.partial"
    output.mkdir()
    waiting = threading.Thread(target=wait_for_the_first, args=(output, 0.01), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    ends(output)
    waiting.join(30)
    assert not waiting.is_alive()
