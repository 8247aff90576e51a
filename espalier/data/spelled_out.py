"""A tokenizer for which special tokens that a text spells out are text like any other.

`encode_special_tokens` of the tokenizers library only stops the splitter that looks for added
tokens. A Unigram model, a word list, or a BPE whose merges lead there still finds `</s>` as a piece
of its vocabulary. Here such pieces have other names, of noncharacters that no text holds, and the
same ids, so that only what is put around a document has them; SentencePiece does likewise.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from espalier.contract.json_text import to_json

HIDDEN = "\ufdd0\ufdef{}\ufdd0"
"""What a hidden piece is called: two noncharacters of Unicode around its id."""


def hide_special_tokens(tokenizer: Tokenizer, ids: Collection[int]) -> Tokenizer:
    """A tokenizer that gives the same ids, but for the special tokens and `ids` never one."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    added = content.get("added_tokens") or []
    # The unknown token has to stay what it is: it stands for what no piece matches.
    unknown = content["model"].get("unk_token")
    special = {token["id"] for token in added if token["special"] and token["content"] != unknown}
    hidden = {number: HIDDEN.format(number) for number in special | set(ids)}
    named = {tokenizer.id_to_token(number): name for number, name in hidden.items()}
    for token in added:
        token["content"] = hidden.get(token["id"], token["content"])
    _rename(content["model"], {piece: name for piece, name in named.items() if piece is not None})
    found = Tokenizer.from_str(to_json(content))
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give pieces of a model's vocabulary other names; merges that lead to them are left out."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [
            pair for pair in pairs if not names.keys() & {*pair, _merged(pair, model)}
        ]


def _merged(pair: Sequence[str], model: Mapping[str, Any]) -> str:
    left, right = pair
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")
