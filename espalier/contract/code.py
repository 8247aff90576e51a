"""The hash of a stage's code: all of ours that it loads, and the files beside it that it reads."""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from espalier.contract.paths import PACKAGES, ROOT
from espalier.contract.stage import Stage

NOT_FINGERPRINTED = {
    "espalier": "its version",
    "espalier.errors": "what refusals are called, and the codes that they end in",
    "espalier.contract.paths": "where the project's files are",
    "espalier.contract.stage": "the types by which a stage is described, told and answers",
    "espalier.models.gates": "refuses or describes a model, and changes none",
    "espalier.pruning.estimate": "what a run is expected to need",
}
"""Modules that no result can depend on, and what they hold instead."""
DATA = (".toml", ".json", ".yaml", ".jinja", ".txt", ".sh")
"""What a file that a module names may end in."""
_MODULE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?::\w+)?")


def stage_modules(stage: Stage) -> tuple[str, ...]:
    """Where a stage's code begins: its entries, and what validates its parameters."""
    places = (stage.entry, stage.join or stage.entry, stage.parameters.__module__)
    return tuple(place.partition(":")[0] for place in places)


def code_hash(*modules: str) -> str:
    """Hash of modules and of all of ours that they load, by an import or by name.

    Comments, docstrings and blank lines are left out: rewording them changes nothing. The hash is
    the same under every version of Python.

    Args:
        modules: dotted names, for example `methods.wanda.stage`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(hashed_files(*modules).items()):
        text = path.read_text()
        if text := bare(text) if path.suffix == ".py" else text:
            digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def hashed_files(*modules: str) -> dict[str, Path]:
    """Every file that `code_hash` sees: modules by their dotted names, others by their paths."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in NOT_FINGERPRINTED or not (path := _source(name)):
            continue
        found[name] = path
        tree = _parsed(path.read_text())
        waiting += [*_parents(name), *_imports(tree, path, name)]
        for text in _strings(tree):
            # A spec names what others start; the stage's own entry is where this begins.
            if path.stem != "spec" and (module := _MODULE.fullmatch(text)):
                waiting.append(module[1])
            if text.endswith(DATA) and (file := _data(path, text)):
                found[file.relative_to(ROOT).as_posix()] = file
    return found


@lru_cache(maxsize=512)
def bare(source: str) -> str:
    """The source without comments, blank lines and strings that are statements of their own."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline) if "#" in source else ():
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    texts = [line.encode() for line in lines]  # the tree counts bytes
    for node in reversed(_statements(source)):
        first, last = node.lineno, node.end_lineno or node.lineno
        around = texts[first - 1][: node.col_offset], texts[last - 1][node.end_col_offset :]
        texts[first - 1 : last] = [b"".join(around), *[b""] * (last - first)]
    found = (text.decode().rstrip() for text in texts)
    return "\n".join(line for line in found if line)


def _statements(source: str) -> list[ast.Expr]:
    """The strings that are statements: docstrings of modules, classes, functions and constants."""
    found = [
        node
        for node in ast.walk(_parsed(source))
        if isinstance(node, ast.Expr) and _is_text(node.value)
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


@lru_cache(maxsize=512)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _source(name: str) -> Path | None:
    base = ROOT / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if name.partition(".")[0] in PACKAGES and path.is_file():
            return path
    return None


def _parents(name: str) -> Iterator[str]:
    """The packages whose `__init__` runs first."""
    while name := name.rpartition(".")[0]:
        yield name


def _imports(tree: ast.Module, path: Path, module: str) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = f"{parent}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _strings(tree: ast.Module) -> Iterator[str]:
    """The texts of a module, its docstrings among them, which name no module by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _data(module: Path, name: str) -> Path | None:
    """The file of the project's own that a module names, beside it or from the top."""
    for path in (module.parent / name, ROOT / name):
        if path.is_file() and path.resolve().is_relative_to(ROOT):
            return path
    return None
