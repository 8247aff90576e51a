"""`make export`: what is written is read back by the formats' own readers, as the same tokens."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from espalier.contract.manifest import (
    CodeRecord,
    ImageRecord,
    Manifest,
    Recipe,
    content_digest,
    read_manifest,
    record_files,
    write_manifest,
)
from espalier.data.tokens.index import SPLITS, Split, TokenIndex, token_dtype
from espalier.data.tokens.mds import MdsDomains
from espalier.data.tokens.reader import Ids, TokenData
from espalier.data.tokens.writer import SplitWriter
from espalier.errors import InputError
from tests.contract.command import differing, espalier, refused, tree, without_times
from tests.contract.export_readers import READERS, read_mds
from tests.unit.tiny_domains import Documents, write_domains

pytestmark = pytest.mark.export

WRITTEN = {
    1 << 26: "efa35591af0a8bfd0b59efd463f5a68aa7a070fc2fcbc329150287baa263d41a",
    5000: "0e6527faefffe919b0f66fbf04e80a56f289de2c68bbb278036fef7fc35c6685",
}
"""Bytes of a shard at most, and the sha256 over index and shards that MDSWriter gave."""
FORMATS = tuple(READERS)
LENGTHS: dict[Split, list[int]] = {
    "train": [3, 255, 256, 40, 300, 1, 257, 2, 70000, 9],
    "valid": [5, 1],
    "test": [7],
}

DOMAINS: dict[str, dict[Split, Documents]] = {
    "wiki": {"train": [[1, 2, 3], [4], [5, 6]], "valid": [[5, 6], [7, 8, 9]]},
    "c4-rp": {"train": [[7, 8, 9, 7, 8], [8, 9, 10, 11]], "valid": [[10, 65_535]], "test": [[11]]},
    "cc": {"train": [[13] * 10], "valid": [[14, 15]], "test": [[16, 17]]},
}


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Token data `d` on a store of its own, in several shards."""
    folder = tmp_path_factory.mktemp("store") / "data" / "d"
    return write_data(folder, getattr(request, "param", "uint16"))


def write_data(folder: Path, dtype: str) -> TokenData:
    folder.mkdir(parents=True)
    generator, kind = np.random.default_rng(0), token_dtype(dtype)  # type: ignore[arg-type]
    highest = min(np.iinfo(kind).max, 100_000)
    splits = {}
    for split in SPLITS:
        writer = SplitWriter(folder, split, kind, 500)
        ids = [generator.integers(0, highest, length).astype(kind) for length in LENGTHS[split]]
        writer.append(ids)
        splits[split] = writer.finish()
        writer.move(splits[split], folder)
    index = TokenIndex.model_validate(
        {
            "dtype": dtype,
            "tokenizer": "0" * 64,
            "vocabulary": highest + 1,
            "bos": None,
            "eos": 0,
            "splits": splits,
        }
    )
    index.write(folder)
    publish(folder)
    return TokenData(folder)


def publish(folder: Path) -> None:
    """Write the manifest without which the store knows of nothing."""
    files = record_files(folder)
    recipe = Recipe(stage="data", code="0", lock="0", parameters={}, inputs={})
    manifest = Manifest(
        stage="data",
        verb="data",
        name="data/d",
        parameters={},
        seed=None,
        inputs={},
        parents=[],
        image=ImageRecord(name="eval", lock="0"),
        code=CodeRecord(sha256="0", revision=None),
        command=[],
        fingerprint=recipe.fingerprint,
        recipe=recipe,
        content=content_digest(files),
        files=files,
    )
    write_manifest(folder, manifest)


def export(data: TokenData, form: str, *words: str) -> Path:
    store = data.directory.parent.parent
    done = espalier(store, "export", "DATA=d", f"FORMAT={form}", *words)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("data", ["uint16", "uint32"], indirect=True)
