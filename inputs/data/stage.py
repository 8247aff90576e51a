"""Tokenise a text, split it by document and pack it into shards of token ids."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.data.text import DESCRIPTION, Description, sha256_of_file
from espalier.data.text_files import documents_of
from espalier.data.tokens import INDEX
from espalier.data.tokens.index import SPLITS, Split, TokenIndex, narrowest
from espalier.errors import InputError
from inputs.data.packing import Fractions, blocks, until_enough
from inputs.data.source import TextPart, parts_of
from inputs.data.spec import DataParameters
from inputs.data.tokenizing import Tokenizing
from inputs.data.work import Work

BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 2048, 4_000_000
"""Of a block: enough to keep all cores busy, and little to do again after an interruption."""


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Pack the input `text` with the tokenizer of the input `tokenizer`."""
    assert isinstance(parameters, DataParameters)  # noqa: S101
    text = context.inputs["text"]
    parts = parts_of(text)
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
    context.progress.say(
        ", ".join(f"{index.splits[split].tokens:,} tokens {split}" for split in SPLITS)
        + f"; {new / seconds:,.0f} tokens/s"
    )
    return Outcome(
        data={
            **_origin(text),
            "tokenizer": index.tokenizer,
            "tokens": {split: index.splits[split].tokens for split in SPLITS},
            "documents": {split: index.splits[split].documents for split in SPLITS},
            "sha256": sha256_of_file(context.output / INDEX),
        },
        notes={"empty_documents": work.place.empty, "tokens_per_second": round(new / seconds)},
    )


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
            texts = islice(documents_of(part.file, self._parameters.column), done, None)
            for block in blocks(texts, BLOCK_DOCUMENTS, BLOCK_CHARACTERS):
                enough = self._pack(block, part.split)
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

    def _pack(self, texts: list[str], own: Split | None) -> bool:
        """Append a block of documents; True when the training tokens are enough."""
        frame = self._tokenizing.frame
        splits = [own or self._fractions.split_of(text) for text in texts]
        ids = self._tokenizing(texts)
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
