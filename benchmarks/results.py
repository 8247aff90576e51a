"""The README's results of a real LLM: every command, run one after another, and their tables.

    python -m benchmarks.results STORE=<folder> WIKITEXT2=<test.txt> BLIMP=<folder>

What is on the store already is not run again, and a table is made of what lies there alone: of
each result's manifest and its evaluations. `ONLY=masked`, `structured` or `recovered` makes one of
the tables; `JOBS=2` runs two methods side by side, each on as many cores as `THREADS` says;
`TABLE=1` runs nothing; `COMMANDS=1` prints the commands.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.commands import run_all
from espalier.contract.paths import ROOT

README = ROOT / "README.md"
MARKS = ("<!-- {}: written by make results -->", "<!-- end of {} -->")
"""What a table of the README lies between."""
WORDS = ("WIKITEXT2", "BLIMP", "ONLY", "JOBS", "COMMANDS", "TABLE")
"""What may be given beside the settings of every command."""
MODEL = "smollm2-135m-q4"
FETCH = ["fetch", f"MODEL={MODEL}"]
CALIBRATED = ("SAMPLES=32", "SEQLEN=512")
FEWER = ("SAMPLES=8", "SEQLEN=512")
"""Of every structured method, as some measure the model once for every block of layers."""
FEWEST = ("SAMPLES=4", "SEQLEN=512")
"""Of the one that measures it again after every layer that goes."""
WINDOWS = {
    "masked": ("SUITE=perplexity", "SEQLEN=2048", "LIMIT=8"),
    "structured": ("SUITE=perplexity", "SEQLEN=1024", "LIMIT=8"),
    "recovered": ("SUITE=perplexity", "SEQLEN=1024", "LIMIT=8"),
}
ROWS = ("SUITE=tasks", "LIMIT=25", "BATCH=32")
MEASURED = ("wikitext2", "blimp", "pydoc")
RECOVERY = (
    *("DATA=pydoc", "TOKENS=24576", "SEQLEN=256", "BATCH=4", "LR=5e-4", "VALID=16"),
    "PRECISION=float32",  # many processors have no 16-bit products
    "MICRO_BATCH=1",
)


@dataclass(frozen=True)
class Run:
    """A pruning: its words, and what the table calls it.

    Attributes:
        method: whose command it is.
        setting: the table's second column.
        words: of the command.
        scores: the words of a command that scores first, and its result; by default the pruning's.
    """

    method: str
    setting: str
    words: tuple[str, ...]
    scores: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the result on the store."""
        setting = self.setting.lower().replace(":", "of").replace(" %", "").replace(" ", "-")
        return f"real-{self.method}-{setting}"

    @property
    def command(self) -> list[str]:
        return [
            *(f"prune-{self.method}", f"MODEL={MODEL}", *self.words),
            *("SUITE=none", f"NAME={self.name}"),
        ]


def masked() -> Iterator[Run]:
    """Every pruning that leaves zeros, in their table's order."""
    for method in ("magnitude", "wanda", "sparsegpt"):
        words = () if method == "magnitude" else CALIBRATED
        yield Run(method, "0.5", ("SPARSITY=0.5", *words))
        yield Run(method, "2:4", ("PATTERN=2:4", *words))


@dataclass(frozen=True)
class Share:
    """How much of the layers' 106.2 M parameters goes, as each method's own words say it.

    Heads are coarse (3 key-value heads a layer), so that what cuts every layer alike comes only
    near to some shares; the table says how near.
    """

    percent: int
    parameters: str
    layers: int
    channels: str
    block: tuple[str, ...]
    heads_and_neurons: str
    shared: str
    unshared: str

    def runs(self) -> Iterator[Run]:
        """Every structured pruning of this share, in the table's order."""
        size, depth = f"PARAMS={self.parameters}", f"LAYERS={self.layers}"
        whole = f"{self.percent} %"
        yield Run("shortgpt", whole, (depth, *FEWER))
        yield Run("shortened-llama", f"{whole} ppl", (depth, *FEWER))
        taylor = (depth, "IMPORTANCE=taylor", *FEWER)
        yield Run("shortened-llama", f"{whole} taylor", taylor)
        yield Run("sleb", whole, (depth, f"SCORES={MODEL}/sleb-pydoc-15-4x512"), ORDER)
        yield Run("minitron-depth", whole, (depth, *FEWER))
        yield Run("minitron-width", whole, (size, *FEWER))
        yield Run("minitron", whole, (size, *FEWER))
        yield Run("llm-pruner", f"{whole} block", (*self.block, *FEWER))
        channels = f"SPARSITY={self.channels}"
        yield Run("llm-pruner", f"{whole} channel", ("MODE=channel", channels, *FEWER))
        yield Run("wanda-sp", whole, (f"SPARSITY={self.heads_and_neurons}", *FEWER))
        yield Run("flap", whole, (f"SPARSITY={self.percent / 100:g}", *FEWER))
        sliced = ("SHARED=1", "ROUND=1", f"SPARSITY={self.shared}", *FEWER)
        yield Run("slicegpt", f"{whole} shared", sliced)
        yield Run("slicegpt", whole, (f"SPARSITY={self.unshared}", *FEWER))


