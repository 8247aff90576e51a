"""A sliced model evaluated in every suite, and what else is done with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from espalier.models.decoder import Decoder
from espalier.models.sliced import load_sliced
from methods.slicegpt.blockwise import slice_blockwise, sliced_account
from methods.slicegpt.cut import Cut
from methods.slicegpt.spec import SliceGPTParameters
from tests.contract.command import espalier, refused
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama, token_rows
from tests.unit.tiny_checkpoints import make_context

WINDOWS = ("SUITE=perplexity", "SEQLEN=32", "LIMIT=4")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sliced model among the checkpoints, and a text and rows to evaluate it on."""
    store = tmp_path_factory.mktemp("store")
    model, output = tiny_llama(store / "tiny", initializer_range=0.3), store / "checkpoints/sliced"
    ids = load_file(token_rows(store / "ids.safetensors"))["input_ids"].long()
    decoder = Decoder(model)
    cut = Cut.of(SliceGPTParameters(), decoder, ids)
    slice_blockwise(make_context(model, output), decoder, cut, ids, None)
    mark_pruned(output, sliced_account(output, cut))
    (store / "rows").mkdir()
    pair = {"sentence_good": "the quick brown fox", "sentence_bad": "fox the brown quick"}
    (store / "rows" / "order.jsonl").write_text(f"{json.dumps(pair)}\n" * 4)
    return store


def results(store: Path, *words: str) -> dict[str, dict[str, float]]:
    done = espalier(store, "eval", "CKPT=sliced", *words)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1]) / "results.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text())["results"]
    return found


def test_perplexity(store: Path) -> None:
    ids = load_file(store / "ids.safetensors")["input_ids"].long()[:4, :32]
    found = results(store, f"DATA={store}/ids.safetensors", *WINDOWS)
    with torch.inference_mode():
        logits = load_sliced(store / "checkpoints" / "sliced")(ids).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    measured = next(iter(found.values()))["ppl,none"]
    assert measured == pytest.approx(float(expected.exp()), rel=1e-4)


def test_tasks(store: Path) -> None:
    found = results(store, "SUITE=tasks", "TASKS=order", f"TASK_DATA={store}/rows")
    assert found["order"]["acc,none"] in (0.0, 1.0)


@pytest.mark.parametrize(
    "words",
    [
        ("prune-magnitude", "MODEL=sliced", "SUITE=none"),
        ("train-gpu", "CKPT=sliced", "DATA={store}/rows/order.jsonl"),
        ("compact", "CKPT=sliced"),
        ("eval", "CKPT=sliced", "LEGACY=1", "SUITE=tasks", "TASK_DATA={store}/rows"),
    ],
    ids=lambda words: words[0],
)
def test_what_cannot_read_it_says_so(store: Path, words: tuple[str, ...]) -> None:
    done = espalier(store, *(word.format(store=store) for word in words))
    refused(done, 2, "sliced has another basis of the residual stream at every block", "image eval")
