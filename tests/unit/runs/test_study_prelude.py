"""The prelude that a run may copy from another, and what it must not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tapir.config.recipe import Recipe
from tapir.config.toml import load
from tapir.data.files import read_json, write_json
from tapir.data.run.rows import AnswerRow, CorpusRow, EstimateRow, EvaluationRow, JudgementRow, TagRow
from tapir.data.run.store import RunStore
from tapir.runs.study.run import copy_prelude, prelude_key

NONE = 'curriculum.difficulty="none"'
IFD = ('curriculum.difficulty="ifd"', 'curriculum.threshold={rule="quantile", value=0.3}')
PASS = ('curriculum.difficulty={kind="pass-rate", samples=3}', "curriculum.threshold.value=0.5")
MANIFEST = {"tapir": "0", "target": {"gcd": 1.0}, "inputs": {"judge.txt": "1"}, "python": "3", "packages": {}}
ALWAYS = {f"round-0/{name}" for name in ("tags.parquet", "evaluation.parquet", "tagger.json", "metrics.json")} | {
    "corpus.parquet",
    "checksums.sha256",
}
JUDGED = {"round-0/answers.parquet", "round-0/judgements.parquet"}


def recipe(*changes: str) -> Recipe:
    return load("gym", ["seed=1", *changes])


def claim(folder: Path, chosen: Recipe, **manifest: object) -> Path:
    """Make a run directory in which nothing was done."""
    write_json(folder / "recipe.json", chosen.resolved())
    write_json(folder / "manifest.json", MANIFEST | manifest)
    return folder


def finish_prelude(folder: Path, chosen: Recipe, **manifest: object) -> Path:
    """Make the directory of a run that has finished its round 0."""
    store = RunStore(claim(folder, chosen, **manifest))
    store.write("corpus", CorpusRow, [CorpusRow("a", "?", "1", "gym", "")])
    store.write("round-0/tags", TagRow, [TagRow("a", "gcd", 1.0, None)])
    if chosen.curriculum.difficulty.kind == "mfd":
        store.write("round-0/answers", AnswerRow, [AnswerRow("a", "2", "stop", 1, None)])
        judgement = JudgementRow("a", "student-first", 1.0, 10.0, "", "gym", None, None)
        store.write("round-0/judgements", JudgementRow, [judgement])
    elif chosen.curriculum.difficulty.kind != "none":
        store.write("round-0/estimates", EstimateRow, [EstimateRow("a", "ifd", 0.5, "", None)])
    for name in chosen.curriculum.compare:
        store.write(f"round-0/compared-{name}", EstimateRow, [EstimateRow("a", name, 0.5, "", None)])
    store.write("round-0/evaluation", EvaluationRow, [])
    store.write("round-1/tags", TagRow, [])
    write_json(folder / "round-0/tagger.json", {"accuracy": 1.0})
    write_json(folder / "round-0/metrics.json", [])
    return folder


def copied(folder: Path) -> set[str]:
    """Files of a run other than those of every claimed folder."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {"recipe.json", "manifest.json"}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("curriculum.schedule.start=0.9", True),
        ("curriculum.size=7", True),
        ("curriculum.expand=false", True),
        (NONE, True),
        ("training.epochs=7", True),
        ("name=other", True),
        ('curriculum.target.shares="pool"', True),
        ("seed=2", False),
        ("corpus.size=99", False),
        ("chunk=7", False),
        ("student.max_new_tokens=9", False),
        ("tagger.labelled=50", False),
        ("evaluation.per_task=3", False),
        ('curriculum.novelty.rule="near"', False),
        ("curriculum.warmup_epochs=1", False),
        ('curriculum.target.taxonomy="other.toml"', False),
    ],
)
def test_what_is_done_from_round_1_on_changes_no_prelude(change: str, *, same: bool) -> None:
    assert (prelude_key(recipe(change)) == prelude_key(recipe())) == same


def test_a_warmed_up_student_depends_on_its_training() -> None:
    warm = "curriculum.warmup_epochs=1"
    assert prelude_key(recipe(warm)) != prelude_key(recipe(warm, "training.learning_rate=1e-5"))


