"""One contract for every filling of a role: the tests' own, the gym's, and the language model's."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar

import pytest

from support import fakes
from support.judging import judge
from support.scripted import BOOK, ENDPOINTS, FAILED, Said, Script, shown, user
from tapir.config.annotators import LlmTaggerConfig, LlmTeacherConfig, TfidfTaggerConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE, Judgement, Unscored
from tapir.domain.roles import Benchmark, Comparison, ExpandRequest, Judge, RefineRequest, Reply, Tagger, Teacher
from tapir.domain.task import TaskDistribution, Taxonomy
from tapir.evaluation.judged import JudgedBenchmark
from tapir.gym.roles import GymBenchmark, GymJudge, GymTeacher
from tapir.gym.world import stream
from tapir.models.api.protocol import Request
from tapir.models.taggers.llm import LlmTagger
from tapir.models.taggers.tfidf import TfidfTagger
from tapir.models.teacher import LlmTeacher

RoleT = TypeVar("RoleT")
SKILLS = ("chain_sum", "gcd")


@dataclass(frozen=True)
class World:
    """Pairs by task that a filling can work with."""

    pairs: dict[str, list[Pair]]

    @property
    def all(self) -> list[Pair]:
        return [one for several in self.pairs.values() for one in several]

    @property
    def instructions(self) -> list[Instruction]:
        return [one.instruction for one in self.all]

    @property
    def ids(self) -> list[str]:
        return sorted(one.id for one in self.instructions)


def _fake_world() -> World:
    made = {task: [fakes.instruction(task, number) for number in range(15)] for task in fakes.LABELS}
    return World({task: [Pair(one, Response("right", "x")) for one in several] for task, several in made.items()})


def _gym_world() -> World:
    found: dict[str, list[Pair]] = {}
    for skill in SKILLS:
        for item in islice(stream(skill, 1, key="contract", reserved=False), 15):
            one = Instruction.of(item.question, Origin("corpus", source=item.address))
            found.setdefault(skill, []).append(Pair(one, Response(item.answer, "x")))
    return World(found)


def script(*, as_json: bool) -> Script:
    """A model that does what the prompts ask for, and fails in every way there is for some of them."""

    def say(request: Request) -> Said:
        text = user(request)
        trouble: dict[str, Said] = {"3": FAILED, "4": "", "5": "I would rather not.", "6": "{"}
        number = re.search(r"number 1?(\d)$", text, re.MULTILINE)
        if number and number[1] in trouble:
            return trouble[number[1]]
        scores = {"score_a": 4, "score_b": 6.5} if "<answer_b>" in text else {"score": 7}
        if "\nJudge the " in text:
            tagged = "\n".join(f"<{name}>{value}</{name}>" for name, value in scores.items())
            return json.dumps({"rationale": "so", **scores}) if as_json else tagged
        if "Choose the label" in text:
            label = shown(request, "instruction").split()[0]
            return json.dumps({"label": label}) if as_json else f"<label>{label}</label>"
        if "Number of new instructions" in text:
            fresh = [f"new {request.sample} {turn}" for turn in range(5)]
            tagged = "".join(f"<new_instruction>{one}</new_instruction>" for one in fresh)
            return json.dumps({"instructions": fresh}) if as_json else tagged
        return "as it should be"

    return Script(say, json=as_json, order=1)


def _llm_judge(*, as_json: bool, single: bool, samples: int) -> Judge:
    return judge(script(as_json=as_json), single=single, wave=8, samples=samples, temperature=0.5)


def _llm_teacher(*, as_json: bool) -> Teacher:
    return LlmTeacher(script(as_json=as_json), BOOK, LlmTeacherConfig(kind="llm", endpoints=ENDPOINTS), "large")


def _llm_tagger(*, as_json: bool) -> Tagger:
    section = LlmTaggerConfig(kind="llm", endpoints=ENDPOINTS)
    return LlmTagger(script(as_json=as_json), BOOK, section, fakes.Tagger().taxonomy)


def _tfidf_tagger() -> Tagger:
    labels = Taxonomy("gym", "1", TaskDistribution.of(dict.fromkeys(SKILLS, 1.0)))
    return TfidfTagger(TfidfTaggerConfig(labelled=30), labels, GymTeacher().label, seed=0, chunk=512)


Filling: TypeAlias = tuple[Callable[[], World], Callable[[], RoleT]]

TEACHERS: dict[str, Filling[Teacher]] = {
    "fake": (_fake_world, fakes.Teacher),
    "gym": (_gym_world, GymTeacher),
    "llm, tagged": (_fake_world, partial(_llm_teacher, as_json=False)),
    "llm, json": (_fake_world, partial(_llm_teacher, as_json=True)),
}
JUDGES: dict[str, Filling[Judge]] = {
    "fake": (_fake_world, fakes.Judge),
    "gym": (_gym_world, GymJudge),
    **{
        f"llm, {'json' if as_json else 'tagged'}, {'alone' if single else 'pairwise'}, {samples}": (
            _fake_world,
            partial(_llm_judge, as_json=as_json, single=single, samples=samples),
        )
        for as_json in (False, True)
        for single in (False, True)
        for samples in (1, 3)
    },
}
TAGGERS: dict[str, Filling[Tagger]] = {
    "fake": (_fake_world, fakes.Tagger),
    "tf-idf with the gym's labels": (_gym_world, _tfidf_tagger),
    "llm, tagged": (_fake_world, partial(_llm_tagger, as_json=False)),
    "llm, json": (_fake_world, partial(_llm_tagger, as_json=True)),
}


def _judged() -> Benchmark:
    prompts = [
        Prompt(one.instruction, "", "" if number % 2 else "right") for number, one in enumerate(_fake_world().all)
    ]
    return JudgedBenchmark("held-out", lambda: prompts, fakes.Judge(), _llm_teacher(as_json=False))


BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    "fake": fakes.Benchmark,
    "gym": lambda: GymBenchmark("in-distribution", SKILLS, (1, 2), 6),
    "judged": _judged,
}

every_teacher = pytest.mark.parametrize("filling", TEACHERS.values(), ids=TEACHERS)
every_judge = pytest.mark.parametrize("filling", JUDGES.values(), ids=JUDGES)
every_tagger = pytest.mark.parametrize("filling", TAGGERS.values(), ids=TAGGERS)
every_benchmark = pytest.mark.parametrize("filling", BENCHMARKS.values(), ids=BENCHMARKS)


def made(filling: Filling[RoleT]) -> tuple[World, RoleT]:
    world, role = filling
    return world(), role()


def check_replies(found: Sequence[Reply], world: World) -> None:
    """One for each instruction; a failure names its kind."""
    assert sorted(name for name, _ in found) == world.ids
    for _, reply in found:
        assert isinstance(reply, Completion | Failure)
        if isinstance(reply, Failure):
            assert reply.kind


@every_teacher
def test_a_teacher_gives_one_answer_to_each_instruction(filling: Filling[Teacher]) -> None:
    world, teacher = made(filling)
    check_replies(list(teacher.answer(iter(world.instructions))), world)
    assert list(teacher.answer([])) == []
    assert teacher.name


@every_teacher
def test_a_teacher_rewrites_each_pair_once(filling: Filling[Teacher]) -> None:
    world, teacher = made(filling)
    requests = (RefineRequest(one, task) for task, several in world.pairs.items() for one in several)
    check_replies(list(teacher.refine(requests)), world)
    assert list(teacher.refine([])) == []


def requests_for(world: World, seed: int = 1) -> list[ExpandRequest]:
    return [ExpandRequest(task, several[-8:-5], 7, seed) for task, several in world.pairs.items()]


@every_teacher
def test_what_a_teacher_writes_has_its_task_its_id_and_its_parents(filling: Filling[Teacher]) -> None:
    world, teacher = made(filling)
    found = list(teacher.expand(requests_for(world)))
    written = Counter(task for task, one in found if isinstance(one, Instruction))
    assert written.keys() == world.pairs.keys()
    for task, one in found:
        if isinstance(one, Failure):
            assert one.kind
            continue
        assert one.id == instruction_id(one.text)
        assert (one.origin.kind, one.origin.source != "") == ("expansion", True)
        seeds = {pair.instruction.id for pair in world.pairs[task][-8:-5]}
        assert one.origin.parents
        assert set(one.origin.parents) <= seeds
    assert list(teacher.expand([])) == []


@every_teacher
def test_a_teacher_writes_the_same_for_the_same_request_and_something_else_for_another_seed(
    filling: Filling[Teacher],
) -> None:
    def texts(seed: int) -> list[str]:
        world, teacher = made(filling)
        return sorted(one.text for _, one in teacher.expand(requests_for(world, seed)) if isinstance(one, Instruction))

    assert texts(1) == texts(1)
    assert texts(1) != texts(2_000_003)


def comparisons(world: World) -> Iterator[Comparison]:
    return (
        Comparison(one.instruction, one.response.text, "wrong", task)
        for task in world.pairs
        for one in world.pairs[task]
    )


@every_judge
def test_a_judge_gives_one_verdict_for_each_comparison(filling: Filling[Judge]) -> None:
    world, judge = made(filling)
    found = list(judge.judge(comparisons(world)))
    assert sorted(name for name, _ in found) == world.ids
    assert any(not isinstance(verdict, Unscored) for _, verdict in found)
    for _, verdict in found:
        if isinstance(verdict, Unscored):
            assert verdict.reason
            continue
        assert verdict
        for one in verdict:
            assert isinstance(one, Judgement)
            assert min(one.student, one.reference) >= LOWEST_SCORE
            assert max(one.student, one.reference) <= HIGHEST_SCORE
            assert one.judge == judge.name != ""
        shown_orders = {one.order for one in verdict}
        assert shown_orders in ({"alone"}, {"student-first", "reference-first"})
    assert list(judge.judge([])) == []


@every_judge
def test_a_judge_gives_the_same_verdicts_again(filling: Filling[Judge]) -> None:
    world, judge = made(filling)
    assert dict(judge.judge(comparisons(world))) == dict(judge.judge(comparisons(world)))


@every_tagger
def test_a_tagger_gives_each_instruction_a_label_of_its_list_or_a_failure(filling: Filling[Tagger]) -> None:
    world, tagger = made(filling)
    report = fakes.taught(tagger, world.instructions)
    assert report is None or 0 <= report.accuracy <= 1
    fakes.check_tags(tagger, world.instructions)
    assert not all(isinstance(tag, Failure) for _, tag in tagger.tag(world.instructions))


@every_benchmark
def test_a_benchmark_has_the_same_distinct_prompts_every_time(filling: Callable[[], Benchmark]) -> None:
    benchmark = filling()
    prompts = benchmark.prompts()
    assert benchmark.name
    assert list(benchmark.prompts()) == list(prompts) == list(filling().prompts())
    assert len({one.instruction.id for one in prompts}) == len(prompts) > 0
    assert all(one.instruction.id == instruction_id(one.instruction.text) for one in prompts)


@every_benchmark
def test_a_benchmark_grades_each_answer_from_nothing_to_one_or_says_why_not(filling: Callable[[], Benchmark]) -> None:
    benchmark = filling()
    prompts = benchmark.prompts()
    found = list(benchmark.grade([(one, one.expected or "wrong") for one in prompts]))
    assert sorted(name for name, _ in found) == sorted(one.instruction.id for one in prompts)
    grades = [grade for _, grade in found if isinstance(grade, Grade)]
    assert any(one.success for one in grades)
    assert all(0 <= one.score <= 1 for one in grades)
    assert all(grade.reason for _, grade in found if isinstance(grade, Unscored))
    assert list(benchmark.grade([])) == []
