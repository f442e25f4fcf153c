"""The recipe: the typed tree of all settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from tapir.config import annotators
from tapir.config.base import Count, Section, Text, Whole, leaves, suggestion
from tapir.config.corpus import AnyCorpus, FileCorpusConfig, GymCorpusConfig
from tapir.config.curriculum import CurriculumConfig
from tapir.config.endpoints import CallsConfig, EndpointConfig
from tapir.config.evaluation import OPERATIONAL, AlpacaEvalConfig, AnyEvaluation, GymEvaluationConfig, HeldOut
from tapir.config.student import AnyEngine, AnyStudent, LocalEngineConfig, LocalStudentConfig, VllmStudentConfig
from tapir.config.training import AnyTraining, SftConfig
from tapir.domain.errors import changed_keys


def _endpoint_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError("names of endpoints have letters, digits, - and _ only")
    return name


class Recipe(Section):
    """Everything a run depends on."""

    operational: ClassVar[frozenset[str]] = frozenset({"prompts", "engine"})

    name: Text = "gym"
    """Name of the recipe, for the report."""
    seed: Whole = 7
    """Same seed, same run."""
    chunk: Count = 256
    """Items that are processed and saved together."""
    corpus: AnyCorpus = GymCorpusConfig()
    """D: the instructions to choose from."""
    teacher: annotators.AnyTeacher = annotators.GymTeacherConfig()
    """T: answers, expands and refines."""
    judge: annotators.AnyJudge = annotators.GymJudgeConfig()
    """J: scores from 1 to 10."""
    tagger: annotators.AnyTagger = annotators.TfidfTaggerConfig()
    """Assigns a task to every instruction."""
    student: AnyStudent = LocalStudentConfig()
    """S: the model that is trained."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """Rounds and mixtures."""
    training: AnyTraining = SftConfig()
    """Fine-tuning."""
    evaluation: AnyEvaluation = GymEvaluationConfig()
    """Benchmarks that are run after every round."""
    endpoints: dict[Annotated[str, AfterValidator(_endpoint_name)], EndpointConfig] = Field(default_factory=dict)
    """Models behind servers, each in a table [endpoints.NAME]; the roles list the NAMEs they use."""
    engine: AnyEngine = LocalEngineConfig()
    """Where the work is done: this machine, or a Ray cluster."""
    calls: CallsConfig = CallsConfig()
    """Budget, ledger and retries of all calls to servers."""
    prompts: dict[str, Text] = Field(default_factory=dict)
    """Prompts to replace: the name of each with a file."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        annotator_problems = chain(self._gym_problems(), self._teacher_problems(), self._judge_problems())
        if problems := [*annotator_problems, *self._endpoint_problems(), *self._call_problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _gym_problems(self) -> Iterator[str]:
        kind, evaluation = self.corpus.kind, self.evaluation
        beside = f"beside corpus.kind = {kind!r}"
        if isinstance(self.corpus, GymCorpusConfig):
            if self.teacher.kind in {"llm", "none"}:
                yield f"teacher.kind = {self.teacher.kind!r} {beside}: only the gym's teacher can; set it to 'gym'"
            if isinstance(evaluation, HeldOut):
                yield f"evaluation.kind = {evaluation.kind!r} {beside}: the gym is measured exactly; set it to 'gym'"
            return
        knows = "knows the gym's instructions only"
        if isinstance(self.teacher, annotators.GymTeacherConfig):
            yield f"teacher.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints, or to 'none'"
        if isinstance(self.judge, annotators.GymJudgeConfig):
            yield f"judge.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints, or to 'none'"
        own_teacher = isinstance(self.teacher, annotators.CustomTeacherConfig)  # it may label: known once it is built
        if getattr(self.tagger, "labelled", 0) and "tagger" not in self.users() and not own_teacher:
            yield f"tagger.endpoints = [] {beside}: the gym's teacher would label, and it {knows}; name who labels"
        if isinstance(evaluation, GymEvaluationConfig):
            yield f"evaluation.kind = 'gym' {beside}: it measures what the gym teaches; set it to 'judged' or 'exact'"
        elif isinstance(evaluation, HeldOut) and 0 < self.corpus.limit <= evaluation.held_out:
            yield (
                f"evaluation.held_out = {evaluation.held_out} of corpus.limit = {self.corpus.limit}"
                " leaves nothing to train on: raise limit, or lower held_out"
            )

    def _teacher_problems(self) -> Iterator[str]:
        plan = self.curriculum
        if isinstance(self.tagger, annotators.NoTaggerConfig) and plan.target.shares != "pool":
            yield "tagger.kind = 'none' leaves no tasks to balance: set curriculum.target.shares to 'pool'"
        if not isinstance(self.teacher, annotators.NoTeacherConfig):
            return
        needs = {"curriculum.expand = true": plan.expand, "curriculum.refine = true": plan.refine}
        needs[f"corpus.answers = {self.answers()!r}"] = self.answers() != "corpus"
        for key in (key for key, needed in needs.items() if needed):
            yield f"teacher.kind = 'none', but {key} needs a teacher: name one, or change it"

    def _judge_problems(self) -> Iterator[str]:
        plan = self.curriculum
        if isinstance(self.evaluation, AlpacaEvalConfig) and isinstance(self.judge, annotators.GymJudgeConfig):
            yield "evaluation.kind = 'alpaca_eval' needs judge.kind = 'llm': the gym's judge knows its own instructions"
        if self.preferred_gap() is not None and plan.difficulty.measured_by != "judge":
            yield f"training.dpo needs the judge's gap, which difficulty = {plan.difficulty.kind!r} does not measure"
        if not isinstance(self.judge, annotators.NoJudgeConfig):
            return
        needs = {
            f"curriculum.difficulty = {plan.difficulty.kind!r}": plan.difficulty.needs_judge,
            **{f"curriculum.compare with {each.kind!r}": each.needs_judge for each in plan.compared()},
            "curriculum.refine_keep = 'judge'": plan.refine and plan.refine_keep == "judge",
            f"evaluation.kind = {self.evaluation.kind!r}": self.evaluation.needs_judge,
        }
        for key in (key for key, needed in needs.items() if needed):
            yield f"judge.kind = 'none', but {key} needs a judge: name one, or change it"

    def users(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the endpoints of every role that calls servers."""
        roles = {"teacher": self.teacher, "judge": self.judge, "tagger": self.tagger}
        return {name: names for name, role in roles.items() if (names := getattr(role, "endpoints", ()))}

    def answers(self) -> Literal["corpus", "missing", "teacher"]:
        """Return whose answers are trained on; the gym's corpus brings its own."""
        return "corpus" if isinstance(self.corpus, GymCorpusConfig) else self.corpus.answers

    def preferred_gap(self) -> float | None:
        """Return the gap from which on the trained answer is preferred to the student's own; None without DPO."""
        return self.training.dpo.gap if isinstance(self.training, SftConfig) and self.training.dpo else None

    def _endpoint_problems(self) -> Iterator[str]:
        users = self.users()
        for role, names in users.items():
            for name in sorted(set(names)):
                if name not in self.endpoints:
                    hint = suggestion(name, self.endpoints, f"add a table [endpoints.{name}], or fix the name")
                    yield f"{role}.endpoints: there is no endpoint {name!r}; {hint}"
                if names.count(name) > 1:
                    yield f"{role}.endpoints names {name!r} {names.count(name)} times: once is enough"
            if len(names) > 1 and (
                batch := [name for name in names if name in self.endpoints and self.endpoints[name].batch]
            ):
                yield f"{role}.endpoints: {batch[0]!r} sends batches, which nothing can share: name it alone"
        for name in sorted(self.endpoints.keys() - {name for names in users.values() for name in names}):
            yield f"endpoints.{name}: no role uses it; name it in a role's endpoints, or remove it"

    def _call_problems(self) -> Iterator[str]:
        for name, endpoint in self.endpoints.items():
            lacking = sorted({"price_input", "price_output"} - endpoint.model_fields_set)
            if lacking and endpoint.costs:
                yield f"endpoints.{name} has a price without {' and '.join(lacking)}: set it too, to 0 if that is free"
        if not self.endpoints:
            unused = {"calls": self.calls != CallsConfig(), "prompts": bool(self.prompts)}
            yield from (f"{key} has no effect without endpoints: remove it" for key in unused if unused[key])
        elif self.calls.max_cost and not any(endpoint.costs for endpoint in self.endpoints.values()):
            yield (
                f"calls.max_cost = {self.calls.max_cost:g} has no effect while every price is 0: set price_input and"
                " price_output of an endpoint, or remove max_cost"
            )

    def resolved(self) -> dict[str, Any]:
        """Return every setting with its value, as JSON types."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return every setting that changes what is computed: `resolved` without the operational keys."""
        return _identity(self.resolved())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return keys that differ from another resolved recipe, as "key: theirs -> ours"; not the operational ones."""
        trees = (_identity(other), self.identity())
        theirs, ours = ({key: value for key, value in leaves(tree) if value != {}} for tree in trees)
        return changed_keys(theirs, ours)


def _identity(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables without the keys that a run may go on with other values of."""
    endpoints, student = tree.get("endpoints", {}), tree.get("student", {})
    tables = {
        "corpus": _without(tree.get("corpus", {}), FileCorpusConfig.operational),
        "evaluation": _without(tree.get("evaluation", {}), OPERATIONAL),
        "endpoints": {name: _without(each, EndpointConfig.operational) for name, each in endpoints.items()},
        "calls": _without(tree.get("calls", {}), CallsConfig.operational),
        "student": _without(student, VllmStudentConfig.operational if student.get("kind") == "vllm" else frozenset()),
        "training": _without(tree.get("training", {}), SftConfig.operational),
    }
    return _without(tree, Recipe.operational) | tables


def _without(table: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}
