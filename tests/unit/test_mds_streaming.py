"""MDS folders by domain, read by mosaicml-streaming itself where an image has it."""

from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
streaming = pytest.importorskip("streaming")

from espalier.data.tokens.domains import read_domains  # noqa: E402
from espalier.data.tokens.index import Split  # noqa: E402
from espalier.data.tokens.mds import samples_in  # noqa: E402
from inputs.export import mds  # noqa: E402
from tests.unit.tiny_domains import Documents, write_domains  # noqa: E402

pytestmark = pytest.mark.every_image


@pytest.mark.parametrize("limit", [1 << 26, 3000])
def test_streaming_reads_the_ids_of_each_domain(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mds, "LIMIT", limit)
    draw = np.random.default_rng(0)
    splits: tuple[Split, ...] = ("train", "valid")
    documents: dict[str, dict[Split, Documents]] = {
        name: {split: draw.integers(0, 65_536, (20, 50)).tolist() for split in splits}
        for name in ("c4-rp", "wiki")
    }
    data = read_domains(write_domains(tmp_path / "data", documents))
    for name, domain in data.items():
        for split in splits:
            folder = tmp_path / "mds" / name / split
            mds.write(folder, domain.documents(split), domain.index.dtype, name)
            assert samples_in(folder) == 20
    for name, its_documents in documents.items():
        for split, rows in its_documents.items():
            found = streaming.StreamingDataset(
                local=str(tmp_path / "mds" / name), split=split, batch_size=1
            )
            assert [sample["tokens"].tolist() for sample in found] == rows
            assert [found[at]["tokens"].tolist() for at in (19, 0, 7)] == [
                rows[at] for at in (19, 0, 7)
            ]
            assert {sample["set"] for sample in found} == {name}
            assert found[0]["tokens"].dtype == np.uint16
