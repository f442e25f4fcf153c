"""`tapir eval gym` and `tapir eval pair`, from the command line to their JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.small import environment
from tapir.cli.main import app
from tapir.data.files import write_json
from tapir.data.run.rows import AnswerRow, EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, RecipeError, RunMismatch, StoreError, TableCorrupt
from tapir.evaluation.exact import answer_problems
from tapir.gym.perturb import KINDS
from tapir.gym.robustness import PLAIN, GymSuite, paired_with_plain

SKILLS = ("gcd", "letter_counting", "leg_counting")
SKILLS_CHANGE = f"corpus.skills={json.dumps(SKILLS)}"
SIZES = ("--per-task", "2", "--harder", "1", "--unseen", "1", "--perturbed", "4")


def suite() -> GymSuite:
    from tapir.config.toml import load
    from tapir.runs.corpus import gym_suite

    return gym_suite(load("gym", [SKILLS_CHANGE]), per_task=2, harder=1, unseen=1, perturbed=4, sample=0)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "140"})


def complaint(*arguments: object) -> BaseException:
    error = invoke(*arguments).exception
    assert error is not None
    return error


def answer_file(path: Path, answers: Iterable[tuple[str, str]]) -> Path:
    lines = (json.dumps({"instruction": text, "output": answer}) for text, answer in answers)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded answers: all right, but for those to misspelt prompts, and none to prompts one level harder."""
    place = tmp_path_factory.mktemp("gym")
    answers = {
        prompt.instruction.text: "I do not know" if one.name == f"{PLAIN}+typos" else prompt.expected
        for one in suite().benchmarks
        if one.name != "harder"
        for prompt in one.prompts()
    }
    answer_file(place / "answers.jsonl", answers.items())
    call = ("eval", "gym", place / "answers.jsonl", "--out", place / "eval", *SIZES, "--set", SKILLS_CHANGE)
    done = invoke(*call, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((place / "eval" / "gym.json").read_text(encoding="utf-8"))
    return place


def results(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "eval" / "gym.json").read_text(encoding="utf-8"))
    return found


def test_every_set_has_its_n_interval_and_trouble_by_kind(measured: Path) -> None:
    found = {one["benchmark"]: one for one in results(measured)["benchmarks"]}
    assert list(found) == ["in-distribution", "harder", "unseen", PLAIN, *(f"{PLAIN}+{kind}" for kind in KINDS)]
    assert found["in-distribution"]["overall"]["value"] == 1
    assert found["in-distribution"]["overall"]["n"] == 6
    assert found["in-distribution"]["overall"]["low"] < 1
    assert found["harder"]["overall"]["value"] == 0
    assert found["harder"]["trouble"] == {"missing": 3}
    assert found[PLAIN]["trouble"] == {}


def test_the_drop_is_paired_with_an_interval_and_a_p_value(measured: Path) -> None:
    found = {one["benchmark"].partition("+")[2]: one for one in results(measured)["perturbations"]}
    assert list(found) == list(KINDS)
    typos, case = found["typos"], found["case"]
    assert typos["mean_of_tasks"]["difference"]["value"] == -1
    assert (typos["prompts"]["wins"], typos["prompts"]["losses"]) == (0, 12)
    assert typos["mean_of_tasks"]["p"] == pytest.approx(2 / 2**12)
    assert typos["mean_of_tasks"]["p_holm"] == pytest.approx(4 * 2 / 2**12)
    assert case["mean_of_tasks"]["difference"] == {"value": 0.0, "n": 12, "low": None, "high": None}
    assert case["mean_of_tasks"]["p"] == 1
    assert case["left_out"] == 0


def test_the_same_command_again_does_nothing_twice_and_gives_the_same_results(measured: Path) -> None:
    before = (measured / "eval" / "gym.json").read_bytes()
    command = ("eval", "gym", measured / "answers.jsonl", "--out", measured / "eval", *SIZES, "--set", SKILLS_CHANGE)
    again = invoke(*command, "--json")
    assert again.exit_code == 0, again.output
    assert (measured / "eval" / "gym.json").read_bytes() == before


def test_other_sizes_in_the_same_folder_are_an_error_that_names_them(measured: Path) -> None:
    command = ("eval", "gym", measured / "answers.jsonl", "--out", measured / "eval", "--set", SKILLS_CHANGE)
    error = complaint(*command)
    assert isinstance(error, RunMismatch)
    assert "per_task: 2 -> 30" in str(error)


