"""A model's tokenizer, applied to many texts at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from inputs.data.packing import Frame
from inputs.data.spelled_out import hide_special_tokens


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
