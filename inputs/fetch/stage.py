"""Fetch a model: safetensors, configuration and tokenizer only, straight into its directory."""

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.aliases import resolve_model
from espalier.models.tokenizer import make_tokenizer_json
from inputs.fetch.cache import keep_cache_in
from inputs.fetch.files import wanted
from inputs.fetch.spec import FetchParameters


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
