"""Student, tagger and judge on a real cluster of two nodes: the same answers, tags and verdicts as on one machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest

from tapir.cluster.connection import RayCluster, RaySettings
from tapir.cluster.judge import OwnServers, RayJudge
from tapir.cluster.student import RayStudent
from tapir.cluster.tagger import RayTagger
from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Judgement
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.errors import RecipeError, RoleError
from tapir.gym.world import stream
from tapir.llm.endpoint import Endpoint, Price
from tapir.llm.judge import JudgeSettings, LlmJudge
from tapir.llm.switchboard import Switchboard
from tapir.roles import Comparison, ManyStudents, Resource
from tapir.students.local import AnswerSettings, LocalStudent
from tapir.tagging.alone import Alone
from tapir.tagging.tfidf import TfidfTagger
from tests.cluster.nodes import Nodes
from tests.scripted import BOOK
from tests.server import Behaviour, serving

pytestmark = pytest.mark.ray
SKILLS = ("chain_sum", "gcd", "letter_counting")
SETTINGS = AnswerSettings(max_new_tokens=24, batch_size=8, batch_tokens=0, temperature=0.0, seed=7)
NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)


def instructions(each: int) -> list[Instruction]:
    return [
        Instruction.of(item.question, Origin("corpus", source=item.address))
        for skill in SKILLS
        for item in islice(stream(skill, 1, key="cluster", reserved=False), each)
    ]


@pytest.fixture
def cluster(two_nodes: Nodes) -> Iterator[RayCluster]:
    found = RayCluster(RaySettings(two_nodes.address, workers=2))
    yield found
    found.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker of one core has: sums of other parts differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_answers_are_those_of_one_machine_to_the_last_byte(cluster: RayCluster, tmp_path: Path) -> None:
    asked = instructions(16)
    chunks = [asked[start : start + 12] for start in range(0, len(asked), 12)]
    student = RayStudent(cluster, partial(LocalStudent, SETTINGS))
    assert isinstance(student, ManyStudents)
    assert isinstance(student, Resource)
    student.open(tmp_path, Alone())
    found = dict(student.answer_all(NANO, chunks))
    here = LocalStudent(SETTINGS)
    assert found == {place: list(here.answer(NANO, chunk)) for place, chunk in enumerate(chunks)}


def test_a_checkpoint_that_no_worker_can_load_is_told(cluster: RayCluster, tmp_path: Path) -> None:
    student = RayStudent(cluster, partial(LocalStudent, SETTINGS))
    student.open(tmp_path, Alone())
    (tmp_path / "empty").mkdir()
    with pytest.raises(RoleError, match=r"a worker on .*no student can be loaded from .*empty"):
        list(student.answer(Checkpoint(str(tmp_path / "empty"), 0), instructions(1)))


def by_source(asked: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
    return ((one.id, TaskTag(one.origin.source.split(":")[1])) for one in asked)


class Bound(TfidfTagger):
    """Its labels come from what cannot travel: it says what does."""

    def __init__(self, taxonomy: Taxonomy, label: Callable[..., Iterator[tuple[str, TaskTag | Failure]]]) -> None:
        super().__init__(taxonomy, label, labelled=60, held_out=0.2)
        self.connection = threading.Lock()

    def travelling(self) -> TfidfTagger:
        found = TfidfTagger(self.taxonomy, by_source, labelled=0, held_out=0.5)
        found._pipeline = self._pipeline
        return found


def test_tags_are_those_of_one_machine(cluster: RayCluster, tmp_path: Path) -> None:
    taxonomy = Taxonomy("three", "1", TaskDistribution.of(dict.fromkeys(SKILLS, 1.0)))
    inner = Bound(taxonomy, by_source)
    tagger = RayTagger(cluster, inner, chunk=16)
    tagger.open(tmp_path, Alone())
    asked = instructions(30)
    sample = tagger.sample(asked, 7)
    labels = dict(tagger.label(sample))
    report = tagger.fit([(one, tag.task) for one in sample if isinstance(tag := labels[one.id], TaskTag)])
    assert report
    assert report.accuracy > 0.9
    tags = list(tagger.tag(asked))
    assert len(tags) == len(asked)
    assert dict(tags) == dict(inner.tag(asked))


def comparisons(count: int) -> list[Comparison]:
    return [
        Comparison(Instruction.of(f"Add {number} and 1.", Origin("corpus")), str(number + 1), str(number), "Math")
        for number in range(count)
    ]


def test_verdicts_are_those_of_one_machine(cluster: RayCluster, tmp_path: Path) -> None:
    settings = JudgeSettings(("own",))
    make = partial(LlmJudge, book=BOOK, settings=settings, name="large")
    asked = comparisons(20)
    with serving(Behaviour(models=("model",))) as server:
        endpoints = {"own": Endpoint("own", server.url, "model", json_schema=True)}
        judge = RayJudge(cluster, OwnServers(endpoints), make, "large", block=6)
        judge.open(tmp_path, Alone())
        found = dict(judge.judge(iter(asked)))
        board = Switchboard(endpoints)
        board.open(tmp_path / "here", "", Alone())
        assert found == dict(make(board).judge(asked))
        board.close()
    assert all(isinstance(one, tuple) and isinstance(one[0], Judgement) for one in found.values())
    assert judge.calls == 2 * len(asked)
    assert judge.usage.prompt_tokens > judge.calls


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("paid", "https://example.org/v1", "m", price=Price(input=1.0)),
        Endpoint("paid", "https://example.org/v1", "m", price=Price(output=1.0)),
        Endpoint("paid", "https://example.org/v1", "m", batch=True),
    ],
)
def test_no_worker_calls_what_costs_money(endpoint: Endpoint) -> None:
    with pytest.raises(RecipeError, match=r"endpoints\.paid") as caught:
        OwnServers({"paid": endpoint})
    assert "local" in caught.value.remedy
