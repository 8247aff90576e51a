"""A stock model with the weights of a checkpoint: all of them, and none that are made up.

transformers gives new, random weights to whatever it finds under no name that it knows, and says so
in a report alone. Works with transformers 4.46 to 5.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from espalier.errors import InputError
from espalier.models.checkpoint.locate import BUFFERS, locate
from espalier.models.content import check_content, check_head, stored_dtype
from espalier.models.stock import quick_imports, without_requests

DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
"""The argument's name, which changed."""


def load_stock(directory: Path, dtype: Any = None) -> Any:
    """The stock causal language model of a Hugging Face directory, in evaluation mode, on the host.

    From safetensors, without remote code, with torch's own attention kernel whatever config.json
    asks for.

    Args:
        directory: a checkpoint of any family that transformers knows.
        dtype: a torch dtype; default that of most of the stored weights.

    Raises:
        InputError: transformers cannot load it, or it would not have the weights that are stored.
    """
    import torch

    check_content(directory)
    entries = locate(directory)
    chosen = dtype or getattr(torch, stored_dtype(entries) or "float32")
    try:
        with quick_imports(), _silence():
            from transformers import AutoConfig, AutoModelForCausalLM

            config = without_requests(AutoConfig.from_pretrained(directory, local_files_only=True))
            check_head(directory, entries, tied=_ties(config))
            model, report = AutoModelForCausalLM.from_pretrained(
                directory,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report names them
                **{DTYPE: chosen},
            )
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - each family fails in its own way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{directory} cannot be loaded by transformers {transformers.__version__} ({reason})."
        ) from None
    _check_report(directory, model, report)
    return model.eval()


@contextmanager
def _silence() -> Iterator[None]:
    """No bars, and no report beside ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _ties(config: Any) -> bool:
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


def _check_report(directory: Path, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a model of which any weight is not the checkpoint's, or the other way round.

    Raises:
        InputError: naming the first weight of each kind.
    """
    buffers = {name for name, _ in model.named_buffers()}
    unfilled = (name for name, weight in model.named_parameters() if weight.is_meta)
    missing = _weights((*report["missing_keys"], *unfilled), buffers)
    unexpected = _weights(report["unexpected_keys"], buffers)
    found = []
    if missing:
        found.append(f"it lacks {_some(missing)}")
    if unexpected:
        found.append(f"it holds {_some(unexpected)} beside it")
    if report["mismatched_keys"]:
        found.append(f"it has another shape of {_some(map(_shapes, report['mismatched_keys']))}")
    found += report.get("error_msgs") or []
    if found:
        raise InputError(
            f"{directory} does not fit the {type(model).__name__} that its config.json describes: "
            f"{' and '.join(found)}; weights would be random or left out: give the config.json and "
            "the names that belong to them."
        )


def _shapes(mismatch: Any) -> str:
    """A name, and from transformers 4.46 and 5 also the shape in the file and in the model."""
    if isinstance(mismatch, str):
        return mismatch
    name, stored, asked = mismatch[:3]
    return f"{name}, {list(stored)} for {list(asked)}"


def _weights(names: Iterable[str], buffers: set[str]) -> list[str]:
    """Those that are no buffers, which a model computes by itself."""
    return sorted(n for n in names if n not in buffers and not BUFFERS.search(n))


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return first + (f" and {len(rest)} more" if rest else "")
