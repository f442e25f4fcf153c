"""Every example once, with where it comes from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.runs import REPEATING, build_run
from tapir.data.files import read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import CorpusRow, DifficultyRow, MixtureRow, ResponseRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError
from tapir.domain.instruction import Turn
from tapir.report.export.lineage import examples
from tapir.report.history import history


def learnt(store: RunStore, number: int) -> list[MixtureRow]:
    left = set(RunReader(store).left_out(number))
    assert left
    return [row for row in store.read(f"round-{number}/mixture", MixtureRow) if row.id not in left]


def test_each_distinct_pair_stands_there_once_with_all_its_rounds(api_run: RunStore) -> None:
    rounds: dict[tuple[str, str], list[int]] = {}
    for number in (1, 2, 3):
        for row in learnt(api_run, number):
            rounds.setdefault((row.id, row.response), []).append(number)
    found = list(examples(RunReader(api_run), [1, 2, 3]))
    assert {(one.id, one.messages[-1].content): list(one.rounds) for one in found} == rounds
    assert len(found) == len(rounds)
    last = {(row.id, row.response): row.pool for number in (1, 2, 3) for row in learnt(api_run, number)}
    assert {(one.id, one.messages[-1].content): one.pool for one in found} == last


def test_what_training_left_out_is_in_no_export_and_its_history_says_why(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", api=True)
    file = store.round(1) / "training.json"
    unfit = store.read("round-1/mixture", MixtureRow)[-1].id
    write_json(file, read_json(file) | {"unfit": {unfit: "the chat template fails on it"}})
    run = RunReader(store)
    (long,) = (name for name, reason in run.left_out(1).items() if reason == "too long")
    assert {long, unfit}.isdisjoint(one.id for one in examples(run, [1]))
    for name, reason in ((long, "too long"), (unfit, "the chat template fails on it")):
        found = dict(history(store, name))
        assert f"round 1: left out of training: {reason}" in found
        assert "round 1: trained on" not in found
    other = next(row.id for row in run.learnt(1))
    assert "round 1: trained on" in dict(history(store, other))


def test_an_expansion_names_its_parents_and_the_corpus_its_place(api_run: RunStore) -> None:
    corpus = {row.id: row for row in api_run.read("corpus", CorpusRow)}
    written = {row.id: row for row in RunReader(api_run).kept_expansions()}
    found = list(examples(RunReader(api_run), [1, 2, 3]))
    assert {one.origin for one in found} == {"corpus", "expansion"}
    for one in found:
        if one.origin == "expansion":
            assert one.parents == written[one.id].parents
            assert set(one.parents) <= corpus.keys()
            assert one.author == written[one.id].author
        else:
            assert one.parents == ()
            assert one.source == corpus[one.id].source


def test_the_gap_is_the_measured_one_the_refiner_is_named_and_the_first_two_rows_show_every_type(
    api_run: RunStore,
) -> None:
    gaps = {row.id: row.gap for row in api_run.read("round-3/difficulty", DifficultyRow)}
    for one in examples(RunReader(api_run), [1, 2, 3]):
        assert one.gap == gaps.get(one.id)
    assert any(one.gap is None for one in examples(RunReader(api_run), [1, 2, 3]))
    counts = Counter((one.refined, one.refiner) for one in examples(RunReader(api_run), [1, 2, 3]))
    assert counts.keys() == {(True, "a-large-model"), (False, "")}
    # Readers that infer types from the beginning of a file must not take a column for empty.
    first = [one for one, _ in zip(examples(RunReader(api_run), [1, 2, 3]), range(2), strict=False)]
    assert any(one.gap is not None for one in first)
    assert any(one.parents for one in first)


def test_an_answer_the_teacher_wrote_before_the_run_is_the_teachers(api_run: RunStore) -> None:
    rows = {row.id: row.author for row in api_run.read("round-0/responses", ResponseRow) if row.text is not None}
    authors = {each.id: each.author for each in examples(RunReader(api_run), [1, 2, 3]) if each.id in rows}
    assert authors == dict.fromkeys(authors, "a-large-model")
    assert list(rows) == [api_run.read("corpus", CorpusRow)[REPEATING].id]


def test_folders_of_a_server_do_not_leave_with_the_names_of_models(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    rows = [CorpusRow("a" * 16, "Why?", "So.", "/srv/models/llama-70b", "/home/me/set/train row 3")]
    store.write("corpus", CorpusRow, rows)
    store.write(
        "round-1/mixture", MixtureRow, [MixtureRow("a" * 16, "Why?", "So.", "Law", "easy", "corpus", refined=False)]
    )
    one = next(examples(RunReader(store), [1]))
    assert (one.source, one.author) == ("train row 3", "llama-70b")
    assert one.messages == (Turn("user", "Why?"), Turn("assistant", "So."))


def test_a_round_that_is_not_there_is_named_with_those_that_are_if_any(tmp_path: Path, api_run: RunStore) -> None:
    store = build_run(tmp_path / "run", done=0)
    empty, run = RunReader(store), RunReader(api_run)
    with pytest.raises(DataError, match="no training data yet") as failure:
        empty.choose(empty.rounds("mixture"), None, "training data")
    assert "tapir resume" in failure.value.remedy
    with pytest.raises(DataError, match=r"round 4 .* has no training data; rounds with one: 1, 2, 3"):
        run.choose(run.rounds("mixture"), 4, "training data")
    with pytest.raises(DataError, match="has no judgements: this run measures difficulty by mfd") as failure:
        run.choose([], None, "judgements")
    assert "resume" not in failure.value.remedy
    assert run.choose(run.rounds("mixture"), None, "") == [1, 2, 3]
    assert run.choose(run.rounds("mixture"), 2, "") == [2]
