"""A soak: many draws on one store, side by side, and what must hold when all are over."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from espalier.contract.store import Store
from tests.run import MAIN
from tests.soak.cloud import Cloud, cloud_in
from tests.soak.disk import Disk, small_disk
from tests.soak.draw import Draw, TpuDraw
from tests.soak.engine import dying_engine
from tests.soak.kinds import Inputs
from tests.soak.promises import (
    Broken,
    contents,
    require_ending,
    require_no_secret,
    require_nobody_at_work,
    require_nothing_left,
)
from tests.soak.running import Commands, warm_python
from tests.soak.striking import Counts, Striking
from tests.soak.tpu_faults import OnTpus
from tests.soak.turns import Turns
from tests.soak.twins import Twins
from tests.unit.hub_server import Hub, serve


@dataclass
class Failure:
    """The first draw that found a broken promise."""

    draw: Draw | TpuDraw
    why: str
    said: list[str]


@dataclass
class Soak:
    """One store and what works on it.

    Attributes:
        failures: of all lanes; the first draw's is told.
    """

    folder: Path
    disk: Disk | None
    cloud: Cloud
    hub: Hub
    tell: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        inputs = Inputs(self.folder / "inputs", self.hub)
        inputs.make()
        self.commands, without = (
            Commands(self.folder / place, self.folder / f"{word}-logs", self.folder / word, inputs)
            for place, word in (("disk/store", "struck"), ("twins", "twin"))
        )
        self.twins = Twins(without)
        self.engine = dying_engine(self.folder / "engine")
        self.turns, self.one_at_a_time = Turns(), threading.Lock()

    def run(self, draws: Sequence[Draw | TpuDraw], lanes: int) -> None:
        """Carry out all draws; after a failure no other is begun.

        Raises:
            Broken: something is left when all are over.
        """
        kinds = [draw.command.kind for draw in draws if isinstance(draw, Draw)]
        for image in {MAIN, *(kind.image for kind in kinds)}:
            warm_python(image)  # it would end with a lane's thread if that had started it
        waiting = iter(draws)
        lock = threading.Lock()

        def lane() -> None:
            while not self.failures:
                with lock:
                    draw = next(waiting, None)
                if draw is None:
                    return
                self._carry_out(draw)

        threads = [threading.Thread(target=lane) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not self.failures:
            self._end(draws)

    def _carry_out(self, draw: Draw | TpuDraw) -> None:
        began, said = time.monotonic(), list[str]()
        try:
            with self.turns.turn(draw.alone):
                self._strike(draw, said)
        except Exception as error:  # noqa: BLE001 - whatever it is, the draw can be repeated
            self.failures.append(Failure(draw, f"{type(error).__name__}: {error}", said))
        took = time.monotonic() - began
        self.tell(f"{draw.index:4d} {draw} ({'; '.join(said)}) {took:.1f} s")

    def _strike(self, draw: Draw | TpuDraw, said: list[str]) -> None:
        if isinstance(draw, Draw):
            return Striking(
                draw, self.commands, self.twins, self.disk, self.engine, self.counts, said
            ).run()
        with self.one_at_a_time:  # its calls fail for whoever makes them
            run = OnTpus(
                draw.name, draw.fault, draw.random, self.commands, self.twins, self.cloud, said
            )
            ended = run.run()
            self.counts.add(draw.fault.name, "struck")
            self.counts.add(draw.fault.name, ended)
            self.counts.published(1)

    def _end(self, draws: Sequence[Draw | TpuDraw]) -> None:
        """What must hold of the store and of this machine."""
        store = Store(self.commands.store)
        published = sum(len(contents(store, draw.name)) for draw in draws)
        if published != self.counts.artifacts:
            raise Broken(f"{published} artifacts verify, of {self.counts.artifacts}")
        require_ending(self.commands.give("gc", "MIN_AGE=0"), {0})
        require_ending(self.commands.give("gc", "MIN_AGE=0", "ALL=1"), {0})
        require_nothing_left(store)
        self.cloud.require_empty()
        require_nobody_at_work(self.cloud.folder)
        require_no_secret(self.commands.store, self.commands.logs, self.cloud.folder)


@contextmanager
def soaking(folder: Path, tell: Callable[[str], None]) -> Iterator[Soak]:
    """A soak in a folder, which is removed unless something was found."""
    hub = Hub({})
    with small_disk(folder / "disk") as disk, cloud_in(folder / "cloud") as cloud, serve(hub):
        soak = Soak(folder, disk, cloud, hub, tell)
        yield soak
        if soak.failures:  # the disk goes, and what it held is wanted
            shutil.copytree(folder / "disk", folder / "found", symlinks=True)


def say(text: str) -> None:
    """Progress, to whoever watches."""
    print(text, file=sys.stderr, flush=True)
