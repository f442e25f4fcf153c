from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.strategies import seeds
from tapir.domain.instruction import instruction_id
from tapir.domain.randomness import priorities, seed_for

ids = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
several_ids = st.lists(ids, min_size=1, max_size=40, unique=True)
parts = st.lists(st.integers(0, 99) | st.sampled_from(("mix", "train", "expand")), max_size=4)


@given(st.integers(0, 2**40), parts, st.integers(0, 2**40), parts)
def test_another_run_or_purpose_has_another_seed_of_31_bits(
    one: int, purpose: list[str | int], other: int, another: list[str | int]
) -> None:
    same = (one, purpose) == (other, another)
    assert (seed_for(one, *purpose) == seed_for(other, *another)) == same
    assert 0 <= seed_for(one, *purpose) < 2**31
    assert seed_for(one, *purpose) == seed_for(one, *purpose)


def test_a_seed_does_not_depend_on_the_process() -> None:
    assert seed_for(7, "mix", 2) == 444780936


@given(several_ids, seeds, st.randoms(use_true_random=False))
def test_a_priority_depends_on_the_id_and_the_seed_alone_and_no_two_ids_share_one(
    names: list[str], seed: int, shuffler: Random
) -> None:
    alone = {name: int(priorities([name], seed)[0]) for name in names}
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    assert dict(zip(shuffled, priorities(shuffled, seed).tolist(), strict=True)) == alone
    assert len(set(priorities(names, seed).tolist())) == len(names)


@given(ids, seeds, seeds)
def test_another_seed_gives_another_priority(name: str, one: int, other: int) -> None:
    assert (priorities([name], one)[0] == priorities([name], other)[0]) == (one == other)


def test_nothing_has_no_priorities() -> None:
    found = priorities([], 3)
    assert found.shape == (0,)
    assert found.dtype == np.uint64


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_priorities_are_spread_evenly(seed: int) -> None:
    found = priorities([instruction_id(str(number)) for number in range(20_000)], seed)
    tenths = np.bincount((found / 2.0**64 * 10).astype(int), minlength=10)
    assert np.all(np.abs(tenths - 2000) < 6 * np.sqrt(2000))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (7, 8), (seed_for(7, "mix", 1), seed_for(7, "mix", 2))])
def test_the_orders_of_two_seeds_are_unrelated(one: int, other: int) -> None:
    names = [instruction_id(str(number)) for number in range(20_000)]
    first, second = (priorities(names, seed).astype(np.float64) for seed in (one, other))
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / np.sqrt(len(names))
