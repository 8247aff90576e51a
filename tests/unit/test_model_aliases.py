"""models.toml and what MODEL= may be."""

import re

import pytest

from espalier.errors import InputError
from espalier.models.aliases import model_aliases, resolve_model


def test_every_alias_is_pinned_to_a_commit() -> None:
    aliases = model_aliases()
    assert {"sapling", "llama-7b", "llama2-70b", "llama3.1-8b", "qwen3-0.6b"} <= aliases.keys()
    for source in aliases.values():
        if source.package:
            hashes = (source.package.sha256, source.package.file_sha256)
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
        else:
            assert source.grown or re.fullmatch(r"[0-9a-f]{40}", source.revision), source.name


def test_a_hub_id_is_taken_as_it_is() -> None:
    source = resolve_model("org/Some-Model_1.0")
    assert (source.name, source.hub_id, source.revision) == (
        "Some-Model_1.0",
        "org/Some-Model_1.0",
        "main",
    )
    assert resolve_model("org/name", "v2").revision == "v2"
    assert resolve_model("llama2-7b", "v2").gated


@pytest.mark.parametrize("name", ["lama", "../models/x", "a/b/c", "", "/abs/path"])
def test_anything_else_names_the_known(name: str) -> None:
    with pytest.raises(InputError, match="sapling, llama-7b"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["sapling", "smollm2-135m-q4"])
def test_what_is_not_of_the_hub_has_no_revision(name: str) -> None:
    assert not resolve_model(name).hub_id
    with pytest.raises(InputError, match="REVISION"):
        resolve_model(name, "main")
