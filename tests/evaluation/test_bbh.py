"""BIG-Bench Hard: answers found in the form that each task has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir.errors import DataError
from tapir.evaluation import bbh
from tapir.roles import Grade
from tests.evaluation.checking import answered, row, shared, tapir, write_lines

OPTIONS = "Who was last?\nOptions:\n(A) The owl\n(B) The quail\n(C) The barn owl"
CASES = {
    "letter": ("logical_deduction_three_objects", OPTIONS, "(B)"),
    "yes": ("navigate", "Do you return?\nOptions:\n- Yes\n- No", "No"),
    "truth": ("boolean_expressions", "not ( True ) and ( True ) is", "False"),
    "valid": ("formal_fallacies", "Is it valid?\nOptions:\n- valid \n- invalid", "invalid"),
    "sum": ("multistep_arithmetic_two", "((-1 + 2) * 5) =", "5"),
    "count": ("object_counting", "How many?", "8"),
    "brackets": ("dyck_languages", "Complete it. Input: < [ [", "] ] >"),
    "words": ("word_sorting", "Sort. List: won't dot barn", "barn dot won't"),
    "else": ("movie_recommendation", "Which?", "Monsters, Inc"),
}


@pytest.mark.parametrize(
    ("case", "answer", "strict", "flexible"),
    [
        ("letter", "(B)", True, True),
        ("letter", "(B) The quail", False, True),
        ("letter", "B.", False, True),
        ("letter", "(A) cannot be. So the answer is (B).", True, True),
        ("letter", "**Answer:** B", False, True),
        ("letter", "The answer is the quail, which came last.", False, True),
        ("letter", "The barn owl was last", False, False),
        ("letter", "(C). Not (B)", False, True),  # nothing is announced: the last one counts
        ("letter", "The answer is (A), not (B).", False, False),
        ("letter", "", False, False),
        ("yes", "no", True, True),
        ("yes", "No, because yes would need a turn.", False, True),
        ("yes", "Let us see. Yes? There is no way back, so the answer is yes.", False, False),
        ("truth", "not True is False, and False and True is False", False, True),
        ("yes", "**No**\nYes would need a turn.", False, True),
        ("yes", "Yes turns are taken, 3 of them: No", False, True),
        ("yes", "No - yes would need a turn.", False, True),
        ("truth", "True and False is False.", False, True),
        ("valid", "It looks valid. The answer is invalid.", True, True),
        ("valid", "The argument is valid.", False, False),
        ("sum", "(-1 + 2) = 1, times 5 is 5", False, True),
        ("sum", "The answer is 1 * 5 = 5.", False, True),
        ("sum", "The final answer is 5", True, True),
        ("count", "3 oboes and 5 drums: the answer is eight.", False, True),
        ("count", "The answer is 8 instruments (3 and 5).", False, True),
        ("count", "8\n\n(3 oboes and 5 drums)", False, True),
        ("count", "The answer is 9.", False, False),
        ("brackets", "] ] >", True, True),
        ("brackets", "So:\n< [ [ ] ] >", False, True),
        ("brackets", "We close (see above). The answer is: ]]>", False, True),
        ("brackets", "The answer is ] ]", False, False),
        ("words", "barn dot won't", True, True),
        ("words", "First dot, then won't. Sorted:\n1. barn\n2. dot\n3. won\u2019t", False, True),
        ("words", "The answer is barn, dot, 'won't'", False, True),
        ("words", "dot barn won't", False, False),
        ("words", "barn dot", False, False),
        ("else", "monsters, inc.", True, True),
        ("else", "Monsters", False, False),
    ],
)
def test_an_answer_is_found_in_the_form_of_its_task(case: str, answer: str, *, strict: bool, flexible: bool) -> None:
    problem = bbh.Problem(*CASES[case])
    assert bbh.strict(problem, answer) is strict
    assert bbh.flexible(problem, answer) is flexible


def test_the_targets_score_everything_announced_or_bare_and_those_of_others_little() -> None:
    problems = bbh.read(shared("bbh.jsonl.gz"))
    assert len(problems) == len(bbh.texts(problems)) == 6511
    assert len({one.task for one in problems}) == 27
    asides = ("{target}", "I looked at (A) and no 3. So the answer is {target}.", "So the answer is: {target}\n\nDone.")
    for aside in asides:
        missed = [one for one in problems if not bbh.flexible(one, aside.format(target=one.target))]
        assert not missed
    assert all(bbh.strict(one, one.target) for one in problems)
    following = [*problems[1:], problems[0]]
    other = [(one, them.target) for one, them in zip(problems, following, strict=True) if one.target != them.target]
    assert not [(one, target) for one, target in other if bbh.flexible(one, f"So the answer is {target}.")]


def test_a_question_that_is_there_twice_is_asked_once_and_counts_for_both_rows() -> None:
    rows = [
        {"task": "navigate", "input": "Back?", "target": "Yes"},
        {"task": "navigate", "input": "Back?", "target": "No"},
        {"task": "word_sorting", "input": "List: b a", "target": "a b"},
    ]
    problems = bbh.read((f"file:{place}", one) for place, one in enumerate(rows, 1))
    benchmark = bbh.BbhBenchmark(lambda: problems, "question")
    prompts = benchmark.prompts()
    assert [one.instruction.text for one in prompts] == ["Back?", "List: b a"]
    figures = bbh.figures(problems, "question", [row(prompts[0], "Yes"), row(prompts[1], "b a")], "answers")
    assert figures.n == 3
    assert figures.groups["navigate"]["flexible"].value == 0.5
    assert figures.results["mean of the tasks, flexible"].value == 0.25
    assert figures.results["all problems, flexible"].value == 1 / 3
    assert [grade for _, grade in benchmark.grade([(prompts[0], "Yes")])] == [Grade(1, success=True)]


@pytest.mark.parametrize(
    ("rows", "said"), [([], "holds no problems"), ([{"task": "navigate", "input": "Back?"}], "no row of BBH")]
)
def test_a_file_that_is_none_of_bbh_is_one_clear_error(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        bbh.read((f"file:{place}", one) for place, one in enumerate(rows, 1))


def test_the_command_reports_tasks_and_their_mean(tmp_path: Path) -> None:
    rows = [{"task": task, "n": 0, "input": question, "target": target} for task, question, target in CASES.values()]
    prompts = write_lines(tmp_path / "bbh.jsonl", rows)
    given = answered(tmp_path / "outputs.json", {question: target for _, question, target in CASES.values()})
    call = ("eval", "bbh", given, "--prompts", prompts, "--dir", tmp_path / "out", "--ask", "question")
    done = tapir(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "bbh.json").read_text())
    assert found["results"]["mean of the tasks, strict"]["value"] == 1
    assert set(found["groups"]) == {task for task, _, _ in CASES.values()}
    assert "word_sorting" in done.stdout
