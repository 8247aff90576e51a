"""One draw: the command is struck, given again until it is done, and what it made is judged."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from espalier.contract.store import Store
from tests.soak.census import Census
from tests.soak.disk import Disk
from tests.soak.draw import Draw
from tests.soak.faults import OFFSETS, Fault, Scene
from tests.soak.holding import moments, watching
from tests.soak.kinds import Command
from tests.soak.promises import Broken, contents, require_ending
from tests.soak.running import Commands
from tests.soak.twins import Twin, Twins

TIDIED = 0.3
"""How often somebody tidies the store before the command is given again."""


@dataclass
class Counts:
    """What came of the draws, for the table.

    Attributes:
        rows: by fault: how often it struck, and so on.
        artifacts: published and verified.
        censuses: looks at what could be resumed; `resumable`: what they found.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    artifacts: int = 0
    censuses: int = 0
    resumable: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: str, what: str) -> None:
        with self._lock:
            self.rows.setdefault(fault, Counter())[what] += 1

    def looked(self, found: int) -> None:
        with self._lock:
            self.censuses += 1
            self.resumable += found

    def published(self, artifacts: int) -> None:
        with self._lock:
            self.artifacts += artifacts


@dataclass
class Striking:
    """Carries out one draw.

    Attributes:
        said: what happened, for whoever repeats it.
    """

    draw: Draw
    commands: Commands
    twins: Twins
    disk: Disk | None
    engine: dict[str, str]
    counts: Counts
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.commands.store)
        self.census = Census(self.store, self.draw.name)
        self.command = self.draw.command

    def run(self) -> None:
        """Strike, give the command again, judge.

        Raises:
            Broken: a promise was not kept.
        """
        for number, fault in enumerate(self.draw.faults):
            self.strike(fault, number)
            self.look()
            if self.draw.random.random() < TIDIED:
                offset = self.draw.random.choice(OFFSETS)
                require_ending(self.commands.give("gc", "MIN_AGE=0", offset=offset), {0})
                self.look()
        again = self.commands.give(*self.words(self.command))
        require_ending(again, {0})
        self.look()
        self.judge(self.twins.of(self.command))

    def words(self, command: Command) -> list[str]:
        return self.commands.inputs.filled(command.words, self.draw.name)

    def strike(self, fault: Fault, number: int) -> None:
        """Give the command once, held at a moment of its twin's, and do to it what was drawn."""
        roles = set(fault.roles) & set(self.command.kind.roles)
        found = moments(self.twins.of(self.command).writes, roles)
        role = self.draw.random.choice(sorted({when.role for when in found}))
        when = self.draw.random.choice([when for when in found if when.role == role])
        rival = self.command.rival
        if fault.wants_rival:
            self.twins.of(rival)
        notes = self.commands.counts / f"{self.draw.name}-{number}"
        with watching(self.commands.store, notes, when) as watch:
            running = self.commands.start(*self.words(self.command), variables=watch.variables)
            held = watch.held(running.process)
            if held is None:  # a resumed command makes fewer writes than its twin
                self.said.append(f"{fault.name} at {when}: not reached")
                require_ending(running.end(), {0})
                return self.counts.add(fault.name, "not reached")
            scene = Scene(
                self.commands, self.words(self.command), self.words(rival), self.engine,
                self.disk, self.draw.random, running, held,
            )  # fmt: skip
            with scene.after:
                codes = fault.strike(scene)
                ending = running.end()
            self.said.append(f"{fault.name} at {when}: ended in {ending.code}")
            require_ending(ending, codes)
        self.counts.add(fault.name, "struck")
        if scene.rival_won:
            refused = self.commands.give(*self.words(self.command))
            require_ending(refused, {2})
            self.command = rival
        self.look()
        if contents(self.store, self.draw.name) == self.twins.of(self.command).contents:
            self.counts.add(fault.name, "done")
        else:
            self.counts.add(fault.name, "resumed" if self.census.known else "begun anew")

    def look(self) -> None:
        """Take the census.

        Raises:
            Broken: what could be resumed is gone.
        """
        self.counts.looked(len(self.census.look()))

    def judge(self, twin: Twin) -> None:
        """What was made is what is made without a fault, and verifies.

        Raises:
            Broken: it is not so.
        """
        made = contents(self.store, self.draw.name)
        if made != twin.contents:
            raise Broken(f"{self.draw.name} is not its twin: {made}, {twin.contents}")
        for place in made:
            called = place.replace("…", self.draw.name)
            ending = self.commands.give("verify", f"CKPT={called}")
            require_ending(ending, {0})
            if "files are as published" not in ending.out:
                raise Broken(f"verify says of {called}: {ending.out}")
        self.counts.published(len(made))