def test_all_documents_are_there_in_their_order(data: TokenData, form: str) -> None:
    made = export(data, form)
    assert made.name == f"d-{form}"
    for split in data.splits:
        assert READERS[form](made, split) == [ids.tolist() for ids in data.documents(split)]
        if form != "mds":
            shards = data.index.splits[split].shards
            names = [path.stem for path in sorted(made.glob(f"{split}-*"))]
            assert names == [shard.name for shard in shards]
    record = read_manifest(made).data or {}
    assert record["tokens"] == {split: sum(LENGTHS[split]) for split in SPLITS}
    assert record["rows"] == {split: len(LENGTHS[split]) for split in SPLITS}
    assert record["tokenizer"] == data.index.tokenizer


@pytest.mark.parametrize("form", FORMATS)
def test_rows_of_equal_length_run_on_over_documents_and_shards(data: TokenData, form: str) -> None:
    made = export(data, form, "SEQLEN=128")
    assert made.name == f"d-{form}-128"
    tokens = np.concatenate(list(data.documents("train")))
    whole = len(tokens) // 128
    assert READERS[form](made, "train") == tokens[: whole * 128].reshape(whole, 128).tolist()
    assert READERS[form](made, "valid") == READERS[form](made, "test") == []
    assert (read_manifest(made).data or {})["rows"] == {"train": whole, "valid": 0, "test": 0}
    names = [path.stem for path in sorted(made.glob("train-*"))]
    assert names == [f"train-{n:05d}-of-{len(names):05d}" for n in range(len(names))]


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_data_gives_the_same_bytes(data: TokenData, form: str) -> None:
    again = export(data, form, "NAME=again", "FORCE=1")
    first = export(data, form)
    assert not differing(*(without_times(tree(made)) for made in (first, again)))
    done = espalier(data.directory.parent.parent, "export", "DATA=d", f"FORMAT={form}")
    assert "is done already" in done.stderr


def test_records_are_in_groups_of_one(data: TokenData) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    for path in export(data, "arrayrecord").glob("*.arrayrecord"):
        assert "group_size:1," in ArrayRecordReader(str(path)).writer_options_string()


def test_too_long_rows_are_refused(data: TokenData) -> None:
    store = data.directory.parent.parent
    done = espalier(store, "export", "DATA=d", "FORMAT=mds", "SEQLEN=1000000")
    refused(done, 2, "no split has SEQLEN=1000000 tokens")
    assert not list((store / "data").glob("*1000000*"))


