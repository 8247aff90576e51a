"""What of a tokenizer decides the ids of a text, whatever wrote its files.

Of `tokenizer.json`: vocabulary, merges, added tokens, normaliser and pre-tokenizer, each in one
form for all that mean the same; beside it BOS and EOS, which stand around documents. Decoders,
padding, truncation and what post-processors add decide no id of a text's own.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.json_text import NotJson, from_json, to_json

CONTENT = "tokenizer.json"
FILES = (CONTENT, "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
DECIDING = ("model", "added_tokens", "normalizer", "pre_tokenizer")
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
STATED_IN = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that say which tokens are BOS and EOS; the first that says it is right."""
WITHOUT_EFFECT = ("trim_offsets", "str_rep")
"""Settings that no id depends on, or that another one says again."""
DEFAULTS: Mapping[str, Any] = {"use_regex": True, "split": True, "prepend_scheme": "always"}
"""What older files leave out, and newer ones write."""


def identity_hash(directory: Path) -> str | None:
    """sha256 of what decides the ids; None where there is no `tokenizer.json` to be read."""
    try:
        content = from_json((directory / CONTENT).read_bytes())
    except (OSError, NotJson):
        return None
    if not isinstance(content, dict):
        return None
    identity = {part: _plain(content.get(part)) for part in DECIDING}
    identity["model"] = _model(identity["model"])
    if isinstance(identity["added_tokens"], list):
        identity["added_tokens"].sort(key=lambda token: to_json(token, sort_keys=True))
    stated = stated_tokens(directory)
    identity |= {name: stated.get(name) for name in ("bos_token", "eos_token")}
    text = to_json(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def files_hash(directory: Path) -> str | None:
    """sha256 over the tokenizer's files as they are; None where there are none."""
    present = [directory / name for name in FILES if (directory / name).is_file()]
    if not present:
        return None
    digest = hashlib.sha256()
    for path in present:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def stated_tokens(directory: Path) -> dict[str, str | None]:
    """Role (`bos_token`, …) to its text, as the first file has it that says something.

    None where that file says that there is none; a role that no file speaks of is absent.
    """
    found: dict[str, str | None] = {}
    for file in STATED_IN:
        try:
            stated = from_json((directory / file).read_bytes())
        except (OSError, NotJson):
            continue
        for role in stated.keys() & set(ROLES) - found.keys() if isinstance(stated, dict) else ():
            token = stated[role]
            text = token.get("content") if isinstance(token, dict) else token
            found[role] = text if isinstance(text, str) else None
    return found


def _plain(value: Any, within: str = "") -> Any:
    """One form for settings that mean the same: what is absent, null, false or empty, is absent."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if within == "vocab":
        return value
    named = dict(value)
    if "add_prefix_space" in named and named.get("type") == "Metaspace":
        prefixed = named.pop("add_prefix_space")
        named.setdefault("prepend_scheme", "always" if prefixed else "never")
    plain = {key: _plain(one, key) for key, one in named.items() if key not in WITHOUT_EFFECT}
    return {key: one for key, one in plain.items() if not _says_nothing(key, one)}


def _says_nothing(key: str, value: Any) -> bool:
    if key in DEFAULTS:
        return bool(value == DEFAULTS[key])
    return value is None or value is False or value == ""


def _model(model: Any) -> Any:
    """Merges as pairs, which older files write with a space between; the kind, which they omit."""
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
        return model
    pairs = [one.split(" ", 1) if isinstance(one, str) else one for one in model["merges"]]
    return {"type": "BPE", **model, "merges": pairs}
