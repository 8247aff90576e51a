"""tokenizer.json from the tables of a GGUF file; its ids are the tables' places."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import InputError
from inputs.gguf.file import GgufFile
from inputs.gguf.splits import UNNAMED, WHOLE_FIRST, begins_by_default, normalizer, splitter

SPACE = "\u2581"
"""What SentencePiece writes for a space."""


@dataclass(frozen=True)
class Vocabulary:
    """The tables of a file.

    Attributes:
        tokens: by id.
        kinds: what each is (`gguf.TokenType`).
        rule: how text is split (byte pairs only).
    """

    file: GgufFile
    tokens: list[str]
    kinds: list[int]
    rule: str

    @classmethod
    def of(cls, file: GgufFile) -> "Vocabulary":
        """Read the tables.

        Raises:
            InputError: there are none, or they contradict each other.
        """
        tokens = file.values("tokenizer.ggml.tokens", str)
        if not tokens:
            raise InputError(
                f"{file.path.name} has no vocabulary; give a file that has its tokenizer."
            )
        kinds = file.values("tokenizer.ggml.token_type", int)
        kinds = kinds or [int(TokenType.NORMAL)] * len(tokens)
        if len(kinds) != len(tokens):
            raise InputError(
                f"{file.path.name} has {len(tokens)} tokens and kinds of {len(kinds)}; download it "
                "again."
            )
        count = len(tokens)
        while count and kinds[count - 1] == TokenType.UNUSED:  # rows of the embedding and no tokens
            count -= 1
        tokens, kinds = tokens[:count], kinds[:count]
        if len(set(tokens)) != len(tokens):
            raise InputError(f"{file.path.name} has a token twice; convert it to GGUF again.")
        return cls(file, tokens, kinds, file.value("tokenizer.ggml.pre", "", str))

    @property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def special(self, role: str) -> str | None:
        """The token of a role: `bos`, `eos`, `unknown`, `padding`; None where there is none."""
        number: int | None = self.file.value(f"tokenizer.ggml.{role}_token_id", kind=int)
        if number is None or not 0 <= number < len(self.tokens):
            return None
        return self.tokens[number]

    def adds(self, role: str, otherwise: bool) -> bool:
        """Whether a text gets the token of `role`, `bos` or `eos`, at its end."""
        wanted = bool(self.file.value(f"tokenizer.ggml.add_{role}_token", otherwise))
        return wanted and self.special(role) is not None


def write_tokenizer(file: GgufFile, output: Path) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json; give what the manifest should say of them.

    Raises:
        InputError: the vocabulary is of another type than byte pairs or SentencePiece's, or the
            ids that come out are not the file's.
    """
    vocabulary, kind = Vocabulary.of(file), file.value("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_pairs(vocabulary)
    elif kind == "llama":
        tokenizer = _sentencepiece(vocabulary)
    else:
        raise InputError(
            f"{file.path.name} has a vocabulary of the type {kind}; gpt2 (byte pairs) and llama "
            "(SentencePiece) can be adopted."
        )
    _add_specials(tokenizer, vocabulary, begins=kind == "llama")
    check_ids(tokenizer, vocabulary)
    write_text(output / "tokenizer.json", tokenizer.to_str(pretty=False))
    settings = _settings(vocabulary)
    text = to_json(settings, indent=2, ensure_ascii=False) + "\n"
    write_text(output / "tokenizer_config.json", text)
    guessed = kind == "gpt2" and vocabulary.rule in UNNAMED
    rule = "not named by the file: split as GPT-2 does" if guessed else vocabulary.rule
    return {"type": kind, "rule": rule or None, "tokens": len(vocabulary.tokens)}


def check_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Compare the finished tokenizer's ids with the file's own table.

    Raises:
        InputError: a token has another id, or none.
    """
    found = tokenizer.get_vocab(with_added_tokens=True)
    if found != vocabulary.ids:
        wrong = next(
            t for t in (*vocabulary.tokens, *found) if found.get(t) != vocabulary.ids.get(t)
        )
        raise InputError(
            f"the token {wrong!r} of {vocabulary.file.path.name} has the id "
            f"{vocabulary.ids.get(wrong)} there and {found.get(wrong)} in a tokenizer made of it; "
            "it cannot be adopted."
        )


def _byte_pairs(vocabulary: Vocabulary) -> Tokenizer:
    """As GPT-2's: bytes written as letters, merged in the order of a list."""
    file = vocabulary.file
    lines = file.values("tokenizer.ggml.merges", str)
    if not lines:
        raise InputError(f"{file.path.name} has byte pairs and no merges; convert it again.")
    merges, ids = [line.partition(" ")[::2] for line in lines], vocabulary.ids
    for left, right in merges:  # the library panics
        if not (left in ids and right in ids and left + right in ids):
            raise InputError(
                f"the merge of {left!r} and {right!r} in {file.path.name} is not of its tokens; "
                "convert the model to GGUF again."
            )
    model = models.BPE(vocab=ids, merges=merges, ignore_merges=vocabulary.rule in WHOLE_FIRST)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter(vocabulary.rule, file.path.name)
    tokenizer.decoder = decoders.ByteLevel()
    if (first := normalizer(vocabulary.rule)) is not None:
        tokenizer.normalizer = first
    return tokenizer


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    """As Llama 2's: pieces with scores, the best pair merged first, bytes for what is unknown."""
    from transformers.convert_slow_tokenizer import generate_merges

    file, ids = vocabulary.file, vocabulary.ids
    scores = file.values("tokenizer.ggml.scores", (int, float))
    if not scores or len(scores) < len(vocabulary.tokens) or not all(map(math.isfinite, scores)):
        raise InputError(f"{file.path.name} has pieces without scores; convert it again.")
    rated = dict(zip(vocabulary.tokens, scores, strict=False))
    whole = [t for t, k in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if k != 1]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=generate_merges(ids, rated, skip_tokens=whole),
            unk_token=vocabulary.special("unknown") or vocabulary.tokens[0],
            fuse_unk=True,
            byte_fallback=int(TokenType.BYTE) in vocabulary.kinds,
        )
    )
    prefix = bool(file.value("tokenizer.ggml.add_space_prefix", True))
    spaces: list[Any] = [normalizers.Replace(" ", SPACE)]
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        spaces.insert(0, normalizers.Prepend(SPACE))
        back.append(decoders.Strip(content=" ", left=1))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _add_specials(tokenizer: Tokenizer, vocabulary: Vocabulary, begins: bool) -> None:
    """Tokens that are never split, and those that a text begins or ends with."""
    control = (TokenType.CONTROL, TokenType.UNKNOWN)
    for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
        if kind in control:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    bos, eos = vocabulary.special("bos"), vocabulary.special("eos")
    first = vocabulary.adds("bos", begins or begins_by_default(vocabulary.rule))
    last = vocabulary.adds("eos", otherwise=False)
    used = [token for token, wanted in ((bos, first), (eos, last)) if wanted and token]
    parts: list[Any] = [processors.ByteLevel(trim_offsets=False)] if not begins else []
    if used:
        before, after = [f"{bos}:0"] if first else [], [f"{eos}:0"] if last else []
        pair = [f"{bos}:1"] if first else [], [f"{eos}:1"] if last else []
        parts.append(
            processors.TemplateProcessing(
                single=[*before, "$A:0", *after],
                pair=[*before, "$A:0", *after, *pair[0], "$B:1", *pair[1]],
                special_tokens=[(token, vocabulary.ids[token]) for token in dict.fromkeys(used)],
            )
        )
    if parts:
        tokenizer.post_processor = parts[0] if len(parts) == 1 else processors.Sequence(parts)


def _settings(vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer_config.json: a class that takes tokenizer.json as it is, roles, chat template."""
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {f"{name}_token": vocabulary.special(role) for name, role in roles.items()}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": vocabulary.file.count("context_length"),
        **{name: token for name, token in named.items() if token is not None},
    }
    if template := vocabulary.file.value("tokenizer.chat_template", kind=str):
        settings["chat_template"] = template
    return settings
