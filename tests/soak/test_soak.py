"""A few draws of the soak, and that it finds what it looks for."""

from pathlib import Path

import pytest

from espalier.contract.manifest import read_manifest
from espalier.contract.store import Store
from tests.contract.command import espalier
from tests.planted import WORDS
from tests.soak.census import Census
from tests.soak.draw import all_of, chosen
from tests.soak.promises import (
    Broken,
    contents,
    require_ending,
    require_no_secret,
    require_nothing_left,
)
from tests.soak.running import Ending
from tests.soak.soak import soaking
from tests.soak.table import table
from tests.tiny import tiny_llama

SLICE = (
    ("wanda", "SIGKILL of both"),
    ("magnitude", "disk full (tmpfs)"),
    ("magnitude", "EIO once"),
    ("wanda", "daemon stopped"),
    ("adopt", "gc meanwhile, any clock"),
    ("magnitude", "two of a name, one killed"),
    ("corpus", "TPU: SIGKILL of the launcher"),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_slice_of_the_soak(tmp_path: Path) -> None:
    told: list[str] = []
    with soaking(tmp_path, told.append) as soak:
        draws = [
            chosen(number, kind, fault)
            for number, (kind, fault) in enumerate(SLICE)
            if soak.disk or "tmpfs" not in fault
        ]
        soak.run(draws, lanes=2)
        assert not soak.failures, [(failure.why, failure.said) for failure in soak.failures]
        assert soak.counts.artifacts == len(draws)
        assert sum(row["struck"] for row in soak.counts.rows.values()) == len(draws)
        assert len(list(table(soak.counts))) == len(draws) + 4


def test_a_draw_depends_on_its_seed_and_number_alone() -> None:
    one, other = all_of(3, 20, True), all_of(3, 40, True)
    assert [str(draw) for draw in one] == [str(draw) for draw in other[:20]]
    assert [str(draw) for draw in one] != [str(draw) for draw in all_of(4, 20, True)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    model = tiny_llama(tmp_path / "d000")
    done = espalier(tmp_path / "store", "prune-magnitude", f"MODEL={model}", "SUITE=none")
    assert done.returncode == 0, done.stderr
    return Store(tmp_path / "store")


def test_what_the_soak_would_find(store: Store, tmp_path: Path) -> None:
    """Each promise broken by hand."""
    checkpoint = store.root / "checkpoints" / "d000-magnitude-0.5"
    named = checkpoint.rename(checkpoint.with_name("d000"))
    assert contents(store, "d000") == {"checkpoints/…": read_manifest(named).content}  # no picture
    require_nothing_left(store)
    partial = store.partial("checkpoints", "d001", "0" * 12)
    (partial / "x.journal").parent.mkdir()
    (partial / "x.journal").write_text("head\none\n")
    census = Census(store, "d001")
    assert census.look() == {partial: "tensor 2"}
    with pytest.raises(Broken, match=r"leaves d001\.partial-"):
        require_nothing_left(store)
    (partial / "x.journal").unlink()
    with pytest.raises(Broken, match="could be resumed from tensor 2, and has lost it"):
        census.look()
    (named / "config.json").write_text("{}")
    with pytest.raises(Broken, match="checkpoints/d000 does not verify"):
        contents(store, "d000")
    (tmp_path / "store" / "log").write_text(f"x{WORDS['token of the hub']}x")
    with pytest.raises(Broken, match=r"planted secrets are in .*log"):
        require_no_secret(store.root)


@pytest.mark.parametrize(
    ("code", "err", "says"),
    [
        (1, "espalier: a bug", "ended in 1, not in 0, 3"),
        (3, "Traceback (most recent call last)\nespalier: it", "showed a traceback"),
        (3, "", "in 0 sentences"),
        (3, "espalier: one\nespalier: two", "in 2 sentences"),
    ],
)
def test_an_ending_that_is_none(code: int, err: str, says: str) -> None:
    with pytest.raises(Broken, match=says):
        require_ending(Ending(("gc",), code, "", err), {0, 3})
