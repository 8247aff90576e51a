"""The wings of the house: which may import which, read off the source with `ast`."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from espalier.contract import image as images_module
from espalier.contract.image import locked_names
from espalier.contract.paths import PACKAGES, ROOT
from espalier.host.images import known_images, load_image

E = "espalier"
SHARED = ("espalier.errors", "espalier.contract")
TEXTS = ("espalier.models", "espalier.data")
TABLE: dict[str, tuple[str, ...]] = {
    "espalier.errors": (),
    "espalier.contract": ("espalier.errors",),
    "espalier.hardware": ("espalier.errors",),
    "espalier.models": SHARED,
    "espalier.data": (*SHARED, "espalier.models"),
    "espalier.ranks": (*SHARED, "espalier.models"),
    "espalier.figures": ("espalier.contract.files",),
    "espalier.pruning": (*SHARED, *TEXTS, "espalier.figures"),
    "espalier.run_stage": (*SHARED, "espalier.models"),
    "espalier.host": (
        *SHARED,
        "espalier",  # its version
        "espalier.hardware",
        "espalier.models.shapes",
        "espalier.models.aliases",
        "espalier.models.content",
        "espalier.data.formats",
        "espalier.data.tokens",
    ),
    "espalier.__main__": ("espalier.host",),
}
"""What each wing of espalier/ may import beside itself; the longest name that fits counts."""
SHARED_PACKAGES = {
    "methods": (E,),
    "inputs": (E, "training.gpu_fsdp", "training.protocol"),
    "training": (E,),
    "eval": (E, "training.maxtext_model"),
}
"""What each other folder may import beside itself."""


def test_each_wing_imports_only_what_the_table_gives_it() -> None:
    backwards = [
        f"{module} imports {found}"
        for module in modules()
        if module.startswith(E + ".")
        for found in imported(module)
        if not _allowed(found, (wing := _wing(module)), TABLE[wing])
    ]
    assert not backwards


def test_no_folder_imports_what_is_below_it() -> None:
    backwards = [
        f"{module} imports {found}"
        for module in modules()
        if (folder := module.partition(".")[0]) != E
        for found in imported(module)
        if not _allowed(found, folder, SHARED_PACKAGES[folder]) or found.startswith("espalier.host")
    ]
    assert not backwards


def test_no_method_imports_another() -> None:
    backwards = [
        f"{module} imports {found}"
        for module in modules()
        if module.startswith("methods.")
        for found in imported(module)
        if found.startswith("methods.") and found.split(".")[1] != module.split(".")[1]
    ]
    assert not backwards


def test_nothing_the_host_imports_needs_torch() -> None:
    waiting = [name for name in modules() if name.startswith("espalier.host")]
    waiting += [name for name in modules() if name.endswith(".spec")]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert "torch" not in [found.partition(".")[0] for found in _tops(name)], name
        waiting += [found for found in _tops(name) if found in modules()]


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imported(module: str) -> Iterator[str]:
    """Modules of ours that it imports anywhere, also inside functions."""
    yield from (name for name in _names(ast.walk(_tree(module))) if name in modules())


def _tops(module: str) -> list[str]:
    """What importing it imports: its statements outside functions, but for typing's sake."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [_tree(module)]
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        waiting += ast.iter_child_nodes(node)
    parents = module.split(".")[:-1]
    packages = [".".join(parents[: n + 1]) for n in range(len(parents))]
    return [*_names(found), *packages]


def _names(nodes: "Iterator[ast.AST] | list[ast.AST]") -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules() else node.module for name in below)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def _wing(module: str) -> str:
    return max((wing for wing in TABLE if _below(module, wing)), key=len)


def _allowed(found: str, own: str, others: tuple[str, ...]) -> bool:
    # Within espalier/ the package's own name stands for its __init__ alone.
    exact = own not in SHARED_PACKAGES
    return any(
        found == name if name == "espalier" and exact else _below(found, name)
        for name in (own, *others)
    )


def _below(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def test_commands_begin_in_images_too_which_have_fewer_packages() -> None:
    """Compose runs them there; what an image lacks is imported where it is used."""
    images = [load_image(name) for name in known_images() if name != images_module.SHARED]
    held = [image.packages(accel) for image in images for accel in image.accelerators]
    host = set(locked_names(ROOT / "images" / "host" / "requirements.lock"))
    lacking = host - frozenset.intersection(*held)
    assert "python-dotenv" in lacking
    named = packages_distributions().items()
    absent = [
        module
        for module, packages in named
        if {canonical(package) for package in packages} <= lacking
    ]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import espalier.host.cli"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
