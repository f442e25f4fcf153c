"""What a run may take over from another, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.store.files import read_json, write_json
from tapir.store.rows import AnswerRow, CorpusRow, EstimateRow, EvaluationRow, JudgementRow, TagRow
from tapir.store.run import RunStore
from tapir.study.beginning import beginning, take_over

NONE = 'curriculum.difficulty="none"'
IFD = ('curriculum.difficulty="ifd"', 'curriculum.threshold={rule="quantile", value=0.3}')
PASS = ('curriculum.difficulty={kind="pass-rate", samples=3}', "curriculum.threshold.value=0.5")
MANIFEST = {
    "run": "r",
    "tapir": "0",
    "target": {"gcd": 1.0},
    "inputs": {"judge.txt": "1"},
    "python": "3",
    "packages": {},
}


def recipe(*changes: str) -> Recipe:
    return load("gym", ["seed=1", *changes])


def claimed(folder: Path, chosen: Recipe, **manifest: object) -> Path:
    """A run directory in which nothing was done."""
    write_json(folder / "recipe.json", chosen.resolved())
    write_json(folder / "manifest.json", MANIFEST | manifest)
    return folder


def begun(folder: Path, chosen: Recipe, **manifest: object) -> Path:
    """A run that has finished its round 0."""
    store = RunStore(claimed(folder, chosen, **manifest))
    store.write("corpus", CorpusRow, [CorpusRow("a", "?", "1", "gym", "")])
    store.write("round-0/tags", TagRow, [TagRow("a", "gcd", 1.0, None)])
    if chosen.curriculum.difficulty.kind == "mfd":
        store.write("round-0/answers", AnswerRow, [AnswerRow("a", "2", "stop", 1, None)])
        judged = JudgementRow("a", "student-first", 1.0, 10.0, "", "gym", None, None)
        store.write("round-0/judgements", JudgementRow, [judged])
    elif chosen.curriculum.difficulty.kind != "none":
        store.write("round-0/estimates", EstimateRow, [EstimateRow("a", "ifd", 0.5, "", None)])
    for name in chosen.curriculum.compare:
        store.write(f"round-0/compared-{name}", EstimateRow, [EstimateRow("a", name, 0.5, "", None)])
    store.write("round-0/evaluation", EvaluationRow, [])
    store.write("round-1/tags", TagRow, [])
    write_json(folder / "round-0/tagger.json", {"accuracy": 1.0})
    write_json(folder / "round-0/metrics.json", [])
    return folder


def taken(folder: Path) -> set[str]:
    """Files of a run beside what every claimed folder has."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {"recipe.json", "manifest.json"}


PLAIN = {"corpus.parquet", "round-0/tags.parquet", "round-0/evaluation.parquet"}
JUDGED = {"round-0/answers.parquet", "round-0/judgements.parquet"}
ALWAYS = {"checksums.sha256", "round-0/tagger.json", "round-0/metrics.json"}


@pytest.mark.parametrize(
    "changes",
    [
        ["curriculum.schedule.start=0.9"],
        ["curriculum.rounds=1", "curriculum.size=7"],
        ["curriculum.expand=false"],
        ["curriculum.refine=false"],
        [NONE],
        [*IFD],
        ["training.epochs=7"],
        ["name=other"],
        ['curriculum.target.shares="pool"'],
    ],
)
def test_what_is_done_from_round_1_on_changes_no_beginning(changes: list[str]) -> None:
    assert beginning(recipe(*changes)) == beginning(recipe())


@pytest.mark.parametrize(
    "changes",
    [
        ["seed=2"],
        ["corpus.size=99"],
        ["chunk=7"],
        ["student.max_new_tokens=9"],
        ["tagger.labelled=50"],
        ["evaluation.per_task=3"],
        ['curriculum.novelty.rule="near"'],
        ["curriculum.warmup_epochs=1"],
        ['curriculum.target.taxonomy="other.toml"'],
    ],
)
def test_what_is_done_before_round_1_does(changes: list[str]) -> None:
    assert beginning(recipe(*changes)) != beginning(recipe())


def test_a_warmed_up_student_depends_on_its_training() -> None:
    warm = "curriculum.warmup_epochs=1"
    assert beginning(recipe(warm)) == beginning(recipe(warm, "curriculum.size=7"))
    assert beginning(recipe(warm)) != beginning(recipe(warm, "training.learning_rate=1e-5"))


