"""Fetch a text data set and write it as the store keeps texts: `{split}.jsonl` and dataset.json."""

import fnmatch
from pathlib import Path

from espalier.contract.files import replacing
from espalier.contract.json_text import to_json
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.data.instructions import columns_of, has_instructions, instructions_of
from espalier.data.text import Description, sha256_of_file
from espalier.data.text_files import documents_of
from espalier.errors import InputError
from inputs.fetch.cache import keep_cache_in
from inputs.fetch.datasets import text_source, training_files
from inputs.fetch.spec import FetchDataParameters


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Fetch each split's files into scratch, then write its documents; finished splits are kept."""
    assert isinstance(parameters, FetchDataParameters)  # noqa: S101
    keep_cache_in(context.scratch)
    from inputs.fetch.hub import download, inspect

    source = text_source(parameters.data)
    revision = parameters.revision or source.revision
    repository = inspect(source.hub_id, "dataset", revision)
    counts = {}
    for split, pattern in source.splits.items():
        listed = training_files(repository.files) if pattern == "*" else repository.files
        files = fnmatch.filter(listed, pattern)[: parameters.files or source.files]
        if not files:
            raise InputError(
                f"{source.hub_id}@{revision} has no {pattern}; give another revision with "
                "REVISION=."
            )
        target = context.output / f"{split}.jsonl"
        if not target.exists():
            context.progress.say(f"fetching {source.hub_id}@{repository.commit}: {split}")
            download(repository, files, context.scratch / "hub")
            paths = [context.scratch / "hub" / name for name in files]
            if has_instructions(columns_of(paths[0])):
                write_instructions(paths, target)
            else:
                write_documents(paths, target, source.column)
        with target.open("rb") as lines:
            counts[split] = sum(1 for _ in lines)
    description = Description(
        name=parameters.data,
        source=source.hub_id,
        revision=repository.commit,
        calibration=source.calibration,
        perplexity=source.perplexity,
        scores=source.scores,
        remark=source.remark,
    )
    description.write(context.output)
    hashes = {split: sha256_of_file(context.output / f"{split}.jsonl") for split in counts}
    return Outcome(
        data={
            "name": parameters.data,
            "source": source.hub_id,
            "revision": repository.commit,
            "documents": counts,
            "sha256": hashes,
        },
        notes={"remark": source.remark} if source.remark else {},
    )


def write_instructions(files: list[Path], target: Path) -> None:
    """Write the instructions of `files`, in order, one `{"instruction": …}` a line."""
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for file in files:
            for one in instructions_of(file):
                lines.write(to_json(one._asdict(), ensure_ascii=False) + "\n")


def write_documents(files: list[Path], target: Path, column: str) -> None:
    """Write the texts of `files`, in order, one `{"text": …}` a line."""
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for file in files:
            for text in documents_of(file, column):
                lines.write(to_json({"text": text}, ensure_ascii=False) + "\n")
