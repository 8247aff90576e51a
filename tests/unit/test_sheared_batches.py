"""Batches by domain: what a loader gives, on ranks and threads, and from each kind of source."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from espalier.errors import InputError
from methods.sheared_llama.batches import DomainBatches, EveryRow
from methods.sheared_llama.domains import ArraySource, Source, token_sources
from methods.sheared_llama.sampler import DomainSampler
from tests.unit.test_token_data import write

LENGTH = 3


def rows_of(domain: int, count: int) -> ArraySource:
    """Row i of a domain is [domain, i, 9]."""
    return ArraySource([[domain, index, 9] for index in range(count)])


SOURCES: dict[str, Source] = {"a": rows_of(0, 5), "b": rows_of(1, 11), "c": rows_of(2, 3)}
CHANGED = np.array([0.1, 0.2, 0.7])


def batches(batch: int = 4, seed: int = 0, **how: Any) -> DomainBatches:
    sizes = {name: len(source) for name, source in SOURCES.items()}
    return DomainBatches(SOURCES, DomainSampler(sizes, np.full(3, 1 / 3), batch, seed), **how)


def told(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The domain that a batch says of each row, and the row."""
    assert batch["input_ids"].dtype == batch["domains"].dtype == torch.int64
    pairs = zip(batch["domains"].tolist(), batch["input_ids"].tolist(), strict=True)
    return [[domain, *row] for domain, row in pairs]


def test_batches_are_the_rows_that_the_sampler_draws() -> None:
    source = batches(seed=3)
    plain = batches(seed=3).sampler
    for batch in islice(source.loader(), 6):
        draw = plain.draw()
        plain.advance(draw)
        pairs = zip(draw.domains.tolist(), draw.rows.tolist(), strict=True)
        assert told(batch) == [[domain, domain, row, 9] for domain, row in pairs]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_ranks_share_one_batch_and_reading_ahead_changes_none(world: int, ahead: int) -> None:
    parts = [batches(rank=rank, world=world, ahead=ahead) for rank in range(world)]
    readers = [iter(part.loader()) for part in parts]
    whole = batches(ahead=0)
    reference = iter(whole)
    for step in range(7):
        if step == 3:  # what was read ahead is out of date
            for part in (whole, *parts):
                part.sampler.set_proportions(CHANGED)
        found = [row for reader in readers for row in told(next(reader))]
        assert found == told(next(reference))
    states = [part.state_dict() for part in parts]
    assert states == [whole.state_dict()] * world


@given(st.integers(0, 6), st.integers(0, 3), st.integers(1, 6), st.integers(0, 99))
def test_stopped_and_resumed_gives_the_same_batches(
    stop: int, ahead: int, batch: int, seed: int
) -> None:
    expected = [told(one) for one in islice(batches(batch, seed, ahead=0), 6)]
    first = batches(batch, seed, ahead=ahead)
    reader = iter(first.loader())
    before = [told(next(reader)) for _ in range(stop)]
    saved = json.loads(json.dumps(first.state_dict(4 * stop, True)))
    second = batches(batch, seed, ahead=ahead)
    second.load_state_dict(saved)
    after = [told(one) for one in islice(second.loader(), 6 - stop)]
    assert before + after == expected


def test_a_state_loaded_while_reading_holds_from_the_next_batch_on() -> None:
    source = batches()
    start = source.state_dict()
    reader = iter(source.loader())
    first = [told(next(reader)) for _ in range(2)]
    source.load_state_dict(start)
    assert [told(next(reader)) for _ in range(2)] == first


def test_neither_reads_nor_moves_the_process_s_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [told(one) for one in islice(batches().loader(), 3)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert [told(one) for one in islice(batches().loader(), 3)] == first


def test_announces_a_domain_that_runs_out() -> None:
    heard: list[tuple[str, int]] = []
    sampler = DomainSampler({"a": 5, "c": 3}, np.array([0.5, 0.5]), 4, 0)
    few = {"a": SOURCES["a"], "c": SOURCES["c"]}
    source = DomainBatches(few, sampler, announce=lambda *what: heard.append(what))
    list(islice(source, 20))
    for name, epochs in sampler.epochs.items():
        found = [epoch for heard_of, epoch in heard if heard_of == name]
        assert found[-1] == epochs
        assert found == sorted(set(found))
    assert {name for name, _ in heard} == {"a", "c"}


def test_refuses_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.sheared_llama.batches.get_worker_info", object)
    with pytest.raises(InputError, match="give the loader no workers"):
        next(iter(batches()))


def test_refuses_batches_that_do_not_divide() -> None:
    with pytest.raises(InputError, match="a batch of 4 sequences does not divide among 3"):
        batches(rank=0, world=3)


def test_a_failure_to_read_is_seen() -> None:
    class Broken(ArraySource):
        def __getitem__(self, index: int) -> "np.ndarray[Any, Any]":
            raise InputError("the disk is gone.")

    sampler = DomainSampler({"a": 2}, np.ones(1), 2, 0)
    with pytest.raises(InputError, match="the disk is gone"):
        next(iter(DomainBatches({"a": Broken([[1, 2]] * 2)}, sampler).loader()))


def test_every_row_of_each_domain_is_evaluated() -> None:
    found = [row for one in DataLoader(EveryRow(SOURCES), batch_size=4) for row in told(one)]
    expected = [
        [domain, domain, row, 9]
        for domain, source in enumerate(SOURCES.values())
        for row in range(len(source))
    ]
    assert found == expected
    few = EveryRow(SOURCES, most=4)
    assert len(few) == 4 + 4 + 3
    assert few[4]["input_ids"].tolist() == [1, 0, 9]
    with pytest.raises(IndexError):
        few[11]


def test_token_data_is_read_in_whole_windows(tmp_path: Path) -> None:
    write(tmp_path / "cc", [[1, 2, 3, 4], [5, 6, 7]], 5)
    write(tmp_path / "wiki", [[8, 9, 10]], 5)
    found = token_sources(tmp_path, ["wiki", "cc"], "train", LENGTH)
    assert list(found) == ["wiki", "cc"]
    assert [row.tolist() for row in map(found["cc"].__getitem__, range(2))] == [
        [1, 2, 3],
        [4, 5, 6],
    ]
    assert found["cc"][0].dtype == np.int64
    assert {name: len(source) for name, source in found.items()} == {"wiki": 1, "cc": 2}
    with pytest.raises(InputError, match="has no domain book"):
        token_sources(tmp_path, ["book"], "train", LENGTH)
    with pytest.raises(InputError, match="wiki has not one whole row"):
        token_sources(tmp_path, ["wiki", "cc"], "train", 4)
    with pytest.raises(InputError, match="no domain"):
        token_sources(tmp_path, [], "train", 4)


def test_refuses_domains_of_different_lengths() -> None:
    sources = {"a": ArraySource([[1, 2]]), "b": ArraySource([[1, 2, 3]])}
    with pytest.raises(InputError, match=r"different lengths \(a 2, b 3\)"):
        EveryRow(sources)
