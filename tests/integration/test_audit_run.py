"""Audit of a run: its judge, and its difficulty against what people said in reviews."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau, spearmanr

from support.audits import audited, column, metrics, value
from tapir.data.files import write_json
from tapir.data.run.rows import AnswerRow, CorpusRow, JudgementRow, ResponseRow, TagRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError
from tapir.evaluation.audit.audit import findings
from tapir.evaluation.audit.readers import read_reviews
from tapir.evaluation.audit.records import read_run

NAMES = [f"{place:016x}" for place in range(40)]
ORDERS = ("student-first", "reference-first")
Review = dict[str, Any]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.evaluation.audit.metrics.RANK_RESAMPLES", 50)


def scores(name: str, order: str) -> tuple[float, float]:
    """Student and teacher; the judge favours whoever is shown first by a point, and the teacher on the whole."""
    rng = random.Random(name)
    student, teacher = rng.randint(2, 8), rng.randint(3, 9)
    return (student + 1, teacher) if order == "student-first" else (student, teacher + 1)


def gap(name: str) -> float:
    pairs = [scores(name, order) for order in ORDERS]
    return sum(teacher - student for student, teacher in pairs) / 2


def run_of(folder: Path) -> Path:
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
    constant = [JudgementRow(name, order, 2, 8, "", "the-judge", None, None) for name in NAMES[:5] for order in ORDERS]
    constant.append(JudgementRow(NAMES[5], "alone", None, None, "", "the-judge", "no score found", "Hm."))
    store.write("round-0/canary", JudgementRow, constant)
    spent = {"round": 0, "task": "", "calls": 10, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}
    stages = [("judge", 0, 0.2), ("canary", 0, 0.02), ("judge", 2, 9), ("tag", 0, 9)]
    entries = [spent | {"stage": stage, "round": number, "cost": cost} for stage, number, cost in stages]
    write_json(folder / "spending.json", entries)
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
    rng = random.Random(f"person {name}")
    better = gap(name) + rng.choice([-2, 0, 0, 2])
    preference = "reference" if better > 0.5 else "student" if better < -0.5 else "tie"
    return review(name, preference, rng.randint(1, 3) + (gap(name) > 0) * 2, task="a" if rng.random() < 0.7 else "b")


def test_the_gap_is_compared_with_what_a_person_found_hard_and_whom_they_preferred(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    reviews = [opinion(name) for name in NAMES[:30]]
    reviews_of(run, reviews)
    result = metrics(audited(run), "ann", "difficulty")
    gaps = [gap(line["id"]) for line in reviews]
    preferred = [{"reference": 1, "student": -1, "tie": 0}[line["preference"]] for line in reviews]
    tau = kendalltau(gaps, [line["difficulty"] for line in reviews]).statistic
    assert value(result["gap_difficulty"]) == pytest.approx(float(tau))
    assert value(result["gap_preference_rho"]) == pytest.approx(float(spearmanr(gaps, preferred).statistic))
    same = [(difference > 0) - (difference < 0) == side for difference, side in zip(gaps, preferred, strict=True)]
    assert value(result["better"]) == pytest.approx(sum(same) / 30)
    tasks = ["ab"[NAMES.index(line["id"]) % 2] == line["task"] for line in reviews]
    assert value(result["task"]) == pytest.approx(sum(tasks) / 30)


def test_the_judge_of_a_run_is_audited_without_labels_too(tmp_path: Path) -> None:
    result = audited(run_of(tmp_path / "run"))
    judge = metrics(result, "the-judge")
    # Whoever is shown first gets a point more, so wherever the order changes the verdict the first is favoured.
    leads = [
        [student - teacher for student, teacher in (scores(name, order) for order in ORDERS)] for name in NAMES[:-2]
    ]
    assert value(judge["flips"]) == pytest.approx(sum(first * second <= 0 for first, second in leads) / 38)
    assert value(judge["favours_first"]) == 1
    assert [value(judge[f"{key}"]) for key in ("constant_score", "other_score", "constant_wins")] == [2, 8, 0]
    rows = 2 * 38 + 1 + 2 * 5 + 1
    assert judge["money"].value == pytest.approx(1000 * 0.22 / rows)
    assert judge["money"].n == rows
    assert column(result, "the-judge").unreadable == {"no score found": 1}
    assert judge["unreadable"].n == 39, "an answer that never came was not put to the judge"
    assert value(judge["unreadable"]) == pytest.approx(1 / 39), "a pair is one, however many rows it has"
    (said,) = [line for line in findings(result.sections[0], "") if "no score found" in line]
    assert said == "the-judge has no verdict on 3 % of what it judged: no score found (1)."
    assert "there is no reference" in judge["agreement"].why


def test_the_later_line_of_a_person_wins_and_an_unfinished_one_does_not_count(tmp_path: Path) -> None:
    path = reviews_of(tmp_path, [review("x", "student", 1), review("x", "reference", 5), review("y", None, None)])
    path.write_bytes(path.read_bytes() + b'{"id": "z", "rat')
    source = read_reviews(path)
    assert [(vote.pair, vote.choice, vote.order) for vote in source.votes] == [("x", "b", "ab")]
    assert source.oracle
    assert [(review.id, review.difficulty) for review in source.oracle.reviews] == [("x", 5), ("y", None)]


def test_two_people_are_shown_each_and_together(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    reviews = [opinion(name) for name in NAMES[:12]]
    reviews_of(run, [*reviews, *(line | {"rater": "bob", "difficulty": 6 - line["difficulty"]} for line in reviews)])
    result = audited(run)
    assert metrics(result, "mean of 2", "difficulty")["gap_difficulty"].value is None, "their means are all equal"
    ann, bob = (metrics(result, name, "difficulty")["gap_difficulty"] for name in ("ann", "bob"))
    assert value(ann) == pytest.approx(-value(bob))
    assert value(metrics(result, "2 people")["agreement_one"]) == 1


def test_reviews_of_another_round_go_with_that_round(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    store = RunStore(run)
    store.write("round-1/judgements", JudgementRow, [JudgementRow("n", "alone", 9, 1, "", "the-judge", None, None)])
    path = reviews_of(run, [review("n", "student", 2)], "reviews-round-1.jsonl")
    assert metrics(audited(run, labels=(path,)), "the-judge")["agreement"].value == 1
    assert any(note.startswith("Round 1 ") for note in audited(run, labels=(path,)).notes)
    assert metrics(audited(run, number=1), "ann", "difficulty")["better"].n == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [("{}", "is no review"), ('{"id": "x", "rater": "a", "preference": "left", "left": "student"}', "'left'")],
)
def test_a_line_that_is_no_review_is_an_error(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=why):
        read_reviews(path)


def test_a_round_that_was_not_judged_is_an_error_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"round 7 of .* has no judgements; rounds with one: 0$"):
        read_run(run_of(tmp_path / "run"), 7)
    write_json(tmp_path / "new" / "recipe.json", {})
    write_json(tmp_path / "new" / "manifest.json", {"run": "r"})
    with pytest.raises(DataError, match="has no judgements yet"):
        read_run(tmp_path / "new")


def test_runs_with_other_answers_of_their_students_cannot_be_put_together(tmp_path: Path) -> None:
    first, same, other = (run_of(tmp_path / name) for name in ("one", "same", "other"))
    assert audited(first, same).sections
    again = [AnswerRow(name, f"another {name}!", "stop", 1, None) for name in NAMES]
    RunStore(other).write("round-0/answers", AnswerRow, again)
    with pytest.raises(DataError, match="one and other had different answers judged to 39 of 39") as caught:
        audited(first, other)
    assert "one run at a time" in caught.value.remedy
