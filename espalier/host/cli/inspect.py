"""Commands that look at the store: list, show, verify, list-models."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from espalier.contract.ledger import Entry, Total
from espalier.contract.lineage import lineage
from espalier.contract.manifest import Manifest, check_files
from espalier.contract.measure import show_size, show_time
from espalier.contract.parameters import assigned_as
from espalier.contract.store import SECTIONS, Store
from espalier.contract.summaries import summaries
from espalier.errors import InputError
from espalier.host.cli.session import Assignments, store_of
from espalier.models.aliases import model_aliases


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("list")(list_artifacts)
    app.command("list-models")(list_models)
    for command in (show, verify):
        app.command(command.__name__)(command)


def list_artifacts(assignments: Assignments = None) -> None:
    """List what is published on the store."""
    store, _ = store_of(assignments)
    rows = [("name", "made by", "size", "parameters", "non-zero")]
    for section, name, summary in summaries(store):
        rows.append(
            (
                f"{section}/{name}",
                summary.stage or "a manifest that cannot be read; see make verify",
                show_size(summary.size) if summary.stage else "",
                f"{summary.parameters:,}" if summary.parameters else "",
                f"{summary.nonzero:,}" if summary.nonzero else "",
            )
        )
    print_columns(rows)


def list_models(assignments: Assignments = None) -> None:
    """List the aliases that MODEL= understands."""
    store_of(assignments)
    table = Table("alias", "from", "revision", box=None)
    for name, source in model_aliases().items():
        if source.package:
            table.add_row(name, f"package {source.package.name}", source.package.version)
        else:
            where = "grown here" if source.grown else source.hub_id
            table.add_row(name, where, source.revision if source.hub_id else "")
    print_whole(table)


def show(assignments: Assignments = None) -> None:
    """Show CKPT's lineage: parents, parameters, sparsity, and who made it with what."""
    store, rest = store_of(assignments, "CKPT", "MODEL")
    directory = _checkpoint(store, rest)
    trees: list[Tree] = []
    for depth, name, facts in _ancestors(directory, store.root):
        text = f"[bold]{name}[/bold]{facts}"
        if depth == 0:
            trees = [Tree(text, highlight=False)]
        else:
            trees = [*trees[:depth], trees[depth - 1].add(text)]
    print_whole(trees[0])


def _ancestors(directory: Path, root: Path) -> Iterator[tuple[int, str, str]]:
    """Depth, name and account of an artifact and those it comes from, each accounted for once."""
    known: set[str] = set()
    repeated_at: int | None = None
    for depth, name, manifest in lineage(directory, root):
        if repeated_at is not None and depth > repeated_at:
            continue
        repeated_at = None
        if manifest is None:
            yield depth, name, "  (a plain path)"
        elif manifest.fingerprint in known:
            repeated_at = depth
            yield depth, name, "  (as above)"
        else:
            known.add(manifest.fingerprint)
            try:
                described = _described(manifest)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                described = "  (its manifest does not say what it should; see make verify)"
            yield depth, name, described


def _described(manifest: Manifest) -> str:
    image, model = manifest.image, manifest.model or {}
    given = " ".join(
        f"{assigned_as(k)}={v}" for k, v in manifest.parameters.items() if v is not None
    )
    packages = manifest.environment.get("packages", {})
    lines = [
        f"made by {manifest.stage} {given}",
        f"in {image.digest or f'image {image.name}, lock {image.lock[:12]}'}"
        f" by {manifest.environment.get('runtime')}, code {(manifest.code.revision or '?')[:12]}",
        "with " + ", ".join(f"{name} {version}" for name, version in packages.items()),
        f"on {manifest.timing['started']} in {show_time(manifest.timing['seconds'])}, "
        f"peak memory {show_size(manifest.peak_memory_bytes or 0)}",
    ]
    if model:
        padding = f" ({model['padding']:,} of them padding)" if "padding" in model else ""
        lines.append(f"{model['parameters']:,} parameters{padding}, {model['nonzero']:,} not zero")
    if manifest.pruning:
        lines.append(str(manifest.pruning))
    if manifest.training:
        lines.append(_training(manifest.training))
    if manifest.ledger:
        lines.append(_cost(manifest.ledger))
    return "".join(f"\n{line}" for line in lines)


def _training(training: dict[str, Any]) -> str:
    teacher = f", taught by {training['teacher']}" if training["teacher"] else ""
    return (
        f"{training['tokens']:,} tokens trained on from {training['init']} weights "
        f"({training['epochs']:.2f} epochs){teacher}, last loss {training['last_loss']:.4f}"
    )


def _cost(ledger: list[Entry]) -> str:
    """Everything behind a model: what two arms are compared at."""
    total = Total.of(ledger)
    tokens = "unknown" if total.tokens is None else f"{total.tokens:,}"
    flops = "unknown" if total.flops is None else f"{total.flops:.3g}"
    return f"in all {tokens} training tokens and {flops} FLOPs ({len(ledger)} stages)"


def verify(assignments: Assignments = None) -> None:
    """Hash CKPT's files again and compare them with its manifest."""
    store, rest = store_of(assignments, "CKPT", "MODEL")
    directory = _checkpoint(store, rest)
    sys.stdout.write(f"{directory}: {check_files(directory)} files are as published\n")


def _checkpoint(store: Store, rest: dict[str, str]) -> Path:
    name = rest.get("CKPT") or rest.get("MODEL")
    if not name:
        raise InputError("give CKPT=<name on the store or path>.")
    path = Path(name)
    if "/" in name and path.is_dir():
        return path
    section, _, rest_of_name = name.partition("/")
    if section in SECTIONS and rest_of_name and (found := store.published(section, rest_of_name)):
        return found
    if found := store.find(name, ("checkpoints", "models", "data", "scores")):
        return found
    raise InputError(f"CKPT={name} is not on the store; see make list.")


def print_whole(renderable: Any) -> None:
    """On stdout; names are for copying: a pipe gets whole lines."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(renderable)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """On stdout, each column as wide as its widest; quick for many rows."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
