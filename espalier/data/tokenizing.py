"""A model's tokenizer, applied to many texts at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from espalier.data.spelled_out import hide_special_tokens
from espalier.data.token_ids import ModelLimits
from espalier.data.tokens.index import narrowest, token_dtype
from espalier.errors import InputError
from espalier.models.tokenizer import (
    check_tokenizer,
    largest_token_id,
    load_tokenizer,
    probe_hash,
    tokenizer_hash,
)


@dataclass(frozen=True)
class Frame:
    """What stands before and after each document's ids, and their dtype."""

    bos: int | None
    eos: int | None
    dtype: "np.dtype[Any]"

    @property
    def ids(self) -> frozenset[int]:
        """BOS and EOS, where there are any."""
        return frozenset(number for number in (self.bos, self.eos) if number is not None)

    def without(self, ids: Sequence[int]) -> Sequence[int]:
        """`ids` but for BOS and EOS, which end documents and stand in none."""
        own = self.ids
        return ids if own.isdisjoint(ids) else [number for number in ids if number not in own]

    def around(self, ids: Sequence[int]) -> npt.NDArray[Any]:
        """[BOS] ids [EOS] as an array [tokens]."""
        before = [] if self.bos is None else [self.bos]
        after = [] if self.eos is None else [self.eos]
        return np.asarray([*before, *ids, *after], self.dtype)


@dataclass(frozen=True)
class Tokenizing:
    """Texts to framed ids.

    Attributes:
        sha256: of the tokenizer's files, by which a model is known to fit.
        probe: of `espalier.models.tokenizer.probe_hash`.
        vocabulary: ids are below it.
        frame: what stands around a document; inside, neither of its ids does.
    """

    sha256: str
    probe: str
    vocabulary: int
    frame: Frame
    _tokenizer: Any
    _backend: Any

    @classmethod
    def of(cls, model: Path) -> "Tokenizing":
        """The tokenizer of a Hugging Face directory.

        Raises:
            InputError: there is none, or it does not fit the model.
        """
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # on the stage's threads; read on first use
        tokenizer = load_tokenizer(model)
        digest = tokenizer_hash(model)
        if digest is None:
            raise InputError(f"{model} has no tokenizer files; give another TOKENIZER=.")
        rows = ModelLimits.of(model).vocabulary
        check_tokenizer(model, rows)
        highest = max(len(tokenizer), (largest_token_id(model) or 0) + 1)
        vocabulary = min(highest, rows)
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        # One token for both, as GPT-2 has: it ends documents, and need not stand there twice.
        bos = None if bos == eos else bos
        frame = Frame(bos, eos, token_dtype(narrowest(vocabulary)))
        if beyond := [number for number in frame.ids if number >= rows]:
            raise InputError(
                f"BOS or EOS of {model} has id {beyond[0]} and the embedding has {rows} rows; "
                "name others in tokenizer_config.json."
            )
        backend = None
        if tokenizer.is_fast:
            backend = hide_special_tokens(
                tokenizer.backend_tokenizer, {*frame.ids, *range(rows, highest)}
            )
        return cls(digest, probe_hash(tokenizer), vocabulary, frame, tokenizer, backend)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; nothing stands around them."""
        if self._backend is not None:
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [one.ids for one in encoded]
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def after(self, texts: Sequence[str], starts: Sequence[int]) -> list[tuple[list[int], int]]:
        """The ids of each text, and how many of them end at or before character `starts` of it.

        A token that holds characters from both sides is of those after. Of a tokenizer that does
        not say where its tokens lie, the ids of the first part by itself are counted.
        """
        if self._backend is None:
            firsts = self([text[:start] for text, start in zip(texts, starts, strict=True)])
            return [(ids, len(one)) for ids, one in zip(self(texts), firsts, strict=True)]
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (one.ids, sum(end <= start for _, end in one.offsets))
            for one, start in zip(encoded, starts, strict=True)
        ]
