"""The Python index that pip is set to here, for stages with the network and for no other."""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from espalier.contract.stage import Stage
from espalier.host.images.lock import ca_bundle

INDEX_SETTINGS = (
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy"),
    *("timeout", "retries"),
)
"""What pip is told of indexes; of folders, a container ignores those that it does not have."""


@contextmanager
def package_index(stage: Stage) -> Iterator[Mapping[str, Path]]:
    """What pip is set to here, and the certificates that an index is checked with, as files.

    A container has neither the caller's pip.conf nor its environment. Addresses may hold passwords:
    they reach no argv and no manifest, and the file made here is gone afterwards.
    """
    if not stage.network:
        yield {}
        return
    bundle, own = ca_bundle(), Path(os.environ.get("PIP_CERT", ""))
    certificates = {"SSL_CERT_FILE": bundle, "PIP_CERT": own if own.is_file() else bundle}
    with tempfile.NamedTemporaryFile("w", prefix="espalier-", suffix=".conf") as file:
        lines = [f"{name} = {value}" for name, value in _pip_settings().items()]
        file.write("\n".join(["[global]", *lines, ""]))
        file.flush()
        yield {
            "PIP_CONFIG_FILE": Path(file.name),
            **{name: path for name, path in certificates.items() if path},
        }


def _pip_settings() -> dict[str, str]:
    """What pip's files and environment say here, the environment last: it has the last word."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        check=False,
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listed.stdout.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in found and name in INDEX_SETTINGS:
            found[section][name] = " ".join(str(ast.literal_eval(value)).split())
    return {name: value for section in found.values() for name, value in section.items()}
