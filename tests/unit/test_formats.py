"""Files of texts by their names: what can be read, what only describes, which split one is of."""

from pathlib import Path, PurePath

import pytest

from espalier.data.formats import FORMATS, files_of, format_of, left_out, split_of
from espalier.errors import InputError

NAMED = {
    "train-00000-of-00002.parquet": "train",
    "data/training_01.jsonl": "train",
    "en/c4-train.00000-of-01024.json.gz": "train",
    "train/0.txt": "train",
    "TrainSet.jsonl": "train",
    "en/c4-validation.00000-of-00008.json.gz": "validation",
    "valid.jsonl": "validation",
    "corpus_val.jsonl.zst": "validation",
    "dev/part-3.parquet": "validation",
    "dev1.txt": "validation",
    "TEST/a.txt": "test",
    "wiki.test.txt.gz": "test",
    "testB.jsonl": "test",
    "evaluation-0.parquet": "test",
    "part-0.jsonl": None,
    "latest/contest.txt": None,
    "restrained.jsonl": None,
}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("name", NAMED)
def test_a_split_is_known_by_its_name(name: str) -> None:
    assert split_of(PurePath(name)) == NAMED[name]


@pytest.mark.parametrize("name", ["train-test.jsonl", "test/train.jsonl", "dev/train/0.txt"])
def test_a_name_of_two_splits_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} names train and"):
        split_of(PurePath(name))


def test_a_folder_as_the_hub_has_it(tmp_path: Path) -> None:
    data = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    held_out = ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]
    about = [".gitattributes", "LICENSE", "README.md", "dataset_infos.json"]
    write(tmp_path, *data, *held_out, *about, ".cache/x.lock")
    assert files_of(tmp_path) == {
        "test": [tmp_path / held_out[0]],
        "train": [tmp_path / name for name in data],
        "validation": [tmp_path / held_out[1]],
    }
    assert left_out(tmp_path) == about


def test_no_name_of_a_split_is_no_split(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.txt")
    assert files_of(tmp_path) == {None: [tmp_path / "a.txt", tmp_path / "b.jsonl"]}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("train.jsonl", "extra.jsonl"), "extra.jsonl names no split"),
        (("a.jsonl", "test/b.jsonl"), "a.jsonl names no split"),
        (("a.jsonl", "table.csv"), "table.csv cannot be read as text"),
        (("a.jsonl", "b.jsonl.xz"), "b.jsonl.xz cannot be read as text"),
        (("test/train.jsonl",), "test/train.jsonl names train and test"),
        (("README.md",), "holds no text"),
    ],
)
def test_what_is_unclear_is_refused_by_name(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        files_of(write(tmp_path, *names))


def test_links_are_followed_to_files_only(tmp_path: Path) -> None:
    write(tmp_path, "blobs/1f", "snapshot/a.txt")
    (tmp_path / "snapshot" / "b.txt").symlink_to("../blobs/1f")
    assert len(files_of(tmp_path / "snapshot")[None]) == 2
    for name, to in (("c.txt", "nowhere"), ("folder", "../blobs")):
        link = tmp_path / "snapshot" / name
        link.symlink_to(to)
        with pytest.raises(InputError, match=f"{name} is a link"):
            files_of(tmp_path / "snapshot")
        link.unlink()


def test_every_format_is_known_in_any_case() -> None:
    assert [format_of(f"A{form.upper()}") for form in FORMATS] == list(FORMATS)
    assert format_of("a.csv") is None
