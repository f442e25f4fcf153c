"""`tapir eval mt-bench` against a judge behind the fake server, with recorded answers and with a student."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from support import small_model
from support.pairs import always, judged_by, part, write
from support.paths import SHARED
from support.scripted import Watcher, completion
from support.server import Behaviour, Brain, Server, serving
from tapir.cli.eval_tables import OFFICIAL_REFERENCES
from tapir.cli.main import app
from tapir.domain.completion import Failure
from tapir.domain.errors import DataError, RecipeError, RunMismatch
from tapir.domain.instruction import Instruction, Origin, Turn
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.evaluation.mt_bench import MtBench, MtBenchScores
from tapir.models.api.session import ApiSession
from tapir.runs.eval_target import EvalTarget
from tapir.runs.evaluate import graded, measure, prepare_mt_bench

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


def prepare(
    folder: Path, source: Path | str, files: tuple[Path, Path | None], *changes: str, model: str = ""
) -> tuple[MtBench, EvalTarget, ApiSession]:
    return prepare_mt_bench(folder, files, str(source), "alpaca-api", changes, model=model)


def grade(
    folder: Path, source: Path | str, files: tuple[Path, Path | None], server: Server, *changes: str
) -> MtBenchScores:
    benchmark, target, judge = prepare(folder, source, files, *judged_by(server, *changes))
    measure(folder, target, [benchmark], SilentProgress(), judge=judge)
    return benchmark.summarise(graded(folder), target.name)


def scoring(scores: Mapping[str, float], seen: list[str] | None = None) -> Brain:
    """A judge with json_schema that grades by what the answer ends with."""

    def say(messages: list[Mapping[str, Any]], body: dict[str, Any]) -> str:  # noqa: ARG001 (a brain's shape)
        if seen is not None:
            seen.append(str(messages[1]["content"]))
        answer = part(messages, "answer")
        score = next(value for word, value in scores.items() if word in answer.rsplit("\n", 1)[-1])
        return json.dumps({"rationale": "Fair.", "score": score})

    return say


def test_both_turns_are_graded_once_and_the_second_is_shown_with_the_first(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    seen: list[str] = []
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 5.5}, seen)) as server:
        found = grade(tmp_path / "out", mine, (questions, references), server)
        assert grade(tmp_path / "out", mine, (questions, references), server) == found
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


def test_questions_with_the_same_first_turn_keep_their_own_answers(tmp_path: Path) -> None:
    twins = [{"question_id": number, "category": "stem", "turns": ["Why?", f"And {number}?"]} for number in (1, 2)]
    said = answers(tmp_path / "a.jsonl", {1: ["six", "one"], 2: ["seven", "two"]}, "small")
    with serving(QUICK, thread=True, brain=scoring({"six": 6, "one": 1, "seven": 7, "two": 2})) as server:
        found = grade(tmp_path / "out", said, (write(tmp_path / "q.jsonl", twins), None), server)
    assert [found.by["stem", turn].result.value for turn in (1, 2)] == [6.5, 1.5]  # type: ignore[union-attr]


def test_a_second_turn_follows_the_first_answer_and_is_not_asked_without_one(
    tmp_path: Path, questions: Path, mine: Path
) -> None:
    progress, talks = Watcher(), list[Instruction]()

    def answer(_: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        talks.extend(each for each in instructions if each.context)
        for each in instructions:
            dumb = each.text == "First about math?"
            yield each.id, Failure("timeout", "") if dumb else completion(f"one {each.text}")

    with serving(QUICK, thread=True, brain=scoring({"one": 5.5})) as server:
        benchmark, target, judge = prepare(tmp_path / "out", mine, (questions, None), *judged_by(server))
        target = replace(target, student=SimpleNamespace(answer=answer))
        measure(tmp_path / "out", target, [benchmark], progress, judge=judge)
    assert sorted(each.context[1].content for each in talks) == [
        f"one First about {n}?" for n in sorted({*NAMES} - {"math"})
    ]
    failures = benchmark.summarise(graded(tmp_path / "out"), "small").failures
    assert failures == {"student: timeout": 1, "student: no first answer": 1}
    assert progress.advanced == 4 + 3 + 6  # first turns, second turns, and each grade as it comes


def test_the_thought_before_an_answer_is_kept_and_the_answer_is_not_parted_again(
    tmp_path: Path, questions: Path, mine: Path
) -> None:
    def answer(_: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        yield from ((each.id, replace(completion("<think> is a tag, one"), reasoning="Hm.")) for each in instructions)

    with serving(QUICK, thread=True, brain=scoring({"one": 5.5})) as server:
        benchmark, target, judge = prepare(tmp_path / "out", mine, (questions, None), *judged_by(server))
        target = replace(target, student=SimpleNamespace(answer=answer))
        measure(tmp_path / "out", target, [benchmark], SilentProgress(), judge=judge)
    assert {(row.thought, row.answer) for row in graded(tmp_path / "out")} == {("Hm.", "<think> is a tag, one")}


def test_grades_that_cannot_be_read_are_counted_and_left_out_of_the_mean(
    tmp_path: Path, questions: Path, references: Path, mine: Path
) -> None:
    good = scoring({"one": 8, "two": 6})

    def mumbles(messages: list[Mapping[str, Any]], body: dict[str, Any]) -> str:
        return "Eight, I would say." if "Second about math" in str(messages[1]) else good(messages, body)

    with serving(QUICK, thread=True, brain=mumbles) as server:
        found = grade(tmp_path / "out", mine, (questions, references), server)
        assert server.stats().requests == 9
    assert len(graded(tmp_path / "out")) == 8
    assert sum(found.by["", 0].unscored.values()) == 1
    assert found.by["math", 2].result is None
    assert found.by["", 0].result is not None
    assert found.by["", 0].result.n == 7
    assert found.by["", 0].result.value == pytest.approx((4 * 8 + 3 * 6) / 7)


def test_a_reference_file_that_lacks_a_question_is_refused_by_its_number(
    tmp_path: Path, questions: Path, mine: Path
) -> None:
    lacking = answers(tmp_path / "r.jsonl", {101: ["It is 4.", ""], 100: ["a", "b"]}, "gpt-4")
    with pytest.raises(DataError, match=r"2 questions about mathematics, reasoning or coding .*: 101, 102"):
        prepare(tmp_path / "out", mine, (questions, lacking))
    assert not (tmp_path / "out").exists()


def test_answers_that_lack_a_turn_are_refused_before_a_call(tmp_path: Path, questions: Path, references: Path) -> None:
    short = answers(tmp_path / "short.jsonl", every("one", "two") | {101: ["one math"]}, "small")
    with serving(QUICK, thread=True, brain=always("Well.")) as server:
        with pytest.raises(DataError, match="no answer to 1 of 8 prompts; the first: 'Second about math\\?'"):
            grade(tmp_path / "out", short, (questions, references), server)
        assert server.stats().requests == 0


def test_an_empty_answer_has_the_lowest_grade_and_is_counted(tmp_path: Path, questions: Path, references: Path) -> None:
    said = every("one", "two") | {100: ["one writing", " "]}
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 6})) as server:
        found = grade(tmp_path / "out", answers(tmp_path / "a.jsonl", said, "s"), (questions, references), server)
    assert found.failures == {"student: empty answer": 1}
    assert found.by["writing", 2].result is not None
    assert found.by["writing", 2].result.value == 1.0


def test_a_file_of_several_models_wants_to_be_told_whose(tmp_path: Path, questions: Path, references: Path) -> None:
    both = tmp_path / "both.jsonl"
    texts = [answers(tmp_path / f"{name}.jsonl", every("one", name), name).read_text("utf-8") for name in ("x", "y")]
    both.write_text("\n".join(texts), encoding="utf-8")
    call = (tmp_path / "out", both, (questions, references), "endpoints.judge.key=''")
    with pytest.raises(RecipeError, match="holds the answers of x, y"):
        prepare(*call)
    assert prepare(*call, model="y")[1].name == "y"


@pytest.mark.parametrize("turns", ["one", ["one"], [1, 2]])
def test_a_question_without_two_turns_is_refused(tmp_path: Path, mine: Path, turns: object) -> None:
    bad = write(tmp_path / "q.jsonl", [{"question_id": 1, "category": "math", "turns": turns}])
    with pytest.raises(DataError, match="turns are not two texts"):
        prepare(tmp_path / "out", mine, (bad, None))


@pytest.mark.parametrize("turns", ["one", ["one", None], [["one"], "two"]])
def test_an_answer_that_is_no_text_is_refused_before_it_is_graded(
    tmp_path: Path, questions: Path, turns: object
) -> None:
    bad = write(tmp_path / "a.jsonl", [{"question_id": 100, "model_id": "s", "choices": [{"turns": turns}]}])
    with pytest.raises(DataError, match="turns are not texts"):
        prepare(tmp_path / "out", bad, (questions, None))


def test_the_command_prints_grades_and_needs_references_or_a_word_that_there_are_none(
    tmp_path: Path, questions: Path, mine: Path
) -> None:
    with serving(QUICK, thread=True, brain=scoring({"one": 8, "two": 6})) as server:
        changes = [part for change in judged_by(server) for part in ("--set", change)]
        call = ["eval", "mt-bench", mine, "--questions", questions, "--recipe", "alpaca-api", *changes]
        call += ["--out", tmp_path / "out", "--json"]
        refused = CliRunner().invoke(app, [*map(str, call)])
        done = CliRunner().invoke(app, [*map(str, call), "--without-references"])
    assert "either --references FILE or --without-references" in str(refused.exception)
    assert done.exit_code == 0, done.output
    figure = json.loads(done.stdout)["figures"][0]
    assert [figure[key] for key in ("category", "turn", "value", "n", "unscored")] == ["all", "both", 7.0, 8, {}]


def test_a_judge_that_is_asked_otherwise_is_another_evaluation(tmp_path: Path, questions: Path, mine: Path) -> None:
    (form := tmp_path / "form.txt").write_text("Give me this: {{form}}")
    call = (tmp_path / "out", mine, (questions, None), "endpoints.judge.key=''")
    prepare(*call, "judge.rationale=false")
    with pytest.raises(RunMismatch, match="rationale"):
        prepare(*call)
    for name in ("reply-scores-json", "reply-scores-tagged"):
        with pytest.raises(RunMismatch, match=name):
            prepare(*call, "judge.rationale=false", f"prompts.{name}={form}")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not beside the repository")
def test_the_references_known_to_be_partly_wrong_are_recognised() -> None:
    content = (SHARED / "mt_bench" / "reference_answer_gpt-4.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == OFFICIAL_REFERENCES


@pytest.mark.slow
def test_a_model_is_asked_both_turns_and_graded(tmp_path: Path, questions: Path, references: Path) -> None:
    folder = small_model.make(tmp_path / "model")
    with serving(QUICK, thread=True, brain=always('{"rationale": "Hm.", "score": 3}')) as server:
        found = grade(tmp_path / "out", str(folder), (questions, references), server, "student.max_new_tokens=12")
    assert len(graded(tmp_path / "out")) == 8
    assert found.by["", 0].result is not None
    assert (tmp_path / "out" / "round-0" / "answers-2.parquet").exists()
    second = Instruction("2", "Second?", Origin("evaluation"), (Turn("user", "First?"), Turn("assistant", "So.")))
    assert [(message["role"], message["content"]) for message in second.messages] == [
        ("user", "First?"),
        ("assistant", "So."),
        ("user", "Second?"),
    ]
