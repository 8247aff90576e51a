"""How text is split before byte pairs are merged: GGUF names a rule, tokenizers has its parts.

The names and expressions are llama.cpp's (src/llama-vocab.cpp), the parts those of the models'
own tokenizer.json.
"""

from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from espalier.errors import InputError

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXPRESSIONS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
    "tekken": TEKKEN,
}
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Rules that take every digit by itself and split the rest as GPT-2 does."""
GPT2 = ("gpt-2", "phi-2", "mpt", "olmo")
UNNAMED = ("", "default")
"""A file that names no rule; GPT-2's is taken and said to be."""
WHOLE_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Rules under which a word of the vocabulary is one token, whatever the merges say."""


def splitter(rule: str, file: str) -> Any:
    """The pre-tokenizer of a rule.

    Raises:
        InputError: the rule is not known.
    """
    if rule in EXPRESSIONS:
        split = pre_tokenizers.Split(Regex(EXPRESSIONS[rule]), behavior="isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, by_bytes])
    as_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule in DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), as_gpt2])
    if rule in GPT2 or rule in UNNAMED:
        return as_gpt2
    known = ", ".join(sorted({*EXPRESSIONS, *DIGITS, *GPT2}))
    raise InputError(
        f"{file} splits text by the rule {rule} (tokenizer.ggml.pre), which is not known; adopt "
        f"the model's Hugging Face directory instead, or a file of one of {known}."
    )


def normalizer(rule: str) -> Any:
    """What the rule does to text first; None: nothing."""
    return normalizers.NFC() if rule == "qwen2" else None


def begins_by_default(rule: str) -> bool:
    """Whether a text begins with BOS where the file does not say."""
    return rule in EXPRESSIONS and not rule.startswith(("qwen2", "deepseek"))
