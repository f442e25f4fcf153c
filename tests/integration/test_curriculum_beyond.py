"""The loop beyond the paper: no difficulty, tasks as found, competence, what is hopeless now, no repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support import fakes
from support.beyond import NoJudge, carried_out, mixture, number_of, pairs_of
from support.scripted import Watcher, completion
from tapir.algorithm import Curriculum
from tapir.config.recipe import Recipe
from tapir.data.duplicates import DuplicateIndex
from tapir.data.run.rows import DifficultyRow, DrawRow
from tapir.data.run.store import RunStore
from tapir.domain.difficulty import Split
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Judgement, Verdict
from tapir.domain.roles import Comparison, Reply
from tapir.domain.round import Checkpoint
from tapir.stages.base import StageContext

# No difficulty


def test_without_difficulty_nobody_is_judged_and_the_corpus_is_not_answered(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), judge=NoJudge())
    store = carried_out(tmp_path, fakes.recipe(difficulty="none"), roles)
    assert isinstance(roles.student, fakes.Student)
    held_out = {prompt.instruction.id for prompt in fakes.Benchmark().prompts()}
    assert set(roles.student.asked) == held_out
    for name in ("round-0/answers", "round-0/judgements", "round-1/difficulty"):
        assert not store.has(name)


def test_without_difficulty_every_tagged_item_of_the_corpus_may_be_drawn(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people")
    store = carried_out(tmp_path, fakes.recipe(difficulty="none", size=54, expand=False), roles)
    for number in (1, 2, 3):
        rows = mixture(store, number)
        assert {row.pool for row in rows} == {"any"}
        assert {row.id for row in rows} == {
            pair.instruction.id
            for pair in pairs_of(add=20, spell=20, list=20)
            if not pair.instruction.text.endswith("9")
        }


def test_without_difficulty_each_round_draws_anew_at_random(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people", size=100)
    shares = {"difficulty": "none", "target": {"shares": "pool"}, "expand": False}
    store = carried_out(tmp_path, fakes.recipe(size=60, **shares), roles)
    rounds = [{row.id for row in mixture(store, number)} for number in (1, 2, 3)]
    assert [len(one) for one in rounds] == [60, 60, 60]
    overlap = len(rounds[0] & rounds[1])  # of 60 drawn twice from 270: 13 are expected
    assert 3 <= overlap <= 26


def test_without_difficulty_the_target_can_still_be_kept(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: pairs_of(add=60, spell=20, list=12))
    store = carried_out(tmp_path, fakes.recipe(difficulty="none", size=45, rounds=1), roles)
    assert Counter(row.task for row in mixture(store, 1)) == {"add": 15, "spell": 15, "list": 15}
    draws = {row.task: row for row in store.read("round-1/draws", DrawRow)}
    assert (draws["list"].got, draws["list"].shortfall, draws["list"].expanded) == (11, 4, 4)


def test_without_difficulty_what_was_written_for_one_round_may_be_drawn_in_the_next(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: pairs_of(add=30, spell=30, list=8))
    store = carried_out(tmp_path, fakes.recipe(difficulty="none", size=45, rounds=2), roles)
    written = {row.id for row in mixture(store, 1) if row.origin == "expansion"}
    later = [row for row in mixture(store, 2) if row.task == "list"]
    assert len(written) == len(later) - 8
    assert written <= {row.id for row in later}
    assert len({row.id for row in later}) == len(later) == 15


# Tasks as found


def test_as_found_each_pool_is_sampled_as_it_is(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: pairs_of(add=100, spell=50, list=30))
    (tmp_path / "people" / "base" / "learnt").write_text("spell")
    recipe = fakes.recipe(
        size=60, rounds=1, expand=False, target={"shares": "pool"}, schedule={"kind": "constant", "share": 0.7}
    )
    store = carried_out(tmp_path, recipe, roles)
    parts = Counter((row.pool, row.task) for row in mixture(store, 1))
    hard = Counter(row.id for row in store.read("round-1/difficulty", DifficultyRow) if row.part == "hard")
    assert sum(count for (pool, _), count in parts.items() if pool == "hard") == 42
    assert sum(count for (pool, _), count in parts.items() if pool == "easy") == 18
    there = Counter(
        pair.instruction.text.split()[0]
        for pair in pairs_of(add=100, list=30)
        if pair.instruction.id in hard and not pair.instruction.text.endswith("9")
    )
    for task in ("add", "list"):
        assert abs(parts["hard", task] - 42 * there[task] / there.total()) < 1
    draws = store.read("round-1/draws", DrawRow)
    assert sum(row.wanted for row in draws) == 42
    assert {row.task: round(row.target_share, 2) for row in draws} == {"add": 0.56, "spell": 0.28, "list": 0.17}


def test_as_found_what_the_hard_pool_lacks_is_written_by_the_teacher_in_its_own_shares(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: pairs_of(add=20, spell=10))
    recipe = fakes.recipe(size=50, rounds=1, target={"shares": "pool"}, schedule={"kind": "constant", "share": 1.0})
    store = carried_out(tmp_path, recipe, roles)
    draws = {row.task: row for row in store.read("round-1/draws", DrawRow)}
    assert sum(row.wanted for row in draws.values()) == 50
    assert draws["list"].wanted == 0
    for task in ("add", "spell"):
        assert draws[task].shortfall >= draws[task].expanded > draws[task].shortfall / 2
    assert len(mixture(store, 1)) == sum(row.got + row.expanded for row in draws.values())


# Competence


def loop(folder: Path, recipe: Recipe) -> Curriculum:
    place = StageContext(RunStore(folder / "run"), Watcher(), 1, recipe.seed)
    return Curriculum(recipe, fakes.roles(folder / "people"), place, DuplicateIndex(), DuplicateIndex())


def follows(start: float = 0.2, end: float = 0.8, shares: str = "fixed") -> Recipe:
    return fakes.recipe(
        rescoring="every-round",
        schedule={"kind": "competence", "start": start, "end": end},
        target={"shares": shares},
    )


def split_of(**counts: tuple[int, int, int]) -> tuple[Split, dict[str, str]]:
    """So many easy, hard and hopeless items of every task."""
    names = {
        part: [f"{task}-{part}-{turn}" for task, three in counts.items() for turn in range(three[place])]
        for place, part in enumerate(("easy", "hard", "hopeless"))
    }
    found = Split(tuple(names["hard"]), tuple(names["easy"]), (), frozenset(), tuple(names["hopeless"]))
    return found, {name: name.split("-")[0] for part in names.values() for name in part}


def test_the_hard_share_follows_what_the_student_can_do_of_the_target(tmp_path: Path) -> None:
    curriculum = loop(tmp_path, follows())
    split, curriculum.task_of = split_of(add=(8, 0, 0), spell=(3, 3, 2), list=(0, 4, 4))
    plan = curriculum.plan_round(1, split, [])
    able = (9 / 10 + 4 / 10 + 1 / 10) / 3
    assert plan.hard_share == pytest.approx(0.2 + 0.6 * able)
    assert plan.target == curriculum.roles.tagger.taxonomy.target
    assert plan.balanced


def test_a_round_takes_the_size_that_the_recipe_has_for_it(tmp_path: Path) -> None:
    curriculum = loop(tmp_path, fakes.recipe(rounds=2, size=[12, 30]))
    split, curriculum.task_of = split_of(add=(8, 0, 0), spell=(3, 3, 2), list=(0, 4, 4))
    assert [curriculum.plan_round(number, split, []).size for number in (1, 2)] == [12, 30]


def test_task_shares_lean_to_what_the_student_cannot_do(tmp_path: Path) -> None:
    curriculum = loop(tmp_path, follows(shares="competence"))
    split, curriculum.task_of = split_of(add=(8, 0, 0), spell=(3, 3, 2), list=(0, 4, 4))
    plan = curriculum.plan_round(1, split, [])
    shares = plan.target.shares
    assert shares["add"] < shares["spell"] < shares["list"]
    assert shares["list"] == pytest.approx(0.9 / (0.1 + 0.6 + 0.9), abs=0.02)
    able = sum(share * value for share, value in zip(shares.values(), (0.9, 0.4, 0.1), strict=True))
    assert plan.hard_share == pytest.approx(0.2 + 0.6 * able)


def test_what_was_trained_on_says_nothing_of_competence(tmp_path: Path) -> None:
    curriculum = loop(tmp_path, follows())
    split, curriculum.task_of = split_of(add=(8, 0, 0), spell=(8, 0, 0), list=(8, 0, 0))
    before = curriculum.plan_round(1, split, []).hard_share
    curriculum.trained = {name for name in split.easy if name.startswith("add")}
    assert curriculum.plan_round(2, split, []).hard_share == pytest.approx(0.2 + 0.6 * (0.5 + 0.9 + 0.9) / 3)
    curriculum.trained = set(split.easy)
    unknown = curriculum.plan_round(3, split, []).hard_share
    assert unknown == pytest.approx(0.5)
    assert unknown < before


def test_over_a_run_the_hard_share_rises_with_the_student(tmp_path: Path) -> None:
    store = carried_out(tmp_path, follows(0.2, 0.8), fakes.roles(tmp_path / "people", size=60))
    wanted = [sum(row.wanted for row in store.read(f"round-{number}/draws", DrawRow)) for number in (1, 2, 3)]
    assert wanted == sorted(wanted)
    assert wanted[0] == round(24 * 0.21) < wanted[2]


# What is hopeless now


@dataclass
class Growing(fakes.Student):
    """Of every third item it is far off at first, and near from the second student on; the rest it answers near."""

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.asked.append(one.id)
            far = int(one.text.split()[-1]) % 3 == 0 and checkpoint.round == 0
            yield one.id, completion("far" if far else "near")


@dataclass
class Grades(fakes.Judge):
    """A gap of 8 for what is far off, of 4 for what is near."""

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for one in comparisons:
            both = [
                Judgement({"far": 2.0, "near": 6.0}[one.student], 10.0, order, "", self.name) for order in fakes.ORDERS
            ]
            yield one.instruction.id, tuple(both)


def test_the_hopeless_are_set_aside_and_come_back_when_they_are_near(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), student=Growing(), judge=Grades())
    recipe = fakes.recipe(
        size=30,
        rounds=2,
        expand=False,
        rescoring="every-round",
        threshold={"most": 6.0},
        schedule={"kind": "constant", "share": 1.0},
    )
    store = carried_out(tmp_path, recipe, roles)
    parts = [{row.id: row.part for row in store.read(f"round-{number}/difficulty", DifficultyRow)} for number in (1, 2)]
    far = {pair.instruction.id for pair in pairs_of(add=20, spell=20, list=20) if number_of(pair) % 3 == 0}
    assert {name for name, part in parts[0].items() if part == "hopeless"} == far
    assert set(parts[1].values()) == {"hard"}
    assert not far & {row.id for row in mixture(store, 1)}
    assert far & {row.id for row in mixture(store, 2)}
    assert len(mixture(store, 1)) == len(mixture(store, 2)) == 30


def test_the_hopeless_are_no_seeds_for_the_teacher(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people", size=6), student=Growing(), judge=Grades())
    recipe = fakes.recipe(size=24, rounds=1, threshold={"most": 6.0}, schedule={"kind": "constant", "share": 1.0})
    store = carried_out(tmp_path, recipe, roles)
    rows = mixture(store, 1)
    far = {pair.instruction.id for pair in pairs_of(add=6, spell=6, list=6) if number_of(pair) % 3 == 0}
    assert not far & {row.id for row in rows}
    assert sum(row.origin == "expansion" for row in rows) > 0


# What was trained on before


def test_what_a_round_trained_on_is_not_drawn_again_while_there_are_others(tmp_path: Path) -> None:
    settings = {"difficulty": "none", "target": {"shares": "pool"}, "expand": False}
    store = carried_out(tmp_path, fakes.recipe(size=30, rounds=3, repeats="last", **settings))
    rounds = [{row.id for row in mixture(store, number)} for number in (1, 2, 3)]
    assert len(rounds[0] | rounds[1] | rounds[2]) == 90
    other = carried_out(tmp_path / "drawn", fakes.recipe(size=30, rounds=3, **settings))
    again = [{row.id for row in mixture(other, number)} for number in (1, 2, 3)]
    assert len(again[0] | again[1] | again[2]) < 90


def test_where_nothing_else_is_left_it_is_drawn_again(tmp_path: Path) -> None:
    settings = {"difficulty": "none", "target": {"shares": "pool"}, "expand": False, "repeats": "last"}
    store = carried_out(tmp_path, fakes.recipe(size=72, rounds=2, **settings))
    rounds = [{row.id for row in mixture(store, number)} for number in (1, 2)]
    assert [len(one) for one in rounds] == [72, 72]
    assert len(rounds[0] | rounds[1]) == 108


def test_the_teacher_writes_what_is_new_in_the_place_of_what_was_trained_on(tmp_path: Path) -> None:
    settings = {"schedule": {"kind": "constant", "share": 1.0}, "size": 60, "rounds": 2}
    roles = fakes.roles(tmp_path / "people", size=24)
    store = carried_out(tmp_path, fakes.recipe(repeats="last", **settings), roles)
    draws = store.read("round-2/draws", DrawRow)
    first = {row.id for row in mixture(store, 1)}
    assert sum(row.shortfall for row in draws) > 0
    assert len({row.id for row in mixture(store, 2)} & first) == 60 - sum(row.got + row.expanded for row in draws)
