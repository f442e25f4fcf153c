"""IFEval as a benchmark: its file read, answers graded, figures with intervals, and the command."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tapir import evaluating
from tapir.domain.completion import Completion, Usage
from tapir.domain.instruction import Instruction, instruction_id
from tapir.domain.round import Checkpoint, Evaluation
from tapir.errors import DataError, RoleError
from tapir.evaluation import ifeval
from tapir.roles import Grade, Reply
from tapir.watching import SilentWatch
from tests import small_model
from tests.evaluation.checking import DATA, answered, row, shared, tapir, write_lines

REPOSITORY = Path(__file__).resolve().parents[2]
COMMA, QUOTED = "punctuation:no_comma", "startend:quotation"
WORDS = "length_constraints:number_words"
ROWS: list[dict[str, Any]] = [
    {"key": 1, "prompt": "Say one.", "instruction_id_list": [COMMA, QUOTED], "kwargs": [{}, {}]},
    {"key": 2, "prompt": "Say two.", "instruction_id_list": [COMMA], "kwargs": [{"relation": None}]},
    {
        "key": 3,
        "prompt": "Say three.",
        "instruction_id_list": [WORDS, QUOTED],
        "kwargs": [{"relation": "at least", "num_words": 3.0}, {}],
    },
]
ANSWERS = {"Say one.": '"One."', "Say two.": "Two, so.", "Say three.": 'Here:\n"one two three"'}


def items(*rows: dict[str, Any]) -> list[ifeval.Item]:
    return ifeval.read((f"file:{place}", one) for place, one in enumerate(rows or ROWS, 1))


def test_a_prompt_is_a_success_where_all_its_instructions_are_followed_strictly() -> None:
    benchmark = ifeval.IfevalBenchmark(items)
    given = [(one, ANSWERS[one.instruction.text]) for one in benchmark.prompts()]
    grades = {one.instruction.text: grade for (one, _), (_, grade) in zip(given, benchmark.grade(given), strict=True)}
    assert grades == {
        "Say one.": Grade(1, success=True),
        "Say two.": Grade(0, success=False),
        "Say three.": Grade(0.5, success=False),
    }


def test_an_answer_is_graded_the_same_by_a_benchmark_that_was_not_asked_for_its_prompts() -> None:
    prompt = ifeval.IfevalBenchmark(items).prompts()[0]
    assert list(ifeval.IfevalBenchmark(items).grade([(prompt, '"x"')])) == [
        (prompt.instruction.id, Grade(1, success=True))
    ]


def test_the_four_figures_count_prompts_and_instructions_strict_and_loose() -> None:
    benchmark = ifeval.IfevalBenchmark(items)
    rows = [row(one, ANSWERS[one.instruction.text]) for one in benchmark.prompts()]
    verdicts, figures = ifeval.graded(items(), rows, "answers")
    assert {name: (one.value, one.n) for name, one in figures.results.items()} == {
        "prompt strict": (1 / 3, 3),
        "instruction strict": (3 / 5, 5),
        "prompt loose": (2 / 3, 3),
        "instruction loose": (4 / 5, 5),
    }
    for one in figures.results.values():
        assert 0 <= one.low <= one.value <= one.high <= 1
    assert figures.groups[QUOTED]["strict"].value == 1 / 2
    assert figures.groups[QUOTED]["loose"].value == 1
    assert [(one.kind, one.strict, one.loose) for one in verdicts][-1] == (QUOTED, False, True)


def test_a_missing_answer_follows_nothing_and_is_counted_by_its_kind() -> None:
    first, second, third = ifeval.IfevalBenchmark(items).prompts()
    rows = [row(first, '"One."'), row(second, None, "missing"), row(third, None, "missing")]
    _, figures = ifeval.graded(items(), rows, "answers")
    assert figures.failures == {"missing": 2}
    assert figures.results["prompt loose"].value == 1 / 3
    assert figures.results["instruction strict"].value == 2 / 5


def test_of_a_single_prompt_the_clustered_interval_cannot_be_computed_and_is_null_in_the_file() -> None:
    one = items(ROWS[0])
    prompt = ifeval.IfevalBenchmark(lambda: one).prompts()[0]
    _, figures = ifeval.graded(one, [row(prompt, "x")], "answers")
    assert math.isnan(figures.results["instruction strict"].low)
    assert figures.as_json()["results"]["instruction strict"] == {"value": 0.5, "n": 2, "low": None, "high": None}
    json.dumps(figures.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "no row of IFEval"),
        ({"kwargs": [{}]}, "2 instructions and 1 sets"),
        ({"instruction_id_list": [COMMA, "startend:quotes"]}, "'startend:quotes' is not known"),
        ({"instruction_id_list": [COMMA, WORDS], "kwargs": [{}, {"relation": "at least"}]}, "num_words = None"),
        (
            {"instruction_id_list": [COMMA, WORDS], "kwargs": [{}, {"relation": "at most", "num_words": 3}]},
            "relation = 'at most'",
        ),
    ],
)
def test_a_row_that_is_none_of_ifeval_is_one_clear_error(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as found:
        items(ROWS[0] | change)
    assert "file:1" in str(found.value)
    assert found.value.remedy


def test_an_empty_file_and_a_repeated_prompt_are_errors() -> None:
    with pytest.raises(DataError, match="holds no prompts"):
        ifeval.read([])
    with pytest.raises(DataError, match="file:2 repeats the prompt"):
        items(ROWS[0], ROWS[0])


def test_the_541_prompts_are_read_with_their_834_instructions() -> None:
    found = ifeval.read(shared("ifeval_input_data.jsonl.gz"))
    assert len(found) == len(ifeval.texts(found)) == 541
    assert sum(len(one.instructions) for one in found) == 834
    assert len({kind for one in found for kind, _ in one.instructions}) == 25


def test_the_command_measures_recorded_answers_and_keeps_every_verdict(tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "input_data.jsonl", ROWS)
    answers = answered(tmp_path / "outputs.json", {one: ANSWERS[one] for one in ("Say one.", "Say three.")})
    call = ("eval", "ifeval", answers, "--prompts", prompts, "--dir", tmp_path / "out")
    done = tapir(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 prompts: missing" in done.stdout
    found = json.loads((tmp_path / "out" / "ifeval.json").read_text())
    assert found["results"]["instruction loose"]["value"] == 4 / 5
    assert found["failures"] == {"missing": 1}
    checks = [json.loads(line) for line in (tmp_path / "out" / "checks.jsonl").read_text().splitlines()]
    assert len(checks) == 5
    assert {one["prompt"] for one in checks} == {instruction_id(one["prompt"]) for one in ROWS}
    again = tapir(*call, cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads((tmp_path / "out" / "ifeval.json").read_text()) == found


@pytest.mark.parametrize(
    ("prompts", "answers", "said"),
    [
        ([], {"Say one.": "x"}, "holds no prompts"),
        (ROWS, {"Say nothing.": "x"}, "answered none of the 3 prompts: 3 x missing"),
        (ROWS, {}, "holds no rows"),
    ],
)
def test_empty_files_and_answers_to_other_prompts_are_one_clear_error(
    tmp_path: Path, prompts: list[dict[str, Any]], answers: dict[str, str], said: str
) -> None:
    file = write_lines(tmp_path / "input_data.jsonl", prompts)
    given = answered(tmp_path / "outputs.json", answers)
    done = tapir("eval", "ifeval", given, "--prompts", file, "--dir", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@dataclass
class Failing:
    """Answers so many prompts and then dies, as a process that is killed."""

    lives: int
    asked: list[str] = field(default_factory=list)

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        del checkpoint
        for one in instructions:
            if len(self.asked) == self.lives:
                raise RoleError("died")
            self.asked.append(one.text)
            yield one.id, Completion(ANSWERS[one.text], "stop", Usage(), "failing")


def test_an_evaluation_that_died_goes_on_where_it_was(tmp_path: Path) -> None:
    evaluating.claim(tmp_path, {"student": "failing"})
    first, second = Failing(2), Failing(99)

    def measure(student: Failing) -> list[Evaluation]:
        who = evaluating.Examinee(student, Checkpoint("", 0))
        return evaluating.measure(tmp_path, who, [ifeval.IfevalBenchmark(items)], chunk=1, seed=1, watch=SilentWatch())

    with pytest.raises(RoleError, match="died"):
        measure(first)
    (found,) = measure(second)
    assert sorted(first.asked + second.asked) == sorted(ANSWERS)
    assert (found.overall.value, found.overall.n) == (1 / 3, 3)
    _, figures = ifeval.graded(items(), evaluating.graded(tmp_path), "failing")
    assert figures.results["instruction loose"].value == 4 / 5


def test_the_command_measures_a_model_made_on_the_spot(tmp_path: Path) -> None:
    model = small_model.make(tmp_path / "model")
    prompts = write_lines(tmp_path / "input_data.jsonl", ROWS)
    call = ("eval", "ifeval", model, "--prompts", prompts, "--dir", tmp_path / "out")
    done = tapir(*call, "--set", "student.max_new_tokens=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "ifeval.json").read_text())
    assert (found["n"], found["results"]["instruction strict"]["n"]) == (3, 5)
    other = tapir(*call, "--set", "student.max_new_tokens=7", cwd=tmp_path)
    assert (other.returncode, "max_new_tokens" in other.stderr) == (1, True)


def test_our_verdicts_are_those_of_the_reference() -> None:
    python = os.environ.get("TAPIR_IFEVAL_REFERENCE", "")
    if not python:
        pytest.skip(
            "TAPIR_IFEVAL_REFERENCE names no Python with lm_eval[ifeval] and punkt_tab (lab/ifeval/agreement.py)"
        )
    command = [python, "lab/ifeval/agreement.py", str(DATA.parent), "--recorded", "2", "--prompts", "40"]
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *_, checks, _, strict, loose = done.stdout.splitlines()[-1].split()
    assert int(checks.replace(",", "")) > 1000
    assert min(float(strict.rstrip("%")), float(loose.rstrip("%"))) >= 99.5
