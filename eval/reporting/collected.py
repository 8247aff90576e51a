"""What a report is about: checkpoints on the store, their lineage, evaluations and scores."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from espalier.contract.json_text import NotJson, from_json
from espalier.contract.lineage import lineage
from espalier.contract.manifest import MANIFEST, Manifest, read_manifest
from espalier.contract.store import PARTIAL, REPLACED, Store
from espalier.errors import InputError

SECTIONS = ("models", "checkpoints")
RESULTS, SCORES = "results.json", "scores.json"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a checkpoint.

    Attributes:
        suite: what the evaluation is called under its checkpoint.
        manifest: the evaluation's own.
        results: its results.json.
    """

    suite: str
    manifest: Manifest
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A model on the store, with all that is known of it there.

    Attributes:
        section: `models` or `checkpoints`.
        ancestors: manifests of all that it comes from, the first made first.
        evaluations: of this very content, by name.
        outdated: evaluations of what had its name before.
        scores: what was measured of it or of its parent to prune by, by name on the store.
        shown: its name, with the section where another has the same.
    """

    section: str
    name: str
    manifest: Manifest
    ancestors: tuple[Manifest, ...]
    evaluations: tuple[Evaluated, ...]
    outdated: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Any]]
    shown: str

    @cached_property
    def models(self) -> tuple[Manifest, ...]:
        """The models of its lineage, the first made first, itself last."""
        return (*(each for each in self.ancestors if each.model), self.manifest)

    @property
    def root(self) -> Manifest:
        """The model that it all began with."""
        return self.models[0]


def collect(store: Store, names: Sequence[str] = ()) -> list[Checkpoint]:
    """The checkpoints of these names, or all models and checkpoints of the store.

    Raises:
        InputError: one is not there, or its manifest or results cannot be read; or there are none.
    """
    found = [_named(store, name) for name in dict.fromkeys(names)] if names else _all(store)
    if not found:
        raise InputError(
            f"{store.root} holds no model; make one with make prune-<method>, or give STORE=."
        )
    found = list(dict.fromkeys(found))
    times = Counter(directory.name for _, directory in found)
    return [
        _read(
            store, section, path, path.name if times[path.name] == 1 else f"{section}/{path.name}"
        )
        for section, path in found
    ]


def _all(store: Store) -> list[tuple[str, Path]]:
    return [(section, path) for section, _, path in store.artifacts() if section in SECTIONS]


def _named(store: Store, name: str) -> tuple[str, Path]:
    section, slash, rest = name.partition("/")
    looked_in = (section,) if slash and section in SECTIONS else SECTIONS
    found = store.find(rest if slash and section in SECTIONS else name, looked_in)
    if found is None:
        raise InputError(f"CKPTS={name} is not on the store; make list shows what is.")
    return found.parent.name, found


def _read(store: Store, section: str, directory: Path, shown: str) -> Checkpoint:
    manifest = read_manifest(directory)
    evaluations, outdated = [], []
    for suite, one in _evaluations(store.root / "evals" / directory.name):
        model = one.manifest.inputs.get("model")
        if model is None or model.name not in (f"{section}/{directory.name}", directory.name):
            continue  # of another section's model of the same name
        if model.content == manifest.content:
            evaluations.append(one)
        else:
            outdated.append(suite)
    behind = _ancestors(store, directory)
    return Checkpoint(
        section=section,
        name=directory.name,
        manifest=manifest,
        ancestors=behind,
        evaluations=tuple(evaluations),
        outdated=tuple(outdated),
        scores=_scores(store, section, directory, behind),
        shown=shown,
    )


def _ancestors(store: Store, directory: Path) -> tuple[Manifest, ...]:
    """Each once; what an artifact is made of comes before it."""
    found: dict[str, Manifest] = {}
    for depth, _, manifest in lineage(directory, store.root):
        if depth and manifest is not None:
            key = f"{manifest.stage} {manifest.name} {manifest.content}"
            found.pop(key, None)  # the place of its last mention is before all that is made of it
            found[key] = manifest
    return tuple(reversed(found.values()))


def _evaluations(folder: Path) -> Iterator[tuple[str, Evaluated]]:
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if PARTIAL in path.parent.name or REPLACED in path.parent.name:
            continue
        yield path.parent.name, read_evaluation(path.parent)


def read_evaluation(directory: Path) -> Evaluated:
    """One that is published.

    Raises:
        InputError: it holds no results.
    """
    results = _json(directory / RESULTS)
    if not isinstance(results.get("results"), dict):
        raise InputError(f"{directory / RESULTS} holds no results; run make eval again.")
    return Evaluated(directory.name, read_manifest(directory), results)


def _scores(
    store: Store, section: str, directory: Path, ancestors: Sequence[Manifest]
) -> dict[str, Mapping[str, Any]]:
    """Scores of this very model that are published on their own, and those it was pruned by."""
    names = [f"scores/{each.name}" for each in ancestors if each.verb == "score"]
    here = store.root / "scores" / directory.name
    names += [f"scores/{directory.name}/{path.parent.name}" for path in here.glob(f"*/{MANIFEST}")]
    found: dict[str, Mapping[str, Any]] = {
        name: _json(store.root / name / SCORES)
        for name in sorted(set(names))
        if PARTIAL not in name and REPLACED not in name and (store.root / name / SCORES).is_file()
    }
    if not found and (directory / SCORES).is_file():  # measured by the method as it pruned
        found[f"{section}/{directory.name}"] = _json(directory / SCORES)
    return found


def _json(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        InputError: it holds none.
    """
    try:
        content = from_json(path.read_bytes())
    except (OSError, NotJson):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read; make it again with FORCE=1.")
    return content
