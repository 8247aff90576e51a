"""Questions to a model in JAX one at a time (`naive`) and as rows of a prefix tree (`jax`).

`python -m benchmarks jax-rows --layers 12`, in the packages of image `maxtext`

Naive is a thin wrapper of MaxText's model as it stands: a question at a time, a program for every
length, and a wait for the device at each scored token. Both are run twice: the first run compiles,
the second does not. The limit is what the tree's tokens take at the rate that JAX multiplies the
model's matrices at, if nothing else took time.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from lm_eval.api.instance import Instance
from rich.console import Console
from rich.table import Table

from benchmarks.questions import TASKS, OfIds
from benchmarks.timed import best_seconds
from espalier.contract.json_text import to_json
from espalier.data.token_ids import ModelLimits
from espalier.models.shapes import Shapes
from eval.maxtext.rows import JaxRows
from eval.requests.plan import Plan, row_lengths
from eval.requests.scores import Scores
from eval.token_lm import TokenLM
from training.maxtext_model.checkpoint import Arrays
from training.maxtext_model.model import Model
from training.maxtext_model.trees import TreeModel

Loaded = tuple[TreeModel, Arrays]

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "head_dim": 64}
"""SmolLM2-135M's layers: a small model, whose output layer is a quarter of its work."""
AS_IT_STANDS = {
    "hardware": "cpu",
    "scan_layers": True,
    "dtype": "float32",
    "weight_dtype": "float32",
    "matmul_precision": "highest",
    "attention": "dot_product",
    "ici_data_parallelism": -1,
    "ici_fsdp_parallelism": 1,
    "per_device_batch_size": 1,
}
"""Keys of MaxText's for a processor."""
DIFFERENCE = 1e-3


class Naive:
    """One question at a time."""

    dtype = "float32"

    def __init__(self, model: TreeModel, arrays: Arrays) -> None:
        self._model, self._arrays = model, arrays
        self._forward = jax.jit(self._chances)

    def lengths(self, longest: int) -> list[int]:
        """Nothing is put into rows."""
        return row_lengths(longest)

    def cost(self, length: int, chain: bool) -> float:
        """Nor has a row a cost."""
        return float(length)

    def score(self, plan: Plan) -> Scores:
        """Each request, in the order asked."""
        sums, greedy, likeliest = [], [], []
        with self._model.placed():
            for request in plan.requests:
                chances = self._forward(self._arrays, jnp.asarray(request.inputs[None]))
                total, best, token = 0.0, True, 0
                start = len(request.inputs) - len(request.targets)
                for place, target in enumerate(request.targets.tolist(), start):
                    total += float(chances[place, target])
                    token = int(chances[place].argmax())
                    best &= token == target
                sums.append(total)
                greedy.append(best)
                likeliest.append(token)
        read = sum(len(request.inputs) for request in plan.requests)
        return Scores(sums, greedy, likeliest, read)

    def _chances(self, arrays: Arrays, ids: jax.Array) -> jax.Array:
        """Log-probabilities [T, V] of ids [1, T]."""
        length = ids.shape[1]
        places, document = jnp.arange(length)[None], jnp.ones((1, length), jnp.int32)
        states = self._model.states(arrays, ids, places, document)
        return jax.nn.log_softmax(self._model.logits(arrays, states)[0], axis=-1)


