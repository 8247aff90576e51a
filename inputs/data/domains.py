"""The domains of a text: each folder in it, and each file beside them, is one."""

import re
from pathlib import Path, PurePath

from espalier.data.formats import describes, format_of, require_readable, splits_named
from espalier.data.tokens.domains import NAME
from espalier.errors import InputError
from inputs.data.source import TextPart, parts_of


def domains_of(text: Path) -> dict[str, tuple[TextPart, ...]]:
    """The files of each domain, by its name, in the order of the names.

    Raises:
        InputError: there are not two at least, one has no text or a name that cannot be a folder's,
            or two would share one.
    """
    if text.is_file():
        raise InputError(
            f"{text} is one file where DOMAINS=1 wants a folder that has a folder or a file for "
            "each domain; give such a folder, or leave DOMAINS out."
        )
    entries: dict[str, Path] = {}
    for entry in sorted(text.iterdir()):
        if entry.name.startswith(".") or (not entry.is_dir() and describes(entry.name)):
            continue
        if entry.is_symlink() or not entry.is_dir():
            require_readable(entry)
        name = _name_of(entry)
        twin = next((old for old in entries if old.lower() == name.lower()), None)
        if twin is not None:  # where the file system takes no account of case, they are one folder
            raise InputError(
                f"{entries[twin].name} and {entry.name} of {text} would be one domain; rename one "
                "of them, or put the files of both into one folder."
            )
        entries[name] = entry
    if len(entries) < 2:
        raise InputError(
            f"{text} has {f'the one domain {next(iter(entries))}' if entries else 'no domain'} "
            "where DOMAINS=1 wants two at least; give a folder that has a folder or a file for "
            "each, or leave DOMAINS out."
        )
    return {name: parts_of(entries[name]) for name in sorted(entries)}


def _name_of(entry: Path) -> str:
    """What a domain is called: as its folder, or as its file without what says the format.

    Raises:
        InputError: it cannot be called so.
    """
    form = "" if entry.is_dir() else format_of(entry.name) or ""
    name = entry.name[: len(entry.name) - len(form)]
    if re.fullmatch(NAME, name) is None:
        raise InputError(
            f"{entry} cannot give a domain its name, {name!r}; rename it so that it has letters, "
            "digits, - and _ alone, at most 100, and begins with a letter or a digit."
        )
    if splits := splits_named(PurePath(entry.name)):
        raise InputError(
            f"{entry} names {' and '.join(splits)} where DOMAINS=1 wants a domain; put the files "
            "of each split into the folder of their domain, or rename it."
        )
    return name
