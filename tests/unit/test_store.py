from pathlib import Path

import pytest

from espalier.contract.manifest import MANIFEST
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "..", ".hidden", "", "a b", "x.partial-1", "a\n"]
)
def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name an artifact"):
        Store(tmp_path).path("checkpoints", name)


def test_an_evaluation_is_named_by_checkpoint_and_suite(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.path("evals", "model/quick") == tmp_path / "evals" / "model" / "quick"
    with pytest.raises(InputError):
        store.path("evals", "a/b/c")


def test_publishing_replaces_whole_directories(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.path("models", "m")
    for content in ("old", "new"):
        partial = store.partial("models", "m", content * 10)
        store.create(partial)
        (partial / MANIFEST).write_text(content)
        (partial / content).touch()
        store.publish(partial, target)
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, "new"]
    assert list(store.leftovers()) == []
    assert [(section, name) for section, name, _ in store.artifacts()] == [("models", "m")]


def test_an_incomplete_directory_is_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(store.path("models", "m"))
    assert store.published("models", "m") is None
    assert store.find("m", ("models",)) is None


def test_partials_are_found_and_lead_back_to_their_target(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.partial("evals", "m/quick", "f" * 64)
    store.create(partial)
    assert list(store.leftovers()) == [partial]
    assert store.target_of(partial) == store.path("evals", "m/quick")


def test_a_store_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        Store(tmp_path / "file").create(tmp_path / "file" / "models")
