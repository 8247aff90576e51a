"""What must hold however a command ended, and when all is over."""

import json
from collections.abc import Collection
from pathlib import Path

from espalier.contract.lock import is_held
from espalier.contract.manifest import check_files, content_digest, read_manifest
from espalier.contract.store import Store
from espalier.errors import EspalierError
from tests.planted import find_planted
from tests.soak.running import Ending


class Broken(Exception):
    """A promise that was not kept, in a sentence."""


def require_ending(ending: Ending, codes: Collection[int]) -> None:
    """Its exit code is one of these, and a failure was told in one sentence.

    Raises:
        Broken: it is not so.
    """
    given = " ".join(ending.words)
    if ending.code not in codes:
        allowed = ", ".join(map(str, sorted(codes)))
        raise Broken(f"`{given}` ended in {ending.code}, not in {allowed}:\n{ending.err}")
    if "Traceback" in ending.err:
        raise Broken(f"`{given}` showed a traceback:\n{ending.err}")
    sentences = [line for line in ending.err.splitlines() if line.startswith("espalier: ")]
    if ending.code > 0 and len(sentences) != 1:
        raise Broken(f"`{given}` told its failure in {len(sentences)} sentences:\n{ending.err}")


def is_titled(path: str) -> bool:
    """Whether a file is a picture, which has the result's name in its title."""
    return Path(path).suffix in (".png", ".svg")


def measured(evaluation: Path) -> str:
    """What an evaluation found; its file has the model's name and the date too."""
    return json.dumps(json.loads((evaluation / "results.json").read_text())["results"])


def contents(store: Store, name: str) -> dict[str, str]:
    """The content digests of what is published under a draw's name, by its place without that.

    Raises:
        Broken: a file of one is not what its manifest says.
    """
    found = {}
    for section, called, path in store.artifacts():
        if name in called:
            try:
                check_files(path)
            except EspalierError as error:
                raise Broken(f"{section}/{called} does not verify: {error}") from None
            place = f"{section}/{called.replace(name, '…')}"
            files = [file for file in read_manifest(path).files if not is_titled(file.path)]
            found[place] = content_digest(files) if section != "evals" else measured(path)
    return found


def require_nothing_left(store: Store) -> None:
    """No unfinished work, no lock that is held, no command at work.

    Raises:
        Broken: something is left.
    """
    if left := [path.name for path in store.leftovers()]:
        raise Broken(f"`gc ALL=1 MIN_AGE=0` leaves {', '.join(left)}")
    held = [path.name for path in (store.root / ".locks").glob("*.lock") if is_held(path)]
    if held:
        raise Broken(f"locks are held: {', '.join(held)}")
    require_nobody_at_work(store.root)


def require_nobody_at_work(folder: Path) -> None:
    """No process that was told a path in that folder.

    Raises:
        Broken: one lives.
    """
    if alive := at_work(folder):
        raise Broken(f"processes live: {'; '.join(alive.values())}")


def at_work(folder: Path) -> dict[int, str]:
    """Processes that were told a path in that folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder) in line and state != "Z":
            found[int(entry.name)] = line.strip()
    return found


def require_no_secret(*folders: Path) -> None:
    """No planted word is in any file.

    Raises:
        Broken: one is.
    """
    for folder in folders:
        if found := find_planted(folder):
            raise Broken(f"planted secrets are in {', '.join(map(str, found))}")
