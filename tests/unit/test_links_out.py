"""Links in what a stage is given are followed within it alone, whatever lies beside them."""

import os
from pathlib import Path

import pytest

from espalier.contract.fingerprint import identify
from espalier.contract.links import copy_below, opened_below, require_contained
from espalier.contract.manifest import MANIFEST
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.resolution import record_of
from espalier.models.checkpoint.companions import copy_companions
from tests.manifests import mark_pruned

SECRET = "not for you"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one published model, and a secret beside it."""
    (tmp_path / "secret").write_text(SECRET)
    model = tmp_path / "store" / "models" / "m"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("weights")
    mark_pruned(model, None)
    return Store(tmp_path / "store")


def replaced(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["model.safetensors", "deep/other", "never-there"])
@pytest.mark.parametrize("lying", ["on the store", "elsewhere"])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_manifest_hides_no_link(store: Store, name: str, lying: str, manifest: bool) -> None:
    model = store.root / "models" / "m"
    if lying == "elsewhere":
        model = model.rename(store.root.parent / "m")
    if not manifest:
        (model / MANIFEST).unlink()
    (model / "deep").mkdir()
    target = store.root.parent / ("secret" if name != "never-there" else "nothing")
    replaced(model / name, target)
    with pytest.raises(InputError, match=f"{name} is a link to .*, which is not followed"):
        record_of(model, store)


def test_a_link_to_a_folder_elsewhere_is_one_too(store: Store, tmp_path: Path) -> None:
    model = store.root / "models" / "m"
    (model / "parts").symlink_to(tmp_path)
    with pytest.raises(InputError, match="parts is a link to"):
        require_contained(model)


def test_links_within_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_text("inside")
    (tmp_path / "a").symlink_to("blobs/x")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").symlink_to("blobs")
    require_contained(tmp_path)
    for name in ("a", "b", "folder/x"):
        with opened_below(tmp_path, tmp_path / name) as file:
            assert file.read() == b"inside"
        copy_below(tmp_path, tmp_path / name, tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "inside"


def test_a_single_file_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    replaced(folder / "x.txt", tmp_path / "secret")
    with pytest.raises(InputError, match=r"is a link to .*; give that itself"):
        record_of(folder / "x.txt", store)


def test_what_becomes_a_link_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "x").write_text("inside")
    resolve = Path.resolve

    def too_late(self: Path, strict: bool = False) -> Path:
        found = resolve(self, strict)
        if self.name == "x" and not self.is_symlink():
            replaced(self, tmp_path / "secret")
        return found

    monkeypatch.setattr(Path, "resolve", too_late)
    with pytest.raises(InputError, match="cannot be read"), opened_below(root, root / "folder/x"):
        pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(InputError, match="is no file"), opened_below(tmp_path, tmp_path / "x"):
        pass


def test_companions_are_not_copied_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="which is not followed"):
        copy_companions(tmp_path / "source", tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_manifest_elsewhere_decides_no_identity(store: Store, tmp_path: Path) -> None:
    model = store.root / "models" / "m"
    recorded = record_of(model, store)
    copy = model.rename(tmp_path / "copy")
    assert record_of(copy, store).content == recorded.content
    (copy / "config.json").write_text("[]")  # of the same size
    with pytest.raises(InputError, match="is not of the files beside it"):
        record_of(copy, store)
    (copy / MANIFEST).unlink()
    assert record_of(copy, store).content != recorded.content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: (model / "config.json").write_text("longer"), "is not what was published"),
        (lambda model: (model / "config.json").unlink(), "is missing"),
        (lambda model: (model / "extra.json").touch(), "was not published with it"),
    ],
    ids=["longer", "missing", "more"],
)
def test_what_is_published_still_has_its_files(store: Store, change: object, said: str) -> None:
    model = store.root / "models" / "m"
    assert callable(change)
    change(model)
    with pytest.raises(InputError, match=said):
        record_of(model, store)


def test_what_nfs_leaves_is_no_change(store: Store) -> None:
    model = store.root / "models" / "m"
    (model / ".nfs0001").touch()
    record_of(model, store)


@pytest.mark.parametrize(
    ("place", "held"),
    [
        ("models/m", True),
        ("evals/m/quick", True),
        ("models/m/deep", False),
        ("cache/adopt/x", False),
        ("models", False),
        (".", False),
        ("../elsewhere/models/m", False),
        ("models/m.partial-1", False),
    ],
)
def test_where_a_manifest_is_believed(tmp_path: Path, place: str, held: bool) -> None:
    assert Store(tmp_path / "store").holds(tmp_path / "store" / place) is held


def test_a_link_into_the_store_is_what_it_leads_to(store: Store, tmp_path: Path) -> None:
    """And one from the store elsewhere is not the store's."""
    (tmp_path / "link").symlink_to(store.root / "models" / "m")
    assert store.holds(tmp_path / "link")
    outside = (store.root / "models" / "m").rename(tmp_path / "outside")
    (store.root / "models" / "m").symlink_to(outside)
    assert not store.holds(store.root / "models" / "m")
    found = identify("m", store.root / "models" / "m", tmp_path / "hashes")
    assert found.content == record_of(outside, store).content
