"""A list of a store says what is there, whatever is wrong with some of it, and reads it once."""

import os
from pathlib import Path

import pytest

from espalier.contract.store import Store
from espalier.contract.summaries import KEPT, Summary, summaries

GOOD = '{"stage": "wanda", "files": [{"size": 7}], "model": {"parameters": 10, "nonzero": 5}}'


def put(store: Store, name: str, manifest: str) -> Path:
    path = store.path("evals" if "/" in name else "models", name) / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest)
    return path


def listed(store: Store) -> dict[str, Summary]:
    return {f"{section}/{name}": summary for section, name, summary in summaries(store)}


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "null",
        '{"stage": "x"}',
        '{"stage": "x", "files": 3}',
        '{"stage": "x", "files": [{"size": 1e999}]}',
        '{"stage": "x", "files": [{"size": "big"}]}',
        '{"stage": "x", "files": [], "model": [1]}',
        '{"stage": "x", "files": [], "model": {"parameters": 1e999}}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_one_bad_manifest_leaves_the_others_listed(tmp_path: Path, manifest: str) -> None:
    store = Store(tmp_path)
    put(store, "b", manifest)
    put(store, "a", GOOD)
    put(store, "a/quick", '{"stage": "evaluate", "files": []}')
    assert listed(store) == {
        "models/a": Summary("wanda", 7, 10, 5),
        "models/b": Summary(""),
        "evals/a/quick": Summary("evaluate"),
    }


def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first, second = put(store, "a", GOOD), put(store, "b", GOOD)
    before = listed(store)
    read: list[Path] = []
    as_it_is = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return as_it_is(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert listed(store) == before
    assert read == [tmp_path / "cache" / KEPT]
    second.write_text(GOOD.replace("7", "9"))
    os.utime(second, ns=(1, 1))
    assert listed(store)["models/b"].size == 9
    assert first not in read
    second.unlink()
    assert list(listed(store)) == ["models/a"]


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"models/a": {"seen": 1}}', '{"models/a": 1}'])
def test_notes_that_are_not_as_expected_are_made_anew(tmp_path: Path, kept: str) -> None:
    store = Store(tmp_path)
    put(store, "a", GOOD)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / KEPT).write_text(kept)
    assert listed(store) == {"models/a": Summary("wanda", 7, 10, 5)}


def test_leftovers_and_other_files_are_not_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a.partial-1", "a.replaced-1"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "manifest.json").write_text(GOOD)
    (tmp_path / "models" / "file").touch()
    (tmp_path / "evals" / "m.partial-1" / "quick").mkdir(parents=True)
    (tmp_path / "evals" / "m.partial-1" / "quick" / "manifest.json").write_text(GOOD)
    assert listed(store) == {}
