"""Estimators in the judge's place and beside it, and runs beyond the paper that are killed and gone on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support import fakes
from support.beyond import NoJudge, carried_out, number_of, pairs_of
from support.scripted import completion
from tapir.config.curriculum import PassRateConfig
from tapir.config.toml import parse
from tapir.data.run.rows import DifficultyRow, EstimateRow
from tapir.domain.completion import Failure
from tapir.domain.errors import Waiting
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.roles import Comparison, Estimate, Estimator, Reply, Roles
from tapir.domain.round import Checkpoint
from tapir.models.estimators import Length, PassRate
from tapir.report.summary import summarise
from tapir.runs import session


@dataclass
class Numbers(Estimator):
    """The larger the number the harder; it cannot read what ends in 5."""

    name: str = "ifd"
    asked: list[tuple[int, str]] = field(default_factory=list)

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        del tasks
        for one in pairs:
            self.asked.append((checkpoint.round, one.instruction.id))
            number = number_of(one)
            yield one.instruction.id, Unscored("?") if number % 10 == 5 else Estimate(float(number), "its number")


QUANTILE = {"rule": "quantile", "value": 0.25}


def test_an_estimator_takes_the_place_of_student_and_judge(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), judge=NoJudge(), estimator=Numbers())
    recipe = fakes.recipe(difficulty="ifd", threshold=QUANTILE, size=12, rounds=2, expand=False)
    store = carried_out(tmp_path, recipe, roles)
    rows = store.read("round-1/difficulty", DifficultyRow)
    hard = {row.id for row in rows if row.part == "hard"}
    assert hard == {pair.instruction.id for pair in pairs_of(add=20, spell=20, list=20) if number_of(pair) >= 16}
    assert Counter(row.part for row in rows) == {"hard": 12, "easy": 42, "unscored": 6}
    assert len(store.read("round-0/estimates", EstimateRow)) == 60
    assert not store.has("round-0/answers")
    assert isinstance(roles.estimator, Numbers)
    assert {number for number, _ in roles.estimator.asked} == {0}


def test_the_scale_of_an_estimator_may_be_below_zero(tmp_path: Path) -> None:
    class Negative(Numbers):
        def estimate(
            self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
        ) -> Iterator[tuple[str, Estimate | Unscored]]:
            for name, found in super().estimate(checkpoint, pairs, tasks):
                yield name, replace(found, value=found.value - 100) if isinstance(found, Estimate) else found

    roles = replace(fakes.roles(tmp_path / "people"), judge=NoJudge(), estimator=Negative("own"))
    own = {"kind": "custom", "class": "support.beyond:NoJudge"}
    recipe = fakes.recipe(difficulty=own, threshold=QUANTILE, size=12, rounds=1, expand=False)
    store = carried_out(tmp_path, recipe, roles)
    rows = store.read("round-1/difficulty", DifficultyRow)
    assert Counter(row.part for row in rows) == {"hard": 12, "easy": 42, "unscored": 6}
    summary = summarise(store)
    assert Counter(map(summary.cut.part, summary.gaps)) == {"hard": 12, "easy": 42}


def test_an_estimator_is_asked_again_in_every_round_where_that_is_wanted(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "people"), judge=NoJudge(), estimator=Numbers())
    recipe = fakes.recipe(
        difficulty="ifd", threshold=QUANTILE, size=12, rounds=3, rescoring="every-round", expand=False
    )
    store = carried_out(tmp_path, recipe, roles)
    assert isinstance(roles.estimator, Numbers)
    assert Counter(number for number, _ in roles.estimator.asked) == {0: 60, 1: 60, 2: 60}
    assert store.has("round-2/estimates")
    assert store.has("round-3/estimates")


def test_what_is_compared_changes_nothing_that_is_trained_on(tmp_path: Path) -> None:
    plain = carried_out(tmp_path / "plain", fakes.recipe())
    roles = replace(fakes.roles(tmp_path / "beside" / "people", size=40), compared=[Length(), Numbers()])
    beside = carried_out(tmp_path / "beside", fakes.recipe(compare=["length", "ifd"]), roles)
    for name in ("length", "ifd"):
        assert len(beside.read(f"round-0/compared-{name}", EstimateRow)) == 120
    same = tables(plain.folder)
    assert same == {name: content for name, content in tables(beside.folder).items() if "compared" not in name}
    assert not beside.has("round-1/compared-length")


@dataclass
class Batched(fakes.Judge):
    """Its verdicts are there when they are asked for again."""

    sent: list[list[Comparison]] = field(default_factory=list)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        self.sent.append(list(comparisons))
        if len(self.sent) == 1:
            raise Waiting("in a batch")
        return super().judge(self.sent[-1])


@pytest.mark.parametrize("batch", [True, False])
def test_samples_that_wait_for_their_verdicts_are_judged_as_they_were_sent_and_all_at_once_in_a_batch(
    tmp_path: Path, *, batch: bool
) -> None:
    recipe = parse(
        {
            "curriculum": {"size": 24, "rounds": 1, "difficulty": "pass-rate", "threshold": {"value": 0.5}},
            "chunk": 8,
            "judge": {"kind": "custom", "class": "support.fakes:Judge", "endpoints": ["there"]},
            "endpoints": {"there": {"base_url": "http://localhost/v1", "model": "m", "batch": batch}},
        }
    )
    judge = Batched()
    estimator = PassRate(PassRateConfig(kind="pass-rate", samples=2), fakes.Moody(), judge)
    roles = replace(fakes.roles(tmp_path / "people"), estimator=estimator)
    with pytest.raises(Waiting):
        carried_out(tmp_path, recipe, roles)
    carried_out(tmp_path, recipe, roles)
    assert judge.sent[0] == judge.sent[1]
    assert [len(each) for each in judge.sent] == ([120, 120] if batch else [16] * 8 + [8])


# Killed and gone on with


def tables(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


@dataclass
class Killed(Exception):
    """The process ends."""


@dataclass
class Dying:
    """Answers, scores and estimates until it has done so `after` times."""

    after: int
    done: int = 0

    def breathe(self) -> None:
        self.done += 1
        if self.done > self.after:
            raise Killed


@dataclass
class DyingStudent(fakes.Student):
    life: Dying = field(default_factory=lambda: Dying(10**9))

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for reply in super().answer(checkpoint, instructions):
            self.life.breathe()
            yield reply


@dataclass
class DyingEstimator(Numbers):
    life: Dying = field(default_factory=lambda: Dying(10**9))

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        for one in super().estimate(checkpoint, pairs, tasks):
            self.life.breathe()
            yield one


@dataclass
class DyingTeacher(fakes.Teacher):
    life: Dying = field(default_factory=lambda: Dying(10**9))

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.life.breathe()
            yield one.id, Failure("timeout", "") if one.text.endswith("8") else completion("right")


BEYOND: dict[str, dict[str, object]] = {
    "competence": {
        "rescoring": "every-round",
        "schedule": {"kind": "competence"},
        "target": {"shares": "competence"},
        "threshold": {"most": 8.0, "value": 2.0},
    },
    "estimator": {
        "difficulty": "ifd",
        "threshold": {**QUANTILE, "most": 17.0},
        "rescoring": "every-round",
        "schedule": {"kind": "competence"},
    },
    "none": {"difficulty": "none", "target": {"shares": "pool"}, "size": 70},
}


@pytest.mark.parametrize("name", BEYOND)
def test_killed_anywhere_and_gone_on_with_it_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    settings = BEYOND[name]
    recipe = fakes.recipe(**settings)

    def roles(life: Dying) -> Roles:
        found = fakes.roles(tmp_path / "people", size=20)
        dying = replace(found, student=DyingStudent(life=life), teacher=DyingTeacher(life=life))
        return replace(dying, estimator=DyingEstimator(life=life)) if name == "estimator" else dying

    whole = Dying(10**9)
    session.run(recipe, tmp_path / "whole", roles=roles(whole))
    wanted = tables(tmp_path / "whole")
    for turn in range(5):
        folder = tmp_path / f"killed-{turn}"
        with pytest.raises(Killed):
            session.run(recipe, folder, roles=roles(Dying(turn * whole.done // 5)))
        session.run(recipe, folder, roles=roles(Dying(10**9)))
        assert tables(folder) == wanted
