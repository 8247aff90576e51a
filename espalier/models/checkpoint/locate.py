"""Where a Hugging Face directory keeps its tensors. Needs no torch."""

import json
import re
from pathlib import Path

from espalier.errors import InputError
from espalier.models.checkpoint.header import TensorEntry, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NUMBERED = re.compile(r"-\d+-of-(\d+)\.safetensors$")
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
    try:
        weight_map = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{index} is not an index of tensors; fetch it again.") from None
    headers = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
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
    _add_unlisted(index, entries, headers)
    _check_strays(index, entries, set(headers))
    return entries


def _add_unlisted(
    index: Path, entries: dict[str, TensorEntry], headers: dict[str, dict[str, TensorEntry]]
) -> None:
    """What lies in the index's files and is not listed there is found, as transformers finds it.

    Raises:
        InputError: two files hold it.
    """
    listed = set(entries)
    for file, header in headers.items():
        for name in header.keys() - listed:
            if name in entries:
                raise InputError(
                    f"{index} does not list {name}, which {entries[name].file.name} and {file} "
                    "both hold; fetch the checkpoint again."
                )
            entries[name] = header[name]


def _check_strays(index: Path, entries: dict[str, TensorEntry], files: set[str]) -> None:
    """Refuse a numbered file that the index forgets, where it holds what no other does."""
    of = {match[1] for file in files if (match := NUMBERED.search(file))}
    for path in sorted(index.parent.glob("*.safetensors")):
        match = NUMBERED.search(path.name)
        if path.name in files or match is None or match[1] not in of:
            continue
        if missing := sorted(read_header(path).keys() - entries.keys()):
            raise InputError(
                f"{index} does not list {path.name}, which holds {missing[0]}; fetch the index "
                "again."
            )
