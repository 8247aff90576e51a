"""Sheared-LLaMA beside other ways to the same shape, on the same tokens: its README's tables.

    python -m benchmarks shearing STORE=<folder> DOMAINS=<a folder for each domain> [MODEL=sapling]

Masks that are sampled and masks that are not, over all steps, or over half of them with training in
the target's shape after it; units chosen at random, and by Minitron's scores, both trained for all
steps, and for half of them, afterwards. Domains keep their shares of the data everywhere. All
losses are of one stage, `score-sheared-llama`, on held-out rows of every domain.
`PARENT_STEPS=8000` trains the parent on these domains first, of which it may know nothing;
`LR=1e-4` is the published rate. What is on the store already is not run again; `TABLE=1` runs
nothing, `STEPS=200` is quicker.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.commands import run_all
from espalier.contract.progress import Progress
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.restructure import Selection, restructure
from espalier.pruning.structured.units import group_of
from methods.sheared_llama.target import Sizes, Target

BATCH, SEQLEN = 4, 128
LR = "1e-3"
"""Of the parent, and of what comes after it if nothing else is said."""
OWN = {
    "MODEL": "sapling",
    "DOMAINS": "",
    "STEPS": "1200",
    "PARENT_STEPS": "0",
    "LR": LR,
    "TABLE": "",
}
"""What may be given beside the settings of every command, and what it is otherwise."""
MASKS = ("sampled", "deterministic")
THEN = "then-trained"
"""Of a way whose masks are learned in half of the steps."""
ROWS = 16
"""Held-out rows of each domain, at most."""
KEPT = {"layers": 4 / 5, "hidden": 3 / 4, "heads": 3 / 4, "ffn": 3 / 4}
"""The shares of a parent's sizes that are left."""
HEADER = ("way", "parameters, M", "held-out loss", "worst domain", "gap of sparsity", "minutes")


@dataclass(frozen=True)
class Comparison:
    """One parent, one target, and every way to it."""

    model: str
    parent: Path
    store: Path
    domains: str
    steps: int
    lr: str

    @property
    def data(self) -> str:
        """The name of the domains' token data."""
        return f"domains-{self.parent.name}"

    @property
    def sizes(self) -> Sizes:
        """Of the target."""
        shapes = Shapes.of(read_config(self.parent))
        group = shapes.heads // shapes.kv_heads
        return Sizes(
            layers=round(shapes.layers * KEPT["layers"]),
            hidden=round(shapes.hidden * KEPT["hidden"]),
            heads=round(shapes.kv_heads * KEPT["heads"]) * group,
            ffn=round(shapes.intermediate * KEPT["ffn"]),
        )

    def name(self, way: str) -> str:
        """Of a result on the store."""
        return "-".join(("shearing", self.parent.name, way, *([self.lr] * (self.lr != LR))))

    def commands(self, random_model: Path) -> Iterator[list[str]]:
        """Everything, in its order."""
        sizes, target = self.sizes, Target.of(Shapes.of(read_config(self.parent)), self.sizes)
        of_model, half = f"MODEL={self.model}", self.steps // 2
        shape = (f"LAYERS={sizes.layers}", f"HIDDEN={sizes.hidden}", f"HEADS={sizes.heads}")
        shape = (*shape, f"FFN={sizes.ffn}")
        together = f"{self.data}-together"
        yield data(self.data, self.domains, self.model, "DOMAINS=1")
        yield data(together, self.domains, self.model)
        domains = f"DOMAIN_DATA={self.data}"
        for masks in MASKS:
            halved = self.name(f"{masks}-half")
            for name, steps in ((self.name(masks), self.steps), (halved, half)):
                yield ["prune-sheared-llama", of_model, domains, *shape, *batches(steps, self.lr),
                       f"VALID={ROWS}", f"MASKS={masks}", "PROPORTIONS=fixed", "SUITE=none",
                       f"NAME={name}"]  # fmt: skip
            rest = batches(self.steps - half, self.lr)
            yield train(halved, together, rest, self.name(f"{masks}-{THEN}"))
        minitron = self.name("minitron-untrained")
        yield ["prune-minitron", of_model, *shape, f"KV_HEADS={target.shapes.kv_heads}",
               f"CALIBRATION={_most_text(Path(self.domains))}", "SAMPLES=32", "SEQLEN=256",
               "SUITE=none", f"NAME={minitron}"]  # fmt: skip
        for way, start in (("minitron", minitron), ("random", str(random_model))):
            for name, steps in ((way, self.steps), (f"{way}-half", half)):
                yield train(start, together, batches(steps, self.lr), self.name(name))
        for way, checkpoint in self.measured.items():
            yield ["score-sheared-llama", f"CKPT={checkpoint}", domains, f"SEQLEN={SEQLEN}",
                   f"VALID={ROWS}", f"NAME={way}"]  # fmt: skip

    @property
    def measured(self) -> dict[str, str]:
        """The way of each row, and its checkpoint."""
        ways = (*MASKS, "minitron", "random", *(f"{masks}-{THEN}" for masks in MASKS))
        ways = (*ways, "minitron-half", "random-half")
        return {"parent": self.model, **{way: self.name(way) for way in ways}}

    def lines(self) -> Iterator[str]:
        """The table, of what is on the store."""
        yield f"| {' | '.join(HEADER)} |"
        yield f"|{'---|' * len(HEADER)}"
        for way in self.measured:
            name = self.parent.name if way == "parent" else self.name(way)
            losses = _read(self.store / "scores" / name / way / "losses.json")
            made = _read(self.store / "checkpoints" / name / "manifest.json")
            if losses:
                yield f"| {' | '.join((way, *_cells(losses, made)))} |"


