"""Classes of the user's own, named in a recipe: built, checked, run through the loop, and shown in the report."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from support import fakes
from support.recipes import api, endpoint, refusal
from tapir.config.base import CustomConfig, Section
from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, load, parse
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EstimateRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskTag
from tapir.report import page
from tapir.report.estimators import read_scale
from tapir.report.summary import summarise
from tapir.runs import session
from tapir.runs.build import build_roles
from tapir.runs.plan import plan

MODULE = """
from support import fakes
from tapir.domain.difficulty import EstimateCost, Scale
from tapir.domain.roles import Estimate, Estimator
from tapir.domain.task import TaskTag


class Teacher(fakes.Teacher):
    def __init__(self, name):
        super().__init__(name)


class Labelling(Teacher):
    def label(self, instructions):
        return ((each.id, TaskTag("add")) for each in instructions)


class Held:
    def open(self, folder, progress):
        self.story = ["open"]

    def rest(self):
        self.story.append("rest")

    def close(self):
        self.story.append("close")


HeldTeacher, HeldTrainer, HeldBenchmark = (
    type("Held", (Held, role), {}) for role in (Teacher, fakes.Trainer, fakes.Benchmark)
)


class Surprise(Estimator):
    name = "surprise"

    def __init__(self, weight):
        self.weight = weight

    @classmethod
    def build(cls, section, context):
        assert context.judge is not None
        return cls(**section.options)

    @classmethod
    def scale(cls, section):
        return Scale("surprise", "surprise", "surprise, in nats", "Surprise is made up.", number=".1f")

    @classmethod
    def cost(cls, section):
        return EstimateCost(passes=1)

    def estimate(self, checkpoint, pairs, tasks):
        for pair in pairs:
            yield pair.instruction.id, Estimate(self.weight * int(pair.instruction.text.split()[-1]))


class Mute:
    name = "mute"


