"""MDS folders as sources: our export's and LLM-Shearing's form, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.sheared_llama

streaming = pytest.importorskip("streaming")

from streaming import MDSWriter  # noqa: E402

from espalier.errors import InputError  # noqa: E402
from inputs.export import mds  # noqa: E402
from methods.sheared_llama.batches import EveryRow  # noqa: E402
from methods.sheared_llama.mds_source import MdsSource  # noqa: E402

ROWS = np.arange(48, dtype=np.uint32).reshape(12, 4) * 1500


def rows() -> Iterator["np.ndarray[Any, Any]"]:
    yield from ROWS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mds.write(tmp_path / "train", rows(), "uint32")
    return tmp_path / "train"


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def test_gives_the_exported_rows_and_leaves_nothing_behind(folder: Path) -> None:
    before = listing(folder), listing(folder.parent), sorted(Path("/dev/shm").iterdir())
    source = MdsSource(folder)
    assert (len(source), source.seqlen) == (12, 4)
    found = np.stack([source[index] for index in range(12)])
    assert found.dtype == np.int64
    assert found.tolist() == ROWS.tolist()
    with pytest.raises(IndexError):
        source[12]
    assert (listing(folder), listing(folder.parent), sorted(Path("/dev/shm").iterdir())) == before


def test_reads_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mds, "LIMIT", 400)
    mds.write(tmp_path / "train", rows(), "uint32")
    assert len(list((tmp_path / "train").glob("*.mds"))) > 1
    source = MdsSource(tmp_path / "train")
    assert [source[index].tolist() for index in range(len(source))] == ROWS.tolist()
    assert len(EveryRow({"cc": source, "wiki": source})) == 24


def test_reads_columns_of_plain_bytes(tmp_path: Path) -> None:
    narrow = (ROWS // 1500).astype("<u2")
    with MDSWriter(out=str(tmp_path), columns={"tokens": "bytes", "set": "str"}) as writer:
        for row in narrow:
            writer.write({"tokens": row.tobytes(), "set": "cc"})
    source = MdsSource(tmp_path)
    assert [source[index].tolist() for index in range(12)] == narrow.tolist()


def edited(folder: Path, **change: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0].update(change)
    (folder / "index.json").write_text(json.dumps(index))


def test_refuses_folders_that_are_no_mds_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no index\.json; export the data again"):
        MdsSource(tmp_path)
    (folder / "shard.00000.mds").write_bytes(b"")
    with pytest.raises(InputError, match="missing or cut short"):
        MdsSource(folder)
    (folder / "index.json").write_text('{"version": 2, "shards": []}')
    with pytest.raises(InputError, match="holds no samples"):
        MdsSource(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        MdsSource(folder)


@pytest.mark.parametrize(
    "change", [{"compression": "zstd"}, {"version": 1}, {"samples": None}, {"format": "json"}]
)
def test_refuses_other_forms(folder: Path, change: dict[str, Any]) -> None:
    edited(folder, **change)
    with pytest.raises(InputError, match="lists no uncompressed MDS shards"):
        MdsSource(folder)


def test_refuses_shards_outside_the_folder(folder: Path) -> None:
    edited(folder, raw_data={"basename": "../shard.00000.mds", "bytes": 1, "hashes": {}})
    with pytest.raises(InputError, match="lists no uncompressed MDS shards"):
        MdsSource(folder)


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    with MDSWriter(out=str(tmp_path), columns={"tokens": "pkl"}) as writer:
        writer.write({"tokens": [1, 2]})
    with pytest.raises(InputError, match="nothing pickled is read here"):
        MdsSource(tmp_path)


def test_refuses_samples_without_tokens_and_of_several_lengths(tmp_path: Path) -> None:
    with MDSWriter(out=str(tmp_path / "text"), columns={"text": "str"}) as writer:
        writer.write({"text": "a"})
    with pytest.raises(InputError, match="has no column tokens"):
        MdsSource(tmp_path / "text")
    mds.write(tmp_path / "ragged", iter([ROWS[0], ROWS[1][:2]]), "uint32")
    with pytest.raises(InputError, match="samples of 4 and of 2 tokens"):
        MdsSource(tmp_path / "ragged")[1]
