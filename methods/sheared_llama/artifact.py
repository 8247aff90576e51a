"""The rows of each domain in an artifact: token data, or its export as MDS folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.files import file_sha256
from espalier.data.tokens import DOMAINS, INDEX
from espalier.data.tokens.domains import domains_for
from espalier.data.tokens.index import Split
from espalier.data.tokens.mds import MdsDomains
from espalier.errors import InputError
from methods.sheared_llama.domains import Source, token_sources
from methods.sheared_llama.mds_source import MdsSource


@dataclass(frozen=True)
class DomainRows:
    """What a run reads.

    Attributes:
        train: rows of each domain.
        held_out: rows of each domain, of its split `valid`.
        tokenizer: the hash of the one that made the ids.
        digest: names the ids: sha256 of the index, or of the export's manifest.
    """

    train: Mapping[str, Source]
    held_out: Mapping[str, Source]
    tokenizer: str
    digest: str

    @classmethod
    def of(
        cls, directory: Path, model: Path, rows: int, seqlen: int, *, verify: bool = True
    ) -> "DomainRows":
        """Open the domains, and check them against the model and against their hashes.

        Args:
            directory: the artifact.
            model: a directory with the model's tokenizer.
            rows: of the model's embedding.
            seqlen: tokens a row.
            verify: False: another process has just held them against their hashes.

        Raises:
            InputError: it is none of the two, a domain has too little text, another tokenizer made
                the ids, they changed since, or an export has rows of another length.
        """
        if not any((directory / name).is_file() for name in (DOMAINS, INDEX)):
            return cls._exported(MdsDomains.of(directory), model, rows, seqlen, verify)
        found = domains_for(directory, model, rows)
        for data in found.values() if verify else ():
            data.verify()
        train, held_out = (
            token_sources(directory, list(found), split, seqlen) for split in ("train", "valid")
        )
        tokenizer = next(iter(found.values())).index.tokenizer
        return cls(train, held_out, tokenizer, file_sha256(directory / DOMAINS))

    @classmethod
    def _exported(
        cls, export: MdsDomains, model: Path, rows: int, seqlen: int, verify: bool
    ) -> "DomainRows":
        export.require_fit(model, rows)
        if export.seqlen != seqlen:
            raise InputError(
                f"{export.directory} has rows of {export.seqlen or 'any number of'} tokens and the "
                f"run wants {seqlen}; export the data with SEQLEN={seqlen}, or give another SEQLEN."
            )
        if verify:
            export.verify()

        def sources(split: Split) -> dict[str, Source]:
            return {name: MdsSource(folder) for name, folder in export.folders(split).items()}

        digest = file_sha256(export.directory / "manifest.json")
        return cls(sources("train"), sources("valid"), export.tokenizer, digest)
