"""Rows of a plan through MaxText's model: log-probabilities of their targets, gathered by JAX.

One program a row length runs the decoder, another turns blocks of scored states into
log-probabilities; nothing is read from the devices but these, a batch behind the one that runs.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from espalier.contract.machine import MEMORY
from espalier.models.shapes import Shapes
from eval.requests.plan import Plan, row_lengths
from eval.requests.rows import PADDING, Row
from eval.requests.scores import Scores, Tally
from training.maxtext_model.checkpoint import Arrays
from training.maxtext_model.devices import gathered
from training.maxtext_model.trees import TreeModel

TOKENS_AT_ONCE = 256
"""For each sequence of BATCH, on each device."""
STATES_AT_ONCE = 256
"""That go through the output layer in one block, or fewer."""
LOGITS_AT_ONCE = {"cpu": 1 << 22, "tpu": 1 << 26}
"""Of a block on one device: 16 MiB in float32 stay near a processor's caches."""
GROWTH = 4
"""Of row lengths from one to the next: each is a program that has to be compiled."""
ATTENTION_COST = 2.0
"""An operation of attention, in those of products of matrices."""
GROUP = 128
"""Tokens whose largest logit is found at once."""
TARGET_BITS = 32
"""Of a place and its target as one number."""
TARGET = (1 << TARGET_BITS) - 1
BATCH_COST = 128
"""Of a batch beside its tokens, in tokens: until the devices have it, and until it is read."""
AHEAD = 1
"""Batches that the devices are given before the answers of the one before are read."""


@dataclass(frozen=True)
class Wanted:
    """Which log-probabilities a batch is to give, without those that are asked for twice.

    Attributes:
        places: int32 [D, N], of each device's states, one row after the other.
        targets: int32 [D, N].
        found: of each row where its answers [S] stand in the flattened [D * N].
    """

    places: NDArray[np.int32]
    targets: NDArray[np.int32]
    found: list[NDArray[np.int64]]


@dataclass(frozen=True)
class Begun:
    """A batch that the devices have been given.

    Attributes:
        rows: of one length.
        each: how many of them, with empty ones, a device is given.
        tokens: that are read, with padding.
        blocks: log-probabilities and the likeliest tokens, [D, N] each; None: there was no memory
            for it.
    """

    rows: Sequence[Row]
    each: int
    tokens: int
    wanted: Wanted
    blocks: list[tuple[jax.Array, jax.Array]] | None


