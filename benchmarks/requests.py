"""Questions to a model by lm-eval's own way (`hf`) and as rows of a prefix tree (`torch`).

`python -m benchmarks requests --layers 12`

Minimal pairs, five-shot multiple choice and rolling windows, of random token ids and lengths as
their tasks have them; hf with the best of its batch sizes.
"""

import argparse
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.planned import PlannedLM
from eval.quiet import QuietLM

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
"""SmolLM2-135M's layers: a small model, whose output layer is a quarter of its work."""
DIFFERENCE = 1e-3
BEGIN = 0


class OfIds:
    """A text is its token ids in decimal, so that no tokenizer is measured."""

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        return [int(word) for word in string.split()]


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
    parser.add_argument("--tasks", nargs="+", default=["pairs", "5-shot", "rolling"])
    parser.add_argument("--batch", type=int, default=8, help="of torch")
    options = parser.parse_args(words)
    for name in ("lm_eval", "lm_eval.models.huggingface"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model = _model(options)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    table = Table(
        *(
            "task",
            "naive",
            "tree",
            "rows",
            "hf cpu s (batch)",
            "torch cpu s",
            "hf/torch",
            "differ by",
        ),
        title=f"{size:.0f}M parameters, float32, {torch.get_num_threads()} threads",
        box=None,
    )
    tasks: dict[str, Callable[[random.Random, Any], list[Instance]]]
    tasks = {"pairs": _pairs, "5-shot": _few_shot, "rolling": _rolling}
    for name in options.tasks:
        make = tasks[name]
        table.add_row(name, *_row(model, make(random.Random(0), options), options))
    Console(width=130).print(table)


def _row(model: Any, requests: list[Instance], options: Any) -> list[str]:
    hf = {batch: _run(_lm(Yardstick, model, batch), requests) for batch in options.batches}
    best = min(hf, key=lambda batch: hf[batch][0])
    ours = _lm(Ours, model, options.batch)
    seconds, answers = _run(ours, requests)
    pairs = zip(answers, hf[best][1], strict=True)
    # lm-eval adds up a window's thousands in float32, which rounds the sum by its size.
    difference = max(abs(a - b) / max(1, abs(a) / 1000) for a, b in pairs)
    if difference > DIFFERENCE:
        raise SystemExit(f"answers differ by {difference}; the figures are of no use.")
    counts = ours.counts
    return [
        *(f"{count:,}" for count in (counts.naive, counts.tree, counts.rows)),
        f"{hf[best][0]:.1f} ({best})",
        f"{seconds:.1f}",
        f"{hf[best][0] / seconds:.2f}",
        f"{difference:.0e}",
    ]


def _lm(kind: Any, model: Any, batch: int) -> Any:
    from tests.tiny import tokenizer

    own: PreTrainedTokenizerFast = tokenizer()
    return kind(pretrained=model, tokenizer=own, batch_size=batch)


def _run(lm: Any, requests: list[Instance]) -> tuple[float, list[float]]:
    """Seconds of the processors, which other work beside it does not change, and the answers."""
    kind = requests[0].request_type
    began = time.process_time()
    answers = getattr(lm, kind)(requests, disable_tqdm=True)
    seconds = time.process_time() - began
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


def _text(rng: random.Random, options: Any, least: int, most: int) -> str:
    count = rng.randint(least, most)
    return " ".join(str(rng.randint(2, options.vocabulary - 1)) for _ in range(count))


def _instances(kind: str, texts: Sequence[tuple[str, ...]]) -> list[Instance]:
    return [Instance(kind, {}, arguments, index) for index, arguments in enumerate(texts)]


def _pairs(rng: random.Random, options: Any) -> list[Instance]:
    """As BLiMP's: sentences of eight to sixteen tokens that part somewhere."""
    texts = []
    for _ in range(int(500 * options.scale)):
        shared = _text(rng, options, 2, 8)
        texts += [("", f"{shared} {_text(rng, options, 3, 8)}") for _ in range(2)]
    return _instances("loglikelihood", texts)


def _few_shot(rng: random.Random, options: Any) -> list[Instance]:
    """As ARC's: five examples drawn anew for each question, four answers of several tokens."""
    texts = []
    for _ in range(int(20 * options.scale)):
        context = _text(rng, options, 180, 320)
        texts += [(context, f" {_text(rng, options, 2, 8)}") for _ in range(4)]
    return _instances("loglikelihood", texts)


def _rolling(rng: random.Random, options: Any) -> list[Instance]:
    """As WikiText's documents: some shorter than the window, most of several windows."""
    texts = [(_text(rng, options, 100, 2600),) for _ in range(max(1, int(12 * options.scale)))]
    return _instances("loglikelihood_rolling", texts)
