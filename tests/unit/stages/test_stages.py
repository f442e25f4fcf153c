"""Stages over items whose roles may fail: a row for every item, trouble with its reason, nothing asked twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support import fakes
from support.judging import judge_section
from support.scripted import BOOK, Watcher, completion, connected, cut
from support.server import Behaviour, Server, serving
from tapir.data.run.rows import AnswerRow, EvaluationRow, JudgementRow, RefinementRow, ResponseRow, TagRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure
from tapir.domain.difficulty import Difficulty
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.roles import Comparison, RefineRequest, Reply
from tapir.domain.round import Checkpoint
from tapir.models.judge import LlmJudge
from tapir.stages.answer import Respond, SavedAnswers, answer_row
from tapir.stages.base import StageContext
from tapir.stages.evaluate import UNTAGGED, Evaluate
from tapir.stages.judge import Score
from tapir.stages.refine import Refine
from tapir.stages.tag import Tag

CHUNK = 4
FAILED = Failure("timeout", "no answer in 60 s", 6)

INSTRUCTIONS = [fakes.instruction("add", number) for number in range(30, 50)]
PAIRS = [Pair(one, Response(f"y of {one.text}", "corpus")) for one in INSTRUCTIONS]


@dataclass
class Teacher(fakes.Teacher):
    """Fails on 33, is cut off on 34, says nothing on 35, and replies in a random order; may die after so many."""

    order: int = 0
    dies_after: int | None = None
    said: list[str] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        replies = [(one.id, self._reply(one, "T")) for one in instructions]
        return self._given(replies)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        replies = []
        for one in requests:
            self.tasks[one.pair.instruction.id] = one.task
            replies.append((one.pair.instruction.id, self._reply(one.pair.instruction, one.pair.response.text)))
        return self._given(replies)

    def _reply(self, one: Instruction, text: str) -> Completion | Failure:
        special: dict[str, Completion | Failure] = {"33": FAILED, "34": cut("half an"), "35": completion(" \n")}
        special["36"] = completion("<|end|> now")
        return special.get(one.text[-2:], completion(f"{text} on {one.text}"))

    def _given(self, replies: list[Reply]) -> Iterator[Reply]:
        random.Random(self.order).shuffle(replies)
        for number, (name, reply) in enumerate(replies):
            if number == self.dies_after:
                raise KeyboardInterrupt
            self.said.append(name)
            yield name, reply


def place(folder: Path, number: int = 1, progress: Watcher | None = None) -> StageContext:
    return StageContext(RunStore(folder), progress or Watcher(), number, 7)


def unfit(text: str) -> str:
    """As of a student with one special token."""
    return "special token: <|end|> is written out in it" if "<|end|>" in text else ""


def respond(folder: Path, teacher: Teacher) -> list[ResponseRow]:
    context = place(folder)
    Respond(teacher, CHUNK, unfit).run(context, PAIRS, "teacher")
    return context.store.read("round-1/responses", ResponseRow)


def refine(folder: Path, teacher: Teacher) -> list[RefinementRow]:
    tasks = {one.id: "add" if number % 2 else "spell" for number, one in enumerate(INSTRUCTIONS)}
    context = place(folder)
    Refine(teacher, CHUNK, unfit=unfit).run(context, PAIRS, tasks)
    return context.store.read("round-1/refinements", RefinementRow)


REASONS = {
    "33": "timeout: no answer in 60 s",
    "34": "length: cut off after 2 tokens",
    "35": "empty: the reply has no text",
    "36": "special token: <|end|> is written out in it",
}


@pytest.mark.parametrize("stage", [respond, refine])
def test_a_reply_that_cannot_be_used_is_a_row_with_its_reason_and_no_text(
    tmp_path: Path, stage: Callable[[Path, Teacher], Sequence[ResponseRow | RefinementRow]]
) -> None:
    rows = stage(tmp_path, Teacher())
    assert [row.id for row in rows] == [one.id for one in INSTRUCTIONS]
    for row, one in zip(rows, INSTRUCTIONS, strict=True):
        assert row.failure == REASONS.get(one.text[-2:])
        assert (row.text is None) == (row.failure is not None)
        assert row.author == "fake-teacher"


@pytest.mark.parametrize("stage", [respond, refine])
def test_the_order_of_the_replies_and_a_death_change_no_byte_and_nothing_is_asked_twice(
    tmp_path: Path, stage: Callable[[Path, Teacher], Sequence[ResponseRow | RefinementRow]]
) -> None:
    rows = stage(tmp_path / "straight", Teacher())
    dying, again = Teacher(order=1, dies_after=7), Teacher(order=2)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "killed", dying)
    assert stage(tmp_path / "killed", again) == rows
    assert sorted(dying.said + again.said) == sorted(one.id for one in INSTRUCTIONS)
    (straight,), (killed,) = ([*(tmp_path / name).rglob("*.parquet")] for name in ("straight", "killed"))
    assert straight.read_bytes() == killed.read_bytes()
    never = Teacher()
    assert stage(tmp_path / "killed", never) == rows
    assert not never.said


def test_the_rewrite_starts_from_the_response_as_its_task_and_the_response_is_the_teachers(tmp_path: Path) -> None:
    assert respond(tmp_path, Teacher())[0].text == f"T on {INSTRUCTIONS[0].text}"
    teacher = Teacher()
    rows = refine(tmp_path, teacher)
    assert rows[0].text == f"y of {INSTRUCTIONS[0].text} on {INSTRUCTIONS[0].text}"
    assert {row.task for row in rows} == {"add", "spell"}
    assert teacher.tasks == {row.id: row.task for row in rows}


@dataclass
class Judge:
    """Gives each item the verdict for its number, or none at all."""

    verdicts: Mapping[str, Verdict]
    name: str = "scripted"
    asked: list[Comparison] = field(default_factory=list)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for one in comparisons:
            self.asked.append(one)
            if (number := one.instruction.text[-2:]) in self.verdicts:
                yield one.instruction.id, self.verdicts[number]


BOTH = (Judgement(3, 8, "student-first", "why", "scripted"), Judgement(5, 6, "reference-first", "so", "scripted"))
VERDICTS: dict[str, Verdict] = {"30": BOTH, "31": Unscored("no score found", "Hm."), "32": (), "36": BOTH[:1]}


def answers(**failed: str) -> dict[str, AnswerRow]:
    rows = {}
    for one in INSTRUCTIONS:
        why = failed.get(f"_{one.text[-2:]}")
        rows[one.id] = AnswerRow(one.id, None if why else "ỹ", None if why else "stop", 2, why)
    return rows


def test_difficulty_is_the_mean_gap_and_what_has_none_says_why(tmp_path: Path) -> None:
    judge = Judge(VERDICTS)
    found = Score(judge, CHUNK).run(place(tmp_path), PAIRS[:8], answers(_37="timeout: no answer"))
    by_number = {one.text[-2:]: found[one.id] for one in INSTRUCTIONS[:8]}
    assert by_number == {
        "30": Difficulty(3, 4),
        "31": Unscored("no score found", "Hm."),
        "32": Unscored("no verdict"),
        "33": Unscored("no verdict"),
        "34": Unscored("no verdict"),
        "35": Unscored("no verdict"),
        "36": Difficulty(5, 0),
        "37": Unscored("no student answer", "timeout: no answer"),
    }
    assert "37" not in {one.instruction.text[-2:] for one in judge.asked}


def test_a_student_without_any_answer_is_not_blamed_on_the_judge(tmp_path: Path) -> None:
    failed = {f"_{one.instruction.text[-2:]}": "too long: 600 tokens" for one in PAIRS[:3]}
    with pytest.raises(RoleError, match="student answered none of 3 instructions; the first: too long: 600") as caught:
        Score(Judge({}), CHUNK).run(place(tmp_path), PAIRS[:3], answers(**failed))
    assert "answers.parquet" in caught.value.remedy
    with pytest.raises(RoleError, match=r"the judge scripted gave no score for any of 3 items: .*no verdict \(2\)"):
        Score(Judge({}), CHUNK).run(place(tmp_path / "b"), PAIRS[:3], answers(_30="too long: 600"))


def test_the_judge_sees_both_answers_and_every_judgement_is_a_row_without_a_number_if_unscored(tmp_path: Path) -> None:
    judge = Judge(VERDICTS)
    Score(judge, CHUNK, {INSTRUCTIONS[0].id: "add"}).run(place(tmp_path), PAIRS[:2], answers())
    ids = [one.id for one in INSTRUCTIONS[:2]]
    assert RunStore(tmp_path).read("round-1/judgements", JudgementRow) == [
        JudgementRow(ids[0], "student-first", 3, 8, "why", "scripted", None, None),
        JudgementRow(ids[0], "reference-first", 5, 6, "so", "scripted", None, None),
        JudgementRow(ids[1], "alone", None, None, "", "scripted", "no score found", "Hm."),
    ]
    assert [(one.reference, one.student, one.task) for one in judge.asked] == [
        (PAIRS[0].response.text, "ỹ", "add"),
        (PAIRS[1].response.text, "ỹ", ""),
    ]


@pytest.mark.parametrize(("table", "stage"), [("judgements", "judge"), ("preferences", "prefer"), ("canary", "canary")])
def test_each_kind_of_judgement_has_its_own_table_and_stage(tmp_path: Path, table: str, stage: str) -> None:
    progress = Watcher()
    Score(Judge(VERDICTS), CHUNK, {}, table).run(place(tmp_path, progress=progress), PAIRS[:1], answers())
    assert RunStore(tmp_path).has(f"round-1/{table}")
    assert progress.started == [(1, stage, 1, 0)]


def test_judging_that_is_stopped_goes_on_to_the_same_bytes_and_pays_for_no_call_twice(tmp_path: Path) -> None:
    def judge(folder: Path, server: Server, progress: Watcher) -> bytes:
        with connected(server, folder, progress=progress) as calls:
            stage = Score(LlmJudge(calls, BOOK, judge_section(), "fake"), CHUNK)
            stage.run(place(folder, progress=progress), PAIRS, answers())
        return (folder / "round-1" / "judgements.parquet").read_bytes()

    with serving(Behaviour(latency=0.005, finish_length_share=0.2), thread=True) as server:
        straight = judge(tmp_path / "straight", server, Watcher())
        server.reset()
        stopped, resumed = Watcher(stop_after=5), Watcher()
        with pytest.raises(Interrupted):
            judge(tmp_path / "stopped", server, stopped)
        assert judge(tmp_path / "stopped", server, resumed) == straight
        assert server.stats().repeats == 0
    assert 5 <= resumed.started[0][3] == stopped.advanced < len(PAIRS)


def test_a_tag_is_a_label_or_the_reason_for_none(tmp_path: Path) -> None:
    found = Tag(fakes.Tagger(), CHUNK).run(place(tmp_path), INSTRUCTIONS)
    assert list(found) == [one.id for one in INSTRUCTIONS]
    for one in INSTRUCTIONS:
        expected = (None, 0.0, "no label: ?") if one.text.endswith("9") else ("add", 0.9, None)
        assert found[one.id] == TagRow(one.id, *expected)


def test_a_tagger_without_any_task_is_an_error_with_its_reasons(tmp_path: Path) -> None:
    nines = [one for one in INSTRUCTIONS if one.text.endswith("9")]
    with pytest.raises(RoleError, match=r"no task for any of 2 instructions: no label \(2\)") as caught:
        Tag(fakes.Tagger(), CHUNK).run(place(tmp_path), nines)
    assert "abstain_below" in caught.value.remedy
    assert Tag(fakes.Tagger(), CHUNK).run(place(tmp_path, 2), []) == {}


def test_a_teacher_without_any_answer_is_an_error_with_its_reasons(tmp_path: Path) -> None:
    useless = [pair for pair in PAIRS if pair.instruction.text[-2:] in {"33", "34", "35"}]
    with pytest.raises(RoleError, match=r"none of 3 .* timeout \(1\), length \(1\), empty \(1\)") as caught:
        Respond(Teacher(), CHUNK).run(place(tmp_path), useless, "teacher")
    assert "teacher.max_tokens" in caught.value.remedy
    missing = [replace(useless[0], response=Response("", "corpus")), PAIRS[0]]
    assert Respond(Teacher(), CHUNK).run(place(tmp_path, 2), missing, "missing") == [PAIRS[0]]


@dataclass
class Student:
    """Answers with the instruction; it cannot answer what ends in 3."""

    asked: list[str] = field(default_factory=list)

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.asked.append(f"S_{checkpoint.round} {one.text}")
            yield one.id, FAILED if one.text.endswith("3") else completion(one.text)


def test_saved_answers_are_given_as_they_were() -> None:
    said: list[Completion | Failure] = [replace(cut("half"), reasoning="Hm."), completion("whole"), FAILED]
    rows = [answer_row((one.id, reply)) for one, reply in zip(INSTRUCTIONS, said, strict=False)]
    saved = SavedAnswers({row.id: row for row in rows})
    assert [answer_row(reply) for reply in saved.answer(Checkpoint("s", 1), INSTRUCTIONS[:3])] == rows


@dataclass
class Benchmark:
    """Tens are right, ones cannot be judged, twos are left out, the rest is wrong."""

    name: str
    tasks: Sequence[str]
    graded: list[str] = field(default_factory=list)

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(Instruction.of(f"{task} number {number}", Origin("evaluation")), task if task != "?" else "", "x")
            for task in self.tasks
            for number in (10, 20, 11, 12, 13, 14)
        ]

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        for prompt, answer in answers:
            assert answer == prompt.instruction.text
            self.graded.append(answer)
            if answer.endswith("1"):
                yield prompt.instruction.id, Unscored("no score found", "Hm.")
            elif not answer.endswith("2"):
                right = answer.endswith("0")
                yield prompt.instruction.id, Grade(1.0 if right else 0.25, right)


def test_an_answer_that_cannot_be_judged_is_no_failure_and_counts_for_nothing(tmp_path: Path) -> None:
    student, benchmark = Student(), Benchmark("held-out", ["add"])
    (found,) = Evaluate(student, [benchmark], CHUNK).run(place(tmp_path), Checkpoint("s", 1))
    assert (found.benchmark, found.round) == ("held-out", 1)
    assert (found.overall.n, found.overall.value) == (4, 0.5)
    rows = {row.instruction[-2:]: row for row in RunStore(tmp_path).read("round-1/evaluation", EvaluationRow)}
    outcome = {number: (row.score, row.success, row.failure) for number, row in rows.items()}
    assert outcome == {
        "10": (1.0, True, None),
        "20": (1.0, True, None),
        "11": (None, False, "unscored: no score found"),
        "12": (None, False, "unscored: no grade"),
        "13": (0.0, False, "timeout"),
        "14": (0.25, False, None),
    }
    assert (rows["13"].answer, rows["11"].answer) == (None, "add number 11")
    assert not any(text.endswith("3") for text in benchmark.graded)
    idle = Student()  # what is finished is read, and nobody is asked
    assert Evaluate(idle, [benchmark], CHUNK).run(place(tmp_path), Checkpoint("s", 1)) == [found]
    assert not idle.asked


def test_a_benchmark_without_a_single_grade_is_an_error_that_says_why(tmp_path: Path) -> None:
    class Broken(Benchmark):
        def prompts(self) -> Sequence[Prompt]:
            return [prompt for prompt in super().prompts() if prompt.instruction.text.endswith("1")]

    with pytest.raises(
        RoleError, match="none of the 1 answers to held-out could be graded: unscored: no score"
    ) as caught:
        Evaluate(Student(), [Broken("held-out", ["add"])], CHUNK).run(place(tmp_path), Checkpoint("s", 1))
    assert "round-1/evaluation.parquet" in caught.value.remedy
    with pytest.raises(RoleError, match="none of the 0 answers"):
        Evaluate(Student(), [Benchmark("empty", [])], CHUNK).run(place(tmp_path, 2), Checkpoint("s", 1))


def test_every_benchmark_is_measured_apart_even_with_the_same_prompts(tmp_path: Path) -> None:
    ours, theirs = Benchmark("ours", ["add", "spell"]), Benchmark("theirs", ["add"])
    found = Evaluate(Student(), [ours, theirs], CHUNK).run(place(tmp_path), Checkpoint("s", 1))
    assert [(one.benchmark, one.overall.n, sorted(one.tasks)) for one in found] == [
        ("ours", 8, ["add", "spell"]),
        ("theirs", 4, ["add"]),
    ]
    assert len(RunStore(tmp_path).read("round-1/evaluation", EvaluationRow)) == 18


def test_a_prompt_without_a_task_counts_for_the_one_the_tagger_gave_it(tmp_path: Path) -> None:
    benchmark = Benchmark("held-out", ["?"])
    known = {prompt.instruction.id: "spell" for prompt in benchmark.prompts()[:3]}
    (found,) = Evaluate(Student(), [benchmark], CHUNK, known).run(place(tmp_path), Checkpoint("s", 1))
    assert {task: result.n for task, result in found.tasks.items()} == {"spell": 2, UNTAGGED: 2}
