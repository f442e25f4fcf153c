"""The recipe: one typed tree; TOML in, resolved JSON out.

The line under a field is its help. Defaults live here and in the sections, and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from tapir.curriculum import Curriculum
from tapir.endpoints import Calls, Endpoint
from tapir.learning import (
    AnyEngine,
    AnyStudent,
    AnyTagger,
    AnyTraining,
    EncoderTagger,
    LocalEngine,
    LocalStudent,
    Sft,
    VllmStudent,
)
from tapir.sections import (
    AnyCorpus,
    AnyEvaluation,
    AnyJudge,
    AnyTeacher,
    Count,
    FileCorpus,
    GymCorpus,
    GymEvaluation,
    GymJudge,
    GymTeacher,
    HeldOut,
    JudgedEvaluation,
    LlmJudge,
    LlmTagger,
    LlmTeacher,
    NoJudge,
    NoTagger,
    NoTeacher,
    Section,
    Text,
    TfidfTagger,
    Whole,
)


def _endpoint_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError("names of endpoints have letters, digits, - and _ only")
    return name


class Recipe(Section):
    """Everything a run depends on."""

    operational: ClassVar[frozenset[str]] = frozenset({"prompts", "engine"})
    """Keys that do not change what is computed: the manifest holds the digest of every prompt in use."""

    name: str = "gym"
    """Name of the recipe, for the report."""
    seed: Whole = 7
    """Same seed, same run."""
    chunk: Count = 256
    """Items that are finished and saved together."""
    corpus: AnyCorpus = GymCorpus()
    """D: the instructions to choose from."""
    teacher: AnyTeacher = GymTeacher()
    """T: answers, expands, refines."""
    judge: AnyJudge = GymJudge()
    """J: scores from 1 to 10."""
    tagger: AnyTagger = TfidfTagger()
    """Gives every instruction its task."""
    student: AnyStudent = LocalStudent()
    """S: the model that learns."""
    curriculum: Curriculum = Curriculum()
    """Rounds and mixtures."""
    training: AnyTraining = Sft()
    """Fine-tuning."""
    evaluation: AnyEvaluation = GymEvaluation()
    """What is measured after every round."""
    endpoints: dict[Annotated[str, AfterValidator(_endpoint_name)], Endpoint] = Field(default_factory=dict)
    """Models behind servers, each in a table [endpoints.NAME]; the roles say which NAMEs they use."""
    engine: AnyEngine = LocalEngine()
    """What carries the load: this machine, or a cluster."""
    calls: Calls = Calls()
    """What is true of all calls to servers together."""
    prompts: dict[str, Text] = Field(default_factory=dict)
    """For the name of a prompt, the file that takes its place."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        problems = [
            *self._of_one_world(),
            *self._taught_by_somebody(),
            *self._judged_by_somebody(),
            *self._endpoints_in_use(),
            *self._calls_that_cost(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _of_one_world(self) -> Iterator[str]:
        """The gym's roles know its own instructions and no others."""
        kind, evaluation = self.corpus.kind, self.evaluation
        beside = f"beside corpus.kind = {kind!r}"
        if isinstance(self.corpus, GymCorpus):
            if not isinstance(self.teacher, GymTeacher):
                yield f"teacher.kind = {self.teacher.kind!r} {beside}: only the gym's teacher can; set it to 'gym'"
            if not isinstance(evaluation, GymEvaluation):
                yield f"evaluation.kind = {evaluation.kind!r} {beside}: the gym is measured exactly; set it to 'gym'"
            return
        knows = "knows the gym's instructions only"
        if isinstance(self.teacher, GymTeacher):
            yield f"teacher.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints, or to 'none'"
        if isinstance(self.judge, GymJudge):
            yield f"judge.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints, or to 'none'"
        learns = isinstance(self.tagger, TfidfTagger) or (
            isinstance(self.tagger, EncoderTagger) and self.tagger.labelled
        )
        if learns and not getattr(self.tagger, "endpoints", ()):
            yield f"tagger.endpoints = [] {beside}: the gym's teacher would label, and it {knows}; name who labels"
        if isinstance(evaluation, GymEvaluation):
            yield f"evaluation.kind = 'gym' {beside}: it measures what the gym teaches; set it to 'judged' or 'exact'"
        elif 0 < self.corpus.limit <= evaluation.held_out:
            yield (
                f"evaluation.held_out = {evaluation.held_out} of corpus.limit = {self.corpus.limit}"
                " leaves nothing to train on: raise limit, or lower held_out"
            )

    def _taught_by_somebody(self) -> Iterator[str]:
        """Without a teacher nothing may need one; without a tagger there are no tasks to balance."""
        plan = self.curriculum
        if isinstance(self.tagger, NoTagger) and plan.target.shares != "pool":
            yield "tagger.kind = 'none' leaves no tasks to balance: set curriculum.target.shares to 'pool'"
        if not isinstance(self.teacher, NoTeacher):
            return
        needs = {
            "curriculum.expand = true": plan.expand,
            "curriculum.refine = true": plan.refine,
            f"corpus.answers = {self.answers()!r}": self.answers() != "corpus",
        }
        for key in (key for key, needed in needs.items() if needed):
            yield f"teacher.kind = 'none', but {key} needs a teacher: name one, or change it"

    def _judged_by_somebody(self) -> Iterator[str]:
        """Without a judge nothing may need one; preferences need the answers that MFD is measured on."""
        plan = self.curriculum
        if self.preferred_gap() is not None and plan.difficulty.kind != "mfd":
            yield f"training.dpo needs the judge's gap, which difficulty = {plan.difficulty.kind!r} does not measure"
        if not isinstance(self.judge, NoJudge):
            return
        needs = {
            f"curriculum.difficulty = {plan.difficulty.kind!r}": plan.difficulty.kind in {"mfd", "pass-rate"},
            "curriculum.compare with 'pass-rate'": "pass-rate" in plan.compare,
            "curriculum.refine_keep = 'judge'": plan.refine and plan.refine_keep == "judge",
            "evaluation.kind = 'judged'": isinstance(self.evaluation, JudgedEvaluation),
        }
        for key in (key for key, needed in needs.items() if needed):
            yield f"judge.kind = 'none', but {key} needs a judge: name one, or change it"

    def users(self) -> dict[str, tuple[str, ...]]:
        """For every role that calls servers, the names of its endpoints."""
        roles = {"teacher": self.teacher, "judge": self.judge, "tagger": self.tagger}
        return {
            name: role.endpoints
            for name, role in roles.items()
            if isinstance(role, LlmTeacher | LlmJudge | LlmTagger | TfidfTagger | EncoderTagger) and role.endpoints
        }

    def answers(self) -> Literal["corpus", "missing", "teacher"]:
        """Whose answers are trained on; the gym's corpus brings its own."""
        return "corpus" if isinstance(self.corpus, GymCorpus) else self.corpus.answers

    def preferred_gap(self) -> float | None:
        """From which gap on the trained answer is preferred to the student's own; None without such training."""
        return self.training.dpo.gap if isinstance(self.training, Sft) and self.training.dpo else None

    def _endpoints_in_use(self) -> Iterator[str]:
        users = self.users()
        for role, names in users.items():
            for name in sorted(set(names)):
                if name not in self.endpoints:
                    near = difflib.get_close_matches(name, self.endpoints, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"add a table [endpoints.{name}], or mend the name"
                    yield f"{role}.endpoints: there is no endpoint {name!r}; {hint}"
                if names.count(name) > 1:
                    yield f"{role}.endpoints names {name!r} {names.count(name)} times: once is enough"
            if len(names) > 1 and (
                batch := [name for name in names if name in self.endpoints and self.endpoints[name].batch]
            ):
                yield f"{role}.endpoints: {batch[0]!r} sends batches, which nothing can share: name it alone"
        for name in sorted(self.endpoints.keys() - {name for names in users.values() for name in names}):
            yield f"endpoints.{name}: no role uses it; name it in a role's endpoints, or remove it"

    def _calls_that_cost(self) -> Iterator[str]:
        if not self.endpoints:
            if self.calls != Calls():
                yield "calls has no effect without endpoints: remove it"
            if self.prompts:
                yield "prompts has no effect without endpoints: remove it"
        elif self.calls.max_cost and not any(one.costs for one in self.endpoints.values()):
            yield (
                f"calls.max_cost = {self.calls.max_cost:g} has no effect while every price is 0: set price_input and"
                " price_output of an endpoint, or remove max_cost"
            )

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as JSON types."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Every setting that changes what is computed: `resolved` without the operational keys."""
        return _identity(self.resolved())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Keys whose values differ from another resolved recipe, as "key: theirs -> ours"; not the operational ones."""
        theirs, ours = _flat(_identity(other)), _flat(self.identity())
        return [
            f"{key}: {theirs.get(key, 'not set')} -> {ours.get(key, 'not set')}"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key)
        ]


def _identity(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same tables without the keys that a run may go on with other values of."""
    tables = {
        "corpus": _without(tree.get("corpus", {}), FileCorpus.operational),
        "evaluation": _without(tree.get("evaluation", {}), HeldOut.operational),
        "endpoints": {name: _without(one, Endpoint.operational) for name, one in tree.get("endpoints", {}).items()},
        "calls": _without(tree.get("calls", {}), Calls.operational),
        "student": _without(tree.get("student", {}), VllmStudent.operational),
        "training": _without(tree.get("training", {}), Sft.operational),
    }
    return _without(tree, Recipe.operational) | tables


def _without(table: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
