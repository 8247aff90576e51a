"""A store by hand that a report is written of: a parent, what was pruned of it, evaluations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Masked, MaskedLayer
from tests.manifests import mark

PRETRAINING = {"kind": "pretraining", "stage": "fetch", "name": "llama2-7b",
               "tokens": 2 * 10**12, "flops": 8e22}  # fmt: skip
PRUNING = {"kind": "pruning", "stage": "wanda", "name": "half", "tokens": 4096, "flops": 1e12}
HALF = Masked(
    pattern="unstructured", target=0.5, achieved=0.5,
    layers=tuple(
        MaskedLayer(layer=n, sparsity=0.5, zeros=50, matrices={"self_attn.q_proj": 0.25 * n})
        for n in range(3)
    ),
)  # fmt: skip


def model(
    store: Path, name: str, section: str = "checkpoints", stage: str = "wanda", **said: Any
) -> Path:
    """A model on the store without weights."""
    folder = store / section / name
    folder.mkdir(parents=True)
    write_text(folder / "config.json", json.dumps({"name": name}))
    mark(folder, stage=stage, **{"verb": "prune", **said})
    return folder


def record_of(store: Path, path: Path) -> dict[str, str]:
    """How a manifest names an input."""
    return {"name": str(path.relative_to(store)), "content": read_manifest(path).content}


def a_store(store: Path) -> Path:
    """llama2-7b, fetched, and half of it pruned by Wanda, both evaluated as the paper does."""
    parent = model(
        store, "llama2-7b", "models", "fetch", verb="fetch",
        parameters={"model": "llama2-7b", "revision": "main"}, ledger=[PRETRAINING],
        model={"parameters": 1000, "nonzero": 1000}, notes={"licence": "MIT"},
    )  # fmt: skip
    half = model(
        store, "half", inputs={"model": record_of(store, parent)},
        parameters={"sparsity": 0.5, "pattern": "unstructured", "seed": 0},
        pruning=HALF.model_dump(mode="json"), ledger=[PRETRAINING, PRUNING],
        model={"parameters": 1000, "nonzero": 600},
    )  # fmt: skip
    evaluate(store, parent, 5.13, 0.777)
    evaluate(store, half, 6.60, 0.745)
    return half


def evaluate(
    store: Path,
    checkpoint: Path,
    ppl: float,
    accuracy: float,
    *,
    suite: str = "whole",
    text: Mapping[str, Any] | None = None,
    harness: str = "0.4.13",
    limit: int | None = None,
    named: Mapping[str, str] | None = None,
    shots: int = 0,
) -> Path:
    """An evaluation of it: a perplexity, and boolq and rte with one accuracy.

    `named` is which of their keys counts: `acc_norm,none` is a tenth less than `acc,none`.
    """
    folder = store / "evals" / checkpoint.name / suite
    folder.mkdir(parents=True)
    about = {"seqlen": 4096, "windows": 83, "windows_available": 83, "sha256": "a" * 64}
    tasks = ("boolq", "rte")
    scores = {"acc,none": accuracy, "acc_stderr,none": 0.03, "alias": "a task"}
    if named:
        scores |= {"acc_norm,none": accuracy - 0.1, "acc_norm_stderr,none": 0.04}
    chosen = {task: {"metadata": {"metric": key}} for task, key in (named or {}).items()}
    results = {
        "results": {
            "perplexity/wikitext2": {"ppl,none": ppl, "ppl_stderr,none": 0.1},
            **dict.fromkeys(tasks, scores),
        },
        "configs": {"perplexity/wikitext2": {"metadata": {**about, **(text or {})}}, **chosen},
        "versions": dict.fromkeys(tasks, 2),
        "n-shot": dict.fromkeys(tasks, shots),
        "n-samples": {task: {"original": 100, "effective": limit or 100} for task in tasks},
        "config": {"model_dtype": "torch.bfloat16"},
        "lm_eval_version": harness,
    }
    write_text(folder / "results.json", json.dumps(results))
    inputs = {"model": record_of(store, checkpoint)}
    mark(
        folder, stage="eval", verb="eval", name=f"{checkpoint.name}/{suite}", inputs=inputs,
        parameters={"suite": "perplexity", "limit": limit}, timing={"seconds": 60.0},
        peak_memory_bytes=1 << 30,
    )  # fmt: skip
    return folder
