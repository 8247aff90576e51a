"""What a checkpoint's tensors say of it, whatever its config.json states. Needs no torch.

Read from headers alone, but for a head of its own that config.json ties to the embedding: the two
are compared.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import InputError
from espalier.models.checkpoint.header import ITEM_BYTES, TensorEntry
from espalier.models.checkpoint.locate import BUFFERS, locate
from espalier.models.shapes import SUPPORTED, Shapes, read_config

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What weights may be stored as, and what config.json calls it."""
LAYERS = "model.layers."
ELEMENTS_AT_ONCE = 1 << 18

MATRIX = "model.layers.0.self_attn.q_proj.weight"
"""In whose dtype the layers compute."""

WRAPPERS = (
    (
        re.compile(r"(^|\.)_orig_mod\."),
        "names that torch.compile gives a model; save the model that was compiled (its _orig_mod), "
        "or take _orig_mod. out of every name",
    ),
    (
        re.compile(r"(^|\.)(lora_[A-Z]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\b"),
        "weights of an adapter that is not merged; merge it (peft's merge_and_unload) and save "
        "what that gives",
    ),
    (
        re.compile(r"^base_model\.model\.|\.modules_to_save\.|\.original_module\."),
        "names that peft gives a model; merge the adapter (peft's merge_and_unload) and save what "
        "that gives, or take what peft put before and between out of every name",
    ),
    (
        re.compile(r"(^|\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_flat_param)\b"),
        "names that a sharded or checkpointed training gives a model; save its whole state "
        "dictionary with the plain names",
    ),
    (
        re.compile(r"^(module|_forward_module)\."),
        "names that a data-parallel training gives a model; save the model inside (its module), "
        "or take that word out of every name",
    ),
)
"""What others put into names, and what to do."""

QUANTIZED = (
    ("bitsandbytes", r"weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)"),
    ("bitsandbytes", r"(SCB|weight_format)"),
    ("compressed-tensors", r"(weight_packed|weight_shape|weight_zero_point|weight_global_scale)"),
    ("fp8", r"weight_scale_inv"),
    ("GPTQ", r"g_idx"),
    ("GPTQ or AWQ", r"(qweight|qzeros|scales)"),
    ("MXFP4", r"\w+_(blocks|scales)"),
    ("HQQ", r"W_q"),
    ("quanto", r"weight\._(data|scale|shift)"),
    ("scaled", r"((weight|input|output)_scales?|[kv]_scale|scale_weight|scale_input)"),
)
"""Endings of names that only quantized weights have."""
HEADS = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
_QUANTIZED = [(kind, re.compile(rf"(^|\.){ending}$")) for kind, ending in QUANTIZED]


def check_content(directory: Path) -> None:
    """Refuse a checkpoint that its own tensors show to be none of the model config.json describes.

    Raises:
        InputError: its weights are quantized, its names are those of a wrapped model, its head is
            another one than config.json says, its sizes are others, or it cannot be read.
    """
    config, entries = read_config(directory), locate(directory)
    _check_quantized(directory, config, entries)
    check_names(directory, entries)
    tied = tied_by(config)
    if tied is not None:
        check_head(directory, entries, tied=tied)
    check_sizes(directory, config, entries)


def check_sizes(
    directory: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]
) -> None:
    """Refuse sizes that the first layer does not have, before anything is made as large.

    Of families whose sizes are read here; a whole model's shapes are compared where it is built.

    Raises:
        InputError: naming the tensor.
    """
    if config.get("model_type") not in SUPPORTED or not entries:
        return
    shapes = Shapes.of(config)
    asked = {f"{LAYERS}0.{name}.weight": size for name, size in shapes.matrices.items()}
    asked["model.embed_tokens.weight"] = (shapes.vocabulary, shapes.hidden)
    if shapes.layers > len(entries):
        name = f"{LAYERS}{shapes.layers - 1}.{next(iter(shapes.matrices))}.weight"
        raise InputError(f"{directory} lacks the tensor {name} its config asks for.")
    for name, size in asked.items():
        if name not in entries:
            raise InputError(f"{directory} lacks the tensor {name} its config asks for.")
        if (found := entries[name].shape) != size:
            raise InputError(
                f"{name} has shape {list(found)} where config.json of {directory} asks for "
                f"{list(size)}."
            )


def correct_dtype(directory: Path) -> str | None:
    """Where config.json states another dtype than the weights have, let it state theirs.

    Returns:
        what was corrected.

    Raises:
        InputError: it is absent, or no checkpoint.
    """
    note = dtype_note(directory)
    if note is not None:
        text = to_json(config_as_stored(directory), indent=2) + "\n"
        write_text(directory / "config.json", text)
    return note


def check_names(directory: Path, names: Iterable[str]) -> None:
    """Refuse names that compilers, adapters and trainers give to weights.

    Raises:
        InputError: naming one of them, what it comes from and what to do.
    """
    for name in names:
        for pattern, what in WRAPPERS:
            if pattern.search(name):
                raise InputError(f"{directory} holds {name}: {what}.")


