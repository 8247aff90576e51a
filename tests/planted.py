"""Secrets where users keep theirs, and the search for them in whatever a run leaves behind.

Every value is a word of its own, so that what was found tells what leaked. The words are of letters
and digits alone: quoted, percent-encoded or put into JSON, they stay what they are.
"""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    "token of the hub": "hfPlanted5e1f0a9c77",
    "login of a proxy": "proxyPlanted83b2d4c1",
    "login of a package index": "indexPlanted0c9e7f35",
    "login of another package index": "extraPlanted6b14d9a2",
    "key of a tracker": "wandbPlanted91d7e6f8",
    "flag of an engine": "flagPlanted27af35cc",
    "key of a cloud": "cloudPlanted4490fe1b",
    "login of an address": "loginPlanted5d0b82e6",
    "signature of an address": "signedPlanted72c3a91f",
}
"""What was planted, by where it was."""

AT_ONCE = 1 << 24
"""Bytes of a file that are searched at once."""


def plant() -> dict[str, str]:
    """Variables that hold the words as users' environments do; to be added to a command's own."""
    proxy = f"http://someone:{WORDS['login of a proxy']}@127.0.0.1:9"
    flags = f"-e SERVICE_KEY={WORDS['flag of an engine']}"
    index = f"https://someone:{WORDS['login of a package index']}@127.0.0.1:9/simple"
    other = f"https://{WORDS['login of another package index']}@127.0.0.1:9/simple"
    return {
        "HF_TOKEN": WORDS["token of the hub"],
        **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), proxy),
        **dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), index),
        **dict.fromkeys(("PIP_EXTRA_INDEX_URL", "UV_INDEX"), other),
        "WANDB_API_KEY": WORDS["key of a tracker"],
        **dict.fromkeys(("DOCKER_RUN_FLAGS", "PODMAN_RUN_FLAGS"), flags),
        **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "COMET_API_KEY"), WORDS["key of a cloud"]),
    }


def address(scheme: str = "https", path: str = "models/tiny") -> str:
    """An address with a login and a signature, as MODEL= or DATA= may be given it."""
    login, signature = WORDS["login of an address"], WORDS["signature of an address"]
    return f"{scheme}://someone:{login}@storage.example/{path}?X-Goog-Signature={signature}"


def planted_in(content: bytes | str) -> list[str]:
    """Which of the words some text holds, by where they were planted."""
    searched = content.encode() if isinstance(content, str) else content
    return [place for place, forms in FORMS.items() if any(form in searched for form in forms)]


def find_planted(folder: Path) -> list[Path]:
    """Files and links below `folder` that hold a planted word, in their content or in their name.

    What is gone before it could be read is passed over: a store may be at work.
    """
    return sorted(path for path in _below(folder) if _holds(path))


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(place, name)


def _holds(path: Path) -> bool:
    if planted_in(path.name):
        return True
    try:
        if path.is_symlink():
            return bool(planted_in(str(path.readlink())))
        if not path.is_file():
            return False
        with path.open("rb") as file:
            before = b""
            while block := file.read(AT_ONCE):
                if planted_in(before + block):
                    return True
                before = block[-LONGEST:]
    except OSError:
        return False
    return False


def _forms(word: str) -> list[bytes]:
    """The word itself, and what of it base64 shows wherever in a longer text it stands."""
    shifted = (base64.b64encode(b"\0" * shift + word.encode()) for shift in range(3))
    return [word.encode(), *(text[4:-4] for text in shifted)]


FORMS = {place: _forms(word) for place, word in WORDS.items()}
LONGEST = max(len(form) for forms in FORMS.values() for form in forms)
