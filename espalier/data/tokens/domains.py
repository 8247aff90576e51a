"""Token data of several domains: `domains.json` and, of each, a folder that is token data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from espalier.contract.files import file_sha256, write_text
from espalier.data.tokens import DOMAINS, INDEX
from espalier.data.tokens.index import IndexRecord
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError

VERSION = 1
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""A domain's name: a folder on every file system, and none of the files beside it, whose names
have a dot.
"""

DomainName = Annotated[str, Field(pattern=f"^{NAME}$")]


class DomainIndex(IndexRecord):
    """The whole of `domains.json`: each domain's `sha256` is of its `tokens.json`."""

    version: Literal[1] = 1
    domains: Annotated[dict[DomainName, str], Field(min_length=1)]

    @classmethod
    def of(cls, directory: Path, names: Sequence[str]) -> "DomainIndex":
        """The index of the folders `names`, whose own indexes are written."""
        return cls(domains={name: file_sha256(directory / name / INDEX) for name in names})

    def write(self, directory: Path) -> None:
        """Write `domains.json` into `directory`, whole or not at all."""
        write_text(directory / DOMAINS, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "DomainIndex":
        """Read `domains.json`.

        Raises:
            InputError: there is none, or it is not of this version.
        """
        path = directory / DOMAINS
        if (directory / INDEX).is_file():
            raise InputError(
                f"{directory} is one stream of tokens where several domains are needed; make the "
                "data with DOMAINS=1 from a folder that has one for each domain."
            )
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError:
            raise InputError(
                f"{directory} is not token data of several domains; make it with make data "
                "DOMAINS=1."
            ) from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its form"
            raise InputError(
                f"{path} is not of version {VERSION} ({where}); make the data again."
            ) from None


def read_domains(directory: Path) -> dict[str, TokenData]:
    """The token data of each domain, by its name, in the order of the index.

    Raises:
        InputError: it is one stream or no token data, or a domain is not what the index says.
    """
    found = {}
    for name, digest in DomainIndex.read(directory).domains.items():
        index = directory / name / INDEX
        if not index.is_file():
            raise InputError(
                f"{directory} lacks its domain {name}; make the data again with FORCE=1."
            )
        if file_sha256(index) != digest:
            raise InputError(
                f"{index} is not what {DOMAINS} says; make the data again with FORCE=1."
            )
        found[name] = TokenData(directory / name)
    return found


def domains_for(
    directory: Path, model: Path, rows: int, names: Sequence[str] = ()
) -> dict[str, TokenData]:
    """The domains that a model is to read: `names` in that order, or all where none is named.

    Args:
        directory: token data of several domains.
        model: a directory with the model's tokenizer.
        rows: of its embedding.
        names: the domains that are wanted.

    Raises:
        InputError: it is one stream or no token data, a domain is missing, or another tokenizer
            made the ids.
    """
    found = read_domains(directory)
    chosen = {name: found[name] for name in require_domains(directory, found, names)}
    for data in chosen.values():
        data.require_fit(model, rows)
    return chosen


def require_domains(
    directory: Path, found: Mapping[str, object], names: Sequence[str]
) -> Sequence[str]:
    """`names`, or all that are `found` in `directory` where none is named.

    Raises:
        InputError: one of them is not there.
    """
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"{directory} has no domain {' or '.join(missing)} (it has: {', '.join(found)}); name "
            "those that it has, or make the data with it."
        )
    return names or tuple(found)
