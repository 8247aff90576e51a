"""Commands for TPU VMs themselves: tpu-up, tpu-status, tpu-logs, tpu-down, tpu-reap."""

import sys

import typer
from rich.console import Console
from rich.table import Table

from espalier.contract.measure import show_time
from espalier.errors import InputError
from espalier.host.cli.session import Assignments
from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.fleet import Fleet
from espalier.host.runtimes.tpu_vm.holding import Holding
from espalier.host.runtimes.tpu_vm.options import Location, Wanted
from espalier.host.runtimes.tpu_vm.request import creation, shown
from espalier.host.runtimes.tpu_vm.stops import raise_on_stop
from espalier.host.runtimes.tpu_vm.timings import Timings
from espalier.host.settings import Settings, read_settings, split_assignments


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (tpu_up, tpu_status, tpu_logs, tpu_down, tpu_reap):
        app.command(command.__name__.replace("_", "-"))(command)


def tpu_up(assignments: Assignments = None) -> None:
    """Hold a TPU in ZONE as NAME, without a run, until make tpu-down."""
    settings, rest = _read(assignments, "NAME")
    wanted = Wanted.of(settings)
    name = rest.get("NAME") or f"espalier-held-{wanted.tpu.type}"
    holding = Holding(_api(wanted.place), wanted, name, settings.tpu_deadline * 60, _say, Timings())
    _say(f"{wanted.describe()} {wanted.account_warning}".strip())
    if settings.dry_run:
        request = creation(wanted, holding.script, holding.planned, holding.deadline)
        sys.stdout.write(f"tpu-up (would run)\n{shown(request)}\n\n{holding.script}\n")
        return
    with raise_on_stop():
        holding.up()
    _say(f"{name} costs until make tpu-down NAME={name}; a run takes it with TPU_NAME={name}.")
    sys.stdout.write(f"{name}\n")


def tpu_status(assignments: Assignments = None) -> None:
    """List this tool's TPUs in ZONE: state, age, cost so far, and what each is for."""
    settings, _ = _read(assignments)
    fleet = _fleet(settings)
    if settings.dry_run:
        sys.stdout.write(f"tpu-status (would run): list {fleet.place.parent}\n")
        return
    table = Table("name", "type", "state", "age", "cost", "use", box=None)
    for each in fleet.members():
        age = show_time(each.hours * 3600)
        use = each.use or "orphaned; make tpu-reap deletes it"
        table.add_row(each.name, each.type, each.state, age, each.cost, use)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def tpu_logs(assignments: Assignments = None) -> None:
    """Print the last lines of worker WORKER (default 0) of the TPU NAME."""
    settings, rest = _read(assignments, "NAME", "WORKER")
    fleet, name, worker = _fleet(settings), _name(rest), rest.get("WORKER", "0")
    if not worker.isdigit():
        raise InputError(f"WORKER={worker} is not a worker number; give 0, 1, ….")
    if settings.dry_run:
        sys.stdout.write(f"tpu-logs (would run): read the log of worker {worker} of {name}\n")
        return
    text = fleet.log(name, int(worker))
    if text is None:
        raise InputError(
            f"worker {worker} of NAME={name} has written nothing; see make tpu-status."
        )
    sys.stdout.write(text)


def tpu_down(assignments: Assignments = None) -> None:
    """Delete the TPU NAME, whatever it is doing."""
    settings, rest = _read(assignments, "NAME")
    fleet, name = _fleet(settings), _name(rest)
    if settings.dry_run:
        sys.stdout.write(f"tpu-down (would run): delete {name} in {fleet.place.parent}\n")
        return
    if not fleet.down(name):
        raise InputError(f"NAME={name} is not in {fleet.place.parent}; see make tpu-status.")
    sys.stdout.write(f"deleted {name}\n")


def tpu_reap(assignments: Assignments = None) -> None:
    """Delete this tool's TPUs that no live run holds; with FORCE=1 all of this BUCKET."""
    settings, _ = _read(assignments)
    fleet = _fleet(settings)
    if settings.dry_run:
        which = (
            f"all of {fleet.place.bucket.url}" if settings.force else "those that no live run holds"
        )
        sys.stdout.write(f"tpu-reap (would run): delete {which} in {fleet.place.parent}\n")
        return
    count = 0
    for member in fleet.reap(everything=settings.force):
        count += 1
        sys.stdout.write(f"deleted {member.name} ({member.type}, {member.state})\n")
    sys.stdout.write(f"{count} deleted\n")


def _read(assignments: list[str] | None, *known: str) -> tuple[Settings, dict[str, str]]:
    settings, rest = read_settings(split_assignments(assignments or []))
    if unknown := sorted(set(rest) - set(known)):
        hint = f" (known: {', '.join(known)})" if known else ""
        raise InputError(f"{', '.join(unknown)} is not a parameter here{hint}.")
    return settings, rest


def _fleet(settings: Settings) -> Fleet:
    place = Location.of(settings)
    return Fleet(place, _api(place))


def _api(place: Location) -> TpuApi:
    return TpuApi(place, Timings())


def _name(rest: dict[str, str]) -> str:
    if not rest.get("NAME"):
        raise InputError("NAME is needed: a TPU's, as make tpu-status lists it.")
    return rest["NAME"]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
