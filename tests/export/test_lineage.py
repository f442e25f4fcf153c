"""Every example once, with where it comes from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tapir.errors import DataError
from tapir.export.lineage import chosen_rounds, examples
from tapir.store.rows import CorpusRow, DifficultyRow, ExpansionRow, MixtureRow, ResponseRow
from tapir.store.run import RunStore
from tests.runs import REPEATING, build_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs") / "run", api=True)


def mixture(store: RunStore, number: int) -> list[MixtureRow]:
    return store.read(f"round-{number}/mixture", MixtureRow)


def test_each_distinct_pair_stands_there_once_with_all_its_rounds(store: RunStore) -> None:
    rounds: dict[tuple[str, str], list[int]] = {}
    for number in (1, 2, 3):
        for row in mixture(store, number):
            rounds.setdefault((row.id, row.response), []).append(number)
    found = {(one.id, one.response): list(one.rounds) for one in examples(store, [1, 2, 3])}
    assert found == rounds
    assert len(list(examples(store, [1, 2, 3]))) == len(rounds)


def test_one_round_alone_is_its_mixture(store: RunStore) -> None:
    found = {one.id: one for one in examples(store, [2])}
    assert found.keys() == {row.id for row in mixture(store, 2)}
    for row in mixture(store, 2):
        one = found[row.id]
        assert (one.instruction, one.response, one.task, one.pool) == (
            row.instruction,
            row.response,
            row.task,
            row.pool,
        )
        assert (one.origin, one.refined, one.rounds) == (row.origin, row.refined, (2,))


def test_the_pool_is_that_of_the_last_round(store: RunStore) -> None:
    last = {(row.id, row.response): row.pool for number in (1, 2, 3) for row in mixture(store, number)}
    assert {(one.id, one.response): one.pool for one in examples(store, [1, 2, 3])} == last


def test_an_expansion_names_its_parents_and_the_corpus_its_place(store: RunStore) -> None:
    corpus = {row.id: row for row in store.read("corpus", CorpusRow)}
    written = {
        row.id: row
        for number in (1, 2, 3)
        for row in store.read(f"round-{number}/expansions", ExpansionRow)
        if row.reason is None
    }
    found = list(examples(store, [1, 2, 3]))
    assert {one.origin for one in found} == {"corpus", "expansion"}
    for one in found:
        if one.origin == "expansion":
            assert one.parents == written[one.id].parents
            assert set(one.parents) <= corpus.keys()
            assert one.author == written[one.id].author
        else:
            assert one.parents == ()
            assert one.source == corpus[one.id].source


def test_the_gap_is_the_measured_one_and_none_where_nothing_was_measured(store: RunStore) -> None:
    gaps = {row.id: row.gap for row in store.read("round-3/difficulty", DifficultyRow)}
    for one in examples(store, [1, 2, 3]):
        assert one.gap == gaps.get(one.id)
    assert any(one.gap is None for one in examples(store, [1, 2, 3]))


def test_an_answer_the_teacher_wrote_before_the_run_is_the_teachers(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", api=True, corpus=40)
    answered = {row.id: row.author for row in store.read("round-0/responses", ResponseRow) if row.text is not None}
    found = {one.id: one.author for one in examples(store, chosen_rounds(store, None)) if one.id in answered}
    assert found == dict.fromkeys(found, "a-large-model")
    assert list(answered) == [store.read("corpus", CorpusRow)[REPEATING].id]


def test_a_refiner_is_named_where_the_answer_was_rewritten_and_nowhere_else(store: RunStore) -> None:
    counts = Counter((one.refined, one.refiner) for one in examples(store, [1, 2, 3]))
    assert counts.keys() == {(True, "the-teacher"), (False, "")}


def test_the_first_two_rows_show_every_type(store: RunStore) -> None:
    """Readers that infer types from the beginning of a file must not take a column for empty."""
    first = [one for one, _ in zip(examples(store, [1, 2, 3]), range(2), strict=False)]
    assert any(one.gap is not None for one in first)
    assert any(one.parents for one in first)


def test_folders_of_a_server_do_not_leave_with_the_names_of_models(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    rows = [CorpusRow("a" * 16, "Why?", "So.", "/srv/models/llama-70b", "/home/me/set/train row 3")]
    store.write("corpus", CorpusRow, rows)
    store.write(
        "round-1/mixture", MixtureRow, [MixtureRow("a" * 16, "Why?", "So.", "Law", "easy", "corpus", refined=False)]
    )
    one = next(examples(store, [1]))
    assert (one.source, one.author) == ("train row 3", "llama-70b")
    assert (one.instruction, one.response) == ("Why?", "So.")


def test_a_run_without_a_mixture_has_nothing_to_export(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=0)
    with pytest.raises(DataError, match="no training data yet") as failure:
        chosen_rounds(store, None)
    assert "tapir resume" in failure.value.remedy


def test_a_round_that_is_not_there_is_named_with_those_that_are(store: RunStore) -> None:
    with pytest.raises(DataError, match=r"round 4 .* rounds 1 to 3"):
        chosen_rounds(store, 4)
    assert chosen_rounds(store, None) == [1, 2, 3]
    assert chosen_rounds(store, 2) == [2]
