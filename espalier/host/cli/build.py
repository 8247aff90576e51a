"""Commands for images, locks and the machine: image, save, sbom, lock, lock-check, doctor."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from espalier.contract.files import write_text
from espalier.contract.measure import show_size
from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.cli.session import Assignments
from espalier.host.fit import free_disk, free_memory
from espalier.host.gpus import gpus_of_machine
from espalier.host.images import build as build_image
from espalier.host.images import (
    build_all,
    compile_lock,
    ensure_built,
    find_engine,
    installed_engine,
    known_images,
    known_locks,
    load_image,
    save,
    tried,
)
from espalier.host.images.engine import Engine
from espalier.host.images.venv import find_python
from espalier.host.runners.show import print_rows
from espalier.host.runtimes.choice import (
    ENGINES,
    answering,
    choose_runtime,
    described,
    first_that_runs,
)
from espalier.host.settings import Settings, read_settings, split_assignments

Name = Annotated[str, typer.Argument(help="image, or `all`")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (image, save_image, sbom, lock, lock_check, doctor):
        name = {"save_image": "save"}.get(command.__name__, command.__name__.replace("_", "-"))
        app.command(name)(command)


def image(name: Name, assignments: Assignments = None) -> None:
    """Build an image for ACCEL, run its checks and record what is in it."""
    settings = _settings(assignments)
    engine = _engine(settings)
    if name == "all":
        images = build_all(engine, settings.accel)
    else:
        images = iter([build_image(name, engine, settings.accel)])
    for built in images:
        sys.stdout.write(f"{built.reference} {built.digest}\n")


def save_image(name: Name, assignments: Assignments = None) -> None:
    """Write an image as an archive for machines without a registry (TO=, default ./<name>.tar)."""
    settings, rest = read_settings(split_assignments(assignments or []))
    engine = _engine(settings)
    ensure_built(name, engine, settings.accel)
    target = Path(rest.get("TO", f"espalier-{name}-{settings.accel}.tar"))
    sys.stdout.write(f"{save(name, engine, settings.accel, target)}\n")


def sbom(name: Name, assignments: Assignments = None) -> None:
    """Write what is in an image as a CycloneDX list (TO=, default ./espalier-<name>.cdx.json)."""
    from espalier.host.images.sbom import sbom as describe_contents  # no image has what it needs

    settings, rest = read_settings(split_assignments(assignments or []))
    image = load_image(name)
    image.require(settings.accel)
    asked = ENGINES if settings.runtime == "auto" else (settings.runtime,)
    found = (find_engine(name) for name in asked if name in ENGINES)
    engine = next((engine for engine in found if engine), None)
    target = Path(rest.pop("TO", f"espalier-{name}-{settings.accel}.cdx.json"))
    if rest:
        raise InputError(f"{', '.join(rest)} is not understood here (known: TO).")
    write_text(target, describe_contents(image, settings.accel, engine))
    if not (engine and engine.inspect(image.reference(settings.accel))):
        sys.stderr.write(
            f"image {name} is not built here, so its Debian packages are not listed; make "
            f"image-{name} builds it.\n"
        )
    sys.stdout.write(f"{target}\n")


def lock(name: Name) -> None:
    """Write an image's hash-locked package list again from its requirements.in."""
    for each in known_locks() if name == "all" else (name,):
        compile_lock(each)


def lock_check() -> None:
    """Fail when a lock does not follow from its requirements.in."""
    stale = [name for name in known_locks() if not compile_lock(name, check=True)]
    if stale:
        raise InputError(f"stale locks: {', '.join(stale)}; run make lock-<image>.")


def doctor(assignments: Assignments = None) -> None:
    """Say what this machine can run, and what is missing."""
    settings = _settings(assignments)
    rows: dict[str, str] = {}
    for name in ENGINES:
        rows |= _condition(name)
    for bottom in sorted({load_image(name).bottom.name for name in known_images()}):
        image = load_image(bottom)
        row = f"python{image.python}"
        rows[row] = find_python(image) or "not found (RUNTIME=local needs it)"
    rows["sbatch"] = shutil.which("sbatch") or "not on PATH (RUNTIME=slurm needs it)"
    try:
        rows["RUNTIME"] = f"{settings.runtime} → {choose_runtime(settings).name}"
    except EspalierError as error:
        rows["RUNTIME"] = str(error)
    rows["free memory"] = show_size(free_memory(settings.memory))
    rows["free disk"] = f"{show_size(free_disk(settings.store))} for {settings.store}"
    if shutil.which("nvidia-smi"):
        rows["GPU"] = ", ".join(map(str, gpus_of_machine())) or "nvidia-smi finds none"
    else:
        rows["GPU"] = "no nvidia-smi: ACCEL=cuda will stop"
    print_rows(rows)


def _condition(name: str) -> dict[str, str]:
    """What can be said of an engine, in its own words where it fails."""
    engine = installed_engine(name)
    if engine is None:
        return {name: "not on PATH"}
    trial = tried(engine, anew=True)
    if not trial.runs:
        return {name: f"not used: {trial.fault}"}
    return {name: f"runs containers ({engine.client})"} | engine.security.rows(name)


def _settings(assignments: list[str] | None) -> Settings:
    settings, rest = read_settings(split_assignments(assignments or []))
    if rest:
        raise InputError(f"{', '.join(rest)} is not a setting here.")
    return settings


def _engine(settings: Settings) -> Engine:
    """Who builds images, which takes running containers too."""
    if settings.runtime in ENGINES:
        return answering(settings.runtime)
    if settings.runtime != "auto":
        raise InputError(
            f"images are built by {' or '.join(ENGINES)}, not RUNTIME={settings.runtime}."
        )
    engine, passed = first_that_runs()
    if engine is None:
        why = described(passed) or f"there is no {' and no '.join(ENGINES)} on PATH"
        raise EnvironmentFailure(
            f"no container engine runs containers here: {why}; mend one, or use RUNTIME=local, "
            "which needs no image."
        )
    return engine
