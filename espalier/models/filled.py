"""A model of a form of ours, built without memory, with the weights of its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from espalier.errors import InputError
from espalier.models.checkpoint.reader import CheckpointReader


def filled(model: Any, directory: Path, dtype: Any = None) -> Any:
    """The causal language model in evaluation mode, on the host.

    Args:
        model: of the shapes that the form's config.json describes, on torch's meta device.
        directory: whose weights it gets.
        dtype: a torch dtype; default that in which each weight is stored.

    Raises:
        InputError: the weights are not those that config.json describes.
    """
    reader = CheckpointReader(directory)
    weights = {name: reader.read(name) for name in reader.entries}
    _check_names(directory, model, weights, tied=bool(model.config.tie_word_embeddings))
    if dtype is not None:
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return model.eval()


def _check_names(
    directory: Path, model: nn.Module, weights: Mapping[str, Tensor], *, tied: bool
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if tied:
        found.setdefault("lm_head.weight", expected["lm_head.weight"])
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"{name} of {directory} has shape {found.get(name)} where its config.json "
                f"describes {expected.get(name)}; make it again."
            )