def test_the_tables_of_round_0_are_taken_with_their_checksums_and_nothing_of_later_rounds(tmp_path: Path) -> None:
    other = begun(tmp_path / "other", recipe())
    mine = recipe("curriculum.size=7")
    folder = claimed(tmp_path / "mine", mine)
    assert take_over(mine, folder, [tmp_path / "absent", other]) == other
    assert taken(folder) == PLAIN | JUDGED | ALWAYS
    store = RunStore(folder)
    store.verify()
    assert store.read("round-0/answers", AnswerRow) == RunStore(other).read("round-0/answers", AnswerRow)
    assert not store.has("round-1/tags")
    assert read_json(folder / "recipe.json") == mine.resolved()


@pytest.mark.parametrize(
    ("mine", "theirs", "scores"),
    [
        ([NONE], [], set()),
        ([], [NONE], set()),
        ([*IFD], [], set()),
        ([], [*IFD], set()),
        ([*IFD], [*IFD], {"round-0/estimates.parquet"}),
        ([*IFD], [*PASS], set()),
        ([*PASS], [*PASS], {"round-0/estimates.parquet"}),
        ([*PASS], ['curriculum.difficulty={kind="pass-rate", samples=4}', PASS[1]], set()),
        (['curriculum.compare=["ifd"]'], ['curriculum.compare=["ifd", "length"]'], {"round-0/compared-ifd.parquet"}),
        ([NONE, 'curriculum.compare=["ifd"]'], [*IFD], set()),
    ],
)
def test_only_scores_that_mean_the_same_are_taken(
    tmp_path: Path, mine: list[str], theirs: list[str], scores: set[str]
) -> None:
    other = begun(tmp_path / "other", recipe(*theirs))
    folder = claimed(tmp_path / "mine", recipe(*mine))
    assert take_over(recipe(*mine), folder, [other]) == other
    judged = JUDGED if recipe(*mine).curriculum.difficulty == recipe(*theirs).curriculum.difficulty else set()
    judged = judged if recipe(*mine).curriculum.difficulty.kind == "mfd" else set()
    assert taken(folder) == PLAIN | judged | scores | ALWAYS


def test_of_several_the_one_with_most_to_give_is_taken(tmp_path: Path) -> None:
    plain, judged = begun(tmp_path / "plain", recipe(NONE)), begun(tmp_path / "judged", recipe("curriculum.size=9"))
    folder = claimed(tmp_path / "mine", recipe())
    assert take_over(recipe(), folder, [plain, judged]) == judged


def test_nothing_is_taken_from_a_run_that_began_otherwise(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "mine", recipe())
    others = [
        begun(tmp_path / "seed", recipe("seed=2")),
        begun(tmp_path / "prompts", recipe(), inputs={"judge.txt": "2"}),
        begun(tmp_path / "shares", recipe(), target={"gcd": 0.5, "chain_sum": 0.5}),
        begun(tmp_path / "version", recipe(), tapir="1"),
    ]
    (begun(tmp_path / "unfinished", recipe()) / "round-0/metrics.json").unlink()
    odd = begun(tmp_path / "odd", recipe())
    write_json(odd / "recipe.json", {"curriculum": {"size": "many"}})
    assert take_over(recipe(), folder, [*others, tmp_path / "unfinished", odd]) is None
    assert not taken(folder)


def test_a_damaged_table_is_not_taken(tmp_path: Path) -> None:
    other = begun(tmp_path / "other", recipe())
    with (other / "corpus.parquet").open("ab") as table:
        table.write(b"x")
    folder = claimed(tmp_path / "mine", recipe())
    assert take_over(recipe(), folder, [other]) is None
    assert "checksums.sha256" not in taken(folder)
    assert not RunStore(folder).has("corpus")


def test_a_run_in_which_work_was_done_keeps_its_own(tmp_path: Path) -> None:
    other = begun(tmp_path / "other", recipe())
    folder = claimed(tmp_path / "mine", recipe())
    RunStore(folder).write("corpus", CorpusRow, [])
    assert take_over(recipe(), folder, [other]) is None
    assert taken(folder) == {"corpus.parquet", "checksums.sha256"}


def test_a_run_with_a_warm_up_takes_nothing(tmp_path: Path) -> None:
    warm = recipe("curriculum.warmup_epochs=1")
    other = begun(tmp_path / "other", warm)
    assert take_over(warm, claimed(tmp_path / "mine", warm), [other]) is None
