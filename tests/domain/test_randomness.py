from __future__ import annotations

import subprocess
import sys
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.instruction import instruction_id
from tapir.domain.randomness import priorities, seed_for
from tests.domain.strategies import properties, seeds

ids = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
several_ids = st.lists(ids, min_size=1, max_size=40, unique=True)
parts = st.lists(st.integers(0, 99) | st.sampled_from(("mix", "train", "expand")), max_size=4)


@properties
@given(st.integers(0, 2**40), parts)
def test_a_seed_has_31_bits_and_is_the_same_every_time(seed: int, purpose: list[str | int]) -> None:
    assert 0 <= seed_for(seed, *purpose) < 2**31
    assert seed_for(seed, *purpose) == seed_for(seed, *purpose)


@properties
@given(st.integers(0, 10**6), parts, st.integers(0, 10**6), parts)
def test_another_run_or_purpose_has_another_seed(
    one: int, purpose: list[str | int], other: int, another: list[str | int]
) -> None:
    same = (one, purpose) == (other, another)
    assert (seed_for(one, *purpose) == seed_for(other, *another)) == same


def test_a_seed_does_not_depend_on_the_process() -> None:
    script = "from tapir.domain.randomness import seed_for; print(seed_for(7, 'mix', 2))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(found.stdout) == seed_for(7, "mix", 2)


@properties
@given(several_ids, seeds, st.randoms(use_true_random=False))
def test_a_priority_depends_on_the_id_and_the_seed_alone(names: list[str], seed: int, shuffler: Random) -> None:
    alone = {name: int(priorities([name], seed)[0]) for name in names}
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    assert dict(zip(shuffled, priorities(shuffled, seed).tolist(), strict=True)) == alone


@properties
@given(several_ids, seeds)
def test_no_two_ids_have_the_same_priority(names: list[str], seed: int) -> None:
    assert len(set(priorities(names, seed).tolist())) == len(names)


@properties
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


def test_an_id_is_drawn_as_often_as_any_other() -> None:
    names = [instruction_id(str(number)) for number in range(10)]
    first = [int(np.argmin(priorities(names, seed_for(7, "draw", number)))) for number in range(5000)]
    assert np.all(np.abs(np.bincount(first, minlength=10) - 500) < 6 * np.sqrt(500))
