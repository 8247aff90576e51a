"""The README's results of a real LLM: every command, run one after another, and their table.

    python -m benchmarks.results STORE=<folder> WIKITEXT2=<test.txt> BLIMP=<folder>

What is on the store already is not run again, and the table is made of what lies there alone: of
each result's manifest and its evaluations. `TABLE=1` runs nothing; `COMMANDS=1` prints commands.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- real: written by make results -->", "<!-- end of real -->"
WORDS = ("WIKITEXT2", "BLIMP", "COMMANDS", "TABLE")
"""What may be given beside the settings of every command."""
MODEL = "smollm2-135m-q4"
CALIBRATED = ("SAMPLES=32", "SEQLEN=512")
SEARCHED = ("SAMPLES=8", "SEQLEN=512")
"""Of methods that measure the model once for every block of layers."""
WINDOWS = ("SUITE=perplexity", "SEQLEN=2048", "LIMIT=8")
ROWS = ("SUITE=tasks", "LIMIT=25", "BATCH=32")
MEASURED = ("wikitext2", "blimp", "pydoc")
FIFTH, HALF = "113.3M", "81.4M"
"""Parameters without a fifth and without half of those in the layers (106.2 M of 134.5 M)."""
DEPTHS = {FIFTH: "LAYERS=24", HALF: "LAYERS=15"}


@dataclass(frozen=True)
class Run:
    """A pruning: its words, and what the table calls it."""

    method: str
    setting: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the result on the store."""
        return f"real-{self.method}-{self.setting.lower().replace(':', 'of').replace(' ', '-')}"

    @property
    def command(self) -> list[str]:
        return [
            *(f"prune-{self.method}", f"MODEL={MODEL}", *self.words),
            *("SUITE=none", f"NAME={self.name}"),
        ]


def runs() -> Iterator[Run]:
    """Every pruning, in the table's order."""
    for method in ("magnitude", "wanda", "sparsegpt"):
        words = () if method == "magnitude" else CALIBRATED
        yield Run(method, "0.5", ("SPARSITY=0.5", *words))
        yield Run(method, "2:4", ("PATTERN=2:4", *words))
    for size in (FIFTH, HALF):
        yield Run("shortgpt", size, (DEPTHS[size], *CALIBRATED))
        yield Run("minitron-depth", size, (DEPTHS[size], *SEARCHED))
        yield Run("minitron-width", size, (f"PARAMS={size}", *CALIBRATED))
        yield Run("minitron", size, (f"PARAMS={size}", *SEARCHED))


def evaluation(checkpoint: str, what: str, wikitext2: str, blimp: str) -> list[str]:
    """An evaluation of a model, `wikitext2`, `pydoc` or `blimp`, as words of a command."""
    source = {
        "wikitext2": (*WINDOWS, f"DATA={wikitext2}"),
        "pydoc": (*WINDOWS, "DATA=pydoc"),
        "blimp": (*ROWS, f"TASK_DATA={blimp}"),
    }
    return ["eval", f"CKPT={checkpoint}", *source[what], f"NAME={what}"]


def commands(wikitext2: str, blimp: str) -> Iterator[list[str]]:
    """Everything that the table needs, a column after another."""
    yield ["fetch", f"MODEL={MODEL}"]
    yield evaluation(MODEL, MEASURED[0], wikitext2, blimp)
    for run in runs():
        yield run.command
        yield evaluation(run.name, MEASURED[0], wikitext2, blimp)
    for what in MEASURED[1:]:
        for name in (MODEL, *(run.name for run in runs())):
            yield evaluation(name, what, wikitext2, blimp)


@dataclass(frozen=True)
class Row:
    """What the store says of a model: None where it was not measured."""

    title: str
    setting: str
    parameters: int | None
    perplexities: tuple[float | None, float | None]
    blimp: float | None
    minutes: float | None
    memory: float | None

    @classmethod
    def of(cls, store: Path, directory: Path, title: str, setting: str) -> "Row":
        """Read a result's manifest, those of the scores that it went by, and its evaluations."""
        made = _read(directory / "manifest.json")
        evals = store / "evals" / directory.name
        texts = tuple(_perplexity(evals / text) for text in ("wikitext2", "pydoc"))
        parts = [made, *_scores(store, made)] if made else []
        model = made["model"]["nonzero"] if made else None
        return cls(
            title=title,
            setting=setting,
            parameters=model,
            perplexities=(texts[0], texts[1]),
            blimp=_accuracy(evals / "blimp"),
            minutes=sum(part["timing"]["seconds"] for part in parts) / 60 if parts else None,
            memory=max(part["peak_memory_bytes"] for part in parts) / 2**30 if parts else None,
        )

    @property
    def line(self) -> str:
        """The row as Markdown."""
        one, other = (_shown(value, ".2f") for value in self.perplexities)
        parameters = self.parameters / 1e6 if self.parameters else None
        cells = [
            *(self.title, self.setting, _shown(parameters, ".1f"), one, other),
            *(_shown(self.blimp, ".3f"), _shown(self.minutes, ".1f"), _shown(self.memory, ".2f")),
        ]
        return f"| {' | '.join(cells)} |"


def table(store: Path) -> list[str]:
    """The table's lines, of what is on the store."""
    rows = [Row.of(store, store / "models" / MODEL, "dense", "")]
    rows += [
        Row.of(store, store / "checkpoints" / run.name, run.method, run.setting) for run in runs()
    ]
    return [
        "| method | setting | non-zero, M | WikiText-2 | pydoc | BLiMP | minutes | GiB |",
        "|---|---|---|---|---|---|---|---|",
        *(row.line for row in rows),
    ]


def put_into_readme(lines: list[str]) -> None:
    """Replace the README's table."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text("\n".join([before + BEGIN, *lines, END + after]))


def main(words: list[str]) -> int:
    """Run what is missing; 0, or the code of the first command that failed."""
    given = dict(word.split("=", 1) for word in words)
    own = {word: given.pop(word, "") for word in WORDS}
    wikitext2, blimp = own["WIKITEXT2"] or "wikitext2", own["BLIMP"] or "blimp"
    store = Path(given.get("STORE") or os.environ.get("STORE") or "store")
    settings = [f"{name}={value}" for name, value in given.items()]
    if own["COMMANDS"] == "1":
        for command in commands(wikitext2, blimp):
            print("make", *command)
        return 0
    for command in () if own["TABLE"] == "1" else commands(wikitext2, blimp):
        print("make", *command, file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "espalier", *command, *settings],
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            return done.returncode
    lines = table(store)
    print("\n".join(lines))
    put_into_readme(lines)
    return 0


def _scores(store: Path, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Manifests of the scores that a result went by."""
    roles = (name for role, name in made["inputs"].items() if "scores" in role)
    found = (_read(store / record["name"] / "manifest.json") for record in roles)
    return [manifest for manifest in found if manifest]


def _perplexity(evaluation: Path) -> float | None:
    results = _read(evaluation / "results.json")
    values = [v["ppl,none"] for v in results.get("results", {}).values() if "ppl,none" in v]
    return values[0] if values else None


def _accuracy(evaluation: Path) -> float | None:
    """The mean over the paradigms."""
    results = _read(evaluation / "results.json")
    values = [v["acc,none"] for v in results.get("results", {}).values() if "acc,none" in v]
    return mean(values) if values else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _shown(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
