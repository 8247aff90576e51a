"""Which of a repository's files are a checkpoint. Needs no client of the hub."""

import fnmatch

from espalier.errors import InputError
from espalier.models.checkpoint.companions import LEGAL

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "*.tiktoken"),
)


def is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name matches a pattern; files in folders match none."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def wanted(files: tuple[str, ...], hub_id: str) -> list[str]:
    """The files of a checkpoint among `files`; those in folders (other formats) are left out.

    Raises:
        InputError: there are no safetensors, or no config.json.
    """
    patterns = (*WEIGHTS, *CONFIGURATION, *TOKENIZER, *LEGAL)
    chosen = [name for name in files if is_one_of(name, patterns)]
    if any(name.startswith("model") for name in chosen if name.endswith(".safetensors")):
        # a consolidated copy of the same weights may lie beside the sharded ones
        chosen = [n for n in chosen if not n.startswith("consolidated")]
    if not any(name.endswith(".safetensors") for name in chosen):
        top = [name for name in files if "/" not in name]
        pickled = [name for name in top if name.endswith((".bin", ".pt", ".pth"))]
        has = f"only {', '.join(pickled[:3])}" if pickled else "no weights"
        raise InputError(
            f"{hub_id} has {has}, and pickled weights are never loaded; choose a revision or a "
            "repository with .safetensors."
        )
    if "config.json" not in chosen:
        raise InputError(f"{hub_id} has no config.json; choose a Hugging Face checkpoint.")
    return chosen
