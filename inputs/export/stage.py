"""Write token data in the form that another trainer reads."""

from collections.abc import Iterator
from pathlib import Path

from espalier.contract.parameters import Parameters
from espalier.contract.progress import Steps
from espalier.contract.stage import Outcome, StageContext
from espalier.data.tokens.reader import Ids, TokenData
from espalier.errors import InputError
from inputs.export import mds, records, tables
from inputs.export.rows import Part, Rows
from inputs.export.spec import ExportParameters


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Export the input `data`; files that an interrupted run has finished are kept."""
    assert isinstance(parameters, ExportParameters)  # noqa: S101
    data = TokenData(context.inputs["data"])
    data.verify()
    rows = Rows(parameters.seqlen, parameters.targets)
    found = {split: rows.parts(data, split) for split in data.splits}
    total = sum(map(len, found.values()))
    if not total:
        raise InputError(f"no split has SEQLEN={parameters.seqlen} tokens; give fewer.")
    with context.progress.steps("export", total) as steps:
        for split, its_parts in found.items():
            if parameters.format == "mds" and its_parts:
                mds.write(context.output / split, _in_a_row(its_parts, steps), data.index.dtype)
                continue
            for part in its_parts:
                target = context.output / f"{part.name}.{parameters.format}"
                if not target.exists():
                    _write(target, part.rows, data.index.tokenizer)
                steps.advance(file=target.name)
    return Outcome(
        data={
            "tokenizer": data.index.tokenizer,
            "vocabulary": data.index.vocabulary,
            "tokens": {split: rows.tokens(data, split) for split in data.splits},
            "rows": {split: rows.count(data, split) for split in data.splits},
        }
    )


def _write(target: Path, rows: Iterator[Ids], tokenizer: str) -> None:
    if target.suffix == ".arrayrecord":
        records.write(target, rows)
    else:
        tables.write(target, rows, tokenizer)


def _in_a_row(parts: list[Part], steps: Steps) -> Iterator[Ids]:
    for part in parts:
        yield from part.rows
        steps.advance(read=part.name)
