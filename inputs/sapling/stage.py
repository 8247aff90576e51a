"""Grow sapling: its tokenizer, its token data, then the model, to the same bytes every time."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Outcome, StageContext
from espalier.data.text import Description, Documents, split_files
from espalier.models.checkpoint.companions import CONFIG
from inputs.data import stage as packing
from inputs.data.spec import DataParameters
from inputs.sapling.saved import TRAINING
from inputs.sapling.spec import GrowParameters
from inputs.sapling.tokenizer import (
    BEGIN_ID,
    END_ID,
    VOCABULARY,
    save_tokenizer,
    train_tokenizer,
)
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.launch import train
from training.gpu_fsdp.spec import TrainingParameters
from training.protocol.account import training_section
from training.protocol.progress import RunFolders

POSITIONS = 512
BATCH = 2
TOKENS = BATCH * POSITIONS
"""Of an optimizer step."""
ENDLESS = 1e9
"""Passes over its text: as many as its steps take."""
THREADS = 1
"""Sums over parts of a matrix depend on how many there are, so never on the machine's cores; and
threads that wait for one another on busy cores make so small a model slower, not faster."""


def config() -> dict[str, Any]:
    """Sapling's shape: 1.05 M parameters, two query heads a key/value head."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "float32",
    }


def recipe(parameters: GrowParameters) -> TrainingParameters:
    """How it is trained: from scratch, by Muon, for as many passes over its text as that takes."""
    return TrainingParameters(
        tokens=parameters.steps * TOKENS,
        epochs=ENDLESS,
        batch=BATCH,
        init="random",
        optimizer="muon",
        lr=1e-2,
        schedule="linear",
        final_lr=0.05,
        seed=parameters.seed,
        valid_every=parameters.steps,
        save_every=max(1, parameters.steps // 4),
        tracker="none",
    )


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train on the data set's `train` split; report the loss on its `validation` split."""
    assert isinstance(parameters, GrowParameters)  # noqa: S101
    seed, tokens = context.scratch / "seed", context.scratch / "tokens"
    with _deterministic():
        _prepare(context, seed, tokens)
        inputs = {"architecture": seed / CONFIG, "tokenizer": seed, "data": tokens}
        job = FsdpRun.of(recipe(parameters), inputs)
        place = RunFolders(context.scratch / TRAINING, context.output)
        place.scratch.mkdir(exist_ok=True)
        found = train(job, place, "cpu", "sapling", Processes())
    _, loss = found["valid"][-1]
    context.progress.say(f"sapling: validation loss {loss:.3f} (perplexity {math.exp(loss):.1f})")
    return Outcome(
        training=training_section(job, found),
        data={
            "name": Description.read(context.inputs["data"]).name,
            "tokens_seen": job.budget.tokens,
            "tokens_in_set": job.budget.windows * POSITIONS + 1,
        },
        checks={"validation_loss": loss, "validation_perplexity": math.exp(loss)},
    )


def _prepare(context: StageContext, seed: Path, tokens: Path) -> None:
    """The tokenizer beside its config.json, and the text packed with it."""
    for folder in (seed, tokens, context.scratch / "packing"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    text = context.inputs["data"]
    save_tokenizer(train_tokenizer(Documents(*split_files(text, "train"))), seed, POSITIONS)
    write_text(seed / CONFIG, to_json(config(), indent=2, sort_keys=True) + "\n")
    packed = replace(
        context,
        inputs={"text": text, "tokenizer": seed},
        output=tokens,
        scratch=context.scratch / "packing",
    )
    packing.run(packed, DataParameters())


@contextmanager
def _deterministic() -> Iterator[None]:
    """A fixed number of threads, put back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
