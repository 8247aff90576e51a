"""Fetch a model: safetensors, configuration and tokenizer only, straight into its directory."""

import fnmatch

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.aliases import resolve_model
from espalier.models.checkpoint.companions import LEGAL
from espalier.models.tokenizer import make_tokenizer_json
from inputs.fetch.cache import keep_cache_in
from inputs.fetch.spec import FetchParameters

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "*.tiktoken"),
)


def wanted(files: tuple[str, ...], hub_id: str) -> list[str]:
    """The files of a checkpoint among `files`; those in folders (other formats) are left out.

    Raises:
        InputError: there are no safetensors, or no config.json.
    """
    top = [name for name in files if "/" not in name]
    patterns = (*WEIGHTS, *CONFIGURATION, *TOKENIZER, *LEGAL)
    chosen = [name for name in top if any(fnmatch.fnmatch(name, p) for p in patterns)]
    if any(name.startswith("model") for name in chosen if name.endswith(".safetensors")):
        # a consolidated copy of the same weights may lie beside the sharded ones
        chosen = [n for n in chosen if not n.startswith("consolidated")]
    if not any(name.endswith(".safetensors") for name in chosen):
        pickled = [name for name in top if name.endswith((".bin", ".pt", ".pth"))]
        has = f"only {', '.join(pickled[:3])}" if pickled else "no weights"
        raise InputError(
            f"{hub_id} has {has}, and pickled weights are never loaded; choose a revision or a "
            "repository with .safetensors."
        )
    if "config.json" not in chosen:
        raise InputError(f"{hub_id} has no config.json; choose a Hugging Face checkpoint.")
    return chosen


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Fetch into the output directory; run again, it resumes where it stopped."""
    assert isinstance(parameters, FetchParameters)  # noqa: S101
    keep_cache_in(context.scratch)
    from inputs.fetch.hub import download, inspect

    source = resolve_model(parameters.model, parameters.revision)
    if source.grown:
        raise InputError(f"{source.name} is not fetched but grown; run make grow.")
    repository = inspect(source.hub_id, "model", source.revision)
    files = wanted(repository.files, source.hub_id)
    context.progress.say(f"fetching {source.hub_id}@{repository.commit}: {len(files)} files")
    download(repository, files, context.output)
    make_tokenizer_json(context.output, context.progress.say)
    return Outcome(
        notes={
            "hub_id": source.hub_id,
            "revision": source.revision,
            "commit": repository.commit,
            "pretraining_tokens": source.pretraining_tokens,
        }
    )
