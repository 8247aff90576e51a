"""Training beside Hugging Face's Trainer, on the same model and data: tokens a second, same losses.

`python -m benchmarks training --layers 6 --hidden 384 --steps 12`
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from espalier.contract.json_text import to_json
from espalier.data.tokens.index import SplitIndex, TokenIndex
from espalier.data.tokens.writer import SplitWriter

VOCABULARY, EOS, WARM = 4096, 1, 2
"""The first steps of each are not counted."""
TURNS = ("trainer", "ours", "ours", "trainer")
"""A machine that slows down or speeds up meanwhile favours neither."""


def make_model(directory: Path, layers: int, hidden: int) -> int:
    """A random float32 Llama and its number of parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(
        to_json({"model": {"vocab": {"a": 0}}, "added_tokens": []})
    )
    return sum(p.numel() for p in model.parameters())


def make_data(directory: Path, model: Path, tokens: int) -> None:
    """Random token data that the model's tokenizer counts as its own."""
    from espalier.models.tokenizer import tokenizer_hash

    directory.mkdir()
    writer = SplitWriter(directory, "train", np.dtype("<u2"), 1 << 20)
    random = np.random.default_rng(0)
    writer.append(
        [random.integers(2, VOCABULARY, 1000).astype("<u2") for _ in range(tokens // 1000 + 1)]
    )
    index = writer.finish()
    writer.move(index, directory)
    TokenIndex(
        dtype="uint16",
        tokenizer=tokenizer_hash(model) or "",
        vocabulary=VOCABULARY,
        bos=None,
        eos=EOS,
        splits={"train": index, "valid": SplitIndex.of(()), "test": SplitIndex.of(())},
    ).write(directory)


def ours(spec: dict[str, Any]) -> dict[str, Any]:
    """The trainer of `train-gpu` on one rank."""
    import torch.distributed as dist

    from espalier.contract.processes import Share
    from training.gpu_fsdp.job import FsdpRun
    from training.gpu_fsdp.spec import TrainingParameters
    from training.gpu_fsdp.worker import work
    from training.protocol.progress import RunFolders

    folder = Path(spec["folder"])
    parameters = TrainingParameters(
        tokens=spec["steps"] * spec["batch"] * spec["seqlen"],
        batch=spec["batch"],
        seqlen=spec["seqlen"],
        micro_batch=spec["micro"],
        lr=1e-4,
        schedule="constant",
        warmup=0,
        tracker="none",
        save_every=spec["steps"],
    )
    job = FsdpRun.of(parameters, {"model": folder / "model", "data": folder / "data"})
    output = folder / f"ours-{spec['turn']}"
    (output / "scratch").mkdir(parents=True)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    work(job, RunFolders(output / "scratch", output), "cpu", Share(0, 1), "ours")
    dist.destroy_process_group()
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "speeds": [row["tokens_per_second"] for row in rows],
        "losses": [row["loss"] for row in rows],
        "data": sorted(row["data_share"] for row in rows)[len(rows) // 2],
    }


def trainer(spec: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's, fed with the same windows in the same order."""
    from torch.utils.data import Dataset, SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from espalier.data.tokens.reader import TokenData
    from training.gpu_fsdp.batches import Windows
    from training.protocol.order import Order

    folder = Path(spec["folder"])
    windows = Windows(TokenData(folder / "data"), "train", spec["seqlen"], False)
    order = Order(windows.count, 0)

    class Rows(Dataset):
        def __len__(self) -> int:
            return int(spec["steps"] * spec["batch"])

        def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
            row = windows.read(order.windows_of(sample, sample + 1))
            return {"input_ids": row.inputs[0], "labels": row.targets[0]}

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            labels = inputs.pop("labels")
            logits = model(**inputs, use_cache=False).logits.float()
            total = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="sum"
            )
            # num_items_in_batch leaves a row's first label out, which is a target here.
            return total / (spec["batch"] * spec["seqlen"])

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *arguments: Any, **extra: Any) -> None:
            self.times.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=spec["micro"],
        gradient_accumulation_steps=spec["batch"] // spec["micro"],
        max_steps=spec["steps"],
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    clock = Clock()
    run = InOrder(model=model, args=arguments, train_dataset=Rows(), callbacks=[clock])
    run.train()
    tokens = spec["batch"] * spec["seqlen"]
    gaps = np.diff(clock.times)
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    return {"speeds": [tokens / gap for gap in gaps], "losses": losses}


def run_apart(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "training", "--worker", kind, to_json(spec)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks training", description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker", nargs=2)
    options = parser.parse_args(words)
    if options.worker:
        kind, spec = options.worker
        print(to_json({"ours": ours, "trainer": trainer}[kind](json.loads(spec))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make_model(folder / "model", options.layers, options.hidden)
        tokens = options.steps * options.batch * options.seqlen
        make_data(folder / "data", folder / "model", tokens + options.seqlen)
        spec = {"folder": name, **{k: v for k, v in vars(options).items() if k != "worker"}}
        found: dict[str, list[dict[str, Any]]] = {"trainer": [], "ours": []}
        for kind in TURNS:
            found[kind].append(run_apart(kind, {**spec, "turn": len(found[kind])}))
    mine, theirs = found["ours"][0], found["trainer"][0]
    speeds = [
        float(np.median([speed for run in found[kind] for speed in run["speeds"][WARM:]]))
        for kind in ("ours", "trainer")
    ]
    apart = max(abs(a - b) for a, b in zip(mine["losses"], theirs["losses"], strict=True))
    table = Table(
        *("model", "batch", "ours tokens/s", "Trainer tokens/s", "ours/Trainer"),
        *("waiting for data", "losses differ by"),
    )
    table.add_row(
        f"{parameters / 1e6:.1f} M, {options.layers} layers",
        f"{options.batch} x {options.seqlen} by {options.micro}",
        *(f"{speed:,.0f}" for speed in speeds),
        f"{speeds[0] / speeds[1]:.2f}",
        f"{mine['data']:.3%}",
        f"{apart:.1e}",
    )
    Console(width=150).print(table)
