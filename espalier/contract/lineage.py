"""Where an artifact comes from, read from the manifests along its parents."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from espalier.contract.ledger import Entry
from espalier.contract.manifest import MANIFEST, Manifest, read_manifest


def lineage(directory: Path, store: Path) -> Iterator[tuple[int, str, Manifest | None]]:
    """Depth, name and manifest of an artifact and its ancestors; no manifest for a plain path.

    One that several come from is given each time, and what it comes from the first time alone.
    """
    waiting, known = [(0, directory.name, directory)], set[Path]()
    while waiting:
        depth, name, path = waiting.pop(0)
        manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
        yield depth, name, manifest
        if manifest and path not in known:
            known.add(path)
            waiting[:0] = [
                (depth + 1, f"{role} {record.name}", store / record.name)
                for role, record in manifest.inputs.items()
            ]


def descends_from(directory: Path, stage: str) -> bool:
    """Whether an artifact on the store, or an ancestor of it, was made by `stage`."""
    store = directory.resolve().parent.parent
    return any(m is not None and m.stage == stage for _, _, m in lineage(directory, store))


def account_of(model: Path | None) -> list[Entry]:
    """What a model has cost, by its manifest; where none says it, nothing is known."""
    if model is None:
        return []
    ledger = read_manifest(model).ledger if (model / MANIFEST).is_file() else []
    return ledger or [Entry(kind="pretraining", stage="?", name=model.name)]


@dataclass(frozen=True)
class Reading:
    """What was computed on a text to score or calibrate a model.

    Attributes:
        tokens: of the text, each of them once.
        seqlen: tokens a sequence.
        layer_runs: layers that ran on each of them, where that was a search; 0: each layer once.
        head_runs: how often the head ran in a search on each of the tokens that were scored.
        scored: how many these are.
    """

    tokens: int
    seqlen: float
    layer_runs: int = 0
    head_runs: int = 0
    scored: int = 0

    @classmethod
    def of(cls, data: Mapping[str, Any] | None, notes: Mapping[str, Any]) -> Self:
        """As a manifest's sections `data` and `notes` say it."""
        data = data or {}
        sequences, seqlen = int(data.get("samples") or 0), int(data.get("seqlen") or 0)
        tokens = int(notes.get("tokens_read") or sequences * seqlen)
        runs = (int(notes.get(name) or 0) for name in ("layer_runs", "head_runs", "tokens_scored"))
        return cls(tokens, seqlen or tokens / max(1, sequences), *runs)


def readings_of(scores: Iterable[Path]) -> list[Reading]:
    """What published scores among these directories were measured on."""
    found = [read_manifest(path) for path in scores if (path / MANIFEST).is_file()]
    return [Reading.of(one.data, one.notes) for one in found if one.verb == "score"]
