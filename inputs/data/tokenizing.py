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
    tokenizer_hash,
)
from inputs.data.packing import Frame


@dataclass(frozen=True)
class Tokenizing:
    """Texts to framed ids.

    Attributes:
        sha256: of the tokenizer's files, by which a model is known to fit.
        vocabulary: ids are below it.
    """

    sha256: str
    vocabulary: int
    frame: Frame
    _tokenizer: Any

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
        check_tokenizer(model, ModelLimits.of(model).vocabulary)
        vocabulary = max(len(tokenizer), (largest_token_id(model) or 0) + 1)
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        # One token for both, as GPT-2 has: it ends documents, and need not stand there twice.
        bos = None if bos == eos else bos
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            # A "</s>" that a text spells out is text: EOS is where a document ends, only.
            backend.encode_special_tokens = True
        frame = Frame(bos, eos, token_dtype(narrowest(vocabulary)))
        return cls(digest, vocabulary, frame, tokenizer)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; nothing stands around them."""
        whole = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates
        if self._tokenizer.is_fast:
            backend = self._tokenizer.backend_tokenizer
            encoded = backend.encode_batch_fast(whole, add_special_tokens=False)
            return [one.ids for one in encoded]
        ids: list[list[int]] = self._tokenizer(whole, add_special_tokens=False)["input_ids"]
        return ids
