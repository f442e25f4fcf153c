"""The recipe: one typed tree; TOML in, resolved JSON out.

The line under a field is its help. Defaults live here and in the sections, and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from tapir.domain import difficulty
from tapir.domain.schedule import Schedule
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
    JudgedEvaluation,
    LlmJudge,
    LlmTagger,
    LlmTeacher,
    Section,
    Share,
    Text,
    TfidfTagger,
    Whole,
    kind_or,
)


class PaperSchedule(Section):
    """Hard share by round: start, start + step, ... up to 1."""

    kind: Literal["paper"] = "paper"
    """The rule for the hard share."""
    start: Share = 0.3
    """Hard share of the first round (the paper's alpha_1, as reported)."""
    step: Share = 0.2
    """Added in every later round (the paper's delta alpha, as reported)."""


class ConstantSchedule(Section):
    """The same hard share in every round."""

    kind: Literal["constant"]
    """The rule for the hard share."""
    share: Share
    """Hard share."""


class LinearSchedule(Section):
    """Hard share from start in the first round to end in the last."""

    kind: Literal["linear"]
    """The rule for the hard share."""
    start: Share
    """Hard share of the first round."""
    end: Share
    """Hard share of the last round."""


class ListSchedule(Section):
    """Hard share of each round, written out."""

    kind: Literal["list"]
    """The rule for the hard share."""
    shares: Annotated[tuple[Share, ...], Field(min_length=1)]
    """One hard share per round, rising or falling."""


AnySchedule: TypeAlias = Annotated[
    PaperSchedule | ConstantSchedule | LinearSchedule | ListSchedule, Field(discriminator="kind"), kind_or("paper")
]


class Threshold(Section):
    """Which gaps (teacher's score minus student's) are hard."""

    rule: Literal["delta", "quantile", "budget"] = "delta"
    """delta: gap > value; quantile: the largest gaps, that share of the scored items; budget: that many."""
    value: Annotated[float, Field(ge=0)] = 2.0
    """The threshold, a share below 1, or a number of items."""

    @model_validator(mode="after")
    def _fits_its_rule(self) -> Threshold:
        if self.rule == "quantile" and not 0 < self.value < 1:
            raise ValueError(f"with rule = 'quantile' value is a share between 0 and 1, got {self.value:g}")
        return self


class Target(Section):
    """P(t): the share of each task in a round."""

    taxonomy: str = "gym"
    """A shipped taxonomy (gym, paper) or a TOML file of your own with name, version and [shares]."""
    shares: Literal["fixed", "room"] = "fixed"
    """fixed: the taxonomy's shares (paper); room: these shares leant towards tasks with room to grow."""
    minimum: Share = 0.01
    """With shares = "room": share every task keeps."""

    def idle(self) -> Mapping[str, str]:
        """The paper's fixed shares know no minimum."""
        return {"minimum": "shares"} if self.shares == "fixed" else {}


class Novelty(Section):
    """When an instruction the teacher wrote is new."""

    rule: Literal["exact", "near"] = "exact"
    """exact: no known instruction has the same text; near: none resembles it either (paper)."""
    rouge: Share = 0.7
    """With rule = "near": a ROUGE-L above this is a near-duplicate."""
    minhash: Share = 0.7
    """With rule = "near": a Jaccard similarity above this, estimated by MinHash, is a near-duplicate."""

    def idle(self) -> Mapping[str, str]:
        """Equal texts need no measure."""
        return dict.fromkeys(("rouge", "minhash"), "rule") if self.rule == "exact" else {}


class Curriculum(Section):
    """The method: rounds, sizes, shares."""

    variant: Literal["multi-round", "single-round"] = "multi-round"
    """single-round is one round of hard examples only (the paper's "S" model)."""
    rounds: Count = 3
    """N, the number of rounds."""
    size: Count = 1500
    """n, the training examples of one round."""
    schedule: AnySchedule = PaperSchedule()
    """Hard share by round."""
    threshold: Threshold = Threshold()
    """What counts as hard."""
    target: Target = Target()
    """What the mix of tasks should be."""
    rescoring: Literal["once", "every-round"] = "once"
    """once: MFD of the warm-up student throughout (paper); every-round: the last student answers again."""
    continue_from: Literal["previous", "warm-up"] = "previous"
    """previous: each round trains the last round's student (paper); warm-up: each starts again from S_0."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Passes over the corpus before the first round; 0 for a student that already follows instructions."""
    expand: bool = True
    """Have the teacher write what the hard pool lacks."""
    expand_attempts: Count = 3
    """How often the teacher is asked again for what a task still lacks."""
    novelty: Novelty = Novelty()
    """When an instruction the teacher wrote is new."""
    refine: bool = True
    """Have the teacher rewrite the answers in the manner of their task."""
    refine_keep: Literal["always", "judge"] = "always"
    """always: the rewritten answer is trained on; judge: the original is, where the judge prefers it."""

    def idle(self) -> Mapping[str, str]:
        """A single round has no schedule; what is not done has no settings."""
        found: dict[str, str] = {}
        if self.variant == "single-round":
            found |= {"rounds": "variant", "schedule": "variant"}
        if not self.expand:
            found |= {"expand_attempts": "expand", "novelty": "expand"}
        if not self.refine:
            found |= {"refine_keep": "refine"}
        return found

    @model_validator(mode="after")
    def _has_a_schedule(self) -> Curriculum:
        if isinstance(self.schedule, ListSchedule) and len(self.schedule.shares) != self.rounds:
            raise ValueError(f"schedule.shares has {len(self.schedule.shares)} entries for rounds = {self.rounds}")
        self.alpha()
        return self

    def alpha(self) -> Schedule:
        """The schedule as values: one hard share per round."""
        if self.variant == "single-round":
            return Schedule((1.0,))
        match self.schedule:
            case PaperSchedule(start=start, step=step):
                return Schedule.paper(start, step, self.rounds)
            case ConstantSchedule(share=share):
                return Schedule.constant(share, self.rounds)
            case LinearSchedule(start=start, end=end):
                return Schedule.linear(start, end, self.rounds)
            case ListSchedule(shares=shares):
                return Schedule(shares)

    def delta(self) -> difficulty.Threshold:
        """The threshold as a value of the domain."""
        return difficulty.Threshold(self.threshold.rule, self.threshold.value)


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
        problems = [*self._of_one_world(), *self._endpoints_in_use(), *self._calls_that_cost()]
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
            yield f"teacher.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints"
        if isinstance(self.judge, GymJudge):
            yield f"judge.kind = 'gym' {beside}: it {knows}; set it to 'llm' and name its endpoints"
        learns = isinstance(self.tagger, TfidfTagger) or (
            isinstance(self.tagger, EncoderTagger) and self.tagger.labelled
        )
        if learns and not self.tagger.endpoints:
            yield f"tagger.endpoints = [] {beside}: the gym's teacher would label, and it {knows}; name who labels"
        if isinstance(evaluation, GymEvaluation):
            yield f"evaluation.kind = 'gym' {beside}: it measures what the gym teaches; set it to 'judged'"
        elif 0 < self.corpus.limit <= evaluation.held_out:
            yield (
                f"evaluation.held_out = {evaluation.held_out} of corpus.limit = {self.corpus.limit}"
                " leaves nothing to train on: raise limit, or lower held_out"
            )

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
        "evaluation": _without(tree.get("evaluation", {}), JudgedEvaluation.operational),
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
