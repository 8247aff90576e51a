"""Where a Hugging Face directory keeps its tensors. Needs no torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.json_text import read_json
from espalier.errors import InputError
from espalier.models.checkpoint.header import TensorEntry, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BUFFERS = re.compile(
    r"(position_ids|masked_bias|attn\.bias|attention\.bias|num_batches_tracked|rotary_emb\.\w+)$"
)
"""What some families store beside their weights, and stock models read from no file."""
NUMBERED = re.compile(r"^(.*)-\d+-of-(\d+)\.safetensors$")
LONGEST_NAME = 255
"""Bytes: what file systems take."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def locate(directory: Path) -> dict[str, TensorEntry]:
    """Every tensor by name.

    Raises:
        InputError: no safetensors, a shard missing or damaged, an index that disagrees with them.
    """
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _indexed(directory)
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        raise InputError(
            f"{directory} has only pickled weights ({pickled[0]}); nothing pickled is loaded: "
            "convert it to safetensors first."
        )
    raise InputError(f"{directory} has neither {SINGLE} nor {INDEX}; it is not a checkpoint.")


def _indexed(directory: Path) -> dict[str, TensorEntry]:
    index = directory / INDEX
    weight_map = _weight_map(index)
    headers = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or len(file.encode()) > LONGEST_NAME:
            raise InputError(f"{index} names a file outside its directory: {file}.")
        if not (directory / file).is_file():
            raise InputError(
                f"{index} names {file}, which is not there; fetch the checkpoint again."
            )
        headers[file] = read_header(directory / file)
    entries = {}
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise InputError(f"{index} places {name} in {file}, which does not hold it.")
        entries[name] = headers[file][name]
    _check_unlisted(index, entries, headers)
    return entries


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to file, as an index has it; whether they are there is another question."""
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not found
        or not isinstance(found, dict)
        or not all(
            isinstance(text, str) and text.isprintable() for pair in found.items() for text in pair
        )
    ):
        raise InputError(f"{index} is not an index of tensors; fetch it again.")
    return found


def _check_unlisted(
    index: Path, entries: Mapping[str, TensorEntry], headers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse weights that lie in the index's files, or in others of their number, unlisted.

    Some versions of transformers load them, and others give random ones in their place.
    """
    series = {match.groups() for file in headers if (match := NUMBERED.search(file))}
    for path in sorted(index.parent.glob("*.safetensors")):
        match = NUMBERED.search(path.name)
        if path.name not in headers and (match is None or match.groups() not in series):
            continue
        names = headers.get(path.name) or read_header(path)
        unlisted = sorted(n for n in names if n not in entries and not BUFFERS.search(n))
        if unlisted:
            raise InputError(
                f"{index} does not list {unlisted[0]}, which {path.name} holds; fetch the index "
                "again, or add the tensor to its weight_map."
            )
