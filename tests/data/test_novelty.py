"""Whether a text is new."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Known, Novelty
from tests.domain.strategies import properties

POEM = "Write a short poem about the old sea and the moon above it."
NEARLY = "Write a short poem about the old sea and the sun above it."
OTHER = "Explain how a refrigerator keeps food cold in summer."

texts = st.lists(st.sampled_from(["write", "A", "short", "poem", "the", "old", "sea"]), max_size=10).map(" ".join)


class Counting(Neighbours):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[str] = []

    def add(self, name: str, text: str) -> None:
        self.added.append(name)
        super().add(name, text)


def test_nothing_is_known_at_first() -> None:
    assert Novelty().find(POEM) is None
    assert Novelty(Neighbours()).find(POEM) is None


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("text", [POEM, POEM.upper(), f"  {POEM}\n", POEM.replace(" ", " \t\u00a0 ")])
def test_case_and_white_space_make_no_new_text(text: str, *, near: bool) -> None:
    known = Novelty(Neighbours() if near else None)
    known.learn("poem", POEM)
    assert known.find(text) == Known("poem")


def test_a_near_duplicate_is_named_with_its_measure_where_such_are_looked_for() -> None:
    near, equal = Novelty(Neighbours()), Novelty()
    for known in (near, equal):
        known.learn_all([("other", OTHER), ("poem", POEM)])
    assert near.find(NEARLY) == Known("poem", "rouge-l 0.92")
    assert equal.find(NEARLY) is None
    assert near.find("Name three planets that are larger than the Earth.") is None


def test_the_threshold_is_that_of_the_neighbours() -> None:
    known = Novelty(Neighbours(rouge=0.95, minhash=0.95))
    known.learn("poem", POEM)
    assert known.find(NEARLY) is None


def test_a_text_learnt_again_keeps_its_first_name() -> None:
    known = Novelty(Neighbours())
    known.learn("first", POEM)
    known.learn("second", POEM.lower())
    assert known.find(POEM) == Known("first")


def test_what_is_learnt_every_round_takes_no_more_memory_each_time() -> None:
    neighbours = Counting()
    known = Novelty(neighbours)
    for _ in range(3):
        known.learn_all([("poem", POEM), ("nearly", NEARLY), ("other", OTHER)])
    assert neighbours.added == ["poem", "nearly", "other"]


@properties
@given(st.lists(texts, max_size=8))
def test_the_order_of_learning_changes_no_answer(found: Sequence[str]) -> None:
    named = [(f"{number:02}", text) for number, text in enumerate(dict.fromkeys(map(str.lower, found)))]
    there, back = Novelty(Neighbours()), Novelty(Neighbours())
    there.learn_all(named)
    back.learn_all(reversed(named))
    for text in (*found, "write a short old sea poem", ""):
        assert there.find(text) == back.find(text)
    assert all(there.find(text) == Known(name) for name, text in named)
