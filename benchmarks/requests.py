"""Questions to a model by lm-eval's own way (`hf`) and as rows of a prefix tree (`torch`).

`python -m benchmarks requests --layers 12`

Minimal pairs, five-shot multiple choice and rolling windows, of random token ids and lengths as
their tasks have them; hf with the best of its batch sizes. The limit is what the tree's tokens take
at the rate that `torch` multiplies the model's matrices at, if nothing else took time.
"""

import argparse
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.questions import TASKS, OfIds
from benchmarks.timed import best_seconds
from espalier.contract.json_text import to_json
from espalier.models.products import products, quickest_products
from eval.planned import PlannedLM
from eval.quiet import QuietLM

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
"""SmolLM2-135M's layers: a small model, whose output layer is a quarter of its work."""
DIFFERENCE = 1e-3


class Yardstick(OfIds, QuietLM):
    """lm-eval's own, without the bars that it draws for each batch of rolling windows."""

    def _loglikelihood_tokens(self, requests: Any, *_: Any, **given: Any) -> Any:
        return super()._loglikelihood_tokens(requests, **{**given, "disable_tqdm": True})


class Ours(OfIds, PlannedLM):
    """Rows."""


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks requests", description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--scale", type=float, default=1.0, help="how many questions")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--batch", type=int, default=8, help="of torch")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(words)
    for name in ("lm_eval", "lm_eval.models.huggingface"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model = _model(options)
    size = sum(p.numel() for p in model.parameters())
    columns = ("task", "naive", "tree", "rows", "hf s (batch)", "torch s", "hf/torch", "limit s")
    kernel = quickest_products(torch.float32, "cpu")
    threads = f"{torch.get_num_threads()} threads"
    title = f"{size / 1e6:.0f}M parameters, float32, {threads}, products of torch: {kernel}"
    table = Table(*columns, "torch/limit", "differ by", title=title, box=None)
    with products(kernel):
        figures, speed = [], _products_per_second()
    for name in options.tasks:
        questions = TASKS[name](random.Random(0), options.vocabulary, options.scale)
        found = _measured(model, questions, options, kernel)
        found |= {"task": name, "limit": 2 * size * found["tree_tokens"] / speed}
        figures.append(found)
        table.add_row(
            name,
            *(f"{found[count]:,}" for count in ("naive_tokens", "tree_tokens", "row_tokens")),
            f"{found['hf']:.1f} ({found['hf_batch']})",
            f"{found['torch']:.1f}",
            f"{found['hf'] / found['torch']:.2f}",
            f"{found['limit']:.1f}",
            f"{found['torch'] / found['limit']:.2f}",
            f"{found['difference']:.0e}",
        )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(to_json(figures))


def _measured(model: Any, requests: list[Instance], options: Any, kernel: str) -> dict[str, Any]:
    hf = {batch: _run(_lm(Yardstick, model, batch), requests) for batch in options.batches}
    best = min(hf, key=lambda batch: hf[batch][0])
    ours = _lm(Ours, model, options.batch)
    with products(kernel):
        seconds, answers = _run(ours, requests)
    pairs = zip(answers, hf[best][1], strict=True)
    # lm-eval adds up a window's thousands in float32, which rounds the sum by its size.
    difference = max(abs(a - b) / max(1, abs(a) / 1000) for a, b in pairs)
    if difference > DIFFERENCE:
        raise SystemExit(f"answers differ by {difference}; the figures are of no use.")
    counts = ours.counts
    return {
        "naive_tokens": counts.naive,
        "tree_tokens": counts.tree,
        "row_tokens": counts.rows,
        "hf": hf[best][0],
        "hf_batch": best,
        "torch": seconds,
        "difference": difference,
    }


def _products_per_second() -> float:
    """Operations of a matrix product of the model's sizes, at its best."""
    x, w = torch.randn(2048, SHAPE["hidden_size"]), torch.randn(1536, SHAPE["hidden_size"])
    with torch.inference_mode():
        seconds = best_seconds(lambda: torch.nn.functional.linear(x, w), 20)
    return 2 * x.numel() * len(w) / seconds


def _lm(kind: Any, model: Any, batch: int) -> Any:
    from tests.tiny_tokenizer import tokenizer

    own: PreTrainedTokenizerFast = tokenizer()
    return kind(pretrained=model, tokenizer=own, batch_size=batch)


def _run(lm: Any, requests: list[Instance]) -> tuple[float, list[float]]:
    """Seconds, and the answers."""
    kind = requests[0].request_type
    began = time.perf_counter()
    answers = getattr(lm, kind)(requests, disable_tqdm=True)
    seconds = time.perf_counter() - began
    return seconds, [answer if kind.endswith("rolling") else answer[0] for answer in answers]


def _model(options: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE,
        num_hidden_layers=options.layers,
        num_key_value_heads=3,
        vocab_size=options.vocabulary,
        max_position_embeddings=options.window,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()
