"""Where an artifact comes from, read from the manifests along its parents."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from espalier.contract.ledger import Entry
from espalier.contract.manifest import MANIFEST, Manifest, read_manifest


def lineage(directory: Path, store: Path) -> Iterator[tuple[int, str, Manifest | None]]:
    """Depth, name and manifest of an artifact and its ancestors; no manifest for a plain path."""
    waiting = [(0, directory.name, directory)]
    while waiting:
        depth, name, path = waiting.pop(0)
        manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
        yield depth, name, manifest
        if manifest:
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


def measured_tokens(scores: Iterable[Path]) -> int:
    """Tokens that published scores were measured on, each of them once."""
    found = [read_manifest(path) for path in scores if (path / MANIFEST).is_file()]
    records = [manifest.data or {} for manifest in found if manifest.verb == "score"]
    return sum(int(data.get("samples", 0)) * int(data.get("seqlen", 0)) for data in records)
