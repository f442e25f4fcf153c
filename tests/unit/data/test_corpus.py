"""A corpus from rows, a random part of it, and what is held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import fakes
from support.scripted import Watcher
from tapir.config.corpus import FileCorpusConfig
from tapir.data.corpus import CorpusFilter, conversation, held_out, pair_of, pairs, prompts, sample
from tapir.data.duplicates import Duplicate, DuplicateIndex, NearDuplicates
from tapir.data.layouts import Row
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import CorpusRow, DropRow, NeighbourRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, Interrupted
from tapir.domain.instruction import Instruction, Origin, Pair, Response, Turn, instruction_id, normalised
from tapir.domain.roles import Rejected
from tapir.runs import session

REJECTED = Rejected("rows.jsonl:3", "not JSON", "{oops")

texts = st.text(st.sampled_from("aAb \n"), max_size=5)
seeds = st.integers(0, 2**31 - 1)


POEM = "Write a short poem about the old sea and the moon above it."
NEARLY = "Write a short poem about the old sea and the sun above it."
NEARLY_TOO = "Write a short poem about the old sea and the sky above it."
OTHER = "Explain how a refrigerator keeps food cold in summer."


def pair(text: str, answer: str = "So it is.", place: str = "rows.jsonl:1") -> Pair:
    return Pair(Instruction.of(text, Origin("corpus", source=place)), Response(answer, "rows.jsonl"))


found_rows = st.lists(st.just(REJECTED) | st.builds(pair, texts, st.sampled_from(("yes", "no", "", " "))), max_size=20)


def corpus(count: int) -> list[Pair | Rejected]:
    return [REJECTED, *(pair(f"Add {number}.") for number in range(count))]


def ids(result: Sequence[Pair | Rejected]) -> list[str]:
    return [item.instruction.id for item in result if isinstance(item, Pair)]


@pytest.mark.parametrize(("answer", "author"), [("3", "rows.jsonl"), ("", "")])
def test_a_row_is_a_pair_that_says_who_wrote_its_answer_and_where_it_stands(answer: str, author: str) -> None:
    row, rejected = pairs([Row("Add 1 and 2.", answer, "rows.jsonl:1"), REJECTED], "rows.jsonl")
    assert row == Pair(
        Instruction.of("Add 1 and 2.", Origin("corpus", source="rows.jsonl:1")), Response(answer, author)
    )
    assert rejected == REJECTED


def test_a_limit_takes_so_many_in_their_order_and_what_was_unreadable_stays() -> None:
    rows = sample(corpus(200), 20, 7)
    assert rows[0] == REJECTED
    assert len(rows) == 21
    assert ids(rows) == [name for name in ids(corpus(200)) if name in ids(rows)]
    assert ids(rows) != ids(sample(corpus(200), 20, 8))
    assert {*ids(rows)} < {*ids(sample(corpus(200), 40, 7))}
    assert all(sample(corpus(20), limit, 7) == corpus(20) for limit in (0, 20, 21))


@given(found_rows, st.integers(0, 12), seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_in_what_is_taken(
    result: list[Pair | Rejected], limit: int, seed: int, rng: random.Random
) -> None:
    mixed = rng.sample(result, len(result))
    assert sorted(ids(sample(result, limit, seed))) == sorted(ids(sample(mixed, limit, seed)))
    for answered in (False, True):
        held = (
            [prompt.instruction.id for prompt in held_out(rows, limit, seed, answered=answered)]
            for rows in (result, mixed)
        )
        assert next(held) == next(held)


@given(result=found_rows, count=st.integers(0, 25), seed=seeds, answered=st.booleans())
def test_what_is_held_out_is_usable_each_text_once_and_never_in_the_corpus(
    result: list[Pair | Rejected], count: int, seed: int, *, answered: bool
) -> None:
    usable = {
        item.instruction.text
        for item in result
        if isinstance(item, Pair) and item.instruction.text.strip() and (item.response.text.strip() or not answered)
    }
    held = held_out(result, count, seed, answered=answered)
    taken = [item.instruction.text for item in held]
    assert len(taken) == len(set(taken)) == min(count, len(usable))
    assert set(taken) <= usable
    for item in held:
        assert item.instruction.id == instruction_id(item.instruction.text)
        assert item.instruction.origin.kind == "evaluation"
        assert item.task == ""
        assert bool(item.expected.strip()) == answered
    held = held_out(result, count, seed, answered=False)
    forbidden = DuplicateIndex()
    forbidden.learn_all((item.instruction.id, item.instruction.text) for item in held)
    texts = kept(list(CorpusFilter(forbidden, DuplicateIndex(), unanswered=True).sift(result)))
    assert not {*map(normalised, texts)} & {normalised(prompt.instruction.text) for prompt in held}


def test_every_row_of_an_evaluation_file_is_a_prompt_once_and_unreadable_ones_are_named() -> None:
    rows = [pair(*item) for item in (("Add.", "3"), ("Sing.", ""), ("Add.", "4"))]
    assert [(item.instruction.text, item.expected) for item in prompts(rows, "e.jsonl")] == [
        ("Add.", "4"),
        ("Sing.", ""),
    ]
    bad = [Rejected(f"e.jsonl:{line}", "not JSON", "{oops") for line in (2, 4, 5, 9)]
    with pytest.raises(DataError) as caught:
        prompts([pair("Add."), *bad, pair(" ")], "e.jsonl")
    message = str(caught.value)
    assert "e.jsonl: 5 of its rows cannot be read" in message
    assert "e.jsonl:2: not JSON; e.jsonl:4: not JSON; e.jsonl:5: not JSON and 2 more" in message
    with pytest.raises(DataError, match="holds no prompts"):
        prompts([], "e.jsonl")
    with pytest.raises(DataError, match=r"1 of its rows cannot be read: rows.jsonl:1: no instruction$"):
        prompts([pair("Add."), pair(" ")], "e.jsonl")


# The filter that every corpus passes


def sifted(
    rows: Sequence[Pair | Rejected], *, near: bool = True, held: Sequence[str] = (), **rules: Any
) -> list[CorpusRow | DropRow | NeighbourRow]:
    forbidden = DuplicateIndex(NearDuplicates() if near else None)
    forbidden.learn_all((f"held {number}", text) for number, text in enumerate(held))
    return list(CorpusFilter(forbidden, DuplicateIndex(NearDuplicates() if near else None), **rules).sift(rows))


def kept(rows: Sequence[object]) -> list[str]:
    return [row.text for row in rows if isinstance(row, CorpusRow)]


def dropped(rows: Sequence[object]) -> list[DropRow]:
    return [row for row in rows if isinstance(row, DropRow)]


def test_a_good_row_keeps_its_answer_its_author_and_its_place() -> None:
    row = CorpusRow(instruction_id(POEM), POEM, "So it is.", "rows.jsonl", "rows.jsonl:7")
    assert sifted([pair(POEM, place="rows.jsonl:7")]) == [row]
    assert pair_of(row) == pair(POEM, place="rows.jsonl:7")


@pytest.mark.parametrize(
    ("row", "reason", "place"),
    [
        (REJECTED, "not JSON", "rows.jsonl:3"),
        (pair(""), "empty instruction", "rows.jsonl:1"),
        (pair("\n\t\u00a0"), "empty instruction", "rows.jsonl:1"),
        (pair(POEM, " \n"), "empty response", "rows.jsonl:1"),
        (Pair(pair(POEM).instruction, Response("", "", "Hm")), "still thinking", "rows.jsonl:1"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_place(row: Pair | Rejected, reason: str, place: str) -> None:
    text = row.text if isinstance(row, Rejected) else row.instruction.text
    assert dropped(sifted([row])) == [DropRow(instruction_id(text), "corpus", reason, place, text)]


def test_a_file_may_have_any_name_and_only_answers_of_one_conversation_belong_together() -> None:
    assert conversation("my turn 1.jsonl:17") == ""
    assert conversation("my turn 1.jsonl:17 turn 2") == "my turn 1.jsonl:17"


def test_a_row_without_an_answer_is_kept_if_the_teacher_will_answer_it_and_else_no_reason_to_drop_another() -> None:
    assert kept(sifted([pair(POEM, "")], unanswered=True)) == [POEM]
    assert kept(sifted([pair(POEM, ""), pair(POEM)])) == [POEM]
    between = sifted([pair(POEM), pair(NEARLY), pair(NEARLY_TOO)], drop_near=True)
    assert [row.detail.rpartition(" repeats ")[2].split()[0] for row in dropped(between)] == [instruction_id(POEM)] * 2


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("drop_near", [False, True])
def test_a_repeated_row_is_dropped_and_says_what_it_repeats(*, near: bool, drop_near: bool) -> None:
    rows = sifted([pair(POEM), pair(POEM.upper(), "Another.", "rows.jsonl:2")], near=near, drop_near=drop_near)
    assert kept(rows) == [POEM]
    (row,) = dropped(rows)
    assert (row.reason, row.text) == ("duplicate", POEM.upper())
    assert row.detail == f"rows.jsonl:2 repeats {instruction_id(POEM)}"
    assert not any(isinstance(item, NeighbourRow) for item in rows)


def test_a_near_duplicate_is_reported_or_dropped_as_the_recipe_says() -> None:
    rows = sifted([pair(OTHER), pair(POEM), pair(NEARLY)])
    assert kept(rows) == [OTHER, POEM, NEARLY]
    (beside,) = [row for row in rows if isinstance(row, NeighbourRow)]
    assert beside == NeighbourRow(instruction_id(NEARLY), instruction_id(POEM), 0.92, "rouge-l")
    (row,) = dropped(sifted([pair(OTHER), pair(POEM), pair(NEARLY, place="rows.jsonl:2")], drop_near=True))
    assert row.reason == "near-duplicate"
    assert row.detail == f"rows.jsonl:2 repeats {instruction_id(POEM)} (rouge-l 0.92)"
    assert kept(sifted([pair(POEM), pair(NEARLY)], near=False, drop_near=True)) == [POEM, NEARLY]


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


@given(rows=rows_of_all_kinds, near=st.booleans(), drop_near=st.booleans(), unanswered=st.booleans())
def test_every_row_is_kept_or_dropped_with_a_reason_and_no_text_is_kept_twice(
    *, rows: list[Pair | Rejected], near: bool, drop_near: bool, unanswered: bool
) -> None:
    result = sifted(rows, near=near, drop_near=drop_near, unanswered=unanswered, held=["write a poem"])
    assert len(kept(result)) + len(dropped(result)) == len(rows)
    assert all(row.reason and row.detail and row.stage == "corpus" for row in dropped(result))
    assert all(count == 1 for count in Counter(map(normalised, kept(result))).values())
    assert "write a poem" not in map(normalised, kept(result))
    beside = {row.id for row in result if isinstance(row, NeighbourRow)}
    assert beside <= set(map(instruction_id, kept(result)))
    assert not (drop_near and beside)


def test_earlier_turns_are_compared_with_evaluation_sets_as_equal_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [Turn("user", NEARLY), Turn("assistant", "So it is."), Turn("user", POEM), Turn("assistant", "Yes.")]
    talks = [Instruction.of(OTHER, Origin("corpus", source="rows.jsonl:1"), turns[:end]) for end in (2, 4)]
    asked: list[str] = []

    def nearest(near: NearDuplicates, text: str) -> Duplicate | None:
        asked.append(text)
        return found(near, text)

    found = NearDuplicates.nearest
    monkeypatch.setattr(NearDuplicates, "nearest", nearest)
    first, second = sifted([Pair(talk, Response("Yes.", "rows.jsonl")) for talk in talks], held=[POEM])
    assert isinstance(first, CorpusRow)
    assert isinstance(second, DropRow)
    assert second.reason == "in an evaluation set"
    assert {*asked} == {talk.user_text for talk in talks}


@pytest.mark.parametrize(("rule", "measures"), [("keep", ["rouge-l"]), ("ignore", [])])
def test_a_run_says_how_far_its_filter_is_and_looks_for_near_duplicates_unless_they_are_ignored(
    rule: str, measures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock(side_effect=NearDuplicates)
    monkeypatch.setattr(session, "NearDuplicates", made)
    rows: list[Pair | Rejected] = [pair(POEM), REJECTED, pair(NEARLY), pair(POEM), pair(OTHER)]
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: rows)
    corpus_config = FileCorpusConfig.model_validate({"path": "rows.jsonl", "near_duplicates": rule})
    recipe, watcher = fakes.recipe().model_copy(update={"corpus": corpus_config}), Watcher()
    found = session._corpus(recipe, roles, RunStore(tmp_path), DuplicateIndex(), watcher)
    assert [one.instruction.text for one in found] == [POEM, NEARLY, OTHER]
    assert [row.measure for row in RunReader(RunStore(tmp_path)).near_duplicates()] == measures
    assert made.called == bool(measures)
    assert (watcher.started, watcher.advanced) == ([(0, "filter", 5, 0)], 5)
    assert session._corpus(recipe, roles, RunStore(tmp_path), DuplicateIndex(), watcher) == found
    assert len(watcher.started) == 1
    with pytest.raises(Interrupted):
        session._corpus(recipe, roles, RunStore(tmp_path / "again"), DuplicateIndex(), Watcher(stop_after=2))
    assert not (tmp_path / "again").exists()