Judge, Tagger = fakes.Judge, fakes.Tagger
"""
CUSTOM: dict[str, dict[str, Any]] = {
    "teacher": {"kind": "custom", "class": "ours:Teacher", "options": {"name": "ours"}},
    "judge": {"kind": "custom", "class": "ours:Judge"},
    "tagger": {"kind": "custom", "class": "ours:Tagger"},
}
OWN_CORPUS = {"curriculum": {"target": {"taxonomy": "paper"}}, "evaluation": {"kind": "judged", "held_out": 5}}
DIFFICULTY = {"kind": "custom", "class": "ours:Surprise", "options": {"weight": 0.5}}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ours", raising=False)


def recipe(**roles: object) -> Recipe:
    curriculum = {"size": 12, "rounds": 1, "difficulty": DIFFICULTY, "threshold": {"value": 6.0}}
    return parse({**CUSTOM, "chunk": 8, "curriculum": curriculum, **roles})


def test_a_teacher_and_an_estimator_from_outside_the_package_take_part_in_a_run(tmp_path: Path) -> None:
    built = build_roles(recipe())
    assert [type(role).__module__ for role in (built.teacher, built.estimator)] == ["ours", "ours"]
    others = fakes.roles(tmp_path / "roles")
    roles = replace(others, teacher=built.teacher, judge=built.judge, tagger=built.tagger, estimator=built.estimator)
    session.run(recipe(), tmp_path / "run", roles=roles)
    store = RunStore(tmp_path / "run")
    values = {row.value for row in store.read("round-0/estimates", EstimateRow)}
    assert values == {number / 2 for number in range(20)}
    assert {row.estimator for row in store.each("round-0/estimates", EstimateRow)} == {"surprise"}
    assert roles.teacher.asked  # type: ignore[attr-defined]
    summary = summarise(store)
    assert summary.scale is not None
    assert (summary.scale.axis, summary.scale.format(1.25)) == ("surprise, in nats", "1.2")
    pytest.importorskip("altair")
    assert "surprise, in nats" in page.render(store, summary)


def test_what_classes_of_ones_own_hold_is_opened_and_given_back(tmp_path: Path) -> None:
    names = {"teacher": "HeldTeacher", "training": "HeldTrainer", "evaluation": "HeldBenchmark"}
    sections: dict[str, Any] = {key: {"kind": "custom", "class": f"ours:{name}"} for key, name in names.items()}
    sections["teacher"]["options"] = {"name": "ours"}
    built, others = build_roles(recipe(**sections)), fakes.roles(tmp_path)
    roles = replace(built, student=others.student, base=others.base, corpus=others.corpus)
    session.run(recipe(), tmp_path / "run", roles=roles)
    stories = [getattr(each, "story", None) for each in (roles.teacher, roles.trainer, *roles.benchmarks)]
    assert stories == [["open", "rest", "close"]] * 3


@pytest.mark.parametrize("corpus", [{}, {"corpus": {"kind": "custom", "class": "ours:Mute"}, **OWN_CORPUS}])
def test_a_teacher_of_ones_own_labels_or_is_refused_before_anything_is_spent(corpus: dict[str, object]) -> None:
    one = Instruction.of("add 1", Origin("corpus"))
    sections = {"tagger": {"kind": "tfidf"}, **corpus}
    tagger = build_roles(recipe(teacher=CUSTOM["teacher"] | {"class": "ours:Labelling"}, **sections)).tagger
    assert list(tagger.label([one])) == [(one.id, TaskTag("add"))]
    with pytest.raises(RecipeError, match="the teacher of kind 'custom' has no method `label`") as caught:
        build_roles(recipe(**sections))
    assert "tagger.endpoints" in caught.value.remedy


def test_the_scale_of_a_class_that_is_no_longer_installed_is_its_name(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.write("round-0/estimates", EstimateRow, [EstimateRow("a", "surprise", 1.0, "", None)])
    plan = {"difficulty": DIFFICULTY | {"class": "gone:Surprise"}, "threshold": {"value": 6.0}}
    scale = read_scale(RunReader(store), parse({"curriculum": plan}).curriculum)
    assert scale is not None
    assert scale.name == scale.axis == "surprise"


WHO_IS_CALLED = {
    **dict.fromkeys(("respond", "expand", "refine"), ("teacher",)),
    "judge": ("judge", "curriculum"),
    "canary": ("judge",),
    "label": ("tagger",),
    "evaluate": ("evaluation",),
}


@pytest.mark.parametrize("role", [*CUSTOM, "student", "training", "evaluation", "curriculum", "all"])
def test_a_plan_counts_the_calls_of_the_other_roles_whoever_is_a_class(role: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CORPUS, encoding="utf-8")
    corpus = {"kind": "custom", "class": "mine:Numbers", "options": {"count": 30}, "answers": "teacher"}
    method = {"size": 12, "rounds": 1, "target": {"taxonomy": "paper"}}
    names = {"student": "Student", "training": "Trainer", "evaluation": "Benchmark"}
    classes = CUSTOM | {name: {"kind": "custom", "class": f"ours:fakes.{names[name]}"} for name in names}
    classes["curriculum"] = method | {"difficulty": DIFFICULTY, "threshold": {"value": 6.0}}  # it reads an example once
    chosen = classes | {"endpoints": {}} if role == "all" else {role: classes[role]}
    content = api(corpus=corpus, evaluation={"kind": "judged", "held_out": 5}, curriculum=method) | chosen
    result = plan(parse(content), measure=False)
    paid = {stage.stage for stage in result.stages if stage.cost.calls.most}
    assert paid == {stage for stage, roles in WHO_IS_CALLED.items() if role not in {*roles, "all"}}
    assert any("classes of your own" in line for line in result.assumed) == (role in {*CUSTOM, "all"})
    assert any("reads an example 1 times" in line for line in result.assumed) == (role in {"curriculum", "all"})
    assert "evaluate" in {stage.stage for stage in result.stages}


def test_a_recipe_with_classes_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(recipe()), encoding="utf-8")
    assert 'class = "ours:Teacher"' in path.read_text(encoding="utf-8").splitlines()
    assert load(str(path)) == recipe() == parse(recipe().resolved())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"class": "ours:Nobody"}, "teacher.class = 'ours:Nobody' cannot be imported: module 'ours' has no attribute"),
        ({"class": "gone:Teacher"}, "teacher.class = 'gone:Teacher' cannot be imported: No module named 'gone'"),
        ({"class": "ours:Mute"}, "teacher.class = 'ours:Mute' lacks answer, expand, refine"),
        ({"class": "ours:Teacher"}, "teacher.class = 'ours:Teacher' cannot be built with options = {}: "),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_before_anything_is_spent(section: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_roles(recipe(teacher={"kind": "custom", **section}))
    assert message in str(caught.value)
    assert caught.value.remedy


def test_endpoints_of_a_class_that_cannot_get_them_and_an_estimator_without_a_scale_are_refused() -> None:
    teacher = {"kind": "custom", "class": "ours:Teacher", "endpoints": ["gpt"]}
    with pytest.raises(RecipeError, match=r"teacher\.endpoints has no effect: 'ours:Teacher' has no build"):
        build_roles(recipe(teacher=teacher, endpoints={"gpt": endpoint()}))
    plan = {"difficulty": {"kind": "custom", "class": "ours:Mute"}, "threshold": {"value": 6.0}}
    with pytest.raises(RecipeError, match="'ours:Mute' lacks scale, cost, estimate"):
        build_roles(recipe(curriculum=plan))


def test_a_misspelt_key_of_a_class_is_named_with_the_right_one() -> None:
    assert "teacher.clas: no such key; did you mean class?" in refusal({"teacher": {"kind": "custom", "clas": "a:B"}})
    assert "teacher.class = 'ours.Teacher'" in refusal({"teacher": {"kind": "custom", "class": "ours.Teacher"}})


def subclasses(section: type[Section]) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from subclasses(each)


def alternatives(place: str) -> tuple[type[Section], ...]:
    """The sections that can stand at a key of the recipe."""
    section: type[Section] = Recipe
    *keys, last = place.split(".")
    for key in keys:
        section = section.model_fields[key].annotation  # type: ignore[assignment]
    return get_args(section.model_fields[last].annotation)


OWN = (section for section in subclasses(Section) if issubclass(section, CustomConfig) and section.place)
ROLES = {each: own.role for own in OWN for each in alternatives(own.place)}
IMPLEMENTATIONS = [
    pytest.param(path, ROLES[section], id=path)
    for section in subclasses(Section)
    for path in (section.implementation, getattr(section, "implementation_on_ray", ""))
    if path
]


@pytest.mark.parametrize(("path", "role"), IMPLEMENTATIONS)
def test_every_section_names_a_class_that_is_built_from_it_and_fills_its_role(path: str, role: type) -> None:
    implementation = pkgutil.resolve_name(path)
    verbs = [name for name, member in vars(role).items() if inspect.isfunction(member) and name[0] != "_"]
    assert verbs
    assert [name for name in ("build", *verbs) if not callable(getattr(implementation, name, None))] == []


def test_a_corpus_from_outside_the_package_is_sampled_and_filtered(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CORPUS, encoding="utf-8")
    section = {"kind": "custom", "class": "mine:Numbers", "options": {"count": 30}, "limit": 20, "answers": "missing"}
    chosen = recipe(corpus=section, **OWN_CORPUS)
    corpus = [*build_roles(chosen).corpus()]
    assert len(corpus) == 21  # and the row that cannot be read
    assert corpus == [*build_roles(chosen).corpus()]
    assert chosen.answers() == "missing"
    with pytest.raises(RecipeError, match=r"corpus\.class = 'mine:Nobody' cannot be imported"):
        build_roles(recipe(corpus=section | {"class": "mine:Nobody"}, **OWN_CORPUS)).corpus()


CORPUS = """
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.roles import Rejected


class Numbers:
    def __init__(self, count):
        self.count = count

    def pairs(self):
        yield Rejected("mine:0", "no number", "")
        for number in range(self.count):
            origin = Origin("corpus", source=f"mine:{number}")
            yield Pair(Instruction.of(f"Which number is {number}?", origin), Response("", ""))
"""
