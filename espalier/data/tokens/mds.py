"""An MDS export of token data by domain: a folder `<domain>/<split>` for each stream of samples.

Needs no mosaicml-streaming: it is what a trainer checks before that package opens the folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from espalier.contract.manifest import check_files, read_manifest
from espalier.data.tokens.domains import require_domains
from espalier.data.tokens.fitting import check_fit
from espalier.data.tokens.index import Split
from espalier.errors import InputError

INDEX = "index.json"


class _RawData(BaseModel):
    basename: str
    bytes: int


class _Shard(BaseModel):
    samples: int
    raw_data: _RawData


class _Index(BaseModel):
    version: Literal[2]
    shards: list[_Shard]


@dataclass(frozen=True)
class MdsDomains:
    """An export of several domains.

    Attributes:
        tokenizer: the hash of the one that made the ids.
        vocabulary: ids are below it.
        seqlen: tokens of a sample; 0: a document is a sample.
        samples: by domain and split, as many as there are.
    """

    directory: Path
    tokenizer: str
    vocabulary: int
    seqlen: int
    samples: Mapping[str, Mapping[Split, int]]

    @classmethod
    def of(cls, directory: Path) -> "MdsDomains":
        """Read what the export's manifest says.

        Raises:
            InputError: it is no such export.
        """
        manifest = read_manifest(directory)
        asked, facts = manifest.parameters, manifest.data or {}
        if asked.get("format") != "mds" or "domains" not in facts:
            raise InputError(
                f"{directory} is not an MDS export of several domains; make one with make export "
                "FORMAT=mds from data that make data DOMAINS=1 has made."
            )
        return cls(
            directory=directory,
            tokenizer=facts["tokenizer"],
            vocabulary=facts["vocabulary"],
            seqlen=asked["seqlen"],
            samples={name: found["rows"] for name, found in facts["domains"].items()},
        )

    def require_fit(self, model: Path, rows: int) -> None:
        """Refuse a model, with `rows` in its embedding, that cannot read these ids.

        Raises:
            InputError: another tokenizer made them, or there may be some beyond its rows.
        """
        check_fit(self.directory, self.tokenizer, self.vocabulary, model, rows)

    def verify(self) -> None:
        """Hash the files.

        Raises:
            InputError: one is not what was published.
        """
        check_files(self.directory)

    def folders(self, split: Split, names: Sequence[str] = ()) -> dict[str, Path]:
        """The MDS folder of each domain's split: of `names`, or of all where none is named.

        Raises:
            InputError: a domain is missing, or its folder is empty or not as the export left it.
        """
        chosen = require_domains(self.directory, self.samples, names)
        for name in chosen:
            folder = self.directory / name / split
            found, wanted = samples_in(folder), self.samples[name].get(split, 0)
            if found != wanted:
                raise InputError(
                    f"{folder} has {found} samples where its export has written {wanted}; export "
                    "the data again with FORCE=1."
                )
        return {name: self.directory / name / split for name in chosen}


def samples_in(folder: Path) -> int:
    """How many samples an MDS folder has, one at least.

    Raises:
        InputError: it has none, no index, or not the shards that its index says.
    """
    path = folder / INDEX
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except OSError:
        raise InputError(
            f"{folder} is no MDS folder, or an empty one: it has no {INDEX}; export the data again."
        ) from None
    except ValidationError:
        raise InputError(f"{path} is not an MDS index; export the data again.") from None
    for shard in index.shards:
        file = folder / shard.raw_data.basename
        if not file.is_file() or file.stat().st_size != shard.raw_data.bytes:
            raise InputError(f"{file} is not what {INDEX} says; export the data again.")
    samples = sum(shard.samples for shard in index.shards)
    if not samples:
        raise InputError(f"{folder} is an MDS folder without a sample; give one that has some.")
    return samples