def test_answers_to_none_of_the_prompts_are_an_error_that_says_how_to_get_the_prompts(tmp_path: Path) -> None:
    answer_file(tmp_path / "other.jsonl", [("Name three colours.", "red, blue, green")])
    call = ("eval", "gym", tmp_path / "other.jsonl", "--out", tmp_path / "eval", *SIZES, "--set", SKILLS_CHANGE)
    error = complaint(*call, "--json")
    assert isinstance(error, DataError)
    assert "has no answer to any of the" in str(error)
    assert "evaluation.parquet" in error.remedy


def test_an_empty_file_and_no_prompts_at_all_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    error = complaint("eval", "gym", tmp_path / "empty.jsonl", "--out", tmp_path / "eval")
    assert isinstance(error, DataError)
    none = ("--per-task", "0", "--harder", "0", "--unseen", "0", "--perturbed", "0")
    error = complaint("eval", "gym", "nano", "--out", tmp_path / "eval", *none)
    assert isinstance(error, RecipeError)
    assert "nothing to measure" in str(error)


@pytest.mark.slow
def test_the_real_student_is_measured(tmp_path: Path) -> None:
    sizes = ("--per-task", "3", "--harder", "0", "--unseen", "0", "--perturbed", "3")
    program = [sys.executable, "-m", "tapir.cli.main", "eval", "gym", "nano", "--out", str(tmp_path / "eval")]
    done = subprocess.run(
        [*program, *sizes, "--set", SKILLS_CHANGE], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "perturbed minus plain" in done.stdout
    assert str(tmp_path / "eval" / "gym.json") in done.stdout
    found = {one["benchmark"]: one["overall"] for one in results(tmp_path)["benchmarks"]}
    assert found["in-distribution"]["n"] == found[f"{PLAIN}+irrelevant"]["n"] == 9
    assert sum(one["value"] for one in found.values()) > 0


def test_another_sample_asks_other_prompts_and_perturbs_them_otherwise() -> None:
    first, other = (GymSuite(SKILLS, 3, 0, 0, 3, sample, sample) for sample in (0, 1))
    assert first.digest != other.digest
    assert first.digest == GymSuite(SKILLS, 3, 0, 0, 3, 0, 0).digest
    assert len(GymSuite(SKILLS, 0, 0, 2, 0, 0, 0).benchmarks) == 1


def test_a_perturbed_prompt_is_set_beside_its_own_twin() -> None:
    one = suite().changed[0]
    texts = {prompt.instruction.id: prompt.instruction.text for prompt in suite().benchmarks[3].prompts()}
    rows = [
        EvaluationRow(
            each.name, prompt.instruction.id, "", prompt.instruction.text, "", "", 1.0, success=True, failure=None
        )
        for each in suite().benchmarks
        for prompt in each.prompts()
    ]
    changed, plain = paired_with_plain(one, rows)
    assert {row.id for row in changed} == {row.id for row in plain}
    assert {row.benchmark for row in [*changed, *plain]} == {one.name}
    digits = {row.id: [letter for letter in row.instruction if letter.isdigit()] for row in changed}
    assert all(digits[name] == [letter for letter in texts[name] if letter.isdigit()] for name in digits)


# --- how answers end


def test_truncated_empty_and_failed_answers_are_counted_once_by_kind(tmp_path: Path) -> None:
    def row(answer: str | None, failure: str | None = None, reason: str | None = "stop") -> EvaluationRow:
        return EvaluationRow("b", "1", "t", "?", "4", answer, 0.0, success=False, failure=failure, finish_reason=reason)

    rows = [row("4"), row("and so on and", reason="length"), row(" ", reason="length"), row(None, "too long", None)]
    assert answer_problems(rows) == {"b": {"cut at length": 1, "no answer": 1, "too long": 1}}
    store = RunStore(tmp_path)
    store.write("new", EvaluationRow, rows)
    assert store.read("new", EvaluationRow) == rows
    with pytest.raises(TableCorrupt, match="its columns are others"):
        store.read("new", AnswerRow)


# --- side by side


def evaluation(
    folder: Path, scores: dict[str, float], benchmark: str = "gym", table: str = "round-0/evaluation"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        EvaluationRow(benchmark, f"{name}", name[0], f"prompt {name}", "4", "4", score, score == 1, None)
        for name, score in scores.items()
    ]
    RunStore(folder).write(table, EvaluationRow, rows)
    return folder


def of_its_own(folder: Path, scores: dict[str, float], benchmark: str = "gym") -> Path:
    evaluation(folder, scores, benchmark)
    write_json(folder / "evaluation.json", {})
    return folder


BETTER = {**{f"a{place}": 1.0 for place in range(12)}, **{f"b{place}": 1.0 for place in range(8)}}
WORSE = {name: float(name[0] == "b" or int(name[1:]) < 3) for name in BETTER}


def test_two_evaluations_are_compared_overall_and_by_task(tmp_path: Path) -> None:
    a, b = of_its_own(tmp_path / "a", BETTER), of_its_own(tmp_path / "b", WORSE)
    done = invoke("eval", "pair", a, b, "--out", tmp_path / "pair.json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "pair.json").read_text(encoding="utf-8"))["benchmarks"]
    assert (found["prompts"]["wins"], found["prompts"]["losses"], found["prompts"]["ties"]) == (9, 0, 11)
    assert found["prompts"]["p"] == pytest.approx(2 / 2**9)
    assert found["tasks"]["a"]["p_holm"] == pytest.approx(2 * 2 / 2**9)
    assert found["tasks"]["b"]["difference"]["low"] is None
    assert found["mean_of_tasks"]["difference"]["value"] == pytest.approx(0.375)
    assert "by task; p corrected for 2 tasks" in done.output
    assert "in 1 of 2 tasks all differences are equal" in done.output.replace("\n", " ")


def test_a_run_is_compared_in_its_last_round_or_in_the_one_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number, scores in ((0, WORSE), (2, WORSE), (10, BETTER)):
        evaluation(run, scores, table=f"round-{number}/evaluation")
    write_json(run / "recipe.json", {})
    for other, difference in ((run, 0.0), (f"{run}:0", 0.375), (f"{run}:2", 0.375)):
        assert invoke("eval", "pair", run, other, "--out", tmp_path / "pair.json").exit_code == 0
        (found,) = json.loads((tmp_path / "pair.json").read_text(encoding="utf-8"))["benchmarks"]
        assert found["mean_of_tasks"]["difference"]["value"] == pytest.approx(difference)
    error = complaint("eval", "pair", run, f"{run}:1")
    assert isinstance(error, DataError)
    assert f"round 1 of {run} has no evaluation; rounds with one: 0, 2, 10" in str(error)


def test_prompts_that_differ_are_an_error_unless_the_common_ones_are_asked_for(tmp_path: Path) -> None:
    a = of_its_own(tmp_path / "a", BETTER)
    b = of_its_own(tmp_path / "b", {name: score for name, score in WORSE.items() if name != "a0"})
    error = complaint("eval", "pair", a, b)
    assert isinstance(error, DataError)
    assert "only A: 'prompt a0'" in str(error)
    done = invoke("eval", "pair", a, b, "--common")
    assert done.exit_code == 0
    assert "left out: 1 prompts that only A was asked" in done.output


def test_one_benchmark_can_be_chosen_and_others_are_named(tmp_path: Path) -> None:
    a = of_its_own(tmp_path / "a", BETTER)
    b = of_its_own(tmp_path / "b", BETTER, benchmark="harder")
    error = complaint("eval", "pair", a, b)
    assert "A has the benchmarks gym and B harder: none is in both" in str(error)
    error = complaint("eval", "pair", a, b, "--benchmark", "harder")
    assert "A has no row of the benchmark 'harder': only of gym" in str(error)


@pytest.mark.parametrize("scores", [{"a0": 1.0}, {"a0": 1.0, "a1": 1.0}])
def test_a_single_prompt_and_all_ties_are_said_in_words(tmp_path: Path, scores: dict[str, float]) -> None:
    a = of_its_own(tmp_path / "a", scores)
    done = invoke("eval", "pair", a, a)
    assert done.exit_code == 0
    assert "no interval can be computed" in done.output.replace("\n", " ")
    assert "nan" not in done.output


def test_folders_without_an_evaluation_are_errors(tmp_path: Path) -> None:
    good = of_its_own(tmp_path / "good", BETTER)
    (tmp_path / "begun").mkdir()
    write_json(tmp_path / "begun" / "evaluation.json", {})
    (tmp_path / "young").mkdir()
    for name in ("recipe", "manifest"):
        write_json(tmp_path / "young" / f"{name}.json", {"run": "r"})
    for folder, message in (
        (tmp_path, "neither the folder of an evaluation nor of a run"),
        (tmp_path / "nowhere", "neither the folder"),
        (tmp_path / "begun", "has no graded answers: it is not finished"),
        (tmp_path / "young", "has no evaluation yet"),
    ):
        error = complaint("eval", "pair", good, folder)
        assert isinstance(error, DataError)
        assert message in str(error)
    table = good / "round-0" / "evaluation.parquet"
    table.write_bytes(table.read_bytes()[:-7])
    assert isinstance(complaint("eval", "pair", good, good), StoreError)
