"""The commands that are drawn from: a cheap one of each kind that makes something."""

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fsdp.tiny_runs import token_data
from tests.tiny import tiny_llama, token_rows
from tests.unit.hub_server import Hub

LAYERS = 6
"""Of the model that all begin with: enough for a run to be stopped between two of them."""
DOCUMENTS = [f"The {number} quick brown foxes jump.\nOver {number} dogs." for number in range(60)]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """What commands are given by their paths; each gets a model of its own, by its own name.

    Attributes:
        hub: a server of this machine that has each of these models too, as `soak/<name>`.
    """

    folder: Path
    hub: Hub

    def make(self) -> None:
        """Write all of them."""
        self.folder.mkdir(parents=True)
        tiny_llama(self.folder / "model", num_hidden_layers=LAYERS)
        token_rows(self.folder / "ids.safetensors", rows=16)
        token_data(self.folder / "walks", self.folder / "model")
        (self.folder / "text").mkdir()
        for number, document in enumerate(DOCUMENTS):
            (self.folder / "text" / f"{number:03d}.txt").write_text(document)
        (self.folder / "text.txt").write_text("\n".join(DOCUMENTS))

    def model(self, name: str) -> Path:
        """The model under another name, after which some results are called."""
        place = self.folder / "models" / name
        if not place.exists():
            shutil.copytree(self.folder / "model", place, copy_function=os.link)
            files = {file.name: file.read_bytes() for file in place.iterdir()}
            self.hub.repositories[f"models/soak/{name}"] = files
        return place

    def filled(self, words: Words, name: str) -> list[str]:
        """Words with their places filled in."""
        places = {"name": name, "model": self.model(name)}
        places |= {"ids": self.folder / "ids.safetensors", "lines": self.folder / "text.txt"}
        places |= {what: self.folder / what for what in ("walks", "text")}
        return [word.format(**places) for word in words]


@dataclass(frozen=True)
class Kind:
    """A command, and how its words are drawn.

    Attributes:
        drawn: words that decide the result, one of each list.
        other: words of the same name and another result.
        image: whose packages it runs with.
        roles: of its processes that can be held at a write.
    """

    name: str
    words: Words
    drawn: tuple[Words, ...] = ()
    other: Words = ()
    image: str = "eval"
    roles: tuple[str, ...] = ("launcher", "stage")
    weight: int = 4

    def command(self, draw: random.Random) -> "Command":
        """With words drawn."""
        return Command(self, (*self.words, *(draw.choice(words) for words in self.drawn)))


@dataclass(frozen=True)
class Command:
    """A command to be given, its places not yet filled in."""

    kind: Kind
    words: Words

    @property
    def rival(self) -> "Command":
        """One of the same name, and of another result."""
        return Command(self.kind, replaced(self.words, self.kind.other))


def replaced(words: Words, others: Words) -> Words:
    """Words with those of the same variables replaced."""
    names = {word.partition("=")[0] for word in others}
    return (*(word for word in words if word.partition("=")[0] not in names), *others)


PRUNING = ("MODEL={model}", "NAME={name}", "SUITE=none")
CALIBRATED = (*PRUNING, "CALIBRATION={ids}")
SCORING = ("MODEL={model}", "CALIBRATION={ids}")
TRAINING = (
    "train-gpu", "CKPT={model}", "DATA={walks}", "NAME={name}", "BATCH=4", "SEQLEN=16", "LR=0.003",
    "TOKENS=768", "VALID_TOKENS=64", "SAVE_EVERY=2", "TRACKER=none",
)  # fmt: skip
RECOVERY = (
    "recover", "CKPT={model}", "DATA={lines}", "NAME={name}", "BATCH=4", "SEQLEN=16", "LR=0.01",
    "TOKENS=768", "VALID=4", "SAVE_EVERY=2", "TRACKER=none",
)  # fmt: skip
SPARSITIES = ("SPARSITY=0.3", "SPARSITY=0.5", "SPARSITY=0.7")
SAMPLES = ("SAMPLES=8", "SAMPLES=4")
SEEDS = ("SEED=1", "SEED=2")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("magnitude", ("prune-magnitude", *PRUNING), (SPARSITIES,), ("SPARSITY=0.4",)),
        Kind(
            "wanda", ("prune-wanda", *CALIBRATED, "SPARSITY=0.5"),
            (("PATTERN=unstructured", "PATTERN=2:4"),), ("PATTERN=4:8",),
        ),
        Kind("sparsegpt", ("prune-sparsegpt", *CALIBRATED), (SPARSITIES,), ("SPARSITY=0.4",)),
        Kind(
            "shortgpt", ("prune-shortgpt", *CALIBRATED), (("LAYERS=4", "LAYERS=5"),),
            image="minitron",
        ),
        Kind(
            "minitron-width", ("prune-minitron-width", *CALIBRATED), (("FFN=32", "FFN=40"),),
            image="minitron",
        ),
        Kind("score-shortgpt", ("score-shortgpt", *SCORING), (SAMPLES,), image="minitron"),
        Kind(
            "score-minitron-depth", ("score-minitron-depth", *SCORING, "SAMPLES=4"),
            (("LAYERS=5", "LAYERS=4"),), image="minitron",
        ),
        Kind(
            "score-minitron-width", ("score-minitron-width", *SCORING), (SAMPLES,),
            image="minitron",
        ),
        Kind("corpus", ("corpus", "NAME={name}"), weight=2),
        Kind(
            "data", ("data", "SOURCE={text}", "TOKENIZER={model}", "DATA={name}", "SHARD=300"),
            (("VALID=0.2", "VALID=0.1"),), ("VALID=0.3",),
        ),
        Kind(
            "perplexity", ("eval", "CKPT={model}", "DATA={lines}", "SUITE=perplexity"),
            (("SEQLEN=64", "SEQLEN=32"),),
        ),
        Kind("train", TRAINING, (SEEDS,), ("SEED=3",), image="fsdp", weight=4),
        Kind(
            "train on two ranks", (*TRAINING, "GPUS=2"), (SEEDS,), image="fsdp",
            roles=("launcher", "stage", "rank"), weight=1,
        ),
        # With the network on, a stage imports other settings than a warm interpreter has.
        Kind("fetch", ("fetch", "MODEL=soak/{name}"), roles=("launcher",), weight=1),
        Kind("adopt", ("adopt", "FROM={model}", "NAME={name}"), weight=2),
        Kind(
            "export", ("export", "DATA={walks}", "NAME={name}", "FORMAT=parquet"),
            (("SEQLEN=32", "SEQLEN=16"),), image="export", weight=1,
        ),
        Kind("recover", RECOVERY, (SEEDS,), ("SEED=3",), image="fsdp", weight=2),
    )
}  # fmt: skip

IMAGES = {kind.words[0]: kind.image for kind in KINDS.values()}
"""Of a command by its first word; that of `eval` for all others."""