class Asked(OfIds, TokenLM):
    """lm-eval's model of either."""


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks jax-rows", description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--scale", type=float, default=1.0, help="how many questions")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--batch", type=int, default=8, help="of jax")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        config, naive, ours = _models(Path(scratch), options)
    arrays = ours[1]
    size = sum(array.size for array in arrays.values()) / 1e6
    columns = ("task", "naive", "tree", "rows", "naive s", "warm", "jax s", "warm", "ratio", "warm")
    title = f"{size:.0f}M parameters, float32, seconds with compiling and without"
    table = Table(*columns, "limit s", "warm/limit", "differ by", title=title, box=None)
    figures, speed = [], _products_per_second()
    for name in options.tasks:
        questions = TASKS[name](random.Random(0), options.vocabulary, options.scale)
        found = _measured(Shapes.of(config), naive, ours, questions, options)
        found |= {"task": name, "limit": 2e6 * size * found["tree_tokens"] / speed}
        figures.append(found)
        table.add_row(
            name,
            *(f"{found[count]:,}" for count in ("naive_tokens", "tree_tokens", "row_tokens")),
            *(f"{found[way]:.1f}" for way in ("naive", "naive_warm", "jax", "jax_warm")),
            f"{found['naive'] / found['jax']:.1f}",
            f"{found['naive_warm'] / found['jax_warm']:.1f}",
            f"{found['limit']:.1f}",
            f"{found['jax_warm'] / found['limit']:.2f}",
            f"{found['difference']:.0e}",
        )
    Console(width=150).print(table)
    if options.json:
        options.json.write_text(to_json(figures))


def _measured(
    shapes: Shapes, wrapped: Loaded, planned: Loaded, questions: list[Instance], given: Any
) -> dict[str, Any]:
    naive = _twice(_asked(Naive(*wrapped), given), questions)
    rows = JaxRows(*planned, shapes, given.batch)
    lm = _asked(rows, given)
    ours = _twice(lm, questions)
    pairs = zip(ours[2], naive[2], strict=True)
    difference = max(abs(a - b) / max(1, abs(a) / 1000) for a, b in pairs)
    if difference > DIFFERENCE:
        raise SystemExit(f"answers differ by {difference}; the figures are of no use.")
    counts = lm.counts  # of both runs
    return {
        "naive_tokens": counts.naive // 2,
        "tree_tokens": counts.tree // 2,
        "row_tokens": counts.rows // 2,
        "naive": naive[0],
        "naive_warm": naive[1],
        "jax": ours[0],
        "jax_warm": ours[1],
        "difference": difference,
    }


def _asked(scorer: Any, given: Any) -> Asked:
    from tests.tiny_tokenizer import tokenizer

    return Asked(tokenizer(), scorer, ModelLimits(given.window, given.vocabulary))


def _twice(lm: Asked, questions: list[Instance]) -> tuple[float, float, list[float]]:
    """Seconds of the first run and of the second, and the answers."""
    kind, seconds, answers = questions[0].request_type, [], []
    for _ in range(2):
        began = time.perf_counter()
        answers = getattr(lm, kind)(questions, disable_tqdm=True)
        seconds.append(time.perf_counter() - began)
    values = [answer if kind.endswith("rolling") else answer[0] for answer in answers]
    return seconds[0], seconds[1], values


def _models(folder: Path, options: Any) -> tuple[dict[str, Any], Loaded, Loaded]:
    """Random weights, read as a checkpoint's are: MaxText's model as it stands, and ours."""
    from tests.maxtext.plain_llama import random_checkpoint

    config = random_checkpoint(
        folder,
        scale=0.02,
        **SHAPE,
        num_hidden_layers=options.layers,
        num_key_value_heads=3,
        vocab_size=options.vocabulary,
        max_position_embeddings=options.window,
        tie_word_embeddings=True,
    )
    plain = Model.of(config, {**AS_IT_STANDS, "max_target_length": options.window})
    models = TreeModel(plain, "float32", scanned=True), TreeModel.of(config, "float32", "cpu")
    naive, ours = ((model, model.load(folder, config)) for model in models)
    return config, naive, ours


def _products_per_second() -> float:
    """Operations of a matrix product of the model's sizes, at its best."""
    x, w = jnp.ones((2048, SHAPE["hidden_size"])), jnp.ones((SHAPE["hidden_size"], 1536))
    product = jax.jit(jnp.matmul)
    seconds = best_seconds(lambda: product(x, w).block_until_ready(), 20)
    return 2 * x.size * w.shape[1] / seconds
