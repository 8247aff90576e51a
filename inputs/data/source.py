"""Which files a text consists of, and which of them have a split of their own."""

from dataclasses import dataclass
from pathlib import Path

from espalier.contract.manifest import METRICS
from espalier.data.text import DESCRIPTION, split_file
from espalier.data.text_files import READABLE
from espalier.data.tokens.index import Split
from espalier.errors import InputError

HELD_OUT: tuple[tuple[str, Split], ...] = (("validation", "valid"), ("test", "test"))


@dataclass(frozen=True)
class TextPart:
    """A file of documents; `split` None: each document's hash decides."""

    file: Path
    split: Split | None = None


def parts_of(text: Path) -> tuple[TextPart, ...]:
    """The files of a text, in the order in which they are read.

    A text data set's own validation and test documents come first and are used as they are; what
    the set lacks is split off its train documents. Of any other folder, all files that can be read
    count, by name.

    Raises:
        InputError: there is nothing to read.
    """
    if text.is_file():
        return (TextPart(_readable(text)),)
    if (text / DESCRIPTION).is_file() or any(text.glob("train.jsonl*")):
        held = [
            TextPart(split_file(text, name), split)
            for name, split in HELD_OUT
            if any(text.glob(f"{name}.jsonl*"))
        ]
        return (*held, TextPart(split_file(text, "train")))
    files = sorted(path for path in text.rglob("*") if path.name.endswith(READABLE))
    # manifest.json, metrics.jsonl and their like describe a folder and are no documents
    about = [path for path in files if path.suffix == ".json" or path.name == METRICS]
    found = tuple(TextPart(path) for path in files if path not in about and path.is_file())
    if not found:
        raise InputError(f"{text} holds no text; give a folder of {', '.join(READABLE)}.")
    return found


def _readable(file: Path) -> Path:
    if not file.name.endswith(READABLE):
        raise InputError(f"{file} cannot be read as text; give one of {', '.join(READABLE)}.")
    return file
