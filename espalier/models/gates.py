"""What a Hugging Face directory must pass before it is used, and before it is published."""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from espalier.contract.manifest import recorded_checks
from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Foreign, Masked, Padded, Pruned, Sizes, Uniform
from espalier.errors import InputError
from espalier.models.adapter import EMBEDDING, HEAD, Architecture, dtype_name
from espalier.models.agreement import Agreement, compare_with_stock
from espalier.models.checkpoint.census import Census
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.content import check_content, stated_dtype, stored_dtype
from espalier.models.decoder import Decoder, Layer
from espalier.models.foreign import check_foreign, describe_foreign
from espalier.models.padding import paddings
from espalier.models.shapes import Shapes, read_config
from espalier.models.tokenizer import check_tokenizer, tokenizer_hash, tokens_without_row

SPARSITY_TOLERANCE = 0.005
AGREEMENT = "stock_logits"
"""What a manifest's checks call the comparison with the stock model."""
REREAD_BYTES = 4 << 30
"""Of layers that are walked again, where the manifest names another version of transformers."""


def check_parent(directory: Path) -> dict[str, Any]:
    """Refuse a model that no stage should start from: what its result would have to pass, it does.

    Every weight is read once, unless its manifest has it that this was done.

    Returns:
        what was found, for the manifest's checks.

    Raises:
        InputError: unsupported family, no or damaged safetensors, tensors missing, quantized or of
            other names or shapes than config.json says, another head, NaN or infinite weights or
            loss, logits that are not the stock model's, or a tokenizer that does not fit the
            embedding.
    """
    check_content(directory)
    architecture = Architecture.of(directory)
    architecture.check(CheckpointReader(directory))
    check_tokenizer(directory, architecture.shapes.vocabulary)
    recorded = recorded_checks(directory).get(AGREEMENT) or {}
    if recorded.get("transformers") == transformers.__version__:
        return {AGREEMENT: recorded}
    decoder = Decoder(directory)
    found = compare_with_stock(decoder, layers=_few_layers(decoder) if recorded else None)
    _check_loss(directory, found, decoder)
    if not recorded:
        _read_embedding(decoder)
    return {AGREEMENT: found.record()}


def check_checkpoint(
    directory: Path, *, pruning: Pruned | None = None, census: Census | None = None
) -> dict[str, Any]:
    """Check a finished directory, a tensor at a time; memory stays that of two layers.

    Index, names and shapes against the stock model; dtype against config.json; tokenizer against
    the embedding; every weight finite; a finite loss from the stock layers. Where it is said what
    was pruned: of what was masked, sparsity within half a point of what the method can attain at
    its target, or more where the parent's own zeros explain it, and N:M in every group; else every
    size that is left, and every entry of padding exactly zero. Of a foreign form, only what needs
    no layers: see `check_foreign`. Unless it is foreign, every tensor has been counted in the
    `census` afterwards.

    Returns:
        what was found, for the manifest's checks.

    Raises:
        InputError: naming the first check that failed.
    """
    if isinstance(pruning, Foreign):
        return check_foreign(directory)
    census = census or Census(directory)
    decoder = Decoder(directory, reader=census)
    architecture = decoder.architecture
    check_tokenizer(directory, architecture.shapes.vocabulary)
    _check_dtype(directory, census)
    pattern = pruning.mask_pattern if isinstance(pruning, Masked) else Pattern()
    found = compare_with_stock(decoder, visit=lambda layer: _check_layer(layer, decoder, pattern))
    _read_embedding(decoder)
    achieved = _sparsity(architecture, census)
    match pruning:
        case Masked():
            _check_sparsity(directory, achieved, pruning)
        case Uniform():
            _check_sizes(directory, architecture.shapes, pruning.after)
        case Padded():
            _check_sizes(directory, architecture.shapes, pruning.after)
            _check_padding(architecture, census, pruning)
    _check_loss(directory, found, decoder)
    return {
        "index_complete": True,
        "shapes_agree": True,
        "finite": True,
        "tokenizer_fits": not tokens_without_row(directory),
        "sparsity": achieved,
        "pattern_exact": str(pattern) if pattern.structured else None,
        "probe_loss": round(found.loss, 4),
        AGREEMENT: found.record(),
    }


def describe_model(
    directory: Path,
    parent: Path | None = None,
    pruning: Pruned | None = None,
    *,
    census: Census | None = None,
) -> dict[str, Any]:
    """The manifest's model section: architecture, dtype, shapes, parameter counts, tokenizer.

    `parameters` are those stored; `padding`, where there is some, how many of them are no weights.
    What the `census` of the directory has counted is not read again.
    """
    described = (
        describe_foreign(directory)
        if isinstance(pruning, Foreign)
        else _describe(directory, pruning, census or Census(directory))
    )
    if parent is not None:
        reader = CheckpointReader(parent)
        names = _stored(Architecture.of(parent), reader)
        sizes = (math.prod(reader.entries[name].shape) for name in names)
        described["parent_parameters"] = sum(sizes)
    return described


