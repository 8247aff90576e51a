"""Tokenise a text, split it by document and pack it into shards of token ids."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.data.formats import left_out
from espalier.data.text import DESCRIPTION, Description, sha256_of_file
from espalier.data.text_files import BadDocument, entries_of
from espalier.data.tokenizing import Tokenizing
from espalier.data.tokens import INDEX
from espalier.data.tokens.index import SPLITS, Split, TokenIndex, narrowest
from espalier.errors import InputError
from inputs.data.packing import Fractions, blocks, until_enough
from inputs.data.source import TextPart, parts_of
from inputs.data.spec import DataParameters
from inputs.data.work import Position, Work

BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 2048, 4_000_000
"""Of a block: enough to keep all cores busy, and little to do again after an interruption."""


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Pack the input `text` with the tokenizer of the input `tokenizer`."""
    assert isinstance(parameters, DataParameters)  # noqa: S101
    text = context.inputs["text"]
    parts = parts_of(text)
    files = Counter(part.split or "train" for part in parts)
    if len(parts) > 1:
        named = ", ".join(f"{count} {split}" for split, count in files.items())
        context.progress.say(f"{len(parts)} files: {named}")
    tokenizing = Tokenizing.of(context.inputs["tokenizer"])
    work = Work(context.scratch, tokenizing.frame.dtype, parameters.shard)
    packed = Packing(parameters, parts, tokenizing, work)
    began, before = time.monotonic(), packed.tokens
    with context.progress.steps("blocks packed", None) as steps:
        for _ in packed.blocks():
            seconds = time.monotonic() - began
            speed = f"{(packed.tokens - before) / seconds:,.0f} tokens/s"
            steps.advance(tokens=f"{packed.tokens:,}", speed=speed)
    seconds = time.monotonic() - began
    packed.require_enough()
    index = TokenIndex(
        dtype=narrowest(tokenizing.vocabulary),
        tokenizer=tokenizing.sha256,
        vocabulary=tokenizing.vocabulary,
        bos=tokenizing.frame.bos,
        eos=tokenizing.frame.eos,
        splits=work.finish(context.output),
    )
    index.write(context.output)
    new = packed.tokens - before
    if work.place.bad:
        context.progress.say(
            f"skipped {work.place.bad:,} documents that cannot be used, the first: "
            f"{work.place.first_bad}"
        )
    context.progress.say(
        ", ".join(f"{index.splits[split].tokens:,} tokens {split}" for split in SPLITS)
        + f"; {new / seconds:,.0f} tokens/s"
    )
    return Outcome(
        data={
            **_origin(text),
            "tokenizer": index.tokenizer,
            "tokenizer_probe": tokenizing.probe,
            "tokens": {split: index.splits[split].tokens for split in SPLITS},
            "documents": {split: index.splits[split].documents for split in SPLITS},
            "sha256": sha256_of_file(context.output / INDEX),
        },
        notes={
            **_left_out(text, work.place),
            "files": dict(files),
            "tokens_per_second": round(new / seconds),
        },
    )


def _left_out(text: Path, place: Position) -> dict[str, Any]:
    """What of the text is not among the tokens, or not as the tokenizer gave it."""
    return {
        "empty_documents": place.empty,
        "bad_documents": place.bad,
        "first_bad_document": place.first_bad,
        "documents_with_bos_or_eos_taken_out": place.framed,
        "files_left_out": left_out(text) if text.is_dir() else [],
    }


def _origin(text: Path) -> dict[str, str]:
    """Name, source and revision of a text that says them; any other is named by the inputs."""
    if not (text / DESCRIPTION).is_file():
        return {}
    about = Description.read(text)
    return {"name": about.name, "source": about.source, "revision": about.revision}


class Packing:
    """Blocks of documents, read on from where the work stands, tokenised and appended to it."""

    def __init__(
        self,
        parameters: DataParameters,
        parts: tuple[TextPart, ...],
        tokenizing: Tokenizing,
        work: Work,
    ) -> None:
        self._parameters, self._parts = parameters, parts
        self._tokenizing, self._work = tokenizing, work
        self._fractions = Fractions(
            valid=0 if any(part.split == "valid" for part in parts) else parameters.valid,
            test=0 if any(part.split == "test" for part in parts) else parameters.test,
        )

    @property
    def tokens(self) -> int:
        """Of all splits."""
        return sum(map(self._work.tokens, SPLITS))

    def blocks(self) -> Iterator[None]:
        """Pack block after block, until the text ends or TOKENS are there."""
        place = self._work.place
        if place.enough:
            return
        for number in range(place.part, len(self._parts)):
            done = place.documents if number == place.part else 0
            part = self._parts[number]
            entries = islice(entries_of(part.file, self._parameters.column), done, None)
            for block in blocks(entries, BLOCK_DOCUMENTS, BLOCK_CHARACTERS):
                enough = self._pack(self._usable(block), part.split)
                done += len(block)
                self._work.save(part=number, documents=done, enough=enough)
                yield
                if enough:
                    return

    def require_enough(self) -> None:
        """Refuse a text that has fewer training tokens than asked.

        Raises:
            InputError: it says how many there are.
        """
        found, wanted = self._work.tokens("train"), self._parameters.tokens
        if found == 0:
            raise InputError(
                "no document of the text is for training; give a longer text, or less to VALID= "
                "and TEST=."
            )
        if wanted and found < wanted:
            raise InputError(
                f"TOKENS={wanted} are more than the {found} training tokens of the text; give "
                f"TOKENS={found} or less, or a longer text."
            )

    def _usable(self, entries: list[str | BadDocument]) -> list[str]:
        """The texts among them; what is no text is counted or refused."""
        bad = [entry for entry in entries if isinstance(entry, BadDocument)]
        if bad and not self._parameters.skip_bad:
            raise InputError(
                f"{bad[0].where} {bad[0].what}; correct it, or leave out and count such documents "
                "with SKIP_BAD=1."
            )
        place = self._work.place
        if bad and not place.bad:
            place.first_bad = f"{bad[0].where} {bad[0].what}"
        place.bad += len(bad)
        return [entry for entry in entries if isinstance(entry, str)]

    def _pack(self, texts: list[str], own: Split | None) -> bool:
        """Append a block of documents; True when the training tokens are enough."""
        frame = self._tokenizing.frame
        splits = [own or self._fractions.split_of(text) for text in texts]
        raw = self._tokenizing(texts)
        ids = [frame.without(one) for one in raw]
        changed = (len(one) != len(other) for one, other in zip(raw, ids, strict=True))
        self._work.place.framed += sum(changed)
        kept = [(split, frame.around(one)) for split, one in zip(splits, ids, strict=True) if one]
        self._work.place.empty += len(texts) - len(kept)
        enough = False
        if self._parameters.tokens:
            left = self._parameters.tokens - self._work.tokens("train")
            lengths = [len(one) if split == "train" else 0 for split, one in kept]
            enough = sum(lengths) >= left
            kept = kept[: until_enough(lengths, left)]
        found: dict[Split, list[Any]] = {split: [] for split in SPLITS}
        for split, one in kept:
            found[split].append(one)
        self._work.append(found)
        return enough
