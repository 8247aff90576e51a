"""One stream of documents, packed block after block."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from espalier.data.text_files import BadDocument, entries_of
from espalier.data.tokenizing import Tokenizing
from espalier.data.tokens.index import SPLITS, Split
from espalier.errors import InputError
from inputs.data.packing import Fractions, blocks, place_of, until_enough
from inputs.data.source import TextPart
from inputs.data.spec import DataParameters
from inputs.data.work import Work

BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 2048, 4_000_000
"""Of a block: enough to keep all cores busy, and little to do again after an interruption."""


class Packing:
    """Blocks of documents, read on from where the work stands, tokenised and appended to it.

    Attributes:
        work: what has been packed.
    """

    def __init__(
        self,
        parameters: DataParameters,
        parts: tuple[TextPart, ...],
        tokenizing: Tokenizing,
        work: Work,
        domain: str = "",
    ) -> None:
        self.work = work
        self._parameters, self._parts = parameters, parts
        self._tokenizing, self._domain = tokenizing, domain
        self._fractions = Fractions(
            valid=0 if any(part.split == "valid" for part in parts) else parameters.valid,
            test=0 if any(part.split == "test" for part in parts) else parameters.test,
        )

    @property
    def place(self) -> str:
        """Where a later run goes on."""
        return f"document {self.work.place.documents + 1} of file {self.work.place.part + 1}"

    @property
    def tokens(self) -> int:
        """Of all splits."""
        return sum(map(self.work.tokens, SPLITS))

    def blocks(self) -> Iterator[None]:
        """Pack block after block, until the text ends or TOKENS are there."""
        place = self.work.place
        if place.enough:
            return
        for number in range(place.part, len(self._parts)):
            done = place.documents if number == place.part else 0
            part = self._parts[number]
            entries = islice(entries_of(part.file, self._parameters.column), done, None)
            for block in blocks(entries, BLOCK_DOCUMENTS, BLOCK_CHARACTERS):
                enough = self._pack(self._usable(block), part.split)
                done += len(block)
                self.work.save(part=number, documents=done, enough=enough)
                yield
                if enough:
                    return
        self.work.save(enough=True)  # so that a later run need not look for more

    def require_enough(self) -> None:
        """Refuse a text that has fewer training tokens than asked, and a domain without any for
        validation.

        Raises:
            InputError: it says how many there are.
        """
        text = f"domain {self._domain}" if self._domain else "the text"
        found, wanted = self.work.tokens("train"), self._parameters.tokens
        if found == 0:
            raise InputError(
                f"no document of {text} is for training; give a longer text, or less to VALID= "
                "and TEST=."
            )
        if wanted and found < wanted:
            raise InputError(
                f"TOKENS={wanted} are more than the {found} training tokens of {text}; give "
                f"TOKENS={found} or less, or a longer text."
            )
        if self._domain and not self.work.tokens("valid"):
            least = (math.floor(self.work.place.lowest * 1000) + 1) / 1000
            raise InputError(
                f"no document of {text} is held out for valid, by which each domain is evaluated; "
                f"give VALID={least:g} or more, a longer text, or files of it of which some are "
                "named for validation."
            )

    def _usable(self, entries: list[str | BadDocument]) -> list[str]:
        """The texts among them; what is no text is counted or refused."""
        bad = [entry for entry in entries if isinstance(entry, BadDocument)]
        if bad and not self._parameters.skip_bad:
            raise InputError(
                f"{bad[0].where} {bad[0].what}; correct it, or leave out and count such documents "
                "with SKIP_BAD=1."
            )
        place = self.work.place
        if bad and not place.bad:
            place.first_bad = f"{bad[0].where} {bad[0].what}"
        place.bad += len(bad)
        return [entry for entry in entries if isinstance(entry, str)]

    def _pack(self, texts: list[str], own: Split | None) -> bool:
        """Append a block of documents; True when the training tokens are enough."""
        frame, position = self._tokenizing.frame, self.work.place
        places = list(map(place_of, texts))
        raw = self._tokenizing(texts)
        ids = [frame.without(one) for one in raw]
        changed = (len(one) != len(other) for one, other in zip(raw, ids, strict=True))
        position.framed += sum(changed)
        kept = [
            (own or self._fractions.split_at(place), place, frame.around(one))
            for place, one in zip(places, ids, strict=True)
            if one
        ]
        position.empty += len(texts) - len(kept)
        enough = False
        if self._parameters.tokens:
            left = self._parameters.tokens - self.work.tokens("train")
            lengths = [len(one) if split == "train" else 0 for split, _, one in kept]
            enough = sum(lengths) >= left
            kept = kept[: until_enough(lengths, left)]
        found: dict[Split, list[Any]] = {split: [] for split in SPLITS}
        for split, place, one in kept:
            found[split].append(one)
            position.lowest = position.lowest if own else min(position.lowest, place)
        self.work.append(found)
        return enough
