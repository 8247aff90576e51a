"""The hub's token and address, for stages with the network and for no other; and no secret shown.

Whoever lists a machine's processes sees their words, and whoever reads a manifest those of its
command: words name variables, whose values stay in the environment.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from espalier.contract.stage import Stage
from espalier.errors import without_secrets

HUB_VARIABLES = (
    *("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy"),
)


@contextmanager
def hub_token(stage: Stage) -> Iterator[Mapping[str, Path]]:
    """The token as a file that only the caller can read: HF_TOKEN_PATH, HF_TOKEN, or the login's.

    It reaches no argv, no image and no manifest; a file made here is gone afterwards.
    """
    login = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "token"
    if not stage.network:
        yield {}
    elif path := os.environ.get("HF_TOKEN_PATH"):
        yield {"HF_TOKEN_PATH": Path(path)}
    elif token := os.environ.get("HF_TOKEN"):
        with tempfile.NamedTemporaryFile("w", prefix="espalier-", suffix=".token") as file:
            file.write(token)
            file.flush()
            yield {"HF_TOKEN_PATH": Path(file.name)}
    elif login.is_file():
        yield {"HF_TOKEN_PATH": login}
    else:
        yield {}


def hub_environment(stage: Stage) -> dict[str, str]:
    """Where the hub is and how it is reached, as the caller has set it."""
    if not stage.network:
        return {}
    return {name: os.environ[name] for name in HUB_VARIABLES if name in os.environ}


def by_name(
    flags: Sequence[str], whole: str = "--env", letter: str = "-e"
) -> tuple[list[str], dict[str, str]]:
    """An engine's flags with `-e NAME=value` as `--env=NAME`, and those values by name.

    The engine's client takes the value of a variable that is only named from its own environment.

    Args:
        flags: as a user gives them.
        whole: the flag that sets a variable: `--env`, or `--build-arg`.
        letter: the same in one letter, where it has one.
    """
    kept: list[str] = []
    values: dict[str, str] = {}
    words = iter(flags)
    attached = re.compile(rf"({whole}=|{letter}=?)(?=\w)" if letter else rf"{whole}=")
    for word in words:
        if word in (whole, letter):
            given = next(words, "")
        elif found := attached.match(word):
            given = word[found.end() :]
        else:
            kept.append(word)
            continue
        name, equals, value = given.partition("=")
        kept.append(f"{whole}={name}")
        if equals:
            values[name] = value
    return kept, values


def without_logins(words: Sequence[str]) -> list[str]:
    """Words with the secrets of addresses left out: for manifests and for the screen."""
    return [without_secrets(word) for word in words]
