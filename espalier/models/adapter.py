"""One adapter for Llama-like families: stock layers, filled a layer at a time.

The stock model is built without memory (on torch's meta device) and gives names, shapes and layers;
a layer becomes real when its weights are read into it.

Shapes: B samples, T tokens, H hidden, V vocabulary.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espalier.contract.json_text import from_json, to_json
from espalier.errors import InputError
from espalier.models.checkpoint.locate import BUFFERS, locate
from espalier.models.checkpoint.reader import TORCH_DTYPES, CheckpointReader
from espalier.models.content import check_sizes
from espalier.models.shapes import DTYPE_BYTES, Shapes, read_config
from espalier.models.stock import refused, stock_config, stock_model

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Positions:
    """What every layer is given beside the hidden states, for sequences of one length.

    Attributes:
        ids: int64 [1, T].
        embeddings: cosines and sines, each [1, T, head_dim]; None where layers make their own.
        sliding_mask: bool [1, 1, T, T], True = visible; None where the causal kernel is enough.
    """

    ids: Tensor
    embeddings: tuple[Tensor, Tensor] | None
    sliding_mask: Tensor | None


class Architecture:
    """A checkpoint's decoder, able to build any one of its layers.

    Attributes:
        config: the stock configuration object.
        shapes: sizes.
        num_layers: decoder layers.

    Raises:
        InputError: an unsupported family or a config that the stock model refuses.
        EnvironmentFailure: the installed transformers does not know the family.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.shapes = Shapes.of(raw)
        self.num_layers = self.shapes.layers
        self.config = stock_config(raw)
        small = _miniature_config(self.config, self.shapes)
        try:
            with torch.device("meta"):
                self._skeleton = stock_model(self.config).eval()
            self._miniature = stock_model(small).model.eval()
        except Exception as error:  # noqa: BLE001 - a stock model checks its config by failing
            raise refused(error) from None

    @classmethod
    def of(cls, directory: Path) -> "Architecture":
        """The architecture of a Hugging Face directory; made once for each config.json.

        Raises:
            InputError: as the class, or its config.json states other sizes than its weights have.
        """
        config = read_config(directory)
        check_sizes(directory, config, locate(directory))
        return _made(to_json(config))

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the stock model reads, tied ones included, with its shape."""
        return {name: tuple(t.shape) for name, t in self._skeleton.state_dict().items()}

    def empty_decoder(self, layers: int) -> nn.Module:
        """The stock decoder without memory, with its first `layers` layers and rotary tables."""
        decoder = copy.deepcopy(self._skeleton.model)
        decoder.config = copy.deepcopy(self.config)
        decoder.config.num_hidden_layers = layers
        decoder.layers = decoder.layers[:layers]
        if (rotary := getattr(decoder, "rotary_emb", None)) is not None:
            decoder.rotary_emb = type(rotary)(config=self.config)
        return decoder

    def layer_tensor_names(self, layer: int) -> list[str]:
        """The full names of one layer's tensors."""
        return [_prefix(layer) + name for name in self._skeleton.model.layers[layer].state_dict()]

    def outer_tensor_names(self, reader: CheckpointReader) -> list[str]:
        """The checkpoint's tensors outside the decoder layers."""
        expected = self.expected_shapes()
        return [n for n in expected if n in reader and not n.startswith("model.layers.")]

    def check(self, reader: CheckpointReader) -> None:
        """Compare a checkpoint's names and shapes with the stock model's.

        Raises:
            InputError: a tensor is missing, unknown, of another shape or not floating point.
        """
        expected = self.expected_shapes()
        for name, shape in expected.items():
            if name not in reader:
                if name == HEAD and self.shapes.tied:
                    continue
                raise InputError(f"{reader.directory} lacks the tensor {name} its config asks for.")
            entry = reader.entries[name]
            if entry.shape != shape:
                raise InputError(
                    f"{name} has shape {list(entry.shape)} where config.json of {reader.directory} "
                    f"asks for {list(shape)}."
                )
            if dtype_name(entry.dtype) not in DTYPE_BYTES:
                raise InputError(
                    f"{name} is stored as {entry.dtype}; weights must be float32, bfloat16 or "
                    "float16."
                )
        unknown = [n for n in reader.entries if n not in expected and not BUFFERS.search(n)]
        if unknown:
            raise InputError(
                f"{reader.directory} holds {unknown[0]}, which a stock "
                f"{type(self._skeleton).__name__} does not have."
            )

    def dtype(self, reader: CheckpointReader) -> Any:
        """The dtype of the checkpoint's matrices, in which hidden states are kept."""
        return TORCH_DTYPES[reader.entries[self.layer_tensor_names(0)[0]].dtype]

    def load_layer(
        self, reader: CheckpointReader, layer: int, dtype: Any, device: str = "cpu"
    ) -> nn.Module:
        """The stock decoder layer `layer` with its weights, in evaluation mode.

        Raises:
            InputError: a weight is NaN or infinite.
        """
        return self.fill_layer(self.empty_layer(layer), reader, layer, dtype, device)

    def empty_layer(self, layer: int) -> nn.Module:
        """The stock decoder layer `layer` without memory."""
        return copy.deepcopy(self._skeleton.model.layers[layer])

    def fill_layer(
        self, module: nn.Module, reader: CheckpointReader, layer: int, dtype: Any, device: str
    ) -> nn.Module:
        """The same module with the weights of layer `layer`, by the names that it has for them.

        Raises:
            InputError: a weight is NaN or infinite.
        """
        prefix = _prefix(layer)
        weights = {
            name: reader.read(prefix + name).to(device=device, dtype=dtype)
            for name in module.state_dict()
        }
        module.load_state_dict(weights, assign=True)
        module.requires_grad_(requires_grad=False)
        # Rotary tables are no weights: they come from a model small enough to be built in full.
        for name, buffer in list(module.named_buffers()):
            if buffer.is_meta:
                owner, _, leaf = name.rpartition(".")
                real = self._miniature.layers[0].get_submodule(owner)
                module.get_submodule(owner).register_buffer(
                    leaf, getattr(real, leaf).to(device), persistent=False
                )
        return module

    def positions(
        self, tokens: int, dtype: Any, device: str = "cpu", *, ids: Tensor | None = None
    ) -> Positions:
        """Positions for `run_layer`, 0 to `tokens` - 1 unless `ids` (int64 [1, T]) has others.

        Cosines and sines are in `dtype`.
        """
        if ids is None:
            ids = torch.arange(tokens, device=device)[None]  # [1, T]
        rotary = getattr(self._miniature, "rotary_emb", None)
        embeddings = None
        if rotary is not None:
            probe = torch.empty((1, tokens, 1), dtype=dtype, device=device)
            embeddings = rotary.to(device)(probe, ids)
        window = getattr(self.config, "sliding_window", None)
        mask = None
        if window is not None and tokens > window:
            distance = ids[0][:, None] - ids[0][None, :]  # [T queries, T keys]
            mask = ((distance >= 0) & (distance < window))[None, None]
        return Positions(ids, embeddings, mask)

    def run_layer(
        self, module: nn.Module, layer: int, hidden: Tensor, positions: Positions
    ) -> Tensor:
        """Hidden states [B, T, H] through decoder layer `layer`: [B, T, H]."""
        extra: dict[str, Any] = {}
        if positions.embeddings is not None:
            extra["position_embeddings"] = positions.embeddings
        output = module(
            hidden,
            attention_mask=positions.sliding_mask if self._slides(layer) else None,
            position_ids=positions.ids,
            **extra,
        )
        return output[0] if isinstance(output, tuple) else output

    def embed(self, reader: CheckpointReader, input_ids: Tensor, dtype: Any) -> Tensor:
        """Embeddings of `input_ids` (int64 [B, T]): [B, T, H] in `dtype`; reads the rows needed.

        Raises:
            InputError: an id lies outside the embedding.
        """
        ids, places = torch.unique(input_ids, return_inverse=True)
        return reader.read_rows(EMBEDDING, ids).to(dtype)[places]

    def final_norm(self, reader: CheckpointReader, dtype: Any, device: str = "cpu") -> nn.Module:
        """The stock norm before the head, with its weights."""
        module = copy.deepcopy(self._skeleton.model.norm)
        weight = reader.read(FINAL_NORM).to(device=device, dtype=dtype)
        module.load_state_dict({"weight": weight}, assign=True)
        return module.requires_grad_(requires_grad=False)

    def head_name(self, reader: CheckpointReader) -> str:
        """The tensor that turns normed hidden states into logits: the embedding's where tied."""
        return EMBEDDING if self.shapes.tied or HEAD not in reader else HEAD

    def head_blocks(self, reader: CheckpointReader) -> Iterator[Tensor]:
        """The head's weights in order, in blocks of rows [<=rows, H]; never held whole."""
        yield from reader.blocks(self.head_name(reader))

    def logits(self, reader: CheckpointReader, normed: Tensor) -> Tensor:
        """Logits [B, T, V] of normed hidden states [B, T, H], the head read in blocks."""
        blocks = [
            nn.functional.linear(normed, block.to(device=normed.device, dtype=normed.dtype))
            for block in self.head_blocks(reader)
        ]
        return torch.cat(blocks, dim=-1)

    def _slides(self, layer: int) -> bool:
        """Whether the layer's attention is limited to the sliding window."""
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None:
            return bool(kinds[layer] == "sliding_attention")
        if self.config.model_type == "mistral":
            return True
        if not getattr(self.config, "use_sliding_window", False):
            return False
        return layer >= int(getattr(self.config, "max_window_layers", 0))


@lru_cache(maxsize=2)  # a parent's and its result's
def _made(config: str) -> Architecture:
    return Architecture(from_json(config))


def dtype_name(stored: str) -> str:
    """`BF16` as config.json writes it: `bfloat16`."""
    return str(TORCH_DTYPES[stored]).removeprefix("torch.")


def _prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def _miniature_config(config: Any, shapes: Shapes) -> Any:
    """The same rotary tables in a model of one head and one layer."""
    small = copy.deepcopy(config)
    small.hidden_size = small.head_dim = shapes.head_dim
    small.num_attention_heads = small.num_key_value_heads = 1
    small.num_hidden_layers = small.intermediate_size = 1
    small.vocab_size = 2
    small.pad_token_id = None
    if getattr(small, "layer_types", None) is not None:
        small.layer_types = small.layer_types[:1]
    return small
