"""A benchmark whose answers the judge compares with the teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from support import fakes
from support.scripted import completion
from tapir.domain.completion import Completion, Failure
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.roles import Comparison, Reply
from tapir.evaluation.judged import JudgedBenchmark


def prompt(text: str, expected: str = "as it was") -> Prompt:
    return Prompt(Instruction.of(text, Origin("evaluation")), "", expected)


@dataclass
class Teacher(fakes.Teacher):
    """Answers each instruction with its text and knows nothing about whatever is odd."""

    asked: list[str] = field(default_factory=list)

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.asked.append(one.text)
            reply: Completion | Failure = completion(f"the teacher on {one.text}")
            if one.text == "odd":
                reply = Failure("timeout", "no answer")
            elif one.text == "mute":
                reply = completion(" ")
            yield one.id, reply


@dataclass
class Judge:
    """Scores (student, reference), once for each pair of them; None is a verdict that cannot be read."""

    scores: Sequence[tuple[float, float]] | None
    name: str = "scripted"
    asked: list[Comparison] = field(default_factory=list)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for one in comparisons:
            self.asked.append(one)
            if self.scores is None:
                yield one.instruction.id, Unscored("no score found", "Hm.")
            else:
                yield one.instruction.id, tuple(Judgement(*pair, "alone", "", self.name) for pair in self.scores)


def grade(*scores: tuple[float, float]) -> Grade | Unscored:
    """What an answer with these scores, (student, reference), gets."""
    benchmark = JudgedBenchmark("held-out", lambda: [prompt("Add.")], Judge(scores or None), Teacher())
    ((_, found),) = benchmark.grade([(prompt("Add."), "so it is")])
    return found


@pytest.mark.parametrize(
    ("scores", "success", "mean"),
    [
        ([(7.0, 7.0)], True, 7),
        ([(6.5, 7.0)], False, 6.5),
        ([(8.0, 7.0), (6.0, 7.0)], True, 7),
        ([(8.0, 7.0), (5.5, 7.0)], False, 6.75),
        ([(1.0, 1.0)], True, 1),
        ([(10.0, 9.0)], True, 10),
    ],
)
def test_a_success_is_no_worse_than_the_teachers_answer_and_the_grade_is_the_mean_score_from_0_to_1(
    scores: list[tuple[float, float]], mean: float, *, success: bool
) -> None:
    result = grade(*scores)
    assert isinstance(result, Grade)
    assert result.score == pytest.approx((mean - 1) / 9)
    assert result.success is success


def test_an_answer_that_cannot_be_judged_has_no_grade_but_a_reason() -> None:
    assert grade() == Unscored("no score found", "Hm.")


def test_a_missing_reference_is_asked_from_the_teacher_once() -> None:
    prompts = [prompt("Add."), prompt("Sing.", ""), prompt("Sue.", " \n")]
    judge, teacher = Judge([(5.0, 5.0)]), Teacher()
    benchmark = JudgedBenchmark("held-out", lambda: prompts, judge, teacher)
    for turn in range(3):
        found = dict(benchmark.grade([(one, f"answer {turn}") for one in prompts]))
        assert found.keys() == {one.instruction.id for one in prompts}
    assert teacher.asked == ["Sing.", "Sue."]
    references = {(one.instruction.text, one.reference) for one in judge.asked}
    assert references == {("Add.", "as it was"), ("Sing.", "the teacher on Sing."), ("Sue.", "the teacher on Sue.")}
    assert [one.student for one in judge.asked] == [f"answer {turn}" for turn in range(3) for _ in prompts]


def test_where_the_teacher_fails_there_is_no_grade_and_it_is_asked_again_the_next_time() -> None:
    prompts = [prompt("odd", ""), prompt("mute", ""), prompt("Sing.", "")]
    judge, teacher = Judge([(5.0, 5.0)]), Teacher()
    benchmark = JudgedBenchmark("held-out", lambda: prompts, judge, teacher)
    for _ in range(2):
        found = dict(benchmark.grade([(one, "so") for one in prompts]))
        assert found[prompts[0].instruction.id] == Unscored("no reference answer", "timeout: no answer")
        assert found[prompts[1].instruction.id] == Unscored("no reference answer", "empty: the reply has no text")
        assert isinstance(found[prompts[2].instruction.id], Grade)
    assert teacher.asked == ["odd", "mute", "Sing.", "odd", "mute"]


def test_the_prompts_are_read_when_they_are_first_wanted_and_then_stay() -> None:
    reads: list[int] = []

    def read() -> list[Prompt]:
        reads.append(1)
        return [prompt("Add.")]

    benchmark = JudgedBenchmark("held-out", read, Judge([(5.0, 5.0)]), Teacher())
    assert not reads
    assert benchmark.prompts() is benchmark.prompts()
    assert len(reads) == 1
