"""Which files a text consists of, and which of them have a split of their own."""

from dataclasses import dataclass
from pathlib import Path

from espalier.data.formats import SPOKEN, files_of, format_of
from espalier.data.tokens.index import Split
from espalier.errors import InputError

OWN: tuple[tuple[str, Split], ...] = (("validation", "valid"), ("test", "test"))


@dataclass(frozen=True)
class TextPart:
    """A file of documents; `split` None: each document's hash decides."""

    file: Path
    split: Split | None = None


def parts_of(text: Path) -> tuple[TextPart, ...]:
    """The files of a text, in the order in which they are read.

    Files that name a split, or whose folder does, come with validation and test first and are used
    as they are; a split that nothing is named for is taken from the training documents by hash.
    Where no file names a split, all documents are divided by hash.

    Raises:
        InputError: there is nothing to read, or it is unclear which split a file is of.
    """
    if text.is_file():
        if format_of(text.name) is None:
            raise InputError(f"{text} cannot be read as text; give {SPOKEN}.")
        return (TextPart(text),)
    found = files_of(text)
    held_out = [TextPart(file, split) for name, split in OWN for file in found.get(name, ())]
    training = [TextPart(file) for file in found.get("train", found.get(None, ()))]
    if not training:
        named = " and ".join(name for name, _ in OWN if name in found)
        raise InputError(
            f"the files of {text} are all named for {named}; name those for training (such as "
            "train-…), or give one file."
        )
    return (*held_out, *training)
