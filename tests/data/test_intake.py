"""The sieve every corpus passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.data.intake import Sieve, pair_of
from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Novelty
from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id, normalised
from tapir.roles import Rejected
from tapir.store.rows import CorpusRow, DropRow, NeighbourRow
from tests.domain.strategies import properties

POEM = "Write a short poem about the old sea and the moon above it."
NEARLY = "Write a short poem about the old sea and the sun above it."
NEARLY_TOO = "Write a short poem about the old sea and the sky above it."
OTHER = "Explain how a refrigerator keeps food cold in summer."


def pair(text: str, answer: str = "So it is.", place: str = "rows.jsonl:1") -> Pair:
    return Pair(Instruction.of(text, Origin("corpus", source=place)), Response(answer, "rows.jsonl"))


def sifted(
    rows: Sequence[Pair | Rejected], *, near: bool = True, held: Sequence[str] = (), **rules: bool
) -> list[CorpusRow | DropRow | NeighbourRow]:
    forbidden = Novelty(Neighbours() if near else None)
    forbidden.learn_all((f"held {number}", text) for number, text in enumerate(held))
    return list(Sieve(forbidden, Novelty(Neighbours() if near else None), **rules).sift(rows))


def kept(rows: Sequence[object]) -> list[str]:
    return [row.text for row in rows if isinstance(row, CorpusRow)]


def dropped(rows: Sequence[object]) -> list[DropRow]:
    return [row for row in rows if isinstance(row, DropRow)]


def test_a_good_row_keeps_its_answer_its_author_and_its_place() -> None:
    row = CorpusRow(instruction_id(POEM), POEM, "So it is.", "rows.jsonl", "rows.jsonl:7")
    assert sifted([pair(POEM, place="rows.jsonl:7")]) == [row]
    assert pair_of(row) == pair(POEM, place="rows.jsonl:7")


def test_an_unreadable_row_is_dropped_with_its_place() -> None:
    (row,) = dropped(sifted([Rejected("rows.jsonl:3", "not JSON", "{oops")]))
    assert row == DropRow(instruction_id("{oops"), "corpus", "not JSON", "rows.jsonl:3", "{oops")


@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0"])
def test_a_row_without_an_instruction_is_dropped(text: str) -> None:
    (row,) = dropped(sifted([pair(text, place="rows.jsonl:9")], unanswered=True))
    assert (row.reason, row.detail) == ("empty instruction", "rows.jsonl:9")


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_row_without_an_answer_is_dropped_unless_the_teacher_will_answer_it(answer: str) -> None:
    (row,) = dropped(sifted([pair(POEM, answer)]))
    assert row.reason == "empty response"
    assert kept(sifted([pair(POEM, answer)], unanswered=True)) == [POEM]


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("drop_near", [False, True])
def test_a_repeated_row_is_dropped_and_says_what_it_repeats(*, near: bool, drop_near: bool) -> None:
    rows = sifted([pair(POEM), pair(POEM.upper(), "Another.", "rows.jsonl:2")], near=near, drop_near=drop_near)
    assert kept(rows) == [POEM]
    (row,) = dropped(rows)
    assert (row.reason, row.text) == ("duplicate", POEM.upper())
    assert row.detail == f"rows.jsonl:2 repeats {instruction_id(POEM)}"
    assert not any(isinstance(one, NeighbourRow) for one in rows)


def test_a_near_duplicate_is_kept_and_named_beside() -> None:
    rows = sifted([pair(OTHER), pair(POEM), pair(NEARLY)])
    assert kept(rows) == [OTHER, POEM, NEARLY]
    (beside,) = [row for row in rows if isinstance(row, NeighbourRow)]
    assert beside == NeighbourRow(instruction_id(NEARLY), instruction_id(POEM), 0.92, "rouge-l")


def test_a_near_duplicate_is_dropped_where_the_recipe_says_so() -> None:
    rows = sifted([pair(POEM), pair(NEARLY, place="rows.jsonl:2"), pair(OTHER)], drop_near=True)
    assert kept(rows) == [POEM, OTHER]
    (row,) = dropped(rows)
    assert row.reason == "near-duplicate"
    assert row.detail == f"rows.jsonl:2 repeats {instruction_id(POEM)} (rouge-l 0.92)"


def test_near_duplicates_are_not_looked_for_where_only_equal_texts_count() -> None:
    rows = sifted([pair(POEM), pair(NEARLY)], near=False, drop_near=True)
    assert kept(rows) == [POEM, NEARLY]
    assert len(rows) == 2


def test_what_was_dropped_is_no_reason_to_drop_another() -> None:
    assert kept(sifted([pair(POEM, ""), pair(POEM)])) == [POEM]
    between = sifted([pair(POEM), pair(NEARLY), pair(NEARLY_TOO)], drop_near=True)
    assert [row.detail.rpartition(" repeats ")[2].split()[0] for row in dropped(between)] == [instruction_id(POEM)] * 2


def test_an_evaluation_item_is_dropped_and_so_is_what_nearly_repeats_it() -> None:
    rows = sifted([pair(POEM.lower()), pair(NEARLY), pair(OTHER)], held=[POEM])
    assert kept(rows) == [OTHER]
    assert [row.reason for row in dropped(rows)] == ["in an evaluation set", "near an evaluation item"]
    assert kept(sifted([pair(POEM), pair(NEARLY)], near=False, held=[POEM])) == [NEARLY]


rows_of_all_kinds = st.lists(
    st.builds(Rejected, st.just("x:1"), st.sampled_from(("not JSON", "no instruction")), st.text(max_size=5))
    | st.builds(
        pair,
        st.lists(st.sampled_from(["write", "A", "a", "short", "poem", " ", "sea"]), max_size=6).map(" ".join),
        st.sampled_from(("yes", "", " ")),
    ),
    max_size=15,
)


@properties
@given(rows=rows_of_all_kinds, near=st.booleans(), drop_near=st.booleans(), unanswered=st.booleans())
def test_every_row_is_kept_or_dropped_with_a_reason_and_no_text_is_kept_twice(
    *, rows: list[Pair | Rejected], near: bool, drop_near: bool, unanswered: bool
) -> None:
    found = sifted(rows, near=near, drop_near=drop_near, unanswered=unanswered, held=["write a poem"])
    assert len(kept(found)) + len(dropped(found)) == len(rows)
    assert all(row.reason and row.detail and row.stage == "corpus" for row in dropped(found))
    assert all(count == 1 for count in Counter(map(normalised, kept(found))).values())
    assert "write a poem" not in map(normalised, kept(found))
    beside = {row.id for row in found if isinstance(row, NeighbourRow)}
    assert beside <= set(map(instruction_id, kept(found)))
    assert not (drop_near and beside)
