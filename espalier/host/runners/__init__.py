"""What can be done with a plan: run it here, print it, or submit it to a cluster."""

from pathlib import Path
from typing import Protocol

from espalier.host.plan import Plan


class Runner(Protocol):
    """A way to carry out a plan."""

    def settle(self, plan: Plan, path: Path) -> None:
        """Make `path`, where that can be done at once, since the rest of the plan depends on it."""

    def finish(self, plan: Plan) -> str:
        """Carry out the plan; give the last line for stdout."""
