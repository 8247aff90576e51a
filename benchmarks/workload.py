"""What a benchmark is asked for on its command line: a random model of a real shape, and tokens."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.random_checkpoint import SHAPES, checkpoint
from espalier.models.shapes import Shapes, read_config


def options_of(
    name: str, about: str | None, *, shape: str, layers: int, samples: int, length: int
) -> argparse.ArgumentParser:
    """The options that all have, with these defaults."""
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("--shape", choices=sorted(SHAPES), default=shape)
    parser.add_argument("--layers", type=int, default=layers, help="0: the shape's own depth")
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--length", type=int, default=length)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier-bench"
    parser.add_argument("--cache", type=Path, default=cache)
    return parser


class Workload:
    """The options as they were given, and what they name on the disk.

    Attributes:
        options: the parsed words.
        model: the checkpoint, made where it is absent.
        shapes: its sizes.
        tokens: `input_ids` int64 [samples, length] of its vocabulary.
    """

    def __init__(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        self.options = options = parser.parse_args(words)
        options.cache.mkdir(parents=True, exist_ok=True)
        layers = options.layers or int(SHAPES[options.shape]["num_hidden_layers"])
        self.model = checkpoint(options.cache, options.shape, layers)
        self.shapes = Shapes.of(read_config(self.model))
        self.tokens = self._tokens()

    def __str__(self) -> str:
        return f"{self.model.name}, {self.options.samples} x {self.options.length} tokens"

    def spec(self, method: str, **more: object) -> dict[str, object]:
        """What a worker is told."""
        return {"method": method, "model": str(self.model), "tokens": str(self.tokens), **more}

    def _tokens(self) -> Path:
        size = (self.options.samples, self.options.length)
        vocabulary = self.shapes.vocabulary
        file: Path = self.options.cache / f"tokens-of-{vocabulary}-{size[0]}-{size[1]}.safetensors"
        generator = torch.Generator().manual_seed(0)
        save_file({"input_ids": torch.randint(0, vocabulary, size, generator=generator)}, file)
        return file
