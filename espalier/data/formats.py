"""The files that texts come in, by their names: their format, and the split that they are of.

One list of what can be read, for calibration, scores, evaluation, token data, fetching and tasks.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from espalier.errors import InputError

TEXT, LINES, JSON, TABLE = ".txt", ".jsonl", ".json", ".parquet"
COMPRESSED = (".gz", ".zst")
FORMATS = (
    *(form + packed for form in (TEXT, LINES, JSON) for packed in ("", *COMPRESSED)),
    TABLE,
)
SPOKEN = ".txt, .jsonl, .json (each also as .gz or .zst) or .parquet"
"""The formats in a sentence."""
IDS = ".safetensors"
"""Of token ids, which need no tokenizer."""
SPLITS = ("train", "validation", "test")

_ABOUT = re.compile(
    r"\..*|.*\.(py|ya?ml)"
    r"|(readme|licen[cs]e|notice|citation|use_policy|changelog|(md5|sha\d+)sums?)"
    r"(\.(md|txt|rst|cff|bib))?"
    r"|(manifest|dataset|dataset_infos?|dataset_dict|state|config|croissant)\.json|metrics\.jsonl"
)
"""Names, in lower case, of what describes a folder and holds no documents."""
_WORDS = {
    "train": r"train(ing)?",
    "validation": r"val|valid|validation|dev|devel|development|heldout|holdout",
    "test": r"test(ing)?|eval|evaluation",
}
_SPLITS = {
    split: re.compile(rf"({words})(set|data|split)?[a-z]?\d*") for split, words in _WORDS.items()
}


def format_of(name: str) -> str | None:
    """One of FORMATS, or None where the name ends in none of them."""
    lower = name.lower()
    return max((form for form in FORMATS if lower.endswith(form)), key=len, default=None)


def describes(name: str) -> bool:
    """Whether a file of that name describes the folder that it lies in."""
    return _ABOUT.fullmatch(name.lower()) is not None


def splits_named(path: PurePath) -> list[str]:
    """The splits that a path below a folder names, in its own name or in its folders'.

    `train-00000-of-00002.parquet`, `en/c4-validation.json.gz` and `test/0.txt` name one.
    """
    form = format_of(path.name) or ""
    *folders, _ = path.parts
    parts = [*folders, path.name[: len(path.name) - len(form)]]
    words = [word for part in parts for word in re.split(r"[\W_]+", part.lower())]
    return [split for split in SPLITS if any(map(_SPLITS[split].fullmatch, words))]


def split_of(path: PurePath) -> str | None:
    """The split that a path below a folder names; None where it names none.

    Raises:
        InputError: it names more than one.
    """
    found = splits_named(path)
    if len(found) > 1:
        raise InputError(
            f"{path} names {' and '.join(found)}; rename it or its folder so that one is left, or "
            "give that file alone."
        )
    return found[0] if found else None


def by_split(paths: Iterable[PurePath]) -> dict[str | None, list[PurePath]]:
    """`paths` by the split that each names; all under None where none names one.

    Raises:
        InputError: some name a split and others do not, or one names two.
    """
    found: dict[str | None, list[PurePath]] = {}
    for path in paths:
        found.setdefault(split_of(path), []).append(path)
    if None in found and len(found) > 1:
        named = " and ".join(split for split in SPLITS if split in found)
        raise InputError(
            f"{found[None][0]} names no split where files beside it name {named}; rename it (such "
            "as train-…, validation-… or test-…), take it out of the folder, or give files one by "
            "one."
        )
    return found


def files_of(folder: Path) -> dict[str | None, list[Path]]:
    """A folder's files of documents by split, each list in the order of their names.

    Raises:
        InputError: a file can be neither read nor left out, it is unclear which split one is of,
            or there are none.
    """
    chosen = [path for path in _below(folder) if not describes(path.name)]
    for path in chosen:
        require_readable(folder / path)
    if not chosen:
        raise InputError(f"{folder} holds no text; give a folder of {SPOKEN} files.")
    try:
        found = by_split(chosen)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return {split: [folder / path for path in paths] for split, paths in found.items()}


def require_readable(path: Path) -> None:
    """Refuse what lies in a folder of texts and is no file of documents.

    Raises:
        InputError: it is a link to a folder or to nothing, or has none of the formats.
    """
    if not path.is_file():
        raise InputError(f"{path} is a link, and not to a file; copy the files there.")
    if format_of(path.name) is None:
        raise InputError(
            f"{path} cannot be read as text; make it {SPOKEN}, or take it out of the folder."
        )


def left_out(folder: Path) -> list[str]:
    """The paths below a folder that only describe it, in the order of their names."""
    return [path.as_posix() for path in _below(folder) if describes(path.name)]


def _below(folder: Path) -> list[Path]:
    """Paths of files and links below a folder, hidden folders' aside, in order."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    relative = sorted(path.relative_to(folder) for path in found)
    return [p for p in relative if not any(part.startswith(".") for part in p.parts[:-1])]
