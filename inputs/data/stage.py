"""Tokenise a text, split it by document and pack it into shards of token ids."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.contract.files import file_sha256
from espalier.contract.parameters import Parameters
from espalier.contract.saved import note
from espalier.contract.stage import Outcome, StageContext
from espalier.data.formats import left_out
from espalier.data.text import DESCRIPTION, Description
from espalier.data.tokenizing import Tokenizing
from espalier.data.tokens import DOMAINS, INDEX
from espalier.data.tokens.domains import DomainIndex
from espalier.data.tokens.index import SPLITS, TokenIndex, narrowest
from inputs.data.domains import domains_of
from inputs.data.source import TextPart, parts_of
from inputs.data.spec import DataParameters
from inputs.data.stream import Packing
from inputs.data.work import Work

Streams = Mapping[str, Packing]
"""By the names of their domains; the one of a text without domains has none."""


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Pack the input `text` with the tokenizer of the input `tokenizer`."""
    assert isinstance(parameters, DataParameters)  # noqa: S101
    text = context.inputs["text"]
    parts = domains_of(text) if parameters.domains else {"": parts_of(text)}
    for name, its_parts in parts.items():
        if name or len(its_parts) > 1:
            context.progress.say(f"{_prefix(name)}{_files(its_parts)}")
    tokenizing = Tokenizing.of(context.inputs["tokenizer"])
    streams = {
        name: Packing(
            parameters,
            its_parts,
            tokenizing,
            Work(_scratch(context, name), tokenizing.frame.dtype, parameters.shard),
            name,
        )
        for name, its_parts in parts.items()
    }
    speed = _pack(context, streams)
    indexes = _write(context.output, streams, tokenizing)
    _report(context, streams, indexes, speed)
    records = {
        name: {**_counts(index), "sha256": file_sha256(context.output / name / INDEX)}
        for name, index in indexes.items()
    }
    notes = {name: _notes(stream, parts[name]) for name, stream in streams.items()}
    if parameters.domains:
        digest = file_sha256(context.output / DOMAINS)
        record = {**_sums(list(records.values())), "sha256": digest, "domains": records}
    else:
        record = records[""]
    return Outcome(
        data={
            **_origin(text),
            "tokenizer": tokenizing.sha256,
            "tokenizer_probe": tokenizing.probe,
            **record,
        },
        notes={
            **({"domains": notes} if parameters.domains else notes[""]),
            "files_left_out": left_out(text) if text.is_dir() else [],
            "tokens_per_second": round(speed),
        },
    )


def _scratch(context: StageContext, name: str) -> Path:
    """Where a stream is packed; no other file there is called as a domain's folder is."""
    folder = context.scratch / (f"domain-{name}" if name else "")
    folder.mkdir(exist_ok=True)
    return folder


def _pack(context: StageContext, streams: Streams) -> float:
    """Pack one stream after the other, each refused where it lacks what is asked; tokens/s."""
    began, before = time.monotonic(), _tokens(streams)
    speed = 0.0
    with context.progress.steps("blocks packed", None) as steps:
        for name, stream in streams.items():
            its_name = {"domain": name} if name else {}
            for _ in stream.blocks():
                note(context.scratch, f"{stream.place}{f' of domain {name}' if name else ''}")
                speed = (_tokens(streams) - before) / (time.monotonic() - began)
                tokens, said = f"{stream.tokens:,}", f"{speed:,.0f} tokens/s"
                steps.advance(**its_name, tokens=tokens, speed=said)
            stream.require_enough()
    return speed


def _tokens(streams: Streams) -> int:
    return sum(stream.tokens for stream in streams.values())


def _write(output: Path, streams: Streams, tokenizing: Tokenizing) -> dict[str, TokenIndex]:
    """Hash all shards, which may take a while, then move them to `output`, which does not."""
    indexes = {
        name: TokenIndex(
            dtype=narrowest(tokenizing.vocabulary),
            tokenizer=tokenizing.sha256,
            vocabulary=tokenizing.vocabulary,
            bos=tokenizing.frame.bos,
            eos=tokenizing.frame.eos,
            splits=stream.work.hashed(),
        )
        for name, stream in streams.items()
    }
    for name, index in indexes.items():
        folder = output / name
        folder.mkdir(exist_ok=True)
        streams[name].work.move(index.splits, folder)
        index.write(folder)
    if names := [name for name in indexes if name]:
        DomainIndex.of(output, names).write(output)
    return indexes


def _report(
    context: StageContext, streams: Streams, indexes: Mapping[str, TokenIndex], speed: float
) -> None:
    """Say what was skipped and what there is."""
    for name, stream in streams.items():
        if stream.work.place.bad:
            context.progress.say(
                f"{_prefix(name)}skipped {stream.work.place.bad:,} documents that cannot be used, "
                f"the first: {stream.work.place.first_bad}"
            )
    for name, index in indexes.items():
        counts = ", ".join(f"{index.splits[split].tokens:,} tokens {split}" for split in SPLITS)
        context.progress.say(f"{_prefix(name)}{counts}")
    context.progress.say(f"{_tokens(streams):,} tokens in all; {speed:,.0f} tokens/s")


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""


def _files(parts: tuple[TextPart, ...]) -> str:
    named = ", ".join(f"{count} {split}" for split, count in _by_split(parts).items())
    return f"{len(parts)} file{'s' * (len(parts) > 1)}: {named}"


def _by_split(parts: tuple[TextPart, ...]) -> Counter[str]:
    return Counter(part.split or "train" for part in parts)


def _counts(index: TokenIndex) -> dict[str, Any]:
    """Tokens and documents of each split."""
    return {
        "tokens": {split: index.splits[split].tokens for split in SPLITS},
        "documents": {split: index.splits[split].documents for split in SPLITS},
    }


def _sums(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those of all domains."""
    return {
        what: {split: sum(record[what][split] for record in records) for split in SPLITS}
        for what in ("tokens", "documents")
    }


def _notes(stream: Packing, parts: tuple[TextPart, ...]) -> dict[str, Any]:
    """Of which files a stream is, and what of them is not in it or not as the tokenizer gave it."""
    place = stream.work.place
    return {
        "empty_documents": place.empty,
        "bad_documents": place.bad,
        "first_bad_document": place.first_bad,
        "documents_with_bos_or_eos_taken_out": place.framed,
        "files": dict(_by_split(parts)),
    }


def _origin(text: Path) -> dict[str, str]:
    """Name, source and revision of a text that says them; any other is named by the inputs."""
    if not (text / DESCRIPTION).is_file():
        return {}
    about = Description.read(text)
    return {"name": about.name, "source": about.source, "revision": about.revision}
