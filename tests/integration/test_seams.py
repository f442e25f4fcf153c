"""The seams that real students need: several chunks at a time, things that are held and given back, preferences."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support import fakes
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.run.rows import ContrastRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import RoleError, TrainingError
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.progress import Progress
from tapir.domain.roles import Reply, Roles
from tapir.domain.round import Checkpoint
from tapir.domain.training import TrainJob, TrainReport
from tapir.runs import session


@dataclass
class Crowd(fakes.Student):
    """Answers several chunks at a time and gives them back shuffled; it may lose the first."""

    loses: bool = False
    most: int = 0

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        waiting = list(enumerate(chunks))
        self.most = max(self.most, len(waiting))
        random.Random(3).shuffle(waiting)
        for number, chunk in waiting[self.loses :]:
            yield number, list(self.answer(checkpoint, chunk))


@dataclass
class Held:
    """Remembers what it was told, together with the trainings."""

    story: list[str] = field(default_factory=list)

    def open(self, folder: Path, progress: Progress) -> None:
        del progress
        self.story.append(f"open {folder.name}")

    def rest(self) -> None:
        self.story.append("rest")

    def close(self) -> None:
        self.story.append("close")


def tables(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


def run(folder: Path, roles: Roles, recipe: Recipe | None = None) -> Path:
    session.run(recipe or fakes.recipe(), folder, roles=roles)
    return folder


def test_chunks_answered_in_any_order_give_the_same_tables(tmp_path: Path) -> None:
    crowd = Crowd()
    plain = run(tmp_path / "plain", fakes.roles(tmp_path / "a"))
    many = run(tmp_path / "many", replace(fakes.roles(tmp_path / "b"), student=crowd))
    assert crowd.most > 1
    assert tables(many) == tables(plain)


def test_a_chunk_that_is_left_out_is_an_error_and_the_others_are_kept(tmp_path: Path) -> None:
    roles = replace(fakes.roles(tmp_path / "a"), student=Crowd(loses=True))
    with pytest.raises(RoleError, match=r"answer: 1 of 8 chunks came back without a reply"):
        run(tmp_path / "run", roles)
    student = fakes.Student()
    run(tmp_path / "run", replace(roles, student=student))
    asked = [name for name in student.asked if name in corpus_ids(roles)]
    assert 0 < len(asked) < len(corpus_ids(roles))


def corpus_ids(roles: Roles) -> set[str]:
    return {pair.instruction.id for pair in roles.corpus() if isinstance(pair, Pair)}


def test_what_is_held_rests_before_every_training_and_is_given_back_at_the_end(tmp_path: Path) -> None:
    held = Held()

    class Trainer(fakes.Trainer):
        def train(self, job: TrainJob, progress: Progress) -> TrainReport:
            held.story.append(f"train {job.number}")
            return super().train(job, progress)

    run(tmp_path / "run", replace(fakes.roles(tmp_path / "a"), trainer=Trainer(), resources=(held,)))
    trainings = [one for number in (1, 2, 3) for one in ("rest", f"train {number}")]
    assert held.story == ["open run", *trainings, "close"]


def test_what_is_held_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    held = Held()

    class Trainer(fakes.Trainer):
        def train(self, job: TrainJob, progress: Progress) -> TrainReport:
            raise TrainingError(f"no luck in round {job.number}, {progress.stopping}")

    with pytest.raises(TrainingError, match="no luck in round 1"):
        run(tmp_path / "run", replace(fakes.roles(tmp_path / "a"), trainer=Trainer(), resources=(held,)))
    assert held.story[-1] == "close"


def with_dpo(gap: float) -> Recipe:
    return parse({"curriculum": {"size": 24}, "chunk": 8, "training": {"dpo": {"gap": gap}}})


def test_where_the_gap_is_large_the_trained_answer_is_preferred_to_the_students_own(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "a")
    store = RunStore(run(tmp_path / "run", roles, with_dpo(9.0)))
    assert isinstance(roles.trainer, fakes.Trainer)
    for job in roles.trainer.jobs:
        rows = store.read(f"round-{job.number}/contrasts", ContrastRow)
        mixture = {row.id: row for row in store.read(f"round-{job.number}/mixture", MixtureRow)}
        assert [one.id for one in job.preferences] == [row.id for row in rows]
        assert rows, "every round has hard examples that were scored"
        assert all(row.gap >= 9 and row.rejected == "wrong" for row in rows)
        assert all(row.chosen == mixture[row.id].response for row in rows)
        assert all(mixture[row.id].origin == "corpus" for row in rows), "expansions were never scored"


def test_without_that_table_nothing_is_preferred(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "a")
    folder = run(tmp_path / "run", roles)
    assert isinstance(roles.trainer, fakes.Trainer)
    assert all(not job.preferences for job in roles.trainer.jobs)
    assert not list(folder.rglob("contrasts.parquet"))