def _describe(directory: Path, pruning: Pruned | None, reader: Census) -> dict[str, Any]:
    config, architecture = read_config(directory), Architecture.of(directory)
    counted = _stored(architecture, reader)
    zeros = sum(reader.zeros(name) for name in counted)
    parameters = sum(math.prod(reader.entries[name].shape) for name in counted)
    shapes = architecture.shapes
    described: dict[str, Any] = {
        "architecture": (config.get("architectures") or [config["model_type"]])[0],
        "model_type": config["model_type"],
        "dtype": dtype_name(reader.entries[counted[0]].dtype),
        "parameters": parameters,
        "nonzero": parameters - zeros,
        "shapes": {
            "layers": shapes.layers,
            "hidden": shapes.hidden,
            "intermediate": shapes.intermediate,
            "heads": shapes.heads,
            "kv_heads": shapes.kv_heads,
            "head_dim": shapes.head_dim,
            "vocabulary": shapes.vocabulary,
        },
        "tied_embeddings": shapes.tied,
        "tokenizer": tokenizer_hash(directory),
    }
    if isinstance(pruning, Padded):
        found = paddings(pruning, architecture.expected_shapes(), shapes.head_dim)
        described["padding"] = sum(padding.entries for padding in found)
    return described


def _stored(architecture: Architecture, reader: CheckpointReader) -> list[str]:
    """Names of the parameters, a tied head not twice."""
    return [
        name
        for name in architecture.expected_shapes()
        if name in reader and not (name == HEAD and architecture.shapes.tied)
    ]


def _check_dtype(directory: Path, reader: CheckpointReader) -> None:
    config = read_config(directory)
    stated = stated_dtype(config)
    stored = stored_dtype(reader.entries)
    if stated not in (None, stored):
        raise InputError(
            f"config.json of {directory} states {stated} and the weights are {stored}; make them "
            "agree."
        )


def _check_sparsity(directory: Path, achieved: float, pruning: Masked) -> None:
    """At least what the method can attain; zeros beyond it are the parent's, or of dead inputs."""
    least = pruning.target if pruning.attainable is None else pruning.attainable
    most = least + pruning.inherited + pruning.dead
    if not least - SPARSITY_TOLERANCE <= achieved <= most + SPARSITY_TOLERANCE:
        raise InputError(
            f"{directory} is {achieved:.4f} sparse but the target was {least:.4f}; nothing "
            "is published."
        )
    if not achieved:
        raise InputError("no weight was removed; nothing is published. Give a larger SPARSITY.")


def _check_padding(architecture: Architecture, reader: CheckpointReader, pruning: Padded) -> None:
    """Every entry that is said to be padding is exactly zero."""
    shapes = {name: entry.shape for name, entry in reader.entries.items()}
    for padding in paddings(pruning, shapes, architecture.shapes.head_dim):
        weight = reader.read(padding.name)
        for dimension, ranges in enumerate(padding.ranges):
            for first, end in ranges:
                if torch.count_nonzero(weight.narrow(dimension, first, end - first)):
                    raise InputError(
                        f"{padding.name} is not zero in its padding, {first} to {end - 1} of "
                        f"dimension {dimension}; nothing is published."
                    )


def _check_sizes(directory: Path, shapes: Shapes, target: Sizes) -> None:
    for name, size in target:
        if getattr(shapes, name) != size:
            raise InputError(
                f"{directory} has {getattr(shapes, name)} {name} but the target was {size}; "
                "nothing is published."
            )


def _check_layer(layer: Layer, decoder: Decoder, pattern: Pattern) -> None:
    for name in decoder.architecture.shapes.matrices:
        weight = layer.module.get_submodule(name).weight
        _check_groups(f"model.layers.{layer.number}.{name}.weight", weight, pattern)


def _check_loss(directory: Path, found: Agreement, decoder: Decoder) -> None:
    if not math.isfinite(found.loss):
        dtype = str(decoder.dtype).removeprefix("torch.")
        raise InputError(
            f"{directory} gives a loss of {found.loss} in {dtype}: it is damaged, or its "
            "activations overflow; give bfloat16 or float32 weights."
        )


def _read_embedding(decoder: Decoder) -> None:
    """Where it is no head, the walk has read a few of its rows alone; reading is checking."""
    if decoder.architecture.head_name(decoder.reader) == HEAD:
        for _ in decoder.reader.blocks(EMBEDDING):
            pass


def _few_layers(decoder: Decoder) -> int:
    """As many as a second read of a large checkpoint is worth, whose weights are known."""
    entries, names = decoder.reader.entries, decoder.architecture.layer_tensor_names(0)
    layer = sum(entries[name].nbytes for name in names)
    return max(1, min(decoder.num_layers, REREAD_BYTES // layer))


def _sparsity(architecture: Architecture, census: Census) -> float:
    """The share of zeros among the weights of the layers' matrices."""
    names = [
        f"model.layers.{layer}.{name}.weight"
        for layer in range(architecture.num_layers)
        for name in architecture.shapes.matrices
    ]
    total = sum(math.prod(census.entries[name].shape) for name in names)
    return sum(census.zeros(name) for name in names) / total


def _check_groups(name: str, weight: Tensor, pattern: Pattern) -> None:
    """At least N zeros in every whole group of M inputs."""
    if not pattern.structured:
        return
    columns = weight.shape[1] - weight.shape[1] % pattern.group
    groups = (weight[:, :columns] == 0).reshape(weight.shape[0], -1, pattern.group)
    if groups.shape[1] and int(groups.sum(dim=-1).min()) < pattern.zeroed:
        raise InputError(f"{name} breaks the pattern {pattern}; nothing is published.")
