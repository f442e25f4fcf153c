"""The sample: spread over the gap and the tasks, the same for everybody, and honest where there is too little."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tapir.errors import DataError, TableCorrupt
from tapir.review.sample import BANDS, LARGE, NEGATIVE, SMALL, UNKNOWN, ZERO, Sample, Source, draw
from tapir.store.rows import AnswerRow, CorpusRow, DifficultyRow, ExpansionRow, JudgementRow, ResponseRow, TagRow
from tapir.store.run import RunStore
from tests.review.reviewing import LABELS, reviewable
from tests.runs import UNANSWERED, UNSCORED, WITHHELD, build_run

SEED = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return reviewable(tmp_path_factory.mktemp("sample") / "run", size=200)


def sample(store: RunStore, size: int, *, number: int = 0, seed: int = SEED) -> Sample:
    return draw(Source(store, number, seed), size)


def ids(found: Sample) -> list[str]:
    return [pair.id for pair in found.pairs]


def corpus_ids(store: RunStore) -> list[str]:
    return [row.id for row in store.read("corpus", CorpusRow)]


def test_every_band_of_the_gap_is_asked_about_though_most_gaps_are_in_one(store: RunStore) -> None:
    found = sample(store, 40)
    assert len(found.pairs) == 40
    assert found.bands[NEGATIVE] == 1  # the corpus has one
    assert {found.bands[band] for band in (ZERO, SMALL, LARGE)} == {13}
    assert set(found.bands) <= set(BANDS)


def test_rare_tasks_are_asked_about_as_often_as_common_ones(store: RunStore) -> None:
    task_of = {row.id: row.task for row in store.read("round-0/tags", TagRow)}
    common = Counter(task_of.values())
    asked = Counter(task_of[name] for name in ids(sample(store, 40)))
    assert max(common[label] for label in LABELS) > 3 * min(common[label] for label in LABELS)
    assert max(asked[label] for label in LABELS) <= min(asked[label] for label in LABELS) + 2


def test_every_beginning_is_spread_like_the_whole(store: RunStore) -> None:
    gaps = {row.id: row.gap for row in reviewed_difficulty(store)}
    first = ids(sample(store, 100))[:12]
    kinds = Counter("hard" if (gaps[name] or 0) > 2 else "equal" if gaps[name] == 0 else "other" for name in first)
    assert kinds["hard"] >= 3
    assert kinds["equal"] >= 3


def reviewed_difficulty(store: RunStore) -> list[DifficultyRow]:
    found: dict[str, float] = {}
    for row in store.read("round-0/judgements", JudgementRow):
        if row.student is not None and row.reference is not None:
            found[row.id] = row.reference - row.student
    return [DifficultyRow(name, gap, 0.0, "") for name, gap in found.items()]


def test_a_larger_sample_begins_with_the_smaller_one(store: RunStore) -> None:
    assert ids(sample(store, 60))[:25] == ids(sample(store, 25))


def test_the_same_seed_gives_every_rater_the_same_pairs_on_the_same_sides(store: RunStore) -> None:
    assert sample(store, 30).pairs == sample(store, 30).pairs
    assert ids(sample(store, 30)) != ids(sample(store, 30, seed=8))


def test_the_order_does_not_tell_the_band(store: RunStore) -> None:
    gaps = {row.id: row.gap or 0.0 for row in reviewed_difficulty(store)}
    turns = [
        tuple(gaps[name] > 2 for name in ids(sample(store, 62))[2:][start : start + 3]) for start in range(0, 60, 3)
    ]
    assert len(set(turns)) > 1


def test_which_side_is_the_students_is_a_coin_of_each_item(store: RunStore) -> None:
    found = sample(store, 198)
    left = Counter(pair.left for pair in found.pairs)
    assert 70 < left["student"] < 128  # 198 fair coins: five standard deviations are 35
    for pair in found.pairs:
        first, second = pair.shown
        assert {first, second} == {pair.student, pair.reference}
        assert (first == pair.student) == (pair.left == "student")


def test_what_was_not_answered_or_not_scored_is_not_asked_about(store: RunStore) -> None:
    names = corpus_ids(store)
    found = sample(store, 1_000)
    assert found.available == len(found.pairs) == 198
    assert names[UNANSWERED] not in ids(found)
    assert names[UNSCORED] not in ids(found)
    assert names[WITHHELD] in ids(found)


def test_texts_are_those_of_the_tables(store: RunStore) -> None:
    corpus = {row.id: row for row in store.read("corpus", CorpusRow)}
    answers = {row.id: row.text for row in store.read("round-0/answers", AnswerRow)}
    for pair in sample(store, 198).pairs:
        assert (pair.instruction, pair.reference) == (corpus[pair.id].text, corpus[pair.id].response)
        assert pair.student == answers[pair.id]


def test_a_run_scored_without_a_judge_is_balanced_by_task_alone(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run", size=200)
    (store.folder / "round-0" / "judgements.parquet").unlink()
    found = sample(store, 40)
    assert found.bands == {UNKNOWN: 40}
    assert found.available == 199
    task_of = {row.id: row.task for row in store.read("round-0/tags", TagRow)}
    asked = Counter(task_of[pair.id] for pair in found.pairs)
    assert max(asked[label] for label in LABELS) <= min(asked[label] for label in LABELS) + 1


def test_a_run_without_tags_is_balanced_by_the_gap_alone(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run", size=200)
    (store.folder / "round-0" / "tags.parquet").unlink()
    found = sample(store, 31)
    assert found.bands[ZERO] == found.bands[LARGE]
    assert found.tasks == ()


def test_the_answer_that_the_teacher_wrote_first_is_the_one_that_was_judged(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=0, api=True)
    written = {row.id: row.text for row in store.read("round-0/responses", ResponseRow)}
    found = {pair.id: pair.reference for pair in sample(store, 1_000).pairs}
    assert any(text is None for text in written.values())
    for name, text in written.items():
        assert found.get(name) == text


def test_a_later_round_also_asks_about_what_the_teacher_had_written_by_then(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=2, api=True)
    kept = [row for row in store.read("round-1/expansions", ExpansionRow) if row.reason is None]
    later = [row for row in store.read("round-2/expansions", ExpansionRow) if row.reason is None]
    names = [*corpus_ids(store), *(row.id for row in (*kept, *later))]
    store.write("round-2/answers", AnswerRow, [AnswerRow(name, "now better", "stop", 2, None) for name in names])
    found = {pair.id: pair for pair in sample(store, 10_000, number=2).pairs}
    assert kept
    assert {row.id for row in kept} <= found.keys()
    assert found[kept[0].id].reference == kept[0].response
    assert not {row.id for row in later} & found.keys()
    assert all(pair.student == "now better" for pair in found.values())


def test_identical_gaps_everywhere_leave_one_band(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    tied = [replace(row, student=5.0, reference=5.0) for row in store.read("round-0/judgements", JudgementRow)]
    store.write("round-0/judgements", JudgementRow, tied)
    assert sample(store, 20).bands == {ZERO: 20}


def test_a_run_of_one_prompt_has_one_pair(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    store.write("round-0/answers", AnswerRow, store.read("round-0/answers", AnswerRow)[:1])
    found = sample(store, 50)
    assert (len(found.pairs), found.available) == (1, 1)


def test_answers_that_are_gone_are_told_with_the_rounds_that_have_some(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    with pytest.raises(DataError, match=r"round-1/answers\.parquet is missing or unfinished.*rounds with answers: 0;"):
        sample(store, 10, number=1)
    (store.folder / "round-0" / "answers.parquet").unlink()
    with pytest.raises(DataError, match="no round has answers yet"):
        sample(store, 10)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    (store.folder / "round-0" / "answers.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableCorrupt, match=r"answers\.parquet"):
        sample(store, 10)


def test_nothing_answered_says_how_much_of_each_there_is(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    failed = [AnswerRow(name, None, None, 0, "timeout") for name in corpus_ids(store)]
    store.write("round-0/answers", AnswerRow, failed)
    with pytest.raises(DataError, match=r"no instruction has both answers and a score \(0 answered by the student, 60"):
        sample(store, 10)


def test_answers_to_other_instructions_are_no_pairs(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    store.write("round-0/answers", AnswerRow, [AnswerRow("0123456789abcdef", "an answer", "stop", 2, None)])
    with pytest.raises(DataError, match="no instruction has both answers"):
        sample(store, 10)
