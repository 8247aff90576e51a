"""Grow sapling: train its tokenizer, then the model, to the same bytes every time.

An interrupted run starts again: the whole of it takes about a minute.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from espalier.parameters import Parameters
from espalier.stage import Outcome, StageContext
from espalier.text import Description, Documents, split_file
from espalier.tokenized import sha256_of_ids
from training.sapling.optimizer import Muon
from training.sapling.spec import GrowParameters
from training.sapling.tokenizer import (
    BEGIN_ID,
    END_ID,
    VOCABULARY,
    save_tokenizer,
    train_tokenizer,
)

POSITIONS = 512
TOKENS = 1024
"""Of an optimizer step, in windows of `SHORT` first and of `POSITIONS` for the last part."""
SHORT, LONG_PART = 128, 0.25
PEAK_RATE, FINAL_RATE, WARMUP = 1e-2, 5e-4, 0.05
WEIGHT_DECAY = 0.1
CLIP = 1.0
THREADS = 1
"""Sums over parts of a matrix depend on how many there are, so never on the machine's cores; and
threads that wait for one another on busy cores make so small a model slower, not faster."""


def config() -> LlamaConfig:
    """Sapling's shape: 1.05 M parameters, two query heads a key/value head."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        rms_norm_eps=1e-5,
    )


def rate(step: int, steps: int) -> float:
    """Learning rate of `step`: linear warm-up, then linear to the final rate."""
    warmup = max(1, int(WARMUP * steps))
    if step < warmup:
        return PEAK_RATE * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return PEAK_RATE + (FINAL_RATE - PEAK_RATE) * progress


def window_width(step: int, steps: int) -> int:
    """Tokens a window at `step`: short ones teach faster, long ones all positions."""
    return POSITIONS if step >= (1 - LONG_PART) * steps else SHORT


def stream(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """All documents as one row of ids int64 [tokens], each ended by `</s>`."""
    ids = [i for text in texts for i in [*tokenizer.encode(text).ids, END_ID]]
    return torch.tensor(ids, dtype=torch.int64)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of each next token of windows `ids` int64 [batch, tokens]."""
    logits = model(ids, use_cache=False).logits  # [batch, tokens, vocabulary]
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Mean loss over whole windows of a stream int64 [tokens]; a shorter stream is one window."""
    width = min(POSITIONS, len(ids))
    windows = ids[: len(ids) // width * width].view(-1, width)
    with torch.no_grad():
        return float(torch.stack([loss_of(model, window[None]) for window in windows]).mean())


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train on the data set's `train` split; report loss on its `test` split."""
    assert isinstance(parameters, GrowParameters)  # noqa: S101
    data = context.inputs["data"]
    texts = {split: list(Documents(split_file(data, split))) for split in ("train", "test")}
    transformers.utils.logging.disable_progress_bar()
    with _Deterministic():
        tokenizer = train_tokenizer(texts["train"])
        ids = {split: stream(tokenizer, documents) for split, documents in texts.items()}
        model = _train(context, parameters, ids["train"])
        test = held_out_loss(model, ids["test"])
    _save(model, tokenizer, context.output, context.scratch)
    context.progress.say(
        f"sapling: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"test loss {test:.3f} (perplexity {math.exp(test):.1f})"
    )
    return Outcome(
        data={
            "name": Description.read(data).name,
            "sha256": sha256_of_ids(ids["train"]),
            "tokens_seen": parameters.steps * TOKENS,
            "tokens_in_set": len(ids["train"]),
        },
        checks={"test_loss": test, "test_perplexity": math.exp(test)},
    )


def _train(
    context: StageContext, parameters: GrowParameters, ids: torch.Tensor
) -> LlamaForCausalLM:
    torch.manual_seed(parameters.seed)
    model = LlamaForCausalLM(config()).train()
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(hidden, WEIGHT_DECAY)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, foreach=True)
    draws = torch.Generator().manual_seed(parameters.seed)
    with context.progress.steps("grow sapling", parameters.steps) as steps:
        for step in range(parameters.steps):
            width = window_width(step, parameters.steps)
            starts = torch.randint(len(ids) - width, (TOKENS // width,), generator=draws).tolist()
            loss = loss_of(model, torch.stack([ids[s : s + width] for s in starts]))
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            now = rate(step, parameters.steps)
            adam.param_groups[0]["lr"] = now
            adam.step()
            muon.step(now)
            steps.advance(loss=loss.item(), rate=now)
    return model


def _save(model: Any, tokenizer: Tokenizer, output: Path, scratch: Path) -> None:
    """Write a checkpoint that transformers 4.46 and 5 both read, each file whole or absent."""
    staging = scratch / "model"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model.save_pretrained(staging, max_shard_size="5GB")
    path = staging / "config.json"
    written = json.loads(path.read_text())
    # transformers 5 keeps rope_theta inside rope_parameters and dtype without its torch_ prefix
    written |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, staging, POSITIONS)
    for file in sorted(staging.iterdir()):
        file.rename(output / file.name)


class _Deterministic:
    """Deterministic kernels and a fixed number of threads, put back afterwards."""

    def __enter__(self) -> None:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *error: object) -> None:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(self._threads)
