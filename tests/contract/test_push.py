"""`make push` as a user gives it: what the hub has then, what is recorded, what is said."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.files import file_sha256
from espalier.contract.manifest import read_manifest
from espalier.contract.paths import ROOT
from espalier.contract.pruned import Foreign, Masked, Padded, PaddedLayer, Sizes
from espalier.models.narrow import COMPACT
from tests.contract.command import command, espalier, quiet_environment, refused
from tests.manifests import mark
from tests.tiny import tiny_llama
from tests.unit.hub_server import Hub, serve
from tests.unit.hub_state import ATTRIBUTES
from tests.unit.reported import evaluate

REPO = "me/half"
HALF = Masked(pattern="unstructured", target=0.5, achieved=0.5)
SIZES = Sizes(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2)
NARROW = PaddedLayer(heads=4, kv_heads=2, intermediate=96, padding={"intermediate": ((96, 128),)})
WIDE = PaddedLayer(heads=4, kv_heads=2, intermediate=128)
PADDED = Padded(before=SIZES, after=SIZES, achieved=0.1, layers=(NARROW, WIDE))
COUNTS = {"parameters": 1000, "nonzero": 600}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")


@pytest.fixture
def store(tmp_path: Path, parent: Path) -> Path:
    """A store that holds `half`, with a picture beside its weights."""
    store = tmp_path / "store"
    half = shutil.copytree(parent, store / "checkpoints" / "half")
    (half / "widths.png").write_bytes(b"picture")
    of = {"parameters": {"sparsity": 0.5, "pattern": "unstructured"}, "model": COUNTS}
    inputs = {"model": {"name": "models/tiny", "content": "0" * 64}}
    place = ["/home/someone/python", str(half)]
    mark(
        half, stage="wanda", verb="prune", pruning=HALF.model_dump(mode="json"),
        fingerprint="f" * 64, command=place, inputs=inputs, **of,
    )  # fmt: skip
    return store


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub({})) as served:
        yield served


def push(store: Path, hub: Hub, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": hub.url, "NO_PROXY": "*", "HF_TOKEN": "right", **variables}
    given = ("push", "CKPT=half", f"REPO={REPO}", *words)
    return espalier(store, *given, environment=environment)


def test_a_checkpoint_is_on_the_hub_with_its_card(store: Path, hub: Hub) -> None:
    half = store / "checkpoints" / "half"
    evaluate(store, half, 6.60, 0.745)
    done = push(store, hub)
    assert done.returncode == 0, done.stderr
    record_of = store / "pushes" / "half" / "me--half"
    assert done.stdout == f"{record_of}\n"
    head = hub.head(REPO)
    published = {file.path for file in read_manifest(half).files}
    assert set(head.files) - {ATTRIBUTES, "README.md", "manifest.json"} == (
        published - {"widths.png"}
    )
    for name in published - {"widths.png"}:
        assert head.files[name] == (half / name).read_bytes()
    card = head.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "sparsity 0.4000" in card
    assert "make prune-wanda" in card
    assert "| boolq |" in card
    assert not any(b"/home/someone" in content for content in head.files.values())
    assert "manifest.json goes without command" in done.stderr
    assert "not pushed, since no loader reads it: widths.png." in done.stderr

    record = json.loads((record_of / "push.json").read_text())
    assert (record["commit"], record["private"]) == (head.commit, False)
    hashes = {file["path"]: file["sha256"] for file in record["files"]}
    assert hashes["model.safetensors"] == file_sha256(half / "model.safetensors")
    made = read_manifest(record_of)
    assert made.parents[0] == "checkpoints/half"
    assert made.notes["commit"] == head.commit

    hub.asked.clear()
    again = push(store, hub)
    assert again.returncode == 0, again.stderr
    assert f"commit {head.commit[:12]}) has all of it already" in again.stderr
    assert all(asked.startswith("GET") for asked in hub.asked)
    assert len(hub.branches["models/" + REPO, "main"]) == 2
    assert espalier(store, "verify", "CKPT=half").returncode == 0
    assert "pushes/half/me--half" in espalier(store, "list").stdout
    assert [path.name for path in (store / "pushes" / "half").iterdir()] == ["me--half"]


def test_stopped_as_it_sends_it_shows_nothing_and_resumes(store: Path, hub: Hub) -> None:
    half = store / "checkpoints" / "half"
    shutil.copy(half / "model.safetensors", half / "model-2.safetensors")
    mark(half, stage="wanda", verb="prune")
    waiting: list[str] = []

    def holds(asked: str) -> int | None:
        if asked.startswith("POST") and asked.endswith("preupload/main") and hub.sent:
            waiting.append(asked)
            time.sleep(5)
        return None

    hub.strike = holds
    words = ("push", "CKPT=half", f"REPO={REPO}")
    environment = {"HF_ENDPOINT": hub.url, "NO_PROXY": "*", "HF_TOKEN": "right"}
    process = subprocess.Popen(
        command(store, *words), cwd=ROOT, env=quiet_environment() | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not waiting and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "run the same command to resume from file 2 of" in said
    assert set(hub.head(REPO).files) == {ATTRIBUTES}
    assert not list((store / "pushes").rglob("push.json"))
    hub.strike = lambda asked: None
    done = push(store, hub)
    assert done.returncode == 0, done.stderr
    assert "resumes from file 2 of" in done.stderr
    assert len(hub.sent) == len(set(hub.sent))


def test_a_dry_run_says_what_would_be_uploaded_and_asks_nobody(store: Path, hub: Hub) -> None:
    before = sorted(store.rglob("*"))
    done = push(store, hub, "PRIVATE=1", "DRY_RUN=1")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "push (would run)" in said
    assert "repository me/half, branch main, private" in said
    assert "model.safetensors (" in said
    assert "README.md (" in said
    assert "not pushed widths.png" in said
    assert "manifest without command" in said
    assert f"{store}/pushes/half/me--half" in said
    assert hub.asked == []
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("CKPT=other",), "CKPT=other is not on the store"),
        (("CKPT=../half",), "CKPT=../half is not on the store"),
        (("REPO=half",), "REPO=half is no repository of the hub"),
        (("REPO=",), "REPO is needed"),
        (("NAME=x",), "NAME is not a parameter here"),
        (("REVISION=refs/pr/1",), "is no branch"),
        (("PRIVATE=maybe",), "PRIVATE=maybe"),
    ],
)
def test_wrong_words_are_one_sentence(
    store: Path, hub: Hub, words: tuple[str, ...], says: str
) -> None:
    refused(push(store, hub, *words), 2, says)
    assert hub.asked == []
    assert not (store / "pushes").exists()


@pytest.mark.parametrize(
    ("form", "remedy"), [(COMPACT, "make pad"), ("espalier-sliced", "SHARED=1")]
)
def test_a_foreign_form_is_refused(store: Path, hub: Hub, form: str, remedy: str) -> None:
    pruning = Foreign(form=form, description="other layers", image="eval", achieved=0.1)
    half = store / "checkpoints" / "half"
    mark(half, stage="compact", verb="convert", pruning=pruning.model_dump(mode="json"))
    says = "half has other layers, which no stock loader reads"
    refused(push(store, hub), 2, says, remedy)
    assert hub.asked == []


def test_a_padded_one_says_so_in_its_card(store: Path, hub: Hub) -> None:
    half, counts = store / "checkpoints" / "half", {**COUNTS, "padding": 100}
    pruning = PADDED.model_dump(mode="json")
    mark(half, stage="flap", verb="prune", pruning=pruning, model=counts)
    assert push(store, hub).returncode == 0
    card = hub.head(REPO).files["README.md"].decode()
    assert "Stock loaders read it: 100 more parameters are exact zeros" in card


def test_what_the_hub_refuses_leaves_nothing(store: Path, hub: Hub) -> None:
    refused(push(store, hub, HF_TOKEN="wrong"), 2, "the hub does not accept the token")
    refused(push(store, hub, "REPO=you/half"), 2, "the token may not write to you/half")
    hub.url = "http://127.0.0.1:9"
    refused(push(store, hub), 3, "does not answer")
    assert hub.repositories == {}
    assert not list((store / "pushes").rglob("*.*"))