def data(name: str, domains: str, model: str, *words: str) -> list[str]:
    """Have the domains' texts packed, by domain or together."""
    return ["data", f"DATA={name}", *words, f"SOURCE={domains}", f"TOKENIZER={model}",
            "VALID=0.41", "TEST=0"]  # fmt: skip


def train(start: str, data: str, batches: Sequence[str], name: str) -> list[str]:
    """Have a model trained."""
    return ["train-gpu", f"CKPT={start}", f"DATA={data}", *batches, f"NAME={name}"]


def batches(steps: int, lr: str) -> tuple[str, ...]:
    """The words of so many steps."""
    tokens = steps * BATCH * SEQLEN
    return f"TOKENS={tokens}", f"BATCH={BATCH}", f"SEQLEN={SEQLEN}", f"LR={lr}"


def _most_text(domains: Path) -> Path:
    """The largest file of any domain: what calibrates."""
    return max(
        (path for path in domains.rglob("*") if path.is_file()),
        key=lambda path: (path.stat().st_size, path.name),
    )


def _cells(losses: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    worst = max(losses["losses"], key=losses["losses"].__getitem__)
    gaps = made.get("checks", {}).get("sparsity_gap")
    yield f"{losses['parameters'] / 1e6:.3f}"
    yield f"{mean(losses['losses'].values()):.4f}"
    yield f"{worst} {losses['losses'][worst]:.3f}"
    yield f"{max(gaps.values()):.4f}" if gaps else ""
    yield f"{made['timing']['seconds'] / 60:.1f}" if "timing" in made else ""


def random_units(parent: Path, output: Path, sizes: Sizes, seed: int = 0) -> None:
    """Write the parent with units of a target left that are drawn at random.

    Args:
        parent: a Hugging Face directory.
        output: another, which is made.
        sizes: of what is left.
        seed: what is drawn follows from it.
    """
    shapes, draw = Shapes.of(read_config(parent)), random.Random(seed)
    target = Target.of(shapes, sizes).shapes

    def some(count: int, of: int) -> list[int]:
        return sorted(draw.sample(range(of), count))

    layers = some(target.layers, shapes.layers)
    kv_heads = {layer: some(target.kv_heads, shapes.kv_heads) for layer in layers}
    kept = Selection(
        layers=layers,
        hidden=some(target.hidden, shapes.hidden),
        intermediate={layer: some(target.intermediate, shapes.intermediate) for layer in layers},
        heads={
            layer: [query for head in heads for query in group_of(head, shapes)]
            for layer, heads in kv_heads.items()
        },
        kv_heads=kv_heads,
    )
    output.mkdir(parents=True, exist_ok=True)
    restructure(parent, output, kept, target, Progress())


def main(words: Sequence[str]) -> None:
    """Run what is missing, and print the table.

    Raises:
        SystemExit: a command failed, with its code.
    """
    given = dict(word.split("=", 1) for word in words)
    own = {word: given.pop(word, default) for word, default in OWN.items()}
    store, settings = Path(given["STORE"]), [f"{name}={value}" for name, value in given.items()]
    model = Path(own["MODEL"])
    first = ["adopt", f"FROM={model}", f"NAME={model.name}"] if model.is_dir() else ["grow"]
    _run([first], settings)
    parent = store / "models" / model.name
    if steps := int(own["PARENT_STEPS"]):
        parent, seen = store / "checkpoints" / f"{model.name}-{steps}", f"domains-{model.name}"
        made = train(model.name, seen, batches(steps, LR), parent.name)
        _run([data(seen, own["DOMAINS"], model.name), made], settings)
    found = Comparison(parent.name, parent, store, own["DOMAINS"], int(own["STEPS"]), own["LR"])
    if own["TABLE"] != "1":
        drawn = store / "random" / model.name
        random_units(parent, drawn, found.sizes)
        _run(found.commands(drawn), settings)
    print("\n".join(found.lines()))


def _run(commands: Iterable[Sequence[str]], settings: Sequence[str]) -> None:
    if code := run_all(commands, settings):
        raise SystemExit(code)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
