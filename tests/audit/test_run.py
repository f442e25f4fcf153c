"""A run and what a person said about it: how far the oracle's difficulty is that person's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau, spearmanr

from tapir.audit.runs import read_reviews, read_run
from tapir.audit.sources import Reading
from tapir.errors import DataError
from tapir.store.files import write_json
from tapir.store.rows import AnswerRow, CorpusRow, JudgementRow, ResponseRow, TagRow
from tapir.store.run import RunStore
from tests.audit.recorded import audited, column, figures, value

NAMES = [f"{place:016x}" for place in range(40)]
ORDERS = ("student-first", "reference-first")
Review = dict[str, Any]


def scores(name: str, order: str) -> tuple[float, float]:
    """Student and teacher; the judge favours whoever is shown first by a point, and the teacher on the whole."""
    dice = random.Random(name)
    student, teacher = dice.randint(2, 8), dice.randint(3, 9)
    return (student + 1, teacher) if order == "student-first" else (student, teacher + 1)


def gap(name: str) -> float:
    pairs = [scores(name, order) for order in ORDERS]
    return sum(teacher - student for student, teacher in pairs) / 2


def run_of(folder: Path, *, canary: bool = True) -> Path:
    store = RunStore(folder)
    folder.mkdir(parents=True)
    write_json(folder / "recipe.json", {})
    store.write("corpus", CorpusRow, [CorpusRow(name, name, "teacher " * 5, "T", "file:1") for name in NAMES])
    store.write("round-0/responses", ResponseRow, [ResponseRow(NAMES[0], "rewritten", "T", None)])
    answers = [AnswerRow(name, "student " * (place % 9), "stop", 1, None) for place, name in enumerate(NAMES)]
    store.write("round-0/answers", AnswerRow, answers)
    store.write("round-0/tags", TagRow, [TagRow(name, "ab"[place % 2], 1.0, None) for place, name in enumerate(NAMES)])
    judged = [
        JudgementRow(name, order, *scores(name, order), "because", "the-judge", None, None)
        for name in NAMES[:-2]
        for order in ORDERS
    ]
    judged += [JudgementRow(NAMES[-2], "alone", None, None, "", "the-judge", "no score found", "Hm.")]
    judged += [JudgementRow(NAMES[-1], "alone", None, None, "", "the-judge", "no student answer", None)]
    store.write("round-0/judgements", JudgementRow, judged)
    if canary:
        constant = [
            JudgementRow(name, order, 2.0, 8.0, "", "the-judge", None, None) for name in NAMES[:5] for order in ORDERS
        ]
        store.write("round-0/canary", JudgementRow, constant)
    spent = {"round": 0, "task": "", "calls": 10, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}
    write_json(folder / "spending.json", [spent | {"stage": "judge", "cost": 0.2}, spent | {"stage": "tag", "cost": 9}])
    return folder


def review(name: str, preference: str | None, difficulty: int | None, **more: Any) -> Review:
    known = {"rater": "ann", "task": None, "left": "student", "seconds": 3.0, "time": "2025-01-01T00:00:00Z"}
    return {"id": name, "preference": preference, "difficulty": difficulty} | known | more


def reviews_of(folder: Path, lines: Sequence[Review], name: str = "reviews.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def opinion(name: str) -> Review:
    """A person who mostly sees it as the judge does."""
    dice = random.Random(f"person {name}")
    better = gap(name) + dice.choice([-2, 0, 0, 2])
    preference = "reference" if better > 0.5 else "student" if better < -0.5 else "tie"
    return review(name, preference, dice.randint(1, 3) + (gap(name) > 0) * 2, task="a" if dice.random() < 0.7 else "b")


def test_the_gap_is_compared_with_what_a_person_found_hard_and_whom_they_preferred(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    said = [opinion(name) for name in NAMES[:30]]
    reviews_of(run, said)
    found = figures(audited(run), "ann", "difficulty")
    gaps = [gap(one["id"]) for one in said]
    sides = {"reference": 1, "student": -1, "tie": 0}
    preferred = [sides[one["preference"]] for one in said]
    assert value(found["gap_difficulty"]) == pytest.approx(
        float(kendalltau(gaps, [one["difficulty"] for one in said]).statistic)
    )
    assert value(found["gap_preference_rho"]) == pytest.approx(float(spearmanr(gaps, preferred).statistic))
    signs = [(one > 0) - (one < 0) for one in gaps]
    assert value(found["better"]) == pytest.approx(sum(map(int.__eq__, signs, preferred)) / 30)
    tasks = ["ab"[NAMES.index(one["id"]) % 2] == one["task"] for one in said]
    assert value(found["task"]) == pytest.approx(sum(tasks) / 30)


def test_the_judge_of_a_run_is_audited_without_labels_too(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    found = audited(run)
    judge = figures(found, "the-judge")
    # Whoever is shown first gets a point more, so wherever the order changes the verdict the first is favoured.
    flips = sum(
        (scores(name, "student-first")[0] > scores(name, "student-first")[1])
        != (scores(name, "reference-first")[0] > scores(name, "reference-first")[1])
        or scores(name, "student-first")[0] == scores(name, "student-first")[1]
        or scores(name, "reference-first")[0] == scores(name, "reference-first")[1]
        for name in NAMES[:-2]
    )
    assert value(judge["flips"]) == pytest.approx(flips / 38)
    assert value(judge["favours_first"]) == 1
    assert (value(judge["constant_score"]), value(judge["other_score"])) == (2, 8)
    assert value(judge["constant_wins"]) == 0
    assert judge["money"].value == pytest.approx(20.0)
    assert column(found, "the-judge").unreadable == {"no score found": 1}
    assert judge["unreadable"].n == 2 * 38 + 1, "an answer that never came was not put to the judge"
    assert "there is no reference" in judge["agreement"].why


def test_the_later_line_of_a_person_wins_and_an_unfinished_one_does_not_count(tmp_path: Path) -> None:
    path = reviews_of(tmp_path, [review("x", "student", 1), review("x", "reference", 5), review("y", None, None)])
    path.write_bytes(path.read_bytes() + b'{"id": "z", "rat')
    source = read_reviews(path)
    assert [(one.item, one.choice, one.order) for one in source.votes] == [("x", "b", "ab")]
    assert source.oracle
    assert [(one.item, one.difficulty) for one in source.oracle.people] == [("x", 5), ("y", None)]


def test_two_people_are_shown_each_and_together(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    said = [opinion(name) for name in NAMES[:12]]
    reviews_of(run, [*said, *(one | {"rater": "bob", "difficulty": 6 - one["difficulty"]} for one in said)])
    found = audited(run)
    assert figures(found, "mean of 2", "difficulty")["gap_difficulty"].value is None, "their means are all equal"
    ann, bob = (figures(found, name, "difficulty")["gap_difficulty"] for name in ("ann", "bob"))
    assert value(ann) == pytest.approx(-value(bob))
    assert value(figures(found, "2 people")["agreement_one"]) == 1


def test_a_person_who_says_tie_each_time_has_no_order(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    reviews_of(run, [review(name, "tie", 3) for name in NAMES[:8]])
    found = audited(run)
    figure = figures(found, "ann", "difficulty")
    assert "all equal" in figure["gap_difficulty"].why
    assert "all equal" in figure["gap_preference"].why
    assert "both decide" in figure["better_decided"].why
    assert value(figures(found, "ann")["ties"]) == 1


def test_reviews_of_another_round_go_with_that_round(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    store = RunStore(run)
    store.write("round-1/judgements", JudgementRow, [JudgementRow("n", "alone", 9, 1, "", "the-judge", None, None)])
    path = reviews_of(run, [review("n", "student", 2)], "reviews-round-1.jsonl")
    assert figures(audited(run, labels=(path,)), "the-judge")["agreement"].value == 1
    assert any(note.startswith("Round 1 ") for note in audited(run, labels=(path,)).notes)
    assert figures(audited(run, reading=Reading("auto", "", 1)), "ann", "difficulty")["better"].n == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [("{}", "is no review"), ('{"id": "x", "rater": "a", "preference": "left", "left": "student"}', "'left'")],
)
def test_a_line_that_is_no_review_is_an_error(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=why):
        read_reviews(path)


def test_a_run_that_was_not_judged_yet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run" / "round-0").mkdir(parents=True)
    write_json(tmp_path / "run" / "recipe.json", {})
    with pytest.raises(DataError, match="no round has judgements"):
        read_run(tmp_path / "run")


def test_a_round_that_was_not_judged_is_an_error_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="round 7 has no judgements") as error:
        read_run(run_of(tmp_path / "run"), 7)
    assert "[0]" in error.value.remedy


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not the folder of a run"):
        read_run(tmp_path)


def test_reviews_of_another_run_are_an_error(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    other = reviews_of(tmp_path, [review("elsewhere", "tie", 1)])
    with pytest.raises(DataError, match=f"no item in common: the first has {NAMES[0]}, the second elsewhere"):
        audited(run, labels=(other,))


def test_runs_with_other_answers_of_their_students_cannot_be_put_together(tmp_path: Path) -> None:
    one, same, other = (run_of(tmp_path / name) for name in ("one", "same", "other"))
    assert audited(one, same).sections
    again = [AnswerRow(name, f"another {name}!", "stop", 1, None) for name in NAMES]
    RunStore(other).write("round-0/answers", AnswerRow, again)
    with pytest.raises(DataError, match="one and other had different answers judged to 39 of 39") as caught:
        audited(one, other)
    assert "one run at a time" in caught.value.remedy


def test_a_constant_answer_that_cannot_be_read_is_no_unreadable_judgement_of_the_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    before = figures(audited(run), "the-judge")["unreadable"]
    lost = [JudgementRow(name, "alone", None, None, "", "the-judge", "no score found", "Hm.") for name in NAMES[:5]]
    again = run_of(tmp_path / "again", canary=False)
    RunStore(again).write("round-0/canary", JudgementRow, lost)
    assert figures(audited(again), "the-judge")["unreadable"] == before
