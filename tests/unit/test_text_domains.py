"""The domains of a text: by folders and files; what cannot be told apart is refused."""

from pathlib import Path

import pytest

pytest.importorskip("numpy")

from espalier.errors import InputError
from inputs.data.domains import domains_of
from inputs.data.source import TextPart


def write(folder: Path, *paths: str) -> Path:
    """Files of one document, whatever their names say."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("a document")
    return folder


def test_each_folder_and_each_file_is_a_domain(tmp_path: Path) -> None:
    text = write(
        tmp_path,
        *("wiki/b.txt", "wiki/a.txt", "wiki/README.md", "c4-rp.jsonl.gz", "LICENSE"),
        *("book/deep/er/train.txt", "book/valid-0.txt", ".cache/x", "manifest.json"),
    )
    assert domains_of(text) == {
        "book": (
            TextPart(text / "book/valid-0.txt", "valid"),
            TextPart(text / "book/deep/er/train.txt"),
        ),
        "c4-rp": (TextPart(text / "c4-rp.jsonl.gz"),),
        "wiki": (TextPart(text / "wiki/a.txt"), TextPart(text / "wiki/b.txt")),
    }


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ((), "has no domain where DOMAINS=1 wants two"),
        (("cc/a.txt", "README.md"), "has the one domain cc where DOMAINS=1 wants two"),
        (("cc/README.md", "wiki.txt"), "cc holds no text"),
        (("cc/a.bin", "wiki.txt"), r"a\.bin cannot be read as text"),
        (("cc.bin", "wiki.txt"), r"cc\.bin cannot be read as text"),
        (("c c/a.txt", "wiki.txt"), "cannot give a domain its name, 'c c'; rename it"),
        (("en.cc.jsonl", "wiki.txt"), r"cannot give a domain its name, 'en\.cc'; rename it"),
        (("tokens.json/a.txt", "wiki.txt"), r"cannot give a domain its name, 'tokens\.json'"),
        (("cc/a.txt", "cc.jsonl", "wiki.txt"), r"cc and cc\.jsonl of .* would be one domain"),
        (("CC/a.txt", "cc.txt"), r"CC and cc\.txt of .* would be one domain; rename one"),
        (("train/cc.txt", "valid/cc.txt"), "train names train where DOMAINS=1 wants a domain"),
        (("cc.txt", "wiki-test.txt"), r"wiki-test\.txt names test where DOMAINS=1 wants a domain"),
        (("cc/train.txt", "cc/more.txt", "wiki.txt"), r"more\.txt names no split where"),
        (("cc/valid.txt", "wiki.txt"), "all named for validation; name those for training"),
    ],
)
def test_what_gives_no_two_domains_is_refused(
    tmp_path: Path, paths: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        domains_of(write(tmp_path, *paths))


def test_one_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    with pytest.raises(InputError, match=r"a\.txt is one file where DOMAINS=1 wants a folder"):
        domains_of(tmp_path / "a.txt")


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path / "text", "cc.txt", "wiki.txt")
    (text / "book").symlink_to(write(tmp_path / "elsewhere", "a.txt"), target_is_directory=True)
    with pytest.raises(InputError, match="book is a link, and not to a file"):
        domains_of(text)
