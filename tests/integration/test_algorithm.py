"""The whole loop with people who need no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support import fakes
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.run.rows import (
    CorpusRow,
    DifficultyRow,
    DrawRow,
    DropRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    RefinementRow,
)
from tapir.data.run.store import RunStore
from tapir.domain.errors import Waiting
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Roles
from tapir.report.summary import summarise
from tapir.runs import session


def run(folder: Path, recipe: Recipe, roles: Roles | None = None) -> tuple[RunStore, Roles]:
    roles = roles or fakes.roles(folder / "people")
    session.run(recipe, folder / "run", roles=roles)
    return RunStore(folder / "run"), roles


def test_the_student_gets_better_round_by_round(tmp_path: Path) -> None:
    store, roles = run(tmp_path, fakes.recipe())
    summary = summarise(store)
    assert [one.overall.value for one in summary.evaluations] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert summary.finished
    assert isinstance(roles.trainer, fakes.Trainer)
    assert [job.base.round for job in roles.trainer.jobs] == [0, 1, 2]


def test_each_round_has_exactly_its_share_of_hard_examples(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=40)
    (tmp_path / "people" / "base" / "learnt").write_text("list")
    store, _ = run(tmp_path, fakes.recipe(schedule={"start": 0.25, "step": 0.25}, target={"taxonomy": "gym"}), roles)
    for number, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        rows = store.read(f"round-{number}/mixture", MixtureRow)
        assert sum(row.pool == "hard" for row in rows) == 24 * share
        assert len({row.id for row in rows}) == len(rows) == 24


def test_a_task_without_any_hard_seed_is_filled_from_the_easy_pool_and_said_so(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=40)
    (tmp_path / "people" / "base" / "learnt").write_text("list")
    recipe = fakes.recipe(rounds=1, schedule={"kind": "constant", "share": 2 / 3})
    store, _ = run(tmp_path, recipe, roles)
    counts = Counter(row.task for row in store.read("round-1/mixture", MixtureRow))
    assert counts == {"add": 8, "spell": 8, "list": 8}
    assert "list: " in (store.folder / "events.jsonl").read_text()


def test_single_round_is_hard_examples_only(tmp_path: Path) -> None:
    store, roles = run(tmp_path, fakes.recipe(variant="single-round"))
    rows = store.read("round-1/mixture", MixtureRow)
    assert {row.pool for row in rows} == {"hard"}
    assert isinstance(roles.trainer, fakes.Trainer)
    assert len(roles.trainer.jobs) == 1


def test_every_instruction_is_hard_easy_withheld_or_unscored(tmp_path: Path) -> None:
    store, _ = run(tmp_path, fakes.recipe())
    corpus = {row.id for row in store.read("corpus", CorpusRow)}
    parts = store.read("round-1/difficulty", DifficultyRow)
    assert {row.id for row in parts} == corpus
    assert Counter(row.part for row in parts) == {"hard": 51, "unscored": 6, "easy": 3}


def test_what_the_judge_cannot_read_and_what_the_student_cannot_answer_is_unscored(tmp_path: Path) -> None:
    store, _ = run(tmp_path, fakes.recipe())
    rows = [row for row in store.read("round-0/judgements", JudgementRow) if row.unscored is not None]
    assert Counter(row.unscored for row in rows) == {"no score": 3, "no student answer": 3}
    assert all(row.student is None and row.reference is None for row in rows)


def test_an_answer_better_than_the_teachers_is_never_trained_over(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people")
    (tmp_path / "people" / "base" / "learnt").write_text("list")
    store, _ = run(tmp_path, fakes.recipe(size=40), roles)
    withheld = {row.id for row in store.read("round-1/difficulty", DifficultyRow) if row.part == "withheld"}
    assert withheld == {fakes.instruction("list", 12).id}
    for number in (1, 2, 3):
        assert not withheld & {row.id for row in store.read(f"round-{number}/mixture", MixtureRow)}


def test_expansion_fills_the_shortfall_and_every_drop_has_a_reason(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=5)
    store, _ = run(tmp_path, fakes.recipe(rounds=1, schedule={"kind": "constant", "share": 1.0}), roles)
    draws = store.read("round-1/draws", DrawRow)
    assert all(row.wanted == 8 and row.got == 5 and row.shortfall == row.expanded == 3 for row in draws)
    rows = store.read("round-1/expansions", ExpansionRow)
    assert set(Counter(row.reason for row in rows)) <= {None, "duplicate", "not tagged", "tagged as another task"}
    assert sum(row.reason is None for row in rows) == 9
    assert len(store.read("round-1/mixture", MixtureRow)) == 24


def test_without_expansion_the_shortfall_stays_and_nothing_is_repeated(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=5)
    recipe = fakes.recipe(rounds=1, expand=False, schedule={"kind": "constant", "share": 1.0})
    store, _ = run(tmp_path, recipe, roles)
    assert len(store.read("round-1/mixture", MixtureRow)) == 15
    assert "15 of the 24" in (store.folder / "events.jsonl").read_text()


def test_a_refinement_that_fails_leaves_the_original_and_none_is_asked_for_twice(tmp_path: Path) -> None:
    store, roles = run(tmp_path, fakes.recipe())
    rows = [row for number in (1, 2, 3) for row in store.read(f"round-{number}/refinements", RefinementRow)]
    failed = {row.id for row in rows if row.failure is not None}
    assert failed
    answered = Counter(row.id for row in rows if row.text is not None)
    assert set(answered.values()) == {1}
    for row in store.read("round-3/mixture", MixtureRow):
        assert row.response == ("right" if row.id in failed else "right, in steps")
    assert isinstance(roles.teacher, fakes.Teacher)


def test_refinement_can_be_switched_off(tmp_path: Path) -> None:
    store, _ = run(tmp_path, fakes.recipe(refine=False, rounds=1))
    assert not store.has("round-1/refinements")
    assert {row.response for row in store.read("round-1/mixture", MixtureRow)} == {"right"}


def test_rescoring_every_round_asks_the_last_student_and_moves_what_it_learnt_to_easy(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people")
    store, _ = run(tmp_path, fakes.recipe(rescoring="every-round"), roles)
    hard = [
        sum(row.part == "hard" for row in store.read(f"round-{number}/difficulty", DifficultyRow)) for number in (1, 2)
    ]
    assert hard[1] < hard[0]
    assert store.has("round-2/answers")
    assert store.has("round-3/answers")


def test_scoring_once_keeps_the_first_difficulty(tmp_path: Path) -> None:
    store, roles = run(tmp_path, fakes.recipe())
    assert not store.has("round-2/answers")
    assert isinstance(roles.student, fakes.Student)
    assert len(roles.student.asked) == 60 + 4 * 6


def test_a_student_can_start_again_from_the_warm_up_every_round(tmp_path: Path) -> None:
    _, roles = run(tmp_path, fakes.recipe(continue_from="warm-up", warmup_epochs=1))
    assert isinstance(roles.trainer, fakes.Trainer)
    jobs = roles.trainer.jobs
    assert [(job.number, job.base.round) for job in jobs] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert {job.base.path for job in jobs[1:]} == {str(jobs[0].out)}


def test_the_target_can_lean_towards_tasks_with_room_to_grow(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=40)
    (tmp_path / "people" / "base" / "learnt").write_text("list")
    recipe = fakes.recipe(rounds=1, target={"shares": "room", "minimum": 0.1})
    store, _ = run(tmp_path, recipe, roles)
    shares = {row.task: row.target_share for row in store.read("round-1/draws", DrawRow)}
    assert shares == pytest.approx({"add": 0.45, "spell": 0.45, "list": 0.1})


def test_duplicates_empty_rows_and_evaluation_items_are_dropped_with_their_reason(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people")
    leak = roles.benchmarks[0].prompts()[0].instruction
    pairs = [
        *roles.corpus(),
        Pair(fakes.instruction("add", 1), Response("right", "corpus")),
        Pair(Instruction.of("  ", Origin("corpus")), Response("right", "corpus")),
        Pair(Instruction.of("add nothing", Origin("corpus")), Response("", "corpus")),
        Pair(Instruction.of(leak.text, Origin("corpus")), Response("right", "corpus")),
    ]
    roles = Roles(
        roles.teacher,
        roles.student,
        roles.judge,
        roles.tagger,
        roles.trainer,
        roles.benchmarks,
        roles.base,
        lambda: pairs,
    )
    store, _ = run(tmp_path, fakes.recipe(rounds=1), roles)
    assert [row.reason for row in store.read("drops", DropRow)] == [
        "duplicate",
        "empty instruction",
        "empty response",
        "in an evaluation set",
    ]
    assert leak.id not in {row.id for row in store.read("corpus", CorpusRow)}


def test_the_same_seed_gives_the_same_tables_and_another_seed_others(tmp_path: Path) -> None:
    tables = {}
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        folder = tmp_path / name
        run(folder, fakes.recipe().model_copy(update={"seed": seed}), fakes.roles(folder / "people", size=40))
        tables[name] = {
            path.relative_to(folder): path.read_bytes() for path in sorted((folder / "run").rglob("*.parquet"))
        }
    assert tables["one"] == tables["two"]
    assert tables["one"] != tables["three"]
    assert len(tables["one"]) > 20


@dataclass
class Batched(fakes.Benchmark):
    """Its verdicts are there when they are asked for again."""

    sent: list[Sequence[tuple[Prompt, str]]] = field(default_factory=list)

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        self.sent.append(answers)
        if len(self.sent) == 1:
            raise Waiting("in a batch")
        return super().grade(answers)


@pytest.mark.parametrize(
    "evaluation",
    [{"kind": "alpaca_eval", "baseline": "answers.json"}, {"kind": "custom", "class": "support.fakes:Benchmark"}],
)
def test_answers_that_wait_for_their_verdicts_are_judged_as_they_were_sent(
    tmp_path: Path, evaluation: dict[str, str]
) -> None:
    judge = {"kind": "custom", "class": "support.fakes:Judge"}
    recipe = parse({"curriculum": {"size": 24, "rounds": 1}, "chunk": 8, "judge": judge, "evaluation": evaluation})
    benchmark = Batched()
    roles = replace(fakes.roles(tmp_path / "people"), student=fakes.Moody(), benchmarks=[benchmark])
    with pytest.raises(Waiting):
        run(tmp_path, recipe, roles)
    run(tmp_path, recipe, roles)
    assert benchmark.sent[0] == benchmark.sent[1]
