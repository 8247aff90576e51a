"""Write token data in the form that another trainer reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.contract.parameters import Parameters
from espalier.contract.progress import Steps
from espalier.contract.stage import Outcome, StageContext
from espalier.data.tokens import DOMAINS
from espalier.data.tokens.domains import read_domains
from espalier.data.tokens.index import Split, TokenIndex
from espalier.data.tokens.reader import Ids, TokenData
from espalier.errors import InputError
from inputs.export import mds, records, tables
from inputs.export.rows import Part, Rows
from inputs.export.spec import ExportParameters

EVALUATED: tuple[Split, ...] = ("train", "valid")
"""What every domain must have rows of: trainers draw from it, and evaluate it by its own."""


@dataclass(frozen=True)
class Section:
    """A split of one stream; `domain` is empty where there are no domains."""

    domain: str
    split: Split
    parts: list[Part]
    index: TokenIndex


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Export the input `data`, each domain to a folder of its own.

    Files that an interrupted run has finished are kept.
    """
    assert isinstance(parameters, ExportParameters)  # noqa: S101
    source = context.inputs["data"]
    several = (source / DOMAINS).is_file()
    streams = read_domains(source) if several else {"": TokenData(source)}
    for data in streams.values():
        data.verify()
    rows = Rows(parameters.seqlen, parameters.targets)
    sections = [
        Section(domain, split, rows.parts(data, split), data.index)
        for domain, data in streams.items()
        for split in data.splits
    ]
    _require_rows(streams, sections, parameters.seqlen)
    with context.progress.steps("export", sum(len(each.parts) for each in sections)) as steps:
        for section in sections:
            _export(section, context.output / section.domain, parameters.format, steps)
    facts = {domain: _facts(data, rows) for domain, data in streams.items()}
    index = sections[0].index  # one tokenizer made the ids of all domains
    return Outcome(
        data={
            "tokenizer": index.tokenizer,
            "vocabulary": index.vocabulary,
            **({**_sums(facts), "domains": facts} if several else facts[""]),
        }
    )


def _require_rows(streams: Mapping[str, Any], sections: list[Section], seqlen: int) -> None:
    """Refuse to write nothing, and a domain that cannot be trained on or evaluated.

    Raises:
        InputError: too few tokens for rows of that length.
    """
    written = {(each.domain, each.split) for each in sections if each.parts}
    if not written:
        raise InputError(f"no split has SEQLEN={seqlen} tokens; give fewer.")
    for domain in filter(None, streams):
        if empty := [split for split in EVALUATED if (domain, split) not in written]:
            raise InputError(
                f"domain {domain} has no row of SEQLEN={seqlen} tokens in {' and '.join(empty)}; "
                "give fewer, or data that hold more of it."
            )


def _export(section: Section, folder: Path, form: str, steps: Steps) -> None:
    """Write the parts of a section as files in `folder`, or as the folder that MDS has for it."""
    if form == "mds" and section.parts:
        rows = _in_a_row(section.parts, steps)
        mds.write(folder / section.split, rows, section.index.dtype, section.domain)
        return
    folder.mkdir(exist_ok=True)
    for part in section.parts:
        target = folder / f"{part.name}.{form}"
        if not target.exists():
            _write(target, part.rows, section.index.tokenizer)
        steps.advance(file=target.name)


def _write(target: Path, rows: Iterator[Ids], tokenizer: str) -> None:
    if target.suffix == ".arrayrecord":
        records.write(target, rows)
    else:
        tables.write(target, rows, tokenizer)


def _in_a_row(parts: list[Part], steps: Steps) -> Iterator[Ids]:
    for part in parts:
        yield from part.rows
        steps.advance(read=part.name)


def _facts(data: TokenData, rows: Rows) -> dict[str, dict[str, int]]:
    """Tokens and rows of each split that holds documents."""
    return {
        "tokens": {split: rows.tokens(data, split) for split in data.splits},
        "rows": {split: rows.count(data, split) for split in data.splits},
    }


def _sums(facts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Those of all domains."""
    sums: dict[str, dict[str, int]] = {"tokens": {}, "rows": {}}
    for counts in facts.values():
        for what, by_split in sums.items():
            for split, count in counts[what].items():
                by_split[split] = by_split.get(split, 0) + count
    return sums
