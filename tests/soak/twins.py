"""The same commands without a fault, each once: what they publish, and where they can be held."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from espalier.contract.store import Store
from tests.soak.kinds import Command
from tests.soak.promises import Broken, contents, require_ending
from tests.soak.running import Commands


@dataclass(frozen=True)
class Twin:
    """What a command comes to without a fault.

    Attributes:
        contents: digests by place, as `promises.contents` has them.
        writes: of each of its processes, as `Watch.writes` has them.
    """

    contents: dict[str, str]
    writes: Sequence[tuple[str, int, int]]


@dataclass
class Twins:
    """Twins on a store of their own, each made when it is first asked for."""

    commands: Commands
    _made: dict[Command, Twin] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, command: Command) -> Twin:
        """The twin of a command.

        Raises:
            Broken: it fails without any fault.
        """
        with self._lock:
            if command not in self._made:
                self._made[command] = self._make(command, f"t{len(self._made):03d}")
            return self._made[command]

    def _make(self, command: Command, name: str) -> Twin:
        words = self.commands.inputs.filled(command.words, name)
        ending, writes = self.commands.counted(*words, name=name)
        require_ending(ending, {0})
        found = contents(Store(self.commands.store), name)
        if not found or not writes:
            raise Broken(f"`{' '.join(words)}` publishes nothing under {name}")
        return Twin(found, writes)
