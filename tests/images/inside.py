"""Run inside an image, by one interpreter: prints what it finds there as one JSON object."""

import contextlib
import getpass
import io
import json
import runpy
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
FORBIDDEN = ("/", "/opt", "/opt/venv", "/opt/espalier", "/run", "/home")
OF_THE_BUILDER = ("/run/secrets", "/wheels")


def contents() -> dict[str, Any]:
    """What the image's own check says: its hard imports work, its packages fit together."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path("/opt/image/check.py", run_name="__main__")
    found: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
    return found


def families() -> list[str]:
    """Those that its transformers knows, once a tiny model went through all a stage does."""
    if not find_spec("torch") or not find_spec("transformers"):
        return []
    import torch
    import transformers

    done = []
    for name in ("Llama", "Qwen3"):
        if not hasattr(transformers, f"{name}Config"):
            continue
        torch.manual_seed(0)
        family = getattr(transformers, f"{name}ForCausalLM")
        model = family(getattr(transformers, f"{name}Config")(**SHAPE)).eval()
        tokens = torch.randint(0, 64, (2, 16))
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        assert torch.isfinite(loss)
        grown = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False
        )
        assert grown.shape == (2, 20)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            assert torch.equal(again(tokens).logits, model(tokens).logits)
        done.append(name)
    return done


def sums_by_jax() -> list[Any]:
    """Its device, and a sum of ones and zeros, where it holds jax."""
    if not find_spec("jax"):
        return []
    import jax

    return [jax.default_backend(), float((jax.numpy.eye(3) * 2).sum())]


def writable(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def left(folder: str) -> list[str]:
    path = Path(folder)
    return [held.name for held in path.iterdir()] if path.is_dir() else []


if __name__ == "__main__":
    report = {
        "contents": contents(),
        "families": families(),
        "jax": sums_by_jax(),
        "torch": find_spec("torch") is not None,
        "user": getpass.getuser(),
        "ps": subprocess.run(["ps"], check=False, capture_output=True).returncode,
        "writable": [folder for folder in ("/tmp", *FORBIDDEN) if writable(folder)],
        "left": [name for folder in OF_THE_BUILDER for name in left(folder)],
    }
    sys.stdout.write(json.dumps(report) + "\n")
