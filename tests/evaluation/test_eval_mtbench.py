"""`tapir eval mt-bench` against a judge behind the fake server, with recorded answers and with a student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir.comparing import Asked
from tapir.domain.round import Checkpoint
from tapir.errors import DataError, RecipeError
from tapir.evaluation.mtbench import MtBench, TurnGrade, TurnPair, compared, graded
from tapir.evaluation.mtbench_json import grades_of, pairs_of
from tapir.students.conversing import Conversation, LocalConversing
from tapir.students.local import AnswerSettings
from tapir.two_turns_ready import Material, official, prepared
from tapir.watching import SilentWatch
from tests import small_model
from tests.evaluation.checking import tapir
from tests.evaluation.pairs import SHARED, always, judged_by, part, prefers_good, write
from tests.scripted import Watcher
from tests.server import Behaviour, Brain, Server, serving

QUICK = Behaviour(latency=0.0)
NAMES = ("writing", "math", "coding", "roleplay")
QUESTIONS = [
    {"question_id": 100 + turn, "category": name, "turns": [f"First about {name}?", f"Second about {name}?"]}
    for turn, name in enumerate(NAMES)
]


def answers(path: Path, turns: Mapping[int, Sequence[str]], model: str) -> Path:
    return write(
        path,
        [
            {"question_id": question, "model_id": model, "choices": [{"index": 0, "turns": list(said)}]}
            for question, said in turns.items()
        ],
    )


def every(first: str, second: str) -> dict[int, list[str]]:
    return {100 + turn: [f"{first} {name}", f"{second} {name}"] for turn, name in enumerate(NAMES)}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write(tmp_path / "question.jsonl", QUESTIONS)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return answers(tmp_path / "reference.jsonl", {101: ["It is 4.", "It is 5."], 102: ["x = 1", "x = 2"]}, "gpt-4")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return answers(tmp_path / "mine.jsonl", every("one", "two"), "small")


def grade(
    folder: Path, source: Path | str, files: Material, server: Server, *more: str, against: str = ""
) -> tuple[list[TurnGrade] | list[TurnPair], MtBench]:
    asked = Asked(str(source), "alpaca-api", judged_by(server, *more), None)
    rows = prepared(asked, files, folder, against, "").run(SilentWatch())
    pairs = pairs_of(rows)
    return rows, compared(pairs, seed=0) if pairs else graded(grades_of(rows), seed=0)


def scoring(scores: Mapping[str, float], seen: list[str] | None = None) -> Brain:
    """A judge with json_schema that grades by what the answer ends with."""

    def say(messages: list[Mapping[str, Any]], body: dict[str, Any]) -> str:  # noqa: ARG001 (a brain's shape)
        if seen is not None:
            seen.append(str(messages[1]["content"]))
        answer = part(messages, "answer")
        score = next(value for word, value in scores.items() if word in answer.rsplit("\n", 1)[-1])
        return json.dumps({"rationale": "Fair.", "score": score})

    return say


def test_both_turns_are_graded_and_the_second_is_shown_with_the_first(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    seen: list[str] = []
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 5.5}, seen)) as server:
        _, found = grade(tmp_path / "out", mine, Material(questions, references), server)
        assert server.stats().requests == 8
    for turn, value in ((1, 8), (2, 5.5), (0, 6.75)):
        figure = found.by["", turn].result
        assert figure is not None
        assert figure.value == value
    assert [category for category, turn in found.by if turn == 0] == ["", "writing", "roleplay", "math", "coding"]
    second = next(prompt for prompt in seen if "Second about math?" in prompt)
    assert "Question 1:\nFirst about math?" in second
    assert "Answer to question 1:\none math" in second
    assert "It is 5." in second
    assert "It is 4." not in second
    assert "This is turn 2" in second
    assert not any("reference" in prompt for prompt in seen if "about writing" in prompt)


def test_grades_that_cannot_be_read_are_counted_and_left_out_of_the_mean(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    good = scoring({"one": 8, "two": 6})

    def mumbles(messages: list[Mapping[str, Any]], body: dict[str, Any]) -> str:
        return "Eight, I would say." if "Second about math" in str(messages[1]) else good(messages, body)

    with serving(QUICK, thread=True, brain=mumbles) as server:
        rows, found = grade(tmp_path / "out", mine, Material(questions, references), server)
        assert server.stats().requests == 9
    assert len(rows) == 8
    assert sum(found.overall.unscored.values()) == 1
    assert found.by["math", 2].result is None
    assert found.overall.result is not None
    assert found.overall.result.n == 7
    assert found.overall.result.value == pytest.approx((4 * 8 + 3 * 6) / 7)


def test_a_judge_that_only_talks_gives_no_score_at_all(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    with serving(QUICK, thread=True, brain=always("Well.")) as server:
        asked = Asked(str(mine), "alpaca-api", judged_by(server), None)
        rows = prepared(asked, Material(questions, references), tmp_path / "out", "", "").run(SilentWatch())
    with pytest.raises(DataError, match="none of 8 answers has a grade"):
        graded(grades_of(rows), seed=0)


def test_pairs_are_judged_in_both_orders_and_by_turn(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    other = answers(tmp_path / "other.jsonl", every("good one", "two"), "large")

    def reasoned(messages: list[Mapping[str, Any]], body: dict[str, Any]) -> str:
        return f"The one is better.\n\n{prefers_good(messages, body)}"

    with serving(QUICK, thread=True, brain=reasoned) as server:
        _, found = grade(tmp_path / "out", mine, Material(questions, references), server, against=str(other))
        assert server.stats().requests == 16
    assert (found.model, found.other) == ("small", "large")
    first, second = (found.by["", turn].result for turn in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.value, second.value) == (0.0, 0.0)  # the second answer is read after the first, which is worse
    assert found.flips == (0, 8)


def test_a_judge_that_contradicts_itself_gives_a_tie_and_a_flip(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    other = answers(tmp_path / "other.jsonl", every("three", "four"), "large")
    with serving(QUICK, thread=True, brain=always("Both say it.\n\n[[A]]")) as server:
        _, found = grade(tmp_path / "out", mine, Material(questions, references), server, against=str(other))
    assert found.overall.result is not None
    assert found.overall.result.value == 0.5
    assert found.flips == (8, 8)


def test_the_same_command_again_makes_no_call(tmp_path: Path, questions: Path, references: Path, mine: Path) -> None:
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 6})) as server:
        first, _ = grade(tmp_path / "out", mine, Material(questions, references), server)
        paid = server.stats().requests
        again, _ = grade(tmp_path / "out", mine, Material(questions, references), server)
        assert again == first
        assert server.stats().requests == paid


def test_a_reference_file_that_lacks_a_question_is_refused_by_its_number(
    tmp_path: Path, questions: Path, mine: Path
) -> None:
    lacking = answers(tmp_path / "r.jsonl", {101: ["It is 4.", ""], 100: ["a", "b"]}, "gpt-4")
    with pytest.raises(DataError, match=r"2 questions about mathematics, reasoning or coding .*: 101, 102"):
        prepared(Asked(str(mine), "alpaca-api", (), None), Material(questions, lacking), tmp_path / "out", "", "")
    assert not (tmp_path / "out").exists()


def test_answers_that_lack_a_turn_are_refused_before_a_call(tmp_path: Path, questions: Path, references: Path) -> None:
    short = answers(tmp_path / "short.jsonl", every("one", "two") | {101: ["one math"]}, "small")
    with serving(QUICK, thread=True, brain=always("Well.")) as server:
        with pytest.raises(DataError, match="no answer to 1 turns; the first: question 101 turn 2"):
            grade(tmp_path / "out", short, Material(questions, references), server)
        assert server.stats().requests == 0


def test_an_empty_answer_has_the_lowest_grade_and_is_counted(tmp_path: Path, questions: Path, references: Path) -> None:
    said = every("one", "two") | {100: ["one writing", " "]}
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 6})) as server:
        _, found = grade(
            tmp_path / "out", answers(tmp_path / "a.jsonl", said, "s"), Material(questions, references), server
        )
    assert found.failures == {"student: empty answer": 1}
    assert found.by["writing", 2].result is not None
    assert found.by["writing", 2].result.value == 1.0


def test_a_file_of_several_models_wants_to_be_told_whose(tmp_path: Path, questions: Path, references: Path) -> None:
    both = tmp_path / "both.jsonl"
    texts = [answers(tmp_path / f"{name}.jsonl", every("one", name), name).read_text("utf-8") for name in ("x", "y")]
    both.write_text("\n".join(texts), encoding="utf-8")
    asked, files = Asked(str(both), "alpaca-api", ("endpoints.judge.key=''",), None), Material(questions, references)
    with pytest.raises(RecipeError, match="holds the answers of x, y"):
        prepared(asked, files, tmp_path / "out", "", "")
    assert prepared(asked, files, tmp_path / "out", "", "y").speaker.name == "y"


@pytest.mark.parametrize("turns", ["one", ["one"], [1, 2]])
def test_a_question_without_two_turns_is_refused(tmp_path: Path, mine: Path, turns: object) -> None:
    bad = write(tmp_path / "q.jsonl", [{"question_id": 1, "category": "math", "turns": turns}])
    with pytest.raises(DataError, match="turns are not two texts"):
        prepared(Asked(str(mine), "alpaca-api", (), None), Material(bad, None), tmp_path / "out", "", "")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not beside the repository")
def test_the_references_known_to_be_partly_wrong_are_recognised(references: Path) -> None:
    assert official(SHARED / "mt_bench" / "reference_answer_gpt-4.jsonl")
    assert not official(references)
    assert not official(None)


@pytest.mark.slow
def test_a_student_answers_the_second_question_with_the_first_answer_in_its_prompt(tmp_path: Path) -> None:
    folder = small_model.make(tmp_path / "model")
    student = LocalConversing(AnswerSettings(12, 8, 0, 0.0, 0))
    student.open(tmp_path, Watcher())
    heard: list[list[dict[str, str]]] = []
    chat = student._chat
    student._chat = lambda one: heard.append(chat(one)) or heard[-1]  # type: ignore[method-assign,func-returns-value]
    talks = [Conversation("1-1", 1, ("First?",)), Conversation("1-2", 1, ("First?", "So.", "Second?"))]
    found = dict(student.converse(Checkpoint(str(folder), 0), talks))
    assert found.keys() == {"1-1", "1-2"}
    assert [[(turn["role"], turn["content"]) for turn in one] for one in heard] == [
        [("user", "First?")],
        [("user", "First?"), ("assistant", "So."), ("user", "Second?")],
    ]
    student.close()


@pytest.mark.slow
def test_a_model_is_asked_both_turns_and_graded(tmp_path: Path, questions: Path, references: Path) -> None:
    folder = small_model.make(tmp_path / "model")
    with serving(QUICK, thread=True, brain=always('{"rationale": "Hm.", "score": 3}')) as server:
        rows, found = grade(
            tmp_path / "out", str(folder), Material(questions, references), server, "student.max_new_tokens=12"
        )
    assert len(rows) == 8
    assert found.overall.result is not None
    assert (tmp_path / "out" / "round-0" / "answers-2.parquet").exists()


@pytest.mark.parametrize("option", [("--dir", "out"), ("--model", "x"), ("--round", "0"), ("--set", "seed=1")])
def test_what_has_no_effect_on_recorded_judgments_is_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    done = tapir("eval", "mt-bench", "--judgments", tmp_path / "j.jsonl", *option, cwd=tmp_path)
    assert (done.returncode, f"{option[0]} has no effect with --judgments" in done.stderr) == (2, True)


def test_one_model_of_a_file_is_not_compared_with_itself(tmp_path: Path, questions: Path, mine: Path) -> None:
    call = ("--against", mine, "--model", "small", "--questions", questions, "--without-references")
    done = tapir("eval", "mt-bench", mine.name, *call, "--dir", tmp_path / "out", cwd=tmp_path)
    assert (done.returncode, "compared with themselves" in done.stderr) == (2, True)