class JaxRows:
    """Runs rows through a model, as many at a time as memory holds.

    Attributes:
        batch: sequences at a time on each device, each of `TOKENS_AT_ONCE` tokens; halved where
            memory runs out.
    """

    def __init__(self, model: TreeModel, arrays: Arrays, shapes: Shapes, batch: int) -> None:
        self.batch = batch
        self._model, self._arrays = model, arrays
        self._products = 2 * shapes.layers * shapes.layer_parameters
        self._attention = 4 * shapes.layers * shapes.heads * shapes.head_dim
        platform = jax.devices()[0].platform
        self._block = max(1, min(STATES_AT_ONCE, LOGITS_AT_ONCE[platform] // shapes.vocabulary))
        self._states = jax.jit(self._states_by_device)
        self._chances = jax.jit(self._chances_of)

    @property
    def dtype(self) -> str:
        """In which the model computes."""
        return self._model.dtype

    def lengths(self, longest: int) -> list[int]:
        """That rows may have, where the longest request has so many tokens."""
        return row_lengths(longest, growth=GROWTH)

    def cost(self, length: int, chain: bool) -> float:
        """About how much work a row is, in operations; a mask makes no difference here."""
        del chain
        return float(length * (self._products + ATTENTION_COST * self._attention * length))

    def score(self, plan: Plan) -> Scores:
        """All rows of a plan, the longest first.

        Raises:
            RuntimeError: memory does not even hold one row on each device; as JAX says it.
        """
        tally, begun = Tally(len(plan.requests)), deque[Begun]()
        with self._model.placed():
            for each, rows in self._batches(plan):
                begun.append(self._begin(rows, each))
                if len(begun) > AHEAD:
                    self._take(begun.popleft(), tally)
            while begun:
                self._take(begun.popleft(), tally)
        return tally.scores()

    def _batches(self, plan: Plan) -> Iterator[tuple[int, list[Row]]]:
        """How many rows each device is given at a time, and those for all of them."""
        numbers = Counter(packed.length for packed in plan.packed)
        for length, rows in groupby(plan.rows(), key=lambda row: len(row.ids)):
            each = self._each(numbers[length], length)
            while some := list(islice(rows, self._model.devices * each)):
                yield each, some
                each = self._each(numbers[length], length)  # memory may have run out meanwhile

    def _each(self, number: int, length: int) -> int:
        """Of so many rows of one length, how many each device is given at a time."""
        most = max(1, self.batch * TOKENS_AT_ONCE // length)
        return rows_at_once(-(-number // self._model.devices), length, most)

    def _begin(self, rows: Sequence[Row], each: int) -> Begun:
        """Give the devices a batch, without waiting for it."""
        length, devices = len(rows[0].ids), self._model.devices
        held = devices * each
        slots = [place % devices * each + place // devices for place in range(len(rows))]
        ids = np.full((held, length), PADDING, np.int32)
        positions = np.zeros((held, length), np.int32)
        ends = np.broadcast_to(np.arange(1, length + 1, dtype=np.int32), (held, length)).copy()
        for slot, row in zip(slots, rows, strict=True):
            ids[slot], positions[slot], ends[slot] = row.ids, row.positions, row.ends
        wanted = _wanted(rows, slots, devices, each * length, self._block)
        spread = self._model.spread
        blocks: list[tuple[jax.Array, jax.Array]] | None
        try:
            states = self._states(self._arrays, spread(ids), spread(positions), spread(ends))
            blocks = [
                self._chances(
                    self._arrays,
                    states,
                    spread(wanted.places[:, start : start + self._block]),
                    spread(wanted.targets[:, start : start + self._block]),
                )
                for start in range(0, wanted.places.shape[1], self._block)
            ]
        except RuntimeError as error:
            _require_memory(error, length, each)
            blocks = None
        return Begun(rows, each, ids.size, wanted, blocks)

    def _take(self, begun: Begun, tally: Tally) -> None:
        """Read a batch's answers; run it in halves if memory has run out."""
        rows, wanted = begun.rows, begun.wanted
        found = self._read(begun)
        if found is None:
            length = len(rows[0].ids)
            # The one before may have been halved since this one was begun.
            self.batch = min(self.batch, begun.each * length // TOKENS_AT_ONCE // 2)
            each = self._each(len(rows), length)
            held = self._model.devices * each
            for start in range(0, len(rows), held):
                self._take(self._begin(rows[start : start + held], each), tally)
            return
        chances, best = found
        for row, places in zip(rows, wanted.found, strict=True):
            tally.add(row, chances[places], best[places])
        tally.tokens += begun.tokens

    def _read(self, begun: Begun) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Log-probabilities and the likeliest tokens, [D * N]; None: no memory."""
        if begun.blocks is None:
            return None
        try:
            parts = gathered(begun.blocks)
        except RuntimeError as error:
            _require_memory(error, len(begun.rows[0].ids), begun.each)
            return None
        chances, best = (np.concatenate(part, axis=1).ravel() for part in zip(*parts, strict=True))
        return chances, best

    def _states_by_device(
        self, arrays: Arrays, ids: jax.Array, positions: jax.Array, ends: jax.Array
    ) -> jax.Array:
        """Of rows int32 [B, T] the states [D, B / D * T, H], each device's own."""
        states = self._model.states(arrays, ids, positions, ends)
        return states.reshape(self._model.devices, -1, states.shape[-1])

    def _chances_of(
        self, arrays: Arrays, states: jax.Array, places: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Of places int32 [D, N] of the states: log-probabilities of targets, likeliest tokens."""
        chosen = jnp.take_along_axis(states, places[..., None], axis=1)
        logits = self._model.logits(arrays, chosen)
        asked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        largest, best = _largest(logits)
        total = jnp.exp(logits - largest[..., None]).sum(axis=-1)
        return asked - largest - jnp.log(total), best


def rows_at_once(number: int, length: int, most: int) -> int:
    """Of so many rows of one length, how many to run at a time, so that least is read.

    Each batch has as many, the last one with empty rows, since every size is a program to compile;
    for that reason it is the most, or a power of two.
    """
    sizes = [most, *(1 << bits for bits in reversed(range(most.bit_length())) if 1 << bits < most)]
    return min(sizes, key=lambda size: -(-number // size) * (size * length + BATCH_COST))


def _largest(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of logits [D, N, V], and the first place that has it, each [D, N].

    First among groups of tokens, then in one: XLA finds a largest value several times as fast as
    its place.
    """
    groups = logits.reshape(*logits.shape[:-1], -1, math.gcd(logits.shape[-1], GROUP))
    of_groups = groups.max(axis=-1)
    chosen = of_groups.argmax(axis=-1, keepdims=True)
    within = jnp.take_along_axis(groups, chosen[..., None], axis=-2)[..., 0, :].argmax(axis=-1)
    return of_groups.max(axis=-1), chosen[..., 0] * groups.shape[-1] + within


def _wanted(
    rows: Sequence[Row], slots: Sequence[int], devices: int, tokens: int, block: int
) -> Wanted:
    """What is asked of a batch; each device's list is filled up to whole blocks."""
    each = tokens // len(rows[0].ids)
    asked: list[list[NDArray[np.int64]]] = [[np.empty(0, np.int64)] for _ in range(devices)]
    where = []
    for slot, row in zip(slots, rows, strict=True):
        device, local = divmod(slot, each)
        start = sum(map(len, asked[device]))
        where.append((device, slice(start, start + len(row.at))))
        places = row.at.astype(np.int64) + local * len(row.ids)
        asked[device].append(places << TARGET_BITS | row.targets.astype(np.int64) & TARGET)
    once = [np.unique(np.concatenate(parts), return_inverse=True) for parts in asked]
    width = max(1, -(-max(len(pairs) for pairs, _ in once) // block)) * block
    filled = np.zeros((devices, width), np.int64)
    for device, (pairs, _) in enumerate(once):
        filled[device, : len(pairs)] = pairs
    return Wanted(
        (filled >> TARGET_BITS).astype(np.int32),
        (filled & TARGET).astype(np.int32),
        [device * width + once[device][1][part] for device, part in where],
    )


def _require_memory(error: RuntimeError, length: int, each: int) -> None:
    """Raise what is no lack of memory, or cannot be helped by fewer rows of that length.

    Of several machines one may have run out by itself, and the others would not know.
    """
    least = each == 1 or each * length < 2 * TOKENS_AT_ONCE or jax.process_count() > 1
    if least or not MEMORY.search(str(error).lower()):
        raise error
