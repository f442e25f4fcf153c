"""GSM8K: the final number, strict and flexible; exact answers in general."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.judgement import Unscored
from tapir.errors import DataError
from tapir.evaluation import gsm8k
from tapir.evaluation.exact import ExactBenchmark, first_number, number, plain, prompt_of
from tapir.roles import Grade
from tests.evaluation.checking import answered, row, shared, tapir, write_lines

ROWS: list[dict[str, Any]] = [
    {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    {"question": "A dozen thousand?", "answer": "Twelve thousand.\n#### 12,000"},
]
TRAIN: list[dict[str, Any]] = [
    {"question": f"{n} twice?", "answer": f"<<2*{n}={2 * n}>>\n#### {2 * n}"} for n in range(9)
]


def problems(*rows: dict[str, Any]) -> list[gsm8k.Problem]:
    return gsm8k.read((f"file:{place}", one) for place, one in enumerate(rows, 1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so 18", "18"),
        ("$18.00.", "18"),
        ("1,234,567 people", "1234567"),
        ("It is -3 degrees", "-3"),
        ("$-3 or -$3", "-3"),
        ("16-3=13", "13"),
        ("16 - 3", "3"),
        ("about .50 of it", "0.5"),
        ("0.125", "0.125"),
        ("18 dollars / day", "18"),
        ("\\boxed{42}", "42"),
        ("**75%**", "75"),
        ("100", "100"),
        ("1e3", "1000"),
        ("-0", "0"),
        ("\u22127", "-7"),
        ("none at all", None),
        ("...", None),
    ],
)
def test_the_last_number_is_found_however_it_is_written(text: str, found: str | None) -> None:
    assert number(text) == found


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_the_same_with_and_without_commas(value: int) -> None:
    assert number(f"The total is {value:,} dollars.") == first_number(f"{value} dollars, and 5") == str(value)


@given(st.text())
def test_no_text_breaks_the_search_for_numbers(text: str) -> None:
    assert number(text) is None or number(str(number(text))) == number(text)
    plain(text)


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        ("2 + 2 = 4\n#### 4", True, True),
        ("#### $4.00 a day", True, True),
        ("####4", True, True),
        ("The answer is 4.", False, True),
        ("#### 4\nThat took 3 steps.", True, False),
        ("#### 5", False, False),
        ("#### The answer is 4", False, True),
        ("#### 4\n\nQuestion: Three and three?\nAnswer: #### 6", True, True),
        ("####", False, False),
        ("", False, False),
    ],
)
def test_strict_wants_the_mark_and_flexible_the_last_number(answer: str, *, strict: bool, flexible: bool) -> None:
    assert (gsm8k.strict(answer) == "4") is strict
    assert (gsm8k.flexible(answer) == "4") is flexible


def test_the_gold_answers_score_everything_and_changed_ones_nothing() -> None:
    found = gsm8k.read(shared("gsm8k_test.jsonl.gz"))
    assert len(found) == len(gsm8k.texts(found)) == 1319
    asking = gsm8k.Asking("steps")
    prompts = gsm8k.Gsm8kBenchmark(lambda: found, asking).prompts()
    gold = [row(prompt, one.answer) for prompt, one in zip(prompts, found, strict=True)]
    right = gsm8k.figures(found, asking, gold, "gold")
    assert {one.value for one in right.results.values()} == {1.0}
    dice = random.Random(1)
    mutated = [
        row(prompt, f"{one.answer.split('####')[0]}#### {float(one.final) + dice.choice([-1, 1, 0.5, 10]):,}")
        for prompt, one in zip(prompts, found, strict=True)
    ]
    wrong = gsm8k.figures(found, asking, mutated, "mutated")
    assert {one.value for one in wrong.results.values()} == {0.0}
    assert 0 < wrong.results["strict"].high < 0.01


def test_worked_examples_are_fixed_by_the_seed_and_are_never_tested() -> None:
    train, tested = problems(*TRAIN, {"question": "two  AND two?", "answer": "#### 4"}), problems(*ROWS)
    chosen = gsm8k.chosen_shots(train, tested, 9, 3)
    assert chosen == gsm8k.chosen_shots(train, tested, 9, 3)
    assert chosen != gsm8k.chosen_shots(train, tested, 9, 4)
    assert "two  AND two?" not in {one.question for one in chosen}
    with pytest.raises(DataError, match="10 worked examples wanted, 9 there"):
        gsm8k.chosen_shots(train, tested, 10, 3)
    text = gsm8k.Asking("steps", chosen).prompt("And now?")
    assert text.startswith("Question: ")
    assert text.endswith("\n\nQuestion: And now?\nAnswer:")
    assert "<<" not in text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no problems"),
        ([{"question": "Why?"}], "no row of GSM8K"),
        ([{"question": "Why?", "answer": "42"}], "no number after ####"),
        ([ROWS[0], ROWS[0]], "repeats the question"),
    ],
)
def test_a_file_that_is_none_of_gsm8k_is_one_clear_error(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        problems(*rows)


def test_an_exact_benchmark_compares_after_normalisation() -> None:
    prompts = [prompt_of("Capital?", "geography", "Paris"), prompt_of("Sum?", "sums", "")]
    benchmark = ExactBenchmark("held-out", lambda: prompts, plain)
    assert benchmark.prompts() is benchmark.prompts()
    first, second = prompts
    grades = [
        dict(benchmark.grade([(first, answer)]))[first.instruction.id] for answer in ("**PARIS.**", "Rome", "In Paris")
    ]
    assert grades == [Grade(1, success=True), Grade(0, success=False), Grade(0, success=False)]
    assert dict(benchmark.grade([(second, "4")])) == {second.instruction.id: Unscored("no expected answer", "")}
    sums = ExactBenchmark("sums", lambda: [prompt_of("Sum?", "", "1,200")], number)
    assert [grade for _, grade in sums.grade([(sums.prompts()[0], "It is $1200.00!")])] == [Grade(1, success=True)]


def test_the_command_reports_both_rules_on_recorded_answers(tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "test.jsonl", ROWS)
    given = answered(tmp_path / "outputs.json", {"Two and two?": "It is 4.", "A dozen thousand?": "#### 12000"})
    call = ["eval", "gsm8k", given, "--prompts", prompts, "--dir", tmp_path / "out", "--ask", "question"]
    done = tapir(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gsm8k.json").read_text())
    assert {name: one["value"] for name, one in found["results"].items()} == {"flexible": 1.0, "strict": 0.5}
    other = tapir(*call[:-1], "steps", cwd=tmp_path)
    assert other.returncode == 1
    assert "asked: question -> steps" in other.stderr
    alone = tapir(*call[:-2], "--shots", 2, cwd=tmp_path)
    assert "--shots and --train need each other" in alone.stderr
