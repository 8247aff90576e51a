"""Pushing, against a local server that speaks the hub's API: what is there then."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="pushing runs in the image eval")

from espalier.contract.files import file_sha256
from espalier.contract.saved import noted
from inputs.push import stage
from inputs.push.cargo import CARD
from tests.manifests import mark
from tests.unit.hub_server import COMMIT, Hub, serve
from tests.unit.hub_state import ATTRIBUTES
from tests.unit.pushing import LOADED, OTHER, REPO, SHARDS, Desk, laid_out


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with serve(Hub({})) as hub:
        yield laid_out(tmp_path, hub, monkeypatch)


def test_the_hub_has_the_store_s_bytes_and_nothing_else(desk: Desk) -> None:
    record = desk.push()
    head = desk.hub.head(REPO)
    assert set(head.files) == {*LOADED, "manifest.json", CARD, ATTRIBUTES}
    for name in LOADED:
        assert head.files[name] == (desk.checkpoint / name).read_bytes()
    assert head.files[CARD] == (desk.root / CARD).read_bytes()
    assert len(desk.hub.branches["models/" + REPO, "main"]) == 2
    assert head.summary == f"half, fingerprint {'f' * 12}"
    assert (record["repo"], record["branch"], record["commit"]) == (REPO, "main", head.commit)
    assert record["private"] is False
    recorded = {file["path"]: file["sha256"] for file in record["files"]}
    assert recorded.keys() == set(head.files) - {ATTRIBUTES}
    assert all(recorded[name] == file_sha256(desk.checkpoint / name) for name in LOADED)
    assert record["left_on_the_store"] == sorted(OTHER)


def test_the_manifest_goes_without_the_machine_s_places(desk: Desk) -> None:
    record = desk.push()
    pushed = json.loads(desk.hub.head(REPO).files["manifest.json"])
    stored = json.loads((desk.checkpoint / "manifest.json").read_bytes())
    assert record["taken_out_of_the_manifest"] == ["command"]
    assert pushed == {**stored, "command": []}
    assert b"someone" not in b"".join(desk.hub.head(REPO).files.values())


def test_a_manifest_without_any_goes_byte_for_byte(desk: Desk) -> None:
    mark(desk.checkpoint, stage="wanda", verb="prune")
    assert desk.push()["taken_out_of_the_manifest"] == []
    stored = (desk.checkpoint / "manifest.json").read_bytes()
    assert desk.hub.head(REPO).files["manifest.json"] == stored


def test_the_same_again_is_there_already(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    first = desk.push()
    desk.hub.asked.clear()
    (desk.root / "out" / stage.RECORD).unlink()
    assert desk.push() == first
    assert desk.wrote() == []
    assert f"{REPO}, main (public, commit {first['commit'][:12]}) has all of it already" in (
        capfd.readouterr().err
    )


def test_what_was_taken_away_there_is_pushed_again(desk: Desk) -> None:
    """The hub's head decides, not the record."""
    first = desk.push()
    desk.hub.branches["models/" + REPO, "main"].append(desk.hub.at("models/" + REPO, COMMIT))  # type: ignore[arg-type]
    again = desk.push()
    assert again["commit"] != first["commit"]
    assert set(desk.hub.head(REPO).files) >= set(LOADED)
    assert sorted(desk.hub.sent) == sorted(set(desk.hub.sent))  # nothing large was sent twice


def test_another_card_is_one_file_more(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.push()
    (desk.root / CARD).write_text("---\ntags:\n- espalier\n---\n\n# half, measured\n")
    desk.hub.sent.clear()
    desk.push()
    assert desk.hub.sent == []
    assert desk.hub.head(REPO).files[CARD].endswith(b"# half, measured\n")
    assert "has other versions of README.md, which stay in its history" in capfd.readouterr().err


def test_a_hub_that_dies_halfway_shows_nothing_and_the_same_again_resumes(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    def dies(asked: str) -> int | None:
        return 0 if desk.hub.sent else None

    desk.hub.strike = dies
    sentence = desk.refuses(3, "does not answer", "run the same command to resume")
    assert desk.hub.url in sentence
    assert noted(desk.scratch) == "file 2 of 10"
    assert set(desk.hub.head(REPO).files) == {ATTRIBUTES}
    (first,) = desk.hub.sent
    desk.hub.strike = lambda asked: None
    record = desk.push()
    assert "resumes from file 2 of 10" in capfd.readouterr().err
    assert len(desk.hub.sent) == 2
    assert desk.hub.sent[0] == first
    assert record["commit"] == desk.hub.head(REPO).commit


def test_large_files_go_in_parts(desk: Desk) -> None:
    desk.hub.part = 1500
    desk.push()
    assert len(desk.hub.parts) == 6
    shard = desk.checkpoint / SHARDS[0]
    assert desk.hub.head(REPO).files[SHARDS[0]] == shard.read_bytes()


def test_a_commit_whose_answer_was_lost_is_found(desk: Desk) -> None:
    def dies(asked: str) -> int | None:
        committed = len(desk.hub.branches.get(("models/" + REPO, "main"), ())) > 1
        return 0 if committed else None

    desk.hub.strike = dies
    desk.refuses(3, "does not answer")
    desk.hub.strike = lambda asked: None
    assert desk.push()["commit"] == desk.hub.head(REPO).commit
    assert len(desk.hub.branches["models/" + REPO, "main"]) == 2


def test_a_private_repository(desk: Desk) -> None:
    assert desk.push(PRIVATE="1")["private"] is True
    assert desk.hub.private == {"models/" + REPO}
    assert desk.push()["private"] is True  # as it is there


def test_what_others_put_there_stays(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    theirs = {"README.md": b"theirs", "notes/a.txt": b"a", "pytorch_model.bin": b"pickle"}
    desk.hub.repositories["models/" + REPO] = dict(theirs)
    desk.push()
    head = desk.hub.head(REPO)
    assert {name: head.files[name] for name in theirs if name != CARD} == {
        name: content for name, content in theirs.items() if name != CARD
    }
    before = desk.hub.at("models/" + REPO, COMMIT)
    assert before
    assert before.files["README.md"] == b"theirs"
    said = capfd.readouterr().err
    assert "has other versions of README.md" in said
    assert "what else is there stays: notes/a.txt, pytorch_model.bin." in said
    assert "not pushed, since no loader reads it: importance.png" in said


def test_a_branch_of_its_own(desk: Desk) -> None:
    desk.hub.repositories["models/" + REPO] = {"README.md": b"theirs"}
    record = desk.push(REVISION="runs/v2")
    assert desk.hub.repositories["models/" + REPO] == {"README.md": b"theirs"}
    assert set(desk.hub.head(REPO, "runs/v2").files) >= set(LOADED)
    assert record["commit"] == desk.hub.head(REPO, "runs/v2").commit
    desk.hub.asked.clear()
    assert desk.push(REVISION="runs/v2") == record
    assert desk.wrote() == []


def test_who_commits_meanwhile_is_not_overwritten(desk: Desk) -> None:
    def commits(asked: str) -> int | None:
        if asked.startswith("PUT") and len(desk.hub.sent) == 1:
            desk.hub.commit("models/" + REPO, "main", {"theirs": b"t"}, "theirs")
        return None

    desk.hub.strike = commits
    desk.refuses(3, "me/half has changed meanwhile", "run the same command to resume")
    assert set(desk.hub.head(REPO).files) == {ATTRIBUTES, "theirs"}
    desk.push()
    assert desk.hub.head(REPO).files["theirs"] == b"t"
    assert len(desk.hub.sent) == 2
