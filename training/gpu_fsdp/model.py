"""The trained model: a stock causal language model whose forward gives sums of losses.

Shapes: B sequences, L tokens, D hidden width, V vocabulary.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from espalier.models.checkpoint.reader import CheckpointReader, check_finite, read_entry
from espalier.models.padding import Padding
from espalier.models.stock import stock_config, stock_model
from training.gpu_fsdp.batches import Sequences
from training.gpu_fsdp.loss import Sums, Weights, summed_losses, taught_layers
from training.gpu_fsdp.packing import packing_known
from training.gpu_fsdp.sparsity import local
from training.protocol.dropout import without_dropout


class LanguageModel(nn.Module):  # type: ignore[misc]
    """Wraps a stock model, so that its head is used inside one sharded forward."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.stock = stock

    @property
    def layers(self) -> nn.ModuleList:
        return self.stock.model.layers

    @property
    def head(self) -> Tensor:
        """The output matrix [V, D]; whole only while the root's weights are gathered."""
        return self.stock.lm_head.weight

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Every parameter by the name that a checkpoint gives it, a tied head once."""
        return dict(self.stock.named_parameters())

    def forward(
        self, sequences: Sequences, weights: Weights, teacher: "Taught | None" = None
    ) -> Sums:
        """Sums over all tokens of the sequences."""
        states = self.states(sequences, every=teacher is not None and weights.hidden > 0)
        taught = None if teacher is None else (teacher.states[-1].flatten(0, 1), teacher.head)
        sums = summed_losses(
            states[-1].flatten(0, 1), self.head, sequences.targets.flatten(), weights, taught
        )
        if teacher is None or not weights.hidden:
            return sums
        pairs = taught_layers(len(states) - 1, len(teacher.states) - 1)
        difference = torch.stack(
            [
                mse_loss(mine.float(), teacher.states[its + 1].float())
                for mine, its in zip(states[1:], pairs, strict=True)
            ]
        ).mean()
        hidden = weights.hidden * sequences.targets.numel() * difference
        return Sums(sums.objective + hidden, sums.cross_entropy, sums.kl)

    def states(self, sequences: Sequences, every: bool) -> tuple[Tensor, ...]:
        """The final hidden states [B, L, D], or the embedding's and all layers', the final last."""
        with packing_known(sequences.packed):
            output = self.stock.model(
                input_ids=sequences.inputs,
                position_ids=sequences.positions,
                use_cache=False,
                output_hidden_states=every,
            )
        return tuple(output.hidden_states) if every else (output.last_hidden_state,)


class Taught:
    """What a teacher gives for the same sequences: hidden states [B, L, D'] and head [V', D']."""

    def __init__(self, states: tuple[Tensor, ...], head: Tensor) -> None:
        self.states, self.head = states, head


class Teacher(nn.Module):  # type: ignore[misc]
    """A frozen model whose forward gives hidden states."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    def forward(self, sequences: Sequences, every: bool) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.model.states(sequences, every), self.model.head


def empty_model(config: Mapping[str, Any]) -> LanguageModel:
    """The model on torch's meta device: shapes and names, no memory, and no dropout."""
    raw = {
        key: value
        for key, value in without_dropout(config).items()
        if key not in ("torch_dtype", "dtype")
    }
    with torch.device("meta"):
        model = stock_model(stock_config(raw))
    return LanguageModel(model.train())


def allocate(model: LanguageModel, device: str) -> None:
    """Give every parameter (or this rank's shard of it) memory; what was tied stays tied."""
    model.to_empty(device=device)
    rotary = model.stock.model.rotary_emb  # its frequencies are in no checkpoint
    with torch.device(device):
        model.stock.model.rotary_emb = type(rotary)(config=model.stock.config)


def load_weights(weights: Mapping[str, nn.Parameter], checkpoint: Path) -> None:
    """Read this rank's rows of parameters, by the names that the checkpoint gives them.

    Raises:
        InputError: a tensor is missing, or holds NaN or infinite weights.
    """
    reader = CheckpointReader(checkpoint)
    for name, parameter in weights.items():
        start, stop = rows_of(parameter)
        if start < stop:
            block = read_entry(reader.entries[name], start, stop)
            check_finite(name, block)
            with torch.no_grad():
                local(parameter).copy_(block)


def fresh_weights(model: LanguageModel, seed: int) -> None:
    """The stock initialisation, whatever the number of ranks.

    Matrices are normal with the config's `initializer_range`, norms one, biases zero; each tensor
    has a generator of its own, of the seed and its name.
    """
    deviation = model.stock.config.initializer_range
    for name, parameter in model.named_weights().items():
        start, stop = rows_of(parameter)
        with torch.no_grad():
            if parameter.ndim == 1:
                local(parameter).fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            whole = torch.empty(parameter.shape)
            whole.normal_(0.0, deviation, generator=generator_of(seed, name))
            local(parameter).copy_(whole[start:stop])


def generator_of(seed: int, *names: object, device: str = "cpu") -> torch.Generator:
    """Random numbers of its own for whatever is called so."""
    key = hashlib.sha256(" ".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key[:7], "big"))


def entries_beside(model: LanguageModel, paddings: Iterable[Padding]) -> dict[str, Tensor]:
    """Where this rank's rows of tensors with padding hold weights, bool, by name."""
    weights, kept = model.named_weights(), {}
    for padding in paddings:
        shard = local(weights[padding.name])
        start, stop = rows_of(weights[padding.name])
        entries = torch.ones((stop - start, *padding.shape[1:]), dtype=torch.bool)
        rows, *rest = padding.ranges
        for first, end in rows:
            entries[max(0, first - start) : max(0, end - start)] = False
        for dimension, ranges in enumerate(rest, start=1):
            for first, end in ranges:
                entries.narrow(dimension, first, end - first).fill_(False)
        kept[padding.name] = entries.reshape(shard.shape).to(shard.device)
    return kept


def kept_entries(model: LanguageModel, checkpoint: Path, names: list[str]) -> dict[str, Tensor]:
    """Where this rank's rows of the named matrices differ from zero in a checkpoint, bool."""
    reader, weights, kept = CheckpointReader(checkpoint), model.named_weights(), {}
    for name in names:
        shard = local(weights[name])
        start, stop = rows_of(weights[name])
        block = read_entry(reader.entries[name], start, stop) if start < stop else shard.cpu()
        kept[name] = (block != 0).reshape(shard.shape).to(shard.device)
    return kept


def rows_of(parameter: nn.Parameter) -> tuple[int, int]:
    """Which rows of the whole parameter this rank holds: sharding is along the first dimension."""
    from torch.distributed.tensor import DTensor, Shard

    rows = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, rows
    dimension = parameter.placements.index(Shard(0))
    each = -(-rows // parameter.device_mesh.size(dimension))
    first = parameter.device_mesh.get_local_rank(dimension) * each
    return min(first, rows), min(first + each, rows)
