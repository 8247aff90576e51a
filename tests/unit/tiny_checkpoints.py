"""Random checkpoints of a few thousand parameters, made by the stock classes."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext

torch.set_num_threads(1)  # tensors this small gain nothing from more

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def make_checkpoint(
    directory: Path, family: str = "Llama", dtype: Any = torch.float32, **settings: Any
) -> Any:
    """Save a random model of `family`; its stock model."""
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype).eval()
    # Initial biases and norms are constants, which would hide that they are forgotten.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = 0.1 * torch.randn(parameter.shape)
            parameter.data.copy_(noise if name.endswith("bias") else 1 + noise)
    model.save_pretrained(directory)
    return model


def make_context(model: Path, output: Path) -> StageContext:
    """A context that writes to `output`."""
    output.mkdir(parents=True, exist_ok=True)
    return StageContext({"model": model}, output, output / ".run" / "scratch", "cpu", Progress())


def make_ids(samples: int = 4, tokens: int = 24, vocabulary: int = 96) -> torch.Tensor:
    """Random token ids [samples, tokens]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (samples, tokens), generator=generator)


def load_all(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a directory's safetensors files, read by the safetensors package."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def rewrite(directory: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of a one-file checkpoint; `__` in a key stands for a dot, None removes."""
    tensors = load_all(directory)
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
