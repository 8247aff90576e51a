"""Which row of which domain each place of each batch is: drawn by proportions that may change.

Whatever is drawn follows from the seed, the step and what was drawn before, so that a run that was
stopped anywhere goes on with the very rows, however many ranks and threads read them. No other
random numbers of the process have a say.

Shapes: K domains, B rows of a batch on all ranks together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from methods.sheared_llama.proportions import Float64
from methods.sheared_llama.sampler_state import Change, DomainState, SamplerState
from methods.sheared_llama.shares import require_shares

Int64 = npt.NDArray[np.int64]

OF_DOMAINS, OF_ROWS = 0, 1
"""What random numbers are for: those of two purposes have nothing to do with each other."""


@dataclass(frozen=True)
class Place:
    """How far a run has come: batches, and rows drawn of each domain [K]."""

    step: int
    taken: tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """One batch.

    Attributes:
        before: where it was drawn.
        after: where the next one is.
        domains: of each row, int64 [B].
        rows: which of its domain's, int64 [B].
        restarted: the epochs that domains begin in this batch because they ran out, by name; the
            second of a domain is 2.
    """

    before: Place
    after: Place
    domains: Int64
    rows: Int64
    restarted: dict[str, int]


class DomainSampler:
    """Draws a batch after the other; a domain that runs out begins again in another order.

    Args:
        sizes: rows of each domain.
        proportions: what the run begins with, [K].
        batch: B.
        seed: of all that is drawn.
    """

    def __init__(
        self, sizes: Mapping[str, int], proportions: Float64, batch: int, seed: int
    ) -> None:
        self.domains = tuple(sizes)
        self.batch, self._seed = batch, seed
        self._sizes = tuple(sizes.values())
        self._orders: dict[int, tuple[int, Int64]] = {}  # of a domain: an epoch and its order
        self.place = Place(0, (0,) * len(sizes))
        self._history: list[Change] = []
        self.set_proportions(proportions)

    @property
    def history(self) -> tuple[Change, ...]:
        """Every change of the proportions, and what the run began with."""
        return tuple(self._history)

    @property
    def epochs(self) -> dict[str, int]:
        """The epoch that each domain's last row was of; 0: none was drawn."""
        pairs = zip(self.place.taken, self._sizes, strict=True)
        return dict(zip(self.domains, (-(-taken // size) for taken, size in pairs), strict=True))

    def set_proportions(self, proportions: Float64) -> None:
        """What the batches from here on are drawn with, [K].

        Raises:
            InputError: they are no distribution.
        """
        named = dict(zip(self.domains, proportions.tolist(), strict=True))
        require_shares(named, self.domains)
        self.proportions = proportions.copy()
        self.proportions.flags.writeable = False  # whoever drew ahead knows them by identity
        change = Change(step=self.place.step, proportions=named)
        if self._history and self._history[-1].step == change.step:
            self._history.pop()  # no batch was drawn with them
        self._history.append(change)

    def draw(self, place: Place | None = None) -> Draw:
        """The batch at a place; the sampler itself stays where it is.

        Args:
            place: where; None: where the sampler is.
        """
        before = place or self.place
        generator = np.random.default_rng((self._seed, OF_DOMAINS, before.step))
        bounds = self.proportions.cumsum()
        # below 1, so that none falls to a domain with no share
        domains = np.searchsorted(bounds / bounds[-1], generator.random(self.batch), side="right")
        rows = np.empty(self.batch, np.int64)
        taken, restarted = list(before.taken), {}
        for domain in np.unique(domains).tolist():
            here = domains == domain
            first, size = taken[domain], self._sizes[domain]
            taken[domain] = end = first + int(here.sum())
            rows[here] = self._rows(domain, first, end)
            epoch = -(-end // size)
            if epoch > max(1, -(-first // size)):
                restarted[self.domains[domain]] = epoch
        return Draw(before, Place(before.step + 1, tuple(taken)), domains, rows, restarted)

    def advance(self, draw: Draw) -> None:
        """Go on behind a batch that was drawn here."""
        assert draw.before == self.place  # noqa: S101
        self.place = draw.after

    def seen(self, domain: str) -> Int64:
        """The rows of a domain that its epoch has drawn until now, in their order, int64."""
        index = self.domains.index(domain)
        taken, size = self.place.taken[index], self._sizes[index]
        return self._rows(index, max(0, -(-taken // size) - 1) * size, taken)

    def _rows(self, domain: int, first: int, end: int) -> Int64:
        """What a domain gives from its `first`-th row of the run to before its `end`-th."""
        size = self._sizes[domain]
        parts = [np.empty(0, np.int64)]
        while first < end:
            epoch, start = divmod(first, size)
            stop = min(size, start + end - first)
            parts.append(self._order(domain, epoch)[start:stop])
            first += stop - start
        return np.concatenate(parts)

    def _order(self, domain: int, epoch: int) -> Int64:
        """A permutation of a domain's rows, int64 [rows]; its last one is kept."""
        held = self._orders.get(domain)
        if held is None or held[0] != epoch:
            generator = np.random.default_rng((self._seed, OF_ROWS, domain, epoch))
            held = epoch, generator.permutation(self._sizes[domain])
            self._orders[domain] = held
        return held[1]

    def state_dict(self) -> dict[str, Any]:
        """A SamplerState as plain JSON."""
        return self._saved().model_dump(mode="json")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was made.

        Raises:
            InputError: it is no such state, or one of other domains, rows, batches or another seed.
        """
        saved = SamplerState.read(state)
        saved.require_same_run(self._saved())
        self.place = Place(saved.step, tuple(domain.taken for domain in saved.domains.values()))
        self._history = list(saved.history[:-1])
        last = saved.history[-1].proportions
        self.set_proportions(np.array([last[name] for name in self.domains]))
        self._history[-1] = saved.history[-1]

    def _saved(self) -> SamplerState:
        pairs = zip(self._sizes, self.place.taken, strict=True)
        states = [DomainState(rows=size, taken=taken) for size, taken in pairs]
        return SamplerState(
            seed=self._seed,
            batch=self.batch,
            step=self.place.step,
            domains=dict(zip(self.domains, states, strict=True)),
            history=self.history,
        )
