"""Which directory `make adopt` takes, and that links of the hub client's cache are followed."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.fingerprint import identify
from espalier.contract.store import Store, name_after
from espalier.errors import InputError
from espalier.host.commands.adoption import directory_named, forget, gather, is_to_be_gathered
from tests.manifests import mark_pruned

COMMIT, OTHER = "a" * 40, "b" * 40
FILES = {
    "config.json": '{"model_type": "llama"}',
    "model.safetensors": "weights",
    "Licence.txt": "do as you like",
    "USE_POLICY.md": "but nothing bad",
    "README.md": "a card",
}


def cached(root: Path, *commits: str, main: str | None = COMMIT) -> Path:
    """A repository as the hub's client keeps it: names in snapshots, content in blobs."""
    repository = root / "hub" / "models--org--tiny"
    (repository / "blobs").mkdir(parents=True)
    for commit in commits:
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name, content in FILES.items():
            blob = repository / "blobs" / f"{name}-{commit[:4]}"
            blob.write_text(content)
            (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    if main:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(main)
    return repository


def test_a_snapshot_is_found_by_its_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = cached(tmp_path, COMMIT, OTHER)
    assert directory_named(str(repository)) == repository / "snapshots" / COMMIT
    given = repository / "snapshots" / OTHER
    assert directory_named(str(given)) == given
    (repository / "refs" / "main").unlink()
    with pytest.raises(InputError, match=f"2 snapshots and no main; give one of FROM=.*{COMMIT}"):
        directory_named(str(repository))
    shutil.rmtree(given)
    assert directory_named(str(repository)) == repository / "snapshots" / COMMIT
    assert f"its only snapshot {COMMIT}" in capsys.readouterr().err


def test_what_is_no_model_is_told_apart(tmp_path: Path) -> None:
    repository = cached(tmp_path, main=None)
    (repository / "snapshots").mkdir()
    with pytest.raises(InputError, match=r"no snapshot with a config\.json"):
        directory_named(str(repository))
    with pytest.raises(InputError, match=r"a cache of 1 models; give .*/models--org--tiny\."):
        directory_named(str(tmp_path / "hub"))
    with pytest.raises(InputError, match="does not exist"):
        directory_named(str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"holds no config\.json and is no GGUF file; give "):
        directory_named(str(tmp_path))


@pytest.mark.parametrize("same_disk", [True, False])
def test_links_are_followed_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_disk: bool
) -> None:
    snapshot = directory_named(str(cached(tmp_path, COMMIT)))
    store = Store(tmp_path / "a store")
    with pytest.raises(InputError, match="make adopt"):
        identify("x", snapshot, tmp_path / "hashes")
    assert is_to_be_gathered(snapshot)
    if not same_disk:
        monkeypatch.setattr("os.link", _across_disks)
    found = gather(snapshot, store)
    if same_disk:  # no copy of what may be many gigabytes
        assert (found / "model.safetensors").samefile(snapshot / "model.safetensors")
    assert not is_to_be_gathered(found)
    names = {path.name: path.read_text() for path in found.iterdir()}
    assert names == FILES
    one = identify("x", found, tmp_path / "hashes").content
    assert identify("x", gather(snapshot, store), tmp_path / "hashes").content == one
    forget(snapshot, store)
    assert not found.exists()
    assert (snapshot / "model.safetensors").read_text() == "weights"


@pytest.mark.parametrize("at", ["/etc/passwd", "../secret", "../../refs/../../secret"])
@pytest.mark.parametrize("in_cache", [True, False])
def test_no_link_out_of_a_model_is_followed(tmp_path: Path, at: str, in_cache: bool) -> None:
    repository = cached(tmp_path, COMMIT)
    snapshot = directory_named(str(repository))
    given = snapshot if in_cache else Path(shutil.copytree(snapshot, tmp_path / "plain"))
    for secret in (tmp_path, repository.parent, snapshot.parent):
        (secret / "secret").write_text("secret")
    given = snapshot if in_cache else given
    (given / "Licence.txt").unlink()
    (given / "Licence.txt").symlink_to(tmp_path / "secret" if at == "../secret" else at)
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"Licence\.txt (is a link to|links to) .*"):
        gather(given, store)
    assert not [path for path in tmp_path.rglob("store/**/Licence*") if path.is_file()]


def test_a_cache_whose_blobs_lie_elsewhere(tmp_path: Path) -> None:
    """What is called `blobs` may be a link too."""
    snapshot = directory_named(str(repository := cached(tmp_path, COMMIT)))
    (repository / "blobs").rename(tmp_path / "private")
    (repository / "blobs").symlink_to(tmp_path / "private")
    with pytest.raises(InputError, match="which is not followed"):
        gather(snapshot, Store(tmp_path / "store"))


def test_a_forged_manifest_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, forged = tmp_path / "plain", tmp_path / "forged"
    for directory in (plain, forged):
        directory.mkdir()
        for name, content in FILES.items():
            (directory / name).write_text(content)
    mark_pruned(forged, None)
    text = (forged / "manifest.json").read_text()
    (forged / "manifest.json").write_text(text.replace('"content": "', f'"content": "{"f" * 60}'))
    assert not is_to_be_gathered(plain)
    assert is_to_be_gathered(forged)
    store = Store(tmp_path / "store")
    found = gather(forged, store)
    assert {path.name for path in found.iterdir()} == set(FILES)
    assert "is not taken over: files are hashed anew" in capsys.readouterr().err
    names = [identify("x", path, tmp_path / "hashes").content for path in (plain, found)]
    assert names[0] == names[1]


def _across_disks(*given: object, **named: object) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_a_plain_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "tokenizer.json").symlink_to("config.json")
    assert not is_to_be_gathered(tmp_path)
    assert directory_named(str(tmp_path)) == tmp_path


def test_a_link_to_nothing_is_a_broken_download(tmp_path: Path) -> None:
    repository = cached(tmp_path, COMMIT)
    snapshot = directory_named(str(repository))
    (repository / "blobs" / "model.safetensors-aaaa").unlink()
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/never-fetched")  # is not wanted
    with pytest.raises(InputError, match=r"model\.safetensors links to .* not fetched whole"):
        gather(snapshot, Store(tmp_path / "store"))


ODD = ["two  words", "größer", "it's", '"quoted"', "-dash", "a$b", "x#y", "a,b", "ö", "a.partial-b"]


@pytest.mark.parametrize("name", ODD)
def test_a_directory_of_any_name_gives_a_result_a_name(tmp_path: Path, name: str) -> None:
    assert Store(tmp_path).path("checkpoints", f"{name_after(tmp_path / name)}-wanda-0.5")


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_every_name_after_something_can_name_an_artifact(name: str) -> None:
    found = name_after(Path("/models") / name)
    assert Store(Path("/store")).path("checkpoints", found)


@pytest.mark.parametrize("name", ["sapling", "Llama-2-7b.v1_x"])
def test_a_name_that_can_be_one_stays(name: str) -> None:
    assert name_after(Path("/models") / name) == name


def test_legal_files_go_along_however_they_are_written(tmp_path: Path) -> None:
    from espalier.models.checkpoint.companions import copy_companions

    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    legal = ["LICENSE", "LICENSE.txt", "Licence.md", "licence", "COPYING", "COPYING.LESSER"]
    legal += ["NOTICE", "Notice.txt", "USE_POLICY.md", "LICENSE-MODEL"]
    for name in (*legal, "README.md", "training_log.txt"):
        (source / name).write_text(json.dumps(name))
    copy_companions(source, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(legal)
