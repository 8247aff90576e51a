"""Rows of a plan through a stock model: log-probabilities of their targets, gathered where it runs.

A row's mask lets each token see what its requests have before it; only places whose logits are
wanted reach the output layer, a block of them at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from espalier.contract.machine import MEMORY
from eval.requests.plan import Plan
from eval.requests.rows import Row
from eval.requests.scores import Scores, Tally

TOKENS_AT_ONCE = 256
"""For each sequence of BATCH: of longer rows fewer run at a time."""
LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Whatever the rows and the vocabulary are. 16 MiB in float32 stay in a processor's cache, and
their memory is used again; a GPU needs more to be busy."""
MOST_PADDING = 1 / 8
"""Of a row: one that is shorter than the first of its batch by more begins another."""
MASKED_COST = 2.0
"""An operation of attention under a mask, in those of products of matrices; half that without."""


class RowScorer:
    """Runs rows through a causal language model, as many at a time as memory holds.

    Attributes:
        batch: sequences at a time, each of `TOKENS_AT_ONCE` tokens; halved where memory runs out.
    """

    def __init__(self, model: Any, batch: int) -> None:
        self.batch = batch
        self._decoder, self._head = model.base_model, model.get_output_embeddings()
        self._device, self._dtype = model.device, model.dtype
        config = model.config.get_text_config()
        self._vocabulary = int(config.vocab_size)
        heads = int(config.num_attention_heads)
        head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self._attention = 4 * int(config.num_hidden_layers) * heads * head_dim
        inputs = model.get_input_embeddings().weight.numel()
        self._products = 2 * (sum(p.numel() for p in self._decoder.parameters()) - inputs)

    def cost(self, length: int, chain: bool) -> float:
        """About how much work a row is, in operations of products of matrices."""
        attention = self._attention * MASKED_COST * (0.5 if chain else 1.0)
        return float(length * (self._products + attention * length))

    def score(self, plan: Plan) -> Scores:
        """All rows of a plan, the longest first.

        Raises:
            RuntimeError: memory does not even hold one row; as torch says it.
        """
        tally = Tally(len(plan.requests))
        for rows in self._batches(plan.rows()):
            for read, row, chances, best in self._fitting(rows):
                tally.add(row, chances, best)
                tally.tokens += read
        return tally.scores()

    def logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """The logits float32 [S, V] at each row's `at`, one row after the other."""
        with torch.inference_mode():
            states = self._states(rows)
            length = states.shape[1]
            at = np.concatenate([row.at + place * length for place, row in enumerate(rows)])
            wanted = states.flatten(0, 1)[torch.from_numpy(at).to(self._device)]
            return self._head(wanted).float()  # type: ignore[no-any-return]

    def _batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows of one kind of attention and about one length, as many as may run at a time."""
        waiting: list[Row] = []
        for row in rows:
            if waiting and not self._fits(waiting, row):
                yield waiting
                waiting = []
            waiting.append(row)
        if waiting:
            yield waiting

    def _fits(self, waiting: Sequence[Row], row: Row) -> bool:
        first = waiting[0]
        return (
            first.is_chain == row.is_chain
            and (len(waiting) + 1) * first.used <= self.batch * TOKENS_AT_ONCE
            and (1 - MOST_PADDING) * first.used <= row.used <= first.used
        )

    def _fitting(self, rows: Sequence[Row]) -> Iterator[tuple[int, Row, Any, Any]]:
        """What `_scored` gives, in halves if memory runs out."""
        try:
            scored = self._scored(rows)
        except (RuntimeError, MemoryError) as error:
            if len(rows) == 1 or not _is_memory(error):
                raise
            scored = None
        if scored is not None:
            yield from scored
            return
        # Outside the handler: its traceback would keep the tensors that did not fit.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch = max(1, self.batch // 2)
        half = len(rows) // 2
        yield from self._fitting(rows[:half])
        yield from self._fitting(rows[half:])

    @torch.inference_mode()  # type: ignore[misc, untyped-decorator]
    def _scored(self, rows: Sequence[Row]) -> list[tuple[int, Row, Any, Any]]:
        """Tokens read, the row, its targets' log-probabilities and the likeliest tokens, [S]."""
        states = self._states(rows)
        length = states.shape[1]
        at = np.concatenate([row.at + place * length for place, row in enumerate(rows)])
        places, which = np.unique(at, return_inverse=True)
        order = np.argsort(which, kind="stable")
        targets = self._on_device(np.concatenate([row.targets for row in rows])[order])
        wanted, which = states.flatten(0, 1)[self._on_device(places)], which[order]
        chances = torch.empty(len(order), device=self._device)
        best = torch.empty(len(order), dtype=torch.int64, device=self._device)
        block = max(1, LOGITS_AT_ONCE[self._device.type] // self._vocabulary)
        for start in range(0, len(places), block):
            logits = self._head(wanted[start : start + block]).float()
            first, last = np.searchsorted(which, [start, start + block])
            here, asked = self._on_device(which[first:last] - start), targets[first:last]
            largest = logits.argmax(-1, keepdim=True)
            best[first:last] = largest[here, 0]
            chances[first:last] = logits[here, asked]
            peak = logits.gather(-1, largest)
            total = peak[:, 0] + logits.sub_(peak).exp_().sum(-1).log()  # log-sum-exp, in place
            chances[first:last] -= total[here]
        back = np.argsort(order, kind="stable")
        found = chances.cpu().numpy()[back], best.cpu().numpy()[back]
        ends = np.cumsum([len(row.at) for row in rows])[:-1]
        parts = zip(rows, *(np.split(values, ends) for values in found), strict=True)
        return [(length, *part) for part in parts]

    def _states(self, rows: Sequence[Row]) -> torch.Tensor:
        """The decoder's last states [B, T, D]; T is the longest row's, without common padding."""
        length = max(row.used for row in rows)
        ids = self._on_device(np.stack([row.ids[:length] for row in rows]))
        given: dict[str, Any] = {}
        if not all(row.is_chain for row in rows):
            positions = np.stack([row.positions[:length] for row in rows])
            ends = self._on_device(np.stack([row.ends[:length] for row in rows]))
            given = {"position_ids": self._on_device(positions), "attention_mask": self._mask(ends)}
        return self._decoder(ids, use_cache=False, **given)[0]

    def _mask(self, ends: torch.Tensor) -> torch.Tensor:
        """What is added to attention's scores, [B, 1, T, T]: `tree_mask` where the model runs.

        In numbers and not yes or no, which torch's kernel would turn into numbers in each layer.
        """
        places = torch.arange(ends.shape[1], device=self._device)
        seen = (places[:, None] >= places) & (places[:, None] < ends[:, None, :])
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~seen, torch.finfo(self._dtype).min)[:, None]

    def _on_device(self, values: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.int64)).to(self._device)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(MEMORY.search(str(error).lower()))
