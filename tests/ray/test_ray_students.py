"""The student on a real cluster of two nodes: the same answers as on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest

from support.ray_nodes import Nodes
from tapir.config.student import LocalStudentConfig, RayEngineConfig
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import ManyStudents, Resource
from tapir.domain.round import Checkpoint
from tapir.gym.world import stream
from tapir.models.local.generate import LocalStudent
from tapir.models.local.ray import RayStudent
from tapir.models.local.ray_cluster import RayCluster

pytestmark = pytest.mark.ray
SECTION = LocalStudentConfig(max_new_tokens=24, batch_size=8)
NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)


def instructions(each: int) -> list[Instruction]:
    return [
        Instruction.of(item.question, Origin("corpus", source=item.address))
        for skill in ("chain_sum", "gcd", "letter_counting")
        for item in islice(stream(skill, 1, key="cluster", reserved=False), each)
    ]


@pytest.fixture
def student(two_nodes: Nodes, tmp_path: Path) -> Iterator[RayStudent]:
    engine = RayEngineConfig(kind="ray", address=two_nodes.address)
    answers = RayStudent(RayCluster(engine), SECTION, seed=7)
    answers.open(tmp_path, SilentProgress())
    yield answers
    answers.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker of one core has: sums of other parts differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_answers_are_those_of_one_machine_to_the_last_byte(student: RayStudent) -> None:
    items = instructions(16)
    chunks = [items[start : start + 12] for start in range(0, len(items), 12)]
    assert isinstance(student, ManyStudents)
    assert isinstance(student, Resource)
    replies = dict(student.answer_all(NANO, chunks))
    here = LocalStudent(SECTION, seed=7)
    assert replies == {place: list(here.answer(NANO, chunk)) for place, chunk in enumerate(chunks)}


def test_a_checkpoint_that_no_worker_can_load_is_reported(student: RayStudent, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RoleError, match=r"a worker on .*no student can be loaded from .*empty"):
        list(student.answer(Checkpoint(str(tmp_path / "empty"), 0), instructions(1)))
