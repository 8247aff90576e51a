"""What a warm interpreter finds out about itself before it forks."""

from pathlib import Path

import pytest

from tests.warm.server import threads


@pytest.mark.parametrize("own", [99_998, 100_001])
def test_its_own_thread_is_known_by_number(tmp_path: Path, own: int) -> None:
    """As a name, 100003 comes before 99998: whichever comes first need not be our own."""
    for number, name in ((own, "python"), (100_003, "jemalloc_bg_thd")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    assert threads(tmp_path, own) == []
    (tmp_path / "100004").mkdir()
    (tmp_path / "100004" / "comm").write_text("python\n")
    assert threads(tmp_path, own) == ["python"]
    assert "jemalloc" not in "".join(threads())
