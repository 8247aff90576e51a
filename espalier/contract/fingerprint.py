"""Hashes of what decides a result: a stage's code, and an input's content."""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path

from espalier.contract.files import file_sha256, write_text
from espalier.contract.manifest import (
    MANIFEST,
    FileRecord,
    InputRecord,
    content_digest,
    content_files,
    read_manifest,
)
from espalier.contract.paths import PACKAGES, ROOT
from espalier.errors import InputError

WORTH_CACHING = 64 << 20
"""Files smaller than this many bytes are hashed again each time."""
CANNOT_DECIDE = {
    "espalier",
    "espalier.contract",
    "espalier.models",
    "espalier.contract.paths",
    "espalier.errors",
    "espalier.models.gates",
    "espalier.models.logits",
    "espalier.contract.manifest",
    "espalier.contract.progress",
    "espalier.contract.stage",
}
"""Modules that report, refuse or describe; a result's bytes cannot depend on them."""


def code_hash(module: str) -> str:
    """Hash of a module and of every module of ours that it imports, comments aside.

    Args:
        module: a dotted name, for example `methods.wanda.stage`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(module).items()):
        digest.update(f"{name}\0{_bare(path.read_text())}\0".encode())
    return digest.hexdigest()


def _closure(module: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in CANNOT_DECIDE or not (path := _source(name)):
            continue
        found[name] = path
        waiting += _imports(path, name)
    return found


def _source(name: str) -> Path | None:
    base = ROOT / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and name.split(".", maxsplit=1)[0] in PACKAGES:
            return path
    return None


def _imports(path: Path, module: str) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = f"{parent}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _bare(source: str) -> str:
    """The source without comments, docstrings and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            for row in range(text.lineno, (text.end_lineno or text.lineno) + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def identify(name: str, path: Path, cache: Path) -> InputRecord:
    """The identity of an input: from its manifest, or hashed where it has none.

    Hashes of large unpublished files are kept in `cache`, by path, size and time.

    Raises:
        InputError: the path does not exist, or links out of itself.
    """
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return InputRecord(name=name, content=manifest.content, fingerprint=manifest.fingerprint)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a path, or a name on the store.")
    files = [path] if path.is_file() else list(content_files(path))
    base = path.parent if path.is_file() else path
    for file in files:
        if not file.resolve().is_relative_to(base.resolve()):
            raise InputError(
                f"{file} is a link to another folder, which a container cannot follow; "
                f"copy it into the store with make adopt FROM={path} NAME=…."
            )
    records = [
        FileRecord(
            path=file.suffix if file == path else file.relative_to(base).as_posix(),
            size=file.stat().st_size,
            sha256=cached_sha256(file, cache),
        )
        for file in files
    ]
    return InputRecord(name=name, content=content_digest(records))


def cached_sha256(file: Path, cache: Path) -> str:
    """A file's sha256; a large one's is kept in `cache`, by path, size and time."""
    status = file.stat()
    if status.st_size < WORTH_CACHING:
        return file_sha256(file)
    key = [str(file.resolve()), status.st_size, status.st_mtime_ns]
    entry = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
    try:
        return str(json.loads(entry.read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        pass
    digest = file_sha256(file)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_text(entry, json.dumps({"sha256": digest}))
    except OSError:
        pass  # a read-only store only costs the time
    return digest
