"""What a SentencePiece model does to characters before anything else, as normalizers.

A model's rules are a compiled trie. The tokenizers library can read it, but looks at clusters of
characters where SentencePiece looks at the longest rule: it drops accents behind a character that
has one, and misses what is put together of three parts, as Hangul and kana often are. Rules
that are Unicode's NFKC are therefore said by that name, with the characters that become spaces or
vanish. (NFKC also sorts several accents of one letter, which SentencePiece leaves as they stand.)
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

NFKC_SAYS = {"ﬁ": "fi", "①": "1", "\uff21": "A", "\uff76": "カ", "\u2126": "\u03a9", "e\u0301": "é"}
"""A few of its rules, by which it is known."""
TILDE, PLACE_OF_TILDE = "\uff5e", "\ue0ff"
"""NFKC makes ~ of the wide tilde, and SentencePiece leaves it; a private character holds its
place meanwhile."""
BASIC = 0x10000


class Charsmap:
    """The rules of a model: the longest that fits is applied, from left to right."""

    def __init__(self, compiled: bytes) -> None:
        [size] = struct.unpack_from("<I", compiled)
        self._units = struct.unpack_from(f"<{size // 4}I", compiled, 4)
        self._values = compiled[4 + size :]

    def rule(self, key: str) -> str | None:
        """What `key` becomes by a rule of its own; None: there is none."""
        place, unit = 0, self._units[0]
        for byte in key.encode():
            place ^= _offset(unit) ^ byte
            if place >= len(self._units):
                return None
            unit = self._units[place]
            if unit & 0x800000FF != byte:
                return None
        if not unit >> 8 & 1:
            return None
        start = self._units[place ^ _offset(unit)] & 0x7FFFFFFF
        return self._values[start : self._values.index(0, start)].decode()

    @property
    def is_nfkc(self) -> bool:
        """Whether the rules are NFKC's, upper case left as it is."""
        told = all(self.rule(key) == value for key, value in NFKC_SAYS.items())
        return told and self.rule("A") in (None, "A")

    def normalizers(self) -> Iterator[dict[str, Any]]:
        """The rules as a tokenizer.json says them; only where they are NFKC's."""
        for value in (" ", ""):
            letters = [chr(n) for n in range(1, BASIC) if not 0xD800 <= n < 0xE000]
            found = "".join(re.escape(letter) for letter in letters if self.rule(letter) == value)
            if found:
                yield _replace({"Regex": f"[{found}]"}, value)
        kept = self.rule(TILDE) is None
        if kept:
            yield _replace({"String": TILDE}, PLACE_OF_TILDE)
        yield {"type": "NFKC"}
        if kept:
            yield _replace({"String": PLACE_OF_TILDE}, TILDE)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)