ORDER = ("score-sleb", f"MODEL={MODEL}", "LAYERS=15", *FEWEST)
"""The order of all 15 layers, of which every share takes as many as it needs."""
ALL_BUT_ENDS = ("FIRST=2", "LAST=28", "SPARSITY=0.66")
SHARES = (
    Share(20, "113.3M", 24, "0.158", ("SPARSITY=0.328",), "0.267", "0.2969", "0.4167"),
    Share(30, "102.6M", 21, "0.237", ("SPARSITY=0.333",), "0.3334", "0.375", "0.4861"),
    Share(50, "81.4M", 15, "0.395", ALL_BUT_ENDS, "0.555", "0.5", "0.625"),
)


BEST = ("real-minitron-width-20", "real-wanda-sp-20")
"""The structured ones that are recovered."""


def structured() -> Iterator[Run]:
    """Every pruning that leaves less, in their table's order."""
    for share in SHARES:
        yield from share.runs()


def evaluation(table: str, checkpoint: str, what: str, wikitext2: str, blimp: str) -> list[str]:
    """An evaluation of a model, `wikitext2`, `pydoc` or `blimp`, as words of a command."""
    windows = WINDOWS[table]
    source = {
        "wikitext2": (*windows, f"DATA={wikitext2}"),
        "pydoc": (*windows, "DATA=pydoc"),
        "blimp": (*ROWS, f"TASK_DATA={blimp}"),
    }
    return ["eval", f"CKPT={checkpoint}", *source[what], f"NAME={evaluated(table, what)}"]


def evaluated(table: str, what: str) -> str:
    """The name of an evaluation on the store; windows are as long as the table has them."""
    return what if what == "blimp" else f"{what}-{WINDOWS[table][1].removeprefix('SEQLEN=')}"


@dataclass(frozen=True)
class Recovery:
    """A model of the other tables, or the dense one, and the same tokens for each of them."""

    parent: str
    method: str
    setting: str
    scores: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the result on the store."""
        return f"{self.parent}-recovered"

    @property
    def command(self) -> list[str]:
        return ["recover", f"CKPT={self.parent}", *RECOVERY, f"NAME={self.name}"]


def recovered() -> Iterator[Recovery]:
    """The dense model, and the best where a fifth is gone."""
    yield Recovery(MODEL, "dense", "")
    for run in SHARES[0].runs():
        if run.name in BEST:
            yield Recovery(run.name, run.method, run.setting)


TABLES: dict[str, Callable[[], Iterator[Run | Recovery]]] = {
    "masked": masked,
    "structured": structured,
    "recovered": recovered,
}


def commands(table: str, wikitext2: str, blimp: str) -> Iterator[list[list[str]]]:
    """What a table needs: of each method its commands, one after another."""
    methods: dict[str, list[list[str]]] = {}
    for run in TABLES[table]():
        of_method = methods.setdefault(run.method, [])
        if run.scores and list(run.scores) not in of_method:
            of_method.append(list(run.scores))
        of_method.append(run.command)
        of_method += [evaluation(table, run.name, what, wikitext2, blimp) for what in MEASURED]
    yield [evaluation(table, MODEL, what, wikitext2, blimp) for what in MEASURED]
    yield from methods.values()


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
    def of(cls, table: str, store: Path, directory: Path, title: str, setting: str) -> "Row":
        """Read a result's manifest, those of the scores that it went by, and its evaluations."""
        made = _read(directory / "manifest.json")
        evals = store / "evals" / directory.name
        names = (evaluated(table, text) for text in ("wikitext2", "pydoc"))
        texts = tuple(_perplexity(evals / name) for name in names)
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


def lines_of(table: str, store: Path) -> list[str]:
    """A table's lines, of what is on the store."""
    rows = [Row.of(table, store, store / "models" / MODEL, "dense", "")]
    rows += [
        Row.of(table, store, store / "checkpoints" / run.name, run.method, run.setting)
        for run in TABLES[table]()
    ]
    return [
        "| method | setting | non-zero, M | WikiText-2 | pydoc | BLiMP | minutes | GiB |",
        "|---|---|---|---|---|---|---|---|",
        *(row.line for row in rows),
    ]


def put_into_readme(table: str, lines: list[str]) -> None:
    """Replace one of the README's tables."""
    begin, end = (mark.format(table) for mark in MARKS)
    text = README.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    README.write_text("\n".join([before + begin, *lines, end + after]))


def main(words: list[str]) -> int:
    """Run what is missing; 0, or the code of the first command that failed."""
    given = dict(word.split("=", 1) for word in words)
    own = {word: given.pop(word, "") for word in WORDS}
    texts = own["WIKITEXT2"] or "wikitext2", own["BLIMP"] or "blimp"
    store = Path(given.get("STORE") or os.environ.get("STORE") or "store")
    settings = [f"{name}={value}" for name, value in given.items()]
    for table in [own["ONLY"]] if own["ONLY"] else TABLES:
        if own["COMMANDS"] == "1":
            for command in (FETCH, *chain.from_iterable(commands(table, *texts))):
                print("make", *command)
            continue
        if own["TABLE"] != "1":
            with ThreadPoolExecutor(int(own["JOBS"] or 1)) as pool:
                run = partial(run_all, settings=settings)
                code = run([FETCH]) or max(pool.map(run, commands(table, *texts)))
            if code:
                return code
        lines = lines_of(table, store)
        print("\n".join(lines))
        put_into_readme(table, lines)
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
