"""The sample: spread over the gap and the tasks, the same for everybody, and honest where there is too little."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.reviewing import LABELS, reviewable
from support.runs import UNANSWERED, UNSCORED, WITHHELD, build_run
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import AnswerRow, CorpusRow, ExpansionRow, ResponseRow, TagRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError
from tapir.report.review.sample import BANDS, LARGE, NEGATIVE, SMALL, UNKNOWN, ZERO, ReviewSample, draw

SEED = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return reviewable(tmp_path_factory.mktemp("sample") / "run", size=200)


def sample(store: RunStore, size: int, *, number: int = 0, seed: int = SEED) -> ReviewSample:
    return draw(RunReader(store), number, seed, size)


def ids(found: ReviewSample) -> list[str]:
    return [pair.id for pair in found.pairs]


def corpus_ids(store: RunStore) -> list[str]:
    return [row.id for row in store.read("corpus", CorpusRow)]


def test_every_band_of_the_gap_and_every_task_is_asked_about_though_most_items_are_in_one(store: RunStore) -> None:
    found = sample(store, 40)
    assert len(found.pairs) == 40
    assert found.bands[NEGATIVE] == 1  # the corpus has one
    assert {found.bands[band] for band in (ZERO, SMALL, LARGE)} == {13}
    assert set(found.bands) <= set(BANDS)
    task_of = {row.id: row.task for row in store.read("round-0/tags", TagRow)}
    common = Counter(task_of.values())
    asked = Counter(task_of[name] for name in ids(found))
    assert max(common[label] for label in LABELS) > 3 * min(common[label] for label in LABELS)
    assert max(asked[label] for label in LABELS) <= min(asked[label] for label in LABELS) + 2


def test_the_same_seed_gives_every_rater_the_same_pairs_and_a_larger_sample_begins_with_the_smaller(
    store: RunStore,
) -> None:
    assert sample(store, 30).pairs == sample(store, 30).pairs
    assert ids(sample(store, 30)) != ids(sample(store, 30, seed=8))
    assert ids(sample(store, 60))[:25] == ids(sample(store, 25))


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


def test_a_run_scored_without_a_judge_is_balanced_by_task_alone(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run", size=200)
    (store.folder / "round-0" / "judgements.parquet").unlink()
    found = sample(store, 40)
    assert found.bands == {UNKNOWN: 40}
    assert found.available == 199
    task_of = {row.id: row.task for row in store.read("round-0/tags", TagRow)}
    asked = Counter(task_of[pair.id] for pair in found.pairs)
    assert max(asked[label] for label in LABELS) <= min(asked[label] for label in LABELS) + 1


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


def test_answers_that_are_gone_are_told_with_the_rounds_that_have_some(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "run")
    with pytest.raises(
        DataError, match=r"round 1 of .* has no finished answers of the student .*; rounds with one: 0$"
    ):
        sample(store, 10, number=1)
    (store.folder / "round-0" / "answers.parquet").unlink()
    with pytest.raises(DataError, match=r"has no finished answers of the student .* yet"):
        sample(store, 10)
