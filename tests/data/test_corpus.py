"""A corpus from rows, a random part of it, and what is held out."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.data.corpus import held_out, pairs, prompts, sampled
from tapir.data.intake import Sieve
from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Novelty
from tapir.data.row import BadRow, Row
from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id, normalised
from tapir.errors import DataError
from tapir.roles import Prompt, Rejected
from tapir.store.rows import CorpusRow, DropRow
from tests.domain.strategies import properties

REJECTED = Rejected("rows.jsonl:3", "not JSON", "{oops")

texts = st.text(st.sampled_from("aAb \n"), max_size=5)
seeds = st.integers(0, 2**31 - 1)


def pair(text: str, answer: str = "So it is.") -> Pair:
    return Pair(Instruction.of(text, Origin("corpus", source=f"rows.jsonl:{text}")), Response(answer, "rows.jsonl"))


found_rows = st.lists(st.just(REJECTED) | st.builds(pair, texts, st.sampled_from(("yes", "no", "", " "))), max_size=20)


def corpus(count: int) -> list[Pair | Rejected]:
    return [REJECTED, *(pair(f"Add {number}.") for number in range(count))]


def ids(found: Sequence[Pair | Rejected]) -> list[str]:
    return [one.instruction.id for one in found if isinstance(one, Pair)]


def chosen(found: Sequence[Prompt]) -> list[str]:
    return [one.instruction.id for one in found]


def test_a_row_is_a_pair_that_says_who_wrote_it_and_where_it_stands() -> None:
    (one,) = pairs([Row("Add 1 and 2.", "3", "rows.jsonl:1")], "rows.jsonl")
    origin = Origin("corpus", source="rows.jsonl:1")
    assert one == Pair(Instruction.of("Add 1 and 2.", origin), Response("3", "rows.jsonl"))


def test_nobody_wrote_an_answer_that_is_not_there() -> None:
    (one,) = pairs([Row("Add 1 and 2.", "", "rows.jsonl:1")], "rows.jsonl")
    assert isinstance(one, Pair)
    assert one.response == Response("", "")


def test_an_unreadable_row_stays_with_its_place_and_reason() -> None:
    assert list(pairs([BadRow("rows.jsonl:3", "not JSON", "{oops")], "rows.jsonl")) == [REJECTED]


@pytest.mark.parametrize("limit", [0, 20, 21])
def test_without_a_limit_everything_is_taken(limit: int) -> None:
    assert sampled(corpus(20), limit, 7) == corpus(20)


def test_so_many_are_taken_as_the_limit_says_in_their_order_and_what_was_unreadable_stays() -> None:
    found = sampled(corpus(200), 20, 7)
    assert found[0] == REJECTED
    assert len(found) == 21
    assert ids(found) == [name for name in ids(corpus(200)) if name in ids(found)]


def test_another_seed_takes_others_and_more_takes_the_same_and_more() -> None:
    twenty = set(ids(sampled(corpus(200), 20, 7)))
    assert twenty != set(ids(sampled(corpus(200), 20, 8)))
    assert twenty < set(ids(sampled(corpus(200), 40, 7)))


@properties
@given(found_rows, st.integers(0, 12), seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_in_what_is_taken(
    found: list[Pair | Rejected], limit: int, seed: int, dice: random.Random
) -> None:
    mixed = dice.sample(found, len(found))
    assert sorted(ids(sampled(found, limit, seed))) == sorted(ids(sampled(mixed, limit, seed)))
    for answered in (False, True):
        straight, other = (held_out(one, limit, seed, answered=answered) for one in (found, mixed))
        assert chosen(straight) == chosen(other)


@properties
@given(found=found_rows, count=st.integers(0, 25), seed=seeds, answered=st.booleans())
def test_what_is_held_out_is_readable_answered_where_it_must_be_and_each_text_once(
    found: list[Pair | Rejected], count: int, seed: int, *, answered: bool
) -> None:
    usable = {
        one.instruction.text
        for one in found
        if isinstance(one, Pair) and one.instruction.text.strip() and (one.response.text.strip() or not answered)
    }
    held = held_out(found, count, seed, answered=answered)
    taken = [one.instruction.text for one in held]
    assert len(taken) == len(set(taken)) == min(count, len(usable))
    assert set(taken) <= usable
    for one in held:
        assert one.instruction.id == instruction_id(one.instruction.text)
        assert one.instruction.origin.kind == "evaluation"
        assert one.task == ""
        assert bool(one.expected.strip()) == answered


@properties
@given(found_rows, st.integers(0, 25), seeds)
def test_nothing_that_is_held_out_comes_into_the_corpus(found: list[Pair | Rejected], count: int, seed: int) -> None:
    held = held_out(found, count, seed, answered=False)
    forbidden = Novelty()
    forbidden.learn_all((one.instruction.id, one.instruction.text) for one in held)
    kept = [one for one in Sieve(forbidden, Novelty(), unanswered=True).sift(found) if isinstance(one, CorpusRow)]
    assert not {normalised(one.text) for one in kept} & {normalised(one.instruction.text) for one in held}


def test_what_nearly_repeats_something_held_out_is_dropped_where_near_duplicates_are_looked_for() -> None:
    poems = [pair(f"Write a short poem about the old sea and the {word} above it.") for word in ("moon", "sun", "sky")]
    others = [pair(text) for text in ("Explain how a fridge keeps food cold.", "Name three very large planets.")]
    found = [*poems, *others]
    (held,) = held_out(poems, 1, 7, answered=True)
    forbidden = Novelty(Neighbours())
    forbidden.learn(held.instruction.id, held.instruction.text)
    rows = list(Sieve(forbidden, Novelty(Neighbours())).sift(found))
    assert [row.id for row in rows if isinstance(row, CorpusRow)] == ids(others)
    reasons = sorted(row.reason for row in rows if isinstance(row, DropRow))
    assert reasons == ["in an evaluation set", "near an evaluation item", "near an evaluation item"]


def test_every_row_of_an_evaluation_file_is_a_prompt_once() -> None:
    rows = [pair(*one) for one in (("Add.", "3"), ("Sing.", ""), ("Add.", "4"))]
    assert [(one.instruction.text, one.expected) for one in prompts(rows, "e.jsonl")] == [("Add.", "4"), ("Sing.", "")]


def test_an_evaluation_file_with_rows_that_cannot_be_read_is_refused_and_the_first_three_are_named() -> None:
    bad = [Rejected(f"e.jsonl:{line}", "not JSON", "{oops") for line in (2, 4, 5, 9)]
    with pytest.raises(DataError) as caught:
        prompts([pair("Add."), *bad, pair(" ")], "e.jsonl")
    said = str(caught.value)
    assert "e.jsonl: 5 of its rows cannot be read" in said
    assert "e.jsonl:2: not JSON; e.jsonl:4: not JSON; e.jsonl:5: not JSON and 2 more" in said
    assert "e.jsonl:9" not in said
    with pytest.raises(DataError, match=r"1 of its rows cannot be read: rows.jsonl: : no instruction$"):
        prompts([pair("Add."), pair(" ")], "e.jsonl")


def test_an_evaluation_file_without_a_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="holds no prompts"):
        prompts([], "e.jsonl")
