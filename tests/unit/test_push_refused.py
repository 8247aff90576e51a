"""Pushes that end in a sentence: whose fault it is, the exit code, and that nothing is seen."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="pushing runs in the image eval")

from huggingface_hub import constants

from espalier.errors import EnvironmentFailure, Interrupted
from inputs.push import stage
from inputs.push.cargo import CARD
from inputs.push.refusals import said_plainly
from tests.manifests import mark
from tests.planted import planted_in
from tests.unit.hub_server import Hub, serve
from tests.unit.hub_state import ATTRIBUTES
from tests.unit.pushing import REPO, SHARDS, Desk, laid_out


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with serve(Hub({})) as hub:
        yield laid_out(tmp_path, hub, monkeypatch)


def test_no_address_to_write_to_is_said(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.hub.strike = lambda asked: 500 if asked.startswith("PUT") else None
    sentence = desk.refuses(3, "the hub failed")
    assert planted_in(sentence + "".join(capfd.readouterr())) == []


def test_without_a_token_nobody_is_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN_PATH")
    desk.refuses(2, "there is no token of the hub; set HF_TOKEN")
    assert desk.hub.asked == []
    monkeypatch.setenv("HF_TOKEN_PATH", str(desk.root / "absent"))
    desk.refuses(3, "the hub's token cannot be read")


def test_a_wrong_token_makes_nothing(desk: Desk) -> None:
    (desk.root / "token").write_text("wrong")
    desk.refuses(2, "the hub does not accept the token; set HF_TOKEN")
    assert desk.hub.repositories == {}


def test_another_owner_s_repository(desk: Desk) -> None:
    desk.refuses(2, "may not write to you/half", "no right to make a model", REPO="you/half")
    desk.hub.repositories["models/you/there"] = {ATTRIBUTES: b""}
    desk.refuses(2, "may not write to you/there", "no right to write", REPO="you/there")
    assert desk.hub.repositories == {"models/you/there": {ATTRIBUTES: b""}}


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        (400, 2, "the hub refuses me/half (400"),
        (402, 2, "the hub refuses me/half (402"),
        (403, 2, "may not write"),
        (409, 3, "has changed meanwhile"),
        (413, 2, "the hub refuses me/half (413"),
        (429, 3, "the hub failed on me/half (429"),
        (503, 3, "the hub failed on me/half (503"),
    ],
)
@pytest.mark.parametrize("at", ["preupload", "batch", "PUT", "/commit/"])
def test_a_refusal_is_one_sentence_wherever_it_comes(
    desk: Desk, at: str, code: int, ends: int, says: str
) -> None:
    desk.hub.strike = lambda asked: code if at in asked else None
    desk.refuses(ends, says)
    assert set(desk.hub.head(REPO).files) == {ATTRIBUTES}


def test_a_card_that_the_hub_does_not_take(desk: Desk) -> None:
    (desk.root / CARD).write_text("---\n- no mapping\n---\n")
    desk.refuses(2, "the hub refuses what is pushed to me/half", "no tags")


def test_no_network(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    desk.refuses(3, "cannot be pushed to")


def test_what_is_no_hub(desk: Desk) -> None:
    failure = pytest.raises(EnvironmentFailure, match="does not answer as a hub does")
    with failure, said_plainly(REPO):
        json.loads("<html>log in to this network</html>")


def test_an_interruption_stays_one_though_the_client_wraps_it(desk: Desk) -> None:
    with pytest.raises(Interrupted, match=r"^stopped$"), said_plainly(REPO):
        raise RuntimeError("while uploading") from Interrupted("stopped")


def test_a_repository_that_the_token_does_not_show(desk: Desk) -> None:
    desk.hub.repositories["models/" + REPO] = {}
    desk.hub.strike = lambda asked: 404 if asked.startswith("GET") else None
    desk.refuses(2, "this token does not show it")


def test_a_public_repository_is_refused_to_a_private_push(desk: Desk) -> None:
    desk.hub.repositories["models/" + REPO] = {ATTRIBUTES: b""}
    desk.refuses(2, "me/half is public, and a push does not change that", PRIVATE="1")
    desk.refuses(2, "me/half is public", PRIVATE="1", REVISION="v2")
    assert desk.wrote() == []


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "adapter_config.json", "added_tokens.json", "consolidated.safetensors"],
)
def test_what_would_be_read_with_it_is_refused(desk: Desk, name: str) -> None:
    desk.hub.repositories["models/" + REPO] = {name: b"theirs"}
    desk.refuses(2, f"me/half holds {name}, which loaders would read with this checkpoint")
    assert desk.wrote() == []


def test_an_index_leaves_out_the_shards_of_before(desk: Desk) -> None:
    desk.hub.repositories["models/" + REPO] = {"model-00003-of-00003.safetensors": b"theirs"}
    desk.push()
    (desk.checkpoint / "model.safetensors.index.json").unlink()
    mark(desk.checkpoint, stage="wanda", verb="prune")
    desk.refuses(2, "model-00003-of-00003.safetensors, model.safetensors.index.json")


def test_a_gitignore_is_refused(desk: Desk) -> None:
    desk.hub.repositories["models/" + REPO] = {".gitignore": b"*.json"}
    desk.refuses(2, "has a .gitignore")


def test_other_bytes_than_were_published_are_not_sent(desk: Desk) -> None:
    (desk.checkpoint / SHARDS[0]).write_bytes(b"x" * 4000)
    desk.refuses(2, f"{SHARDS[0]} is not what was published")
    assert desk.wrote() == []


def test_a_file_that_changes_as_it_is_sent_is_not_seen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = desk.checkpoint / SHARDS[1]
    monkeypatch.setattr(stage, "check_files", lambda folder: shard.write_bytes(b"y" * 4000))
    desk.refuses(2, f"{shard.name} has changed while it was sent")
    assert set(desk.hub.head(REPO).files) == {ATTRIBUTES}