def test_damaged_data_are_not_exported(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data" / "d", "uint16")
    shard = next(data.directory.glob("train-00001-*.tokens"))
    shard.write_bytes(bytes(shard.stat().st_size))
    for form in FORMATS:
        done = espalier(tmp_path, "export", "DATA=d", f"FORMAT={form}")
        refused(done, 2, f"{shard.name} is not what tokens.json says")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["d"]


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data `d` of three domains, one of which has no documents for test."""
    folder = tmp_path_factory.mktemp("store") / "data" / "d"
    write_domains(folder, DOMAINS)
    publish(folder)
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_each_domain_is_exported_to_a_folder_of_its_own(domains: Path, form: str) -> None:
    store = domains.parent.parent
    done = espalier(store, "export", "DATA=d", f"FORMAT={form}")
    assert done.returncode == 0, done.stderr
    made = store / "data" / f"d-{form}"
    for name, splits in DOMAINS.items():
        for split in SPLITS:
            kept = {"name": name} if form == "mds" else {}
            found = READERS[form](made / name, split, **kept)
            assert found == splits.get(split, [])
    record = read_manifest(made).data or {}
    assert list(record["domains"]) == list(DOMAINS)
    assert record["domains"]["wiki"]["rows"] == {"train": 3, "valid": 2}
    assert record["rows"] == {"train": 6, "valid": 4, "test": 2}
    assert record["tokens"] == {"train": 25, "valid": 9, "test": 3}


def test_an_mds_export_of_domains_is_read_by_their_names(domains: Path, tmp_path: Path) -> None:
    store = domains.parent.parent
    done = espalier(store, "export", "DATA=d", "FORMAT=mds", "SEQLEN=2")
    assert done.returncode == 0, done.stderr
    found = MdsDomains.of(store / "data" / "d-mds-2")
    found.verify()
    assert (found.seqlen, found.vocabulary) == (2, 65_536)
    assert list(found.folders("train")) == list(DOMAINS)
    assert found.folders("valid", ["cc"]) == {"cc": found.directory / "cc" / "valid"}
    assert found.samples["cc"] == {"train": 5, "valid": 1, "test": 1}
    with pytest.raises(InputError, match=r"has no domain arxiv \(it has: wiki, c4-rp, cc\)"):
        found.folders("train", ["cc", "arxiv"])
    with pytest.raises(InputError, match=r"wiki/test is no MDS folder, or an empty one"):
        found.folders("test")
    with pytest.raises(InputError, match="has no tokenizer; make the data with TOKENIZER="):
        found.require_fit(tmp_path, 65_536)
    with pytest.raises(InputError, match="is not an MDS export of several domains; make one"):
        MdsDomains.of(domains)


def test_an_empty_mds_folder_is_refused(domains: Path, tmp_path: Path) -> None:
    store = domains.parent.parent
    assert espalier(store, "export", "DATA=d", "FORMAT=mds").returncode == 0
    made = Path(shutil.copytree(store / "data" / "d-mds", tmp_path / "mds"))
    found, folder = MdsDomains.of(made), made / "cc" / "train"
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "shards": []}))
    with pytest.raises(InputError, match="cc/train is an MDS folder without a sample"):
        found.folders("train")
    (folder / "index.json").write_text(json.dumps({**index, "version": 1}))
    with pytest.raises(InputError, match=r"cc/train/index\.json is not an MDS index"):
        found.folders("train")
    index["shards"][0]["samples"] += 1
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"has 2 samples where its export has written 1"):
        found.folders("train")
    (folder / "shard.00000.mds").unlink()
    with pytest.raises(InputError, match=r"shard\.00000\.mds is not what index\.json says"):
        found.folders("train")


def test_a_domain_without_a_row_is_not_exported(domains: Path) -> None:
    store = domains.parent.parent
    done = espalier(store, "export", "DATA=d", "FORMAT=mds", "SEQLEN=3")
    refused(done, 2, "domain c4-rp has no row of SEQLEN=3 tokens in valid; give fewer")
    assert not (store / "data" / "d-mds-3").exists()


@pytest.mark.parametrize("limit", WRITTEN)
def test_mds_is_what_mosaicml_streaming_writes(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of what MDSWriter of 0.13.0 wrote of these rows, and StreamingDataset read back."""
    from inputs.export import mds

    monkeypatch.setattr(mds, "LIMIT", limit)
    rows = [np.arange(n, dtype="<u2") for n in (1, 255, 256, 257, 1000) * 6]
    mds.write(tmp_path / "train", iter(rows), "uint16")
    written = sorted(path for path in (tmp_path / "train").rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in written)).hexdigest()
    assert digest == WRITTEN[limit]
    assert read_mds(tmp_path, "train") == [row.tolist() for row in rows]


def test_an_interrupted_mds_goes_on_after_its_last_whole_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inputs.export import mds

    monkeypatch.setattr(mds, "LIMIT", 5000)
    rows = [np.arange(n, dtype="<u2") for n in (1, 255, 256, 257, 1000) * 6]
    mds.write(tmp_path / "whole" / "train", iter(rows), "uint16")

    def some() -> Iterator[Ids]:
        yield from rows[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mds.write(tmp_path / "part" / "train", some(), "uint16")
    finished = tree(tmp_path / "part")
    assert finished
    assert "train/index.json" not in finished
    stamps = {name: (tmp_path / "part" / name).stat().st_mtime_ns for name in finished}
    mds.write(tmp_path / "part" / "train", iter(rows), "uint16")
    assert not differing(tree(tmp_path / "part"), tree(tmp_path / "whole"))
    for name, stamp in stamps.items():
        assert (tmp_path / "part" / name).stat().st_mtime_ns == stamp
