"""A state dict that torch has saved, written, and read without running anything that it says."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import replacing
from espalier.errors import InputError
from espalier.models.checkpoint.states import only_known
from espalier.models.content import check_names
from training.conversion.composer_names import MASKS, PREFIX, ROTARY

STATE = "state_dict.pt"
DAMAGED = (RuntimeError, EOFError, AttributeError, LookupError, TypeError, ValueError, OSError)
"""What torch raises where a file is not what it has written."""


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Save plain tensors; the same ones give the same bytes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    # By a stream: given a path, torch writes its name into the file.
    with replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save(dict(state), stream)


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a state dict, or of a checkpoint that holds one, under whole models' names.

    They stay in the file, which is mapped into memory. What only repeats the configuration, the
    rotary tables, is left out.

    Raises:
        InputError: it is no file of torch's, is cut short, holds more than tensors and plain
            values, no state dict, masks, or the names of a wrapped model.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is no file that torch.save has written, or is cut short; copy it again."
        )
    _require_mappable(path)
    state = _state_in(_loaded(path), path)
    if masks := [name for name in state if MASKS.search(name)]:
        raise InputError(
            f"{path} holds masks ({masks[0]}): which weights are left is not decided; extract the "
            "pruned model first, as Sheared-LLaMA does after learning masks, and give that."
        )
    check_names(path, state)
    return {
        name if name.startswith(PREFIX) else PREFIX + name: tensor
        for name, tensor in state.items()
        if not ROTARY.search(name)
    }


def _require_mappable(path: Path) -> None:
    """Refuse an archive that something has compressed: torch would map its bytes as weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            kinds = {entry.compress_type for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({_reason(error)}); copy it again.") from None
    if kinds - {zipfile.ZIP_STORED}:
        raise InputError(
            f"{path} has been compressed since torch.save wrote it; give the file as it was saved."
        )


def _loaded(path: Path) -> Any:
    try:
        with only_known():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} asks for more than tensors and plain values ({_reason(error)}), and is not "
            "read; save the state dict by itself where it was trained: torch.save of "
            'checkpoint["state"]["model"].'
        ) from None
    except DAMAGED as error:
        raise InputError(f"{path} is damaged ({_reason(error)}); copy it again.") from None


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict that a file is, or that a checkpoint of Composer's has in it.

    Raises:
        InputError: it is none.
    """
    state = content
    for key in ("state", "model"):
        if isinstance(state, Mapping) and key in state:
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{path} holds no state dict; give one, or a checkpoint of Composer's.")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{path} has {ascii(name)[:60]} of type {type(tensor).__name__} where a tensor "
                "belongs; give a state dict, or a checkpoint of Composer's."
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise InputError(f"{name} of {path} is no plain tensor; save it dense, and whole.")
    return dict(state)


def _reason(error: Exception) -> str:
    """The line of torch's that names what it stumbled over."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = next((line for line in lines if "GLOBAL" in line or "global" in line), None)
    return (named or (lines or [type(error).__name__])[0])[:160].rstrip(" .")
