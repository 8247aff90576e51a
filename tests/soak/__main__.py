"""`make soak`: random faults on one store, after which nothing is lost, running or leaked.

    python -m tests.soak [N=200] [SEED=1] [ONLY=37] [LANES=2] [FOLDER=…]

Ends with a table, or with the first promise that was found broken, and how to repeat it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.draw import all_of
from tests.soak.promises import Broken
from tests.soak.soak import say, soaking
from tests.soak.table import table

DEFAULTS = {"N": "200", "SEED": "1", "ONLY": "", "LANES": "2", "FOLDER": ""}


def main(words: list[str]) -> int:
    """Exit code: 1 where a promise is broken."""
    given = DEFAULTS | dict(word.split("=", 1) for word in words)
    if unknown := sorted(given.keys() - DEFAULTS.keys()):
        raise SystemExit(f"{', '.join(unknown)} is not understood; there are {', '.join(DEFAULTS)}")
    seed, only = int(given["SEED"]), given["ONLY"]
    folder = Path(given["FOLDER"] or tempfile.mkdtemp(prefix="espalier-soak-"))
    with soaking(folder, say) as soak:
        draws = all_of(seed, max(int(given["N"]), int(only or 0) + 1), soak.disk is not None)
        try:
            soak.run(draws if not only else [draws[int(only)]], int(given["LANES"]))
        except Broken as broken:
            say(f"Broken at the end of SEED={seed} N={len(draws)}: {broken}. See {folder}.")
            return 1
        if soak.failures:
            first = min(soak.failures, key=lambda failure: failure.draw.index)
            say(f"Broken by {first.draw}:\n{first.why}\n({'; '.join(first.said)})")
            say(f"Repeat it with make soak SEED={seed} ONLY={first.draw.index}; see {folder}.")
            return 1
        for line in table(soak.counts):
            print(line)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
