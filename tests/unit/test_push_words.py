"""What may be pushed where: names of repositories and branches, and manifests without places."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import InputError
from inputs.push.portable import portable
from inputs.push.spec import STAGE


def label(**given: str) -> str:
    return STAGE.parameters.from_assignments(given).label()


def test_a_record_is_called_after_where_it_went() -> None:
    assert label(REPO="me/half") == "me--half"
    assert label(REPO="me/half", REVISION="main") == "me--half"
    assert label(REPO="me/half", REVISION="runs/v2") == "me--half--runs-v2"


@pytest.mark.parametrize(
    "repo",
    [
        *("half", "me/half/more", "me/", "/half", "me/-half", "me/half.", "me/ha lf", "me/..", "."),
        *("me/a--b", "me/a..b", "me/half.git", "mé/half", "me/" + "x" * 100, "-me/x", "me/h\u0661"),
    ],
)
def test_no_repository_of_the_hub(repo: str) -> None:
    with pytest.raises(InputError, match=r"^REPO=.* is no repository of the hub; give <owner>"):
        label(REPO=repo)


@given(st.text("aZ09._-/", max_size=20) | st.text(max_size=10))
def test_the_hub_s_client_takes_every_name_that_is_taken(repo: str) -> None:
    validators = pytest.importorskip("huggingface_hub.utils")
    try:
        label(REPO=repo)
    except InputError:
        return
    validators.validate_repo_id(repo)


@pytest.mark.parametrize("branch", ["a..b", "refs/pr/1", "0" * 40, "-x", "x/", "x.lock", "a b"])
def test_no_branch(branch: str) -> None:
    with pytest.raises(InputError, match=r"^REVISION=.* is no branch that can be committed to"):
        label(REPO="me/half", REVISION=branch)


def pushed(**notes: Any) -> tuple[Any, tuple[str, ...]]:
    manifest = {"name": "half", "command": [], "notes": notes}
    changed, taken = portable(json.dumps(manifest).encode())
    return json.loads(changed)["notes"], taken


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ("/home/me/models/llama", "…/llama"),
        ("read from /data/my-store/x.jsonl, once", "read from …/x.jsonl, once"),
        ("source=/root/store/a,target=/out", "source=…/a,target=/out"),
        ("~/models/llama", "…/llama"),
        ("file:///home/me/x", "…/x"),
        ("/home/me/", "…/"),
        ("https://someone:word@hub.example/a/b?key=1", "https://…@hub.example/a/b?…"),
    ],
)
def test_a_place_is_shown_by_its_last_name(stated: str, shown: str) -> None:
    assert pushed(a=[{"b": stated}], c=1) == ({"a": [{"b": shown}], "c": 1}, ("notes.a.b",))


@pytest.mark.parametrize(
    "stated",
    [
        *("models/llama2-7b", "https://huggingface.co/a/b", "12 tokens/s", "1/2/3", "a / b / c"),
        *("checkpoints/half", "org/name@main", "wandb/run", "√ / x", "self_attn.q_proj", ""),
    ],
)
def test_what_is_no_place_stays(stated: str) -> None:
    assert pushed(a=stated) == ({"a": stated}, ())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(st.text(), max_size=3), json_values)
def test_nothing_of_a_machine_is_left_and_the_rest_is_as_it_was(
    command: list[str], notes: Any
) -> None:
    manifest = {"command": command, "notes": notes}
    once, taken = portable(json.dumps(manifest).encode())
    assert json.loads(once)["command"] == []
    assert portable(once) == (once, ())
    if not taken:
        assert json.loads(once) == manifest
    texts = re.findall(r'"((?:[^"\\]|\\.)*)"', once.decode())
    assert not [text for text in texts if re.match(r"(~|file://)?/[\w.-]+/", text)]