def tied_by(config: Mapping[str, Any]) -> bool | None:
    """Whether config.json ties the head to the embedding; None where its family decides."""
    nested = config.get("text_config")
    for part in (nested if isinstance(nested, Mapping) else {}, config):
        if part.get("tie_word_embeddings") is not None:
            return bool(part["tie_word_embeddings"])
    return False if config.get("model_type") in SUPPORTED else None


def check_head(directory: Path, entries: Mapping[str, TensorEntry], *, tied: bool) -> None:
    """Refuse a head that is there and tied to another embedding, or neither there nor tied.

    A checkpoint of which not both can be told by their names is passed.

    Raises:
        InputError: saying what to set in config.json.
    """
    heads = [name for name in entries if HEADS.search(name)]
    embeddings = [name for name in entries if EMBEDDINGS.search(name)]
    if len(embeddings) != 1 or len(heads) > 1:
        return
    if not heads and not tied:
        raise InputError(
            f"{directory} has no lm_head.weight and its config.json does not tie the head to the "
            "embedding: the head would be random; fetch the checkpoint again, or set "
            "tie_word_embeddings to true if the model was trained so."
        )
    if heads and tied and not _equal(entries[heads[0]], entries[embeddings[0]]):
        raise InputError(
            f"config.json of {directory} ties the head to the embedding and {heads[0]} differs "
            f"from {embeddings[0]}: these are two models; set tie_word_embeddings to false to keep "
            f"the head that is stored, or remove {heads[0]}."
        )


def stored_dtype(entries: Mapping[str, TensorEntry]) -> str | None:
    """The dtype of the layers' matrices, as config.json writes it, or of most weights.

    None where none are floats.
    """
    if (matrix := entries.get(MATRIX)) is not None and matrix.dtype in FLOATS:
        return FLOATS[matrix.dtype]
    sizes: dict[str, int] = {}
    for entry in entries.values():
        if entry.dtype in FLOATS:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
    return FLOATS[max(sizes, key=lambda dtype: sizes[dtype])] if sizes else None


def stated_dtype(config: Mapping[str, Any]) -> str | None:
    """What config.json says its weights are; None where it says nothing."""
    stated = config.get("dtype") or config.get("torch_dtype")
    return None if stated is None else str(stated).removeprefix("torch.")


def dtype_note(directory: Path) -> str | None:
    """One sentence where config.json states another dtype than its weights have.

    Raises:
        InputError: it is absent, or no checkpoint.
    """
    stored, stated = stored_dtype(locate(directory)), stated_dtype(read_config(directory))
    if stored is None or stated in (None, stored):
        return None
    return f"config.json states {stated} and the weights are {stored}, which is what counts"


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json's content that states `dtype`, under each key that it uses for it."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return {**config, **dict.fromkeys(keys, dtype)}


def config_as_stored(directory: Path) -> dict[str, Any]:
    """A directory's config.json with the dtype that its weights have.

    Raises:
        InputError: it is absent, or no checkpoint.
    """
    config, dtype = read_config(directory), stored_dtype(locate(directory))
    return config if dtype is None else with_dtype(config, dtype)


def _check_quantized(
    directory: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]
) -> None:
    found = next(_quantized(entries), None)
    stated = config.get("quantization_config") or config.get("compression_config")
    advice = "give the model before that, with float32, bfloat16 or float16 weights"
    if found is not None:
        raise InputError(f"the checkpoint {directory} is quantized ({found}); {advice}.")
    if stated:
        method = stated.get("quant_method") if isinstance(stated, Mapping) else stated
        raise InputError(
            f"the checkpoint is quantized, says config.json of {directory} ({method}); {advice}, "
            "or remove quantization_config where its weights are plain."
        )


def _quantized(entries: Mapping[str, TensorEntry]) -> Iterator[str]:
    """What is quantized and how, of every tensor that shows it."""
    for kind, ending in _QUANTIZED:
        yield from (f"{kind}: {name}" for name in entries if ending.search(name))
    for name, entry in entries.items():
        if entry.dtype not in FLOATS and not BUFFERS.search(name):
            yield f"{name} is stored as {entry.dtype}"


def _equal(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors hold the same values, whatever dtypes they have."""
    if one.shape != other.shape:
        return False
    return all(
        (one.dtype == other.dtype and mine == others)
        or _values(one.dtype, mine) == _values(other.dtype, others)
        for mine, others in zip(_blocks(one), _blocks(other), strict=True)
    )


def _blocks(entry: TensorEntry) -> Iterator[bytes]:
    """A tensor's bytes, the same number of elements at a time whatever its dtype."""
    size, left = ELEMENTS_AT_ONCE * ITEM_BYTES[entry.dtype], entry.nbytes
    with entry.file.open("rb") as stream:
        stream.seek(entry.offset)
        while left:
            yield stream.read(min(size, left))
            left -= min(size, left)


def _values(dtype: str, content: bytes) -> tuple[float, ...]:
    """Floats of little-endian bytes; a bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        wide = bytearray(2 * len(content))
        wide[2::4], wide[3::4] = content[::2], content[1::2]
        dtype, content = "F32", bytes(wide)
    code = {"F16": "e", "F32": "f", "F64": "d"}[dtype]
    return struct.unpack(f"<{len(content) // ITEM_BYTES[dtype]}{code}", content)
