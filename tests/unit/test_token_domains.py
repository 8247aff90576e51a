"""Token data of several domains: every domain is read by its name; misfits are refused."""

import json
import shutil
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

from espalier.data.tokens import DOMAINS, INDEX, is_token_data  # noqa: E402
from espalier.data.tokens.domains import (  # noqa: E402
    DomainIndex,
    domains_for,
    read_domains,
    require_domains,
)
from espalier.data.tokens.index import Split  # noqa: E402
from espalier.data.tokens.reader import TokenData  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models.tokenizer import tokenizer_hash  # noqa: E402
from tests.unit.tiny_domains import Documents, write_domains, write_stream  # noqa: E402

SOME: dict[str, dict[Split, Documents]] = {
    "wiki": {"train": [[1, 2, 3], [4]], "valid": [[5, 6]]},
    "c4-rp": {"train": [[7] * 30, [8, 9]], "valid": [[10]], "test": [[11, 12]]},
    "cc": {"train": [[13]], "valid": [[14, 15]]},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def data(tmp_path: Path, model: Path) -> Path:
    return write_domains(tmp_path / "data", SOME, tokenizer_hash(model) or "", vocabulary=100)


def test_each_domain_is_token_data_in_the_order_of_the_index(data: Path) -> None:
    found = read_domains(data)
    assert list(found) == list(SOME)
    for name, splits in SOME.items():
        found[name].verify()
        assert found[name].splits == tuple(splits)
        for split, documents in splits.items():
            assert [ids.tolist() for ids in found[name].documents(split)] == documents


def test_token_data_is_known_by_either_index(data: Path, tmp_path: Path) -> None:
    assert is_token_data(data)
    assert is_token_data(data / "cc")
    assert not is_token_data(tmp_path)


def test_a_model_reads_the_domains_that_are_named(data: Path, model: Path) -> None:
    assert list(domains_for(data, model, 100)) == list(SOME)
    assert list(domains_for(data, model, 100, ["cc", "wiki"])) == ["cc", "wiki"]
    with pytest.raises(
        InputError, match=r"has no domain arxiv or book \(it has: wiki, c4-rp, cc\)"
    ):
        domains_for(data, model, 100, ["arxiv", "cc", "book"])
    assert require_domains(data, {"a": 1, "b": 2}, ()) == ("a", "b")


def test_a_model_that_cannot_read_the_ids_is_refused(data: Path, model: Path) -> None:
    with pytest.raises(InputError, match=r"tokens up to 100 and the vocabulary of .* ends at 99"):
        domains_for(data, model, 99)
    (model / "tokenizer.json").write_text("[]")
    with pytest.raises(InputError, match=r"has another \(.*make the data with TOKENIZER="):
        domains_for(data, model, 100)


def test_one_stream_and_several_domains_are_not_taken_for_each_other(
    data: Path, tmp_path: Path
) -> None:
    one = write_stream(tmp_path / "one", SOME["cc"], "0", 100)
    with pytest.raises(InputError, match=r"is one stream of tokens where several domains"):
        read_domains(one)
    with pytest.raises(InputError, match=r"is token data of several domains where one stream"):
        TokenData(data)
    with pytest.raises(InputError, match=r"is not token data of several domains; make it"):
        read_domains(tmp_path)
    with pytest.raises(InputError, match=r"is not token data; make it with make data\.$"):
        TokenData(tmp_path)


def test_a_domain_that_is_not_as_it_was_made_is_refused(data: Path) -> None:
    index = data / "cc" / INDEX
    whole = index.read_text()
    index.write_text(whole.replace('"vocabulary": 100', '"vocabulary": 99'))
    with pytest.raises(InputError, match=r"cc/tokens\.json is not what domains\.json says"):
        read_domains(data)
    index.write_text(whole)
    read_domains(data)
    shutil.rmtree(data / "cc")
    with pytest.raises(InputError, match=r"lacks its domain cc; make the data again"):
        read_domains(data)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"version": 2, "domains": {"cc": "0"}}',
        '{"version": 1, "domains": {}}',
        *(
            json.dumps({"version": 1, "domains": {name: "0"}})
            for name in ("", "..", "../cc", "/cc", "c.c", ".cc", "cc\n", "c c", "c" * 101)
        ),
    ],
)
def test_another_index_is_refused(data: Path, content: str) -> None:
    (data / DOMAINS).write_text(content)
    with pytest.raises(InputError, match=r"domains\.json is not of version 1 \("):
        DomainIndex.read(data)