def test_the_tables_of_round_0_are_copied_with_their_checksums_and_nothing_of_later_rounds(tmp_path: Path) -> None:
    other, empty = finish_prelude(tmp_path / "other", recipe()), finish_prelude(tmp_path / "empty", recipe(NONE))
    mine = recipe("curriculum.size=7")
    folder = claim(tmp_path / "mine", mine)
    assert copy_prelude(mine, folder, [empty, tmp_path / "absent", other]) == other
    assert copied(folder) == ALWAYS | JUDGED
    store = RunStore(folder)
    store.verify()
    assert store.read("round-0/answers", AnswerRow) == RunStore(other).read("round-0/answers", AnswerRow)
    assert read_json(folder / "recipe.json") == mine.resolved()
    assert copy_prelude(mine, folder, [other]) is None, "work was done there"


@pytest.mark.parametrize(
    ("mine", "theirs", "scores"),
    [
        ([], [], JUDGED),
        ([NONE], [], set()),
        ([], [NONE], set()),
        ([*IFD], [], set()),
        ([*IFD], [*IFD], {"round-0/estimates.parquet"}),
        ([*IFD], [*PASS], set()),
        ([*PASS], ['curriculum.difficulty={kind="pass-rate", samples=4}', PASS[1]], set()),
        (
            ['curriculum.compare=["ifd"]'],
            ['curriculum.compare=["ifd", "length"]'],
            {"round-0/compared-ifd.parquet", *JUDGED},
        ),
        ([NONE, 'curriculum.compare=["ifd"]'], [*IFD], set()),
    ],
)
def test_only_scores_that_mean_the_same_are_copied(
    tmp_path: Path, mine: list[str], theirs: list[str], scores: set[str]
) -> None:
    other = finish_prelude(tmp_path / "other", recipe(*theirs))
    folder = claim(tmp_path / "mine", recipe(*mine))
    assert copy_prelude(recipe(*mine), folder, [other]) == other
    assert copied(folder) == ALWAYS | scores


def test_nothing_is_copied_from_a_run_with_another_prelude(tmp_path: Path) -> None:
    folder = claim(tmp_path / "mine", recipe())
    odd = finish_prelude(tmp_path / "odd", recipe())
    write_json(odd / "recipe.json", {"curriculum": {"size": "many"}})
    others = [
        finish_prelude(tmp_path / "seed", recipe("seed=2")),
        finish_prelude(tmp_path / "prompts", recipe(), inputs={"judge.txt": "2"}),
        finish_prelude(tmp_path / "version", recipe(), tapir="1"),
        claim(tmp_path / "unfinished", recipe()),
        odd,
    ]
    assert copy_prelude(recipe(), folder, others) is None
    assert not copied(folder)


def test_a_damaged_table_is_not_copied(tmp_path: Path) -> None:
    other = finish_prelude(tmp_path / "other", recipe())
    with (other / "corpus.parquet").open("ab") as table:
        table.write(b"x")
    folder = claim(tmp_path / "mine", recipe())
    assert copy_prelude(recipe(), folder, [other]) is None
    assert "checksums.sha256" not in copied(folder)
    assert not RunStore(folder).has("corpus")


def test_a_file_whose_copy_was_cut_short_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = finish_prelude(tmp_path / "other", recipe())
    folder = claim(tmp_path / "mine", recipe())
    copy = shutil.copyfile

    def cut(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "tagger.json":
            target.write_text("{")
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", cut)
    with pytest.raises(KeyboardInterrupt):
        copy_prelude(recipe(), folder, [other])
    assert copied(folder) == (ALWAYS | JUDGED) - {"round-0/tagger.json", "round-0/metrics.json"}


def test_a_run_with_a_warm_up_copies_nothing(tmp_path: Path) -> None:
    warm = recipe("curriculum.warmup_epochs=1")
    other = finish_prelude(tmp_path / "other", warm)
    assert copy_prelude(warm, claim(tmp_path / "mine", warm), [other]) is None
