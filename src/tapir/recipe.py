"""The recipe: one typed tree; TOML in, resolved JSON out.

The line under a field is its help. Defaults live here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from tapir.domain import difficulty
from tapir.domain.schedule import Schedule

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]


class Section(BaseModel):
    """A table of the recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def idle(self) -> frozenset[str]:
        """Keys that would be refused beside the others because they have no effect."""
        return frozenset()

    @model_serializer(mode="wrap")
    def _without_idle(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in self.idle()}


class GymCorpus(Section):
    """Instructions of the embedded world, imbalanced the way public corpora are."""

    kind: Literal["gym"] = "gym"
    """Where the corpus comes from."""
    size: Annotated[int, Field(ge=50, strict=True)] = 2000
    """Instructions in the corpus."""
    skew: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Exponent of the power law over skills; 0 gives every skill the same share."""
    skills: tuple[str, ...] = ()
    """Skills to use; empty means all that may be trained on."""


class GymTeacher(Section):
    """Exact answers, fresh instances, worked steps."""

    kind: Literal["gym"] = "gym"
    """Who teaches."""


class GymJudge(Section):
    """The verifier of the embedded world on the 1 to 10 scale."""

    kind: Literal["gym"] = "gym"
    """Who judges."""


class TfidfTagger(Section):
    """TF-IDF and logistic regression, trained in the run from the teacher's labels on a sample."""

    kind: Literal["tfidf"] = "tfidf"
    """Who tags."""
    labelled: Annotated[int, Field(ge=20, strict=True)] = 800
    """Instructions the teacher labels."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labels kept to measure the tagger."""


class LocalStudent(Section):
    """A model answering in this process, through transformers."""

    kind: Literal["transformers"] = "transformers"
    """How the student answers."""
    model: str = "nano"
    """"nano" for the built-in student, or a folder or hub id that transformers can load."""
    max_new_tokens: Count = 112
    """Longest answer, in tokens."""
    batch_size: Count = 128
    """Prompts answered at once."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy."""


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
    PaperSchedule | ConstantSchedule | LinearSchedule | ListSchedule, Field(discriminator="kind")
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

    def idle(self) -> frozenset[str]:
        """The paper's fixed shares know no minimum."""
        return frozenset({"minimum"}) if self.shares == "fixed" else frozenset()


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
    refine: bool = True
    """Have the teacher rewrite the answers in the manner of their task."""

    def idle(self) -> frozenset[str]:
        """A single round has no schedule."""
        return frozenset({"rounds", "schedule"}) if self.variant == "single-round" else frozenset()

    @field_validator("schedule", mode="before")
    @classmethod
    def _paper_unless_said(cls, value: object) -> object:
        return {"kind": "paper", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Curriculum:
        clash = sorted(self.idle() & self.model_fields_set)
        if clash:
            raise ValueError(f"variant = 'single-round' is one round of hard examples: remove {' and '.join(clash)}")
        if isinstance(self.schedule, ListSchedule) and len(self.schedule.shares) != self.rounds:
            raise ValueError(f"schedule.shares has {len(self.schedule.shares)} entries for rounds = {self.rounds}")
        if self.target.idle() & self.target.model_fields_set:
            raise ValueError("target.minimum has no effect with target.shares = 'fixed': remove it")
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


class Training(Section):
    """Fine-tuning of the student, on answer tokens only."""

    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Examples per step."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning rate over the steps of a round."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_length: Count = 512
    """Longest example in tokens; a longer one is an error, never cut."""
    save_every: Count = 50
    """Steps between two training checkpoints."""


class GymEvaluation(Section):
    """Held-out instructions of the embedded world."""

    kind: Literal["gym"] = "gym"
    """What is measured with."""
    per_task: Count = 30
    """In-distribution prompts for each skill."""
    harder_per_task: Annotated[int, Field(ge=0, strict=True)] = 10
    """Prompts one level harder, for each skill."""
    unseen_per_task: Annotated[int, Field(ge=0, strict=True)] = 20
    """Prompts for each skill that is never trained on."""


class Recipe(Section):
    """Everything a run depends on."""

    name: str = "gym"
    """Name of the recipe, for the report."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 7
    """Same seed, same run."""
    chunk: Count = 256
    """Items that are finished and saved together."""
    corpus: GymCorpus = GymCorpus()
    """D: the instructions to choose from."""
    teacher: GymTeacher = GymTeacher()
    """T: answers, expands, refines."""
    judge: GymJudge = GymJudge()
    """J: scores from 1 to 10."""
    tagger: TfidfTagger = TfidfTagger()
    """Gives every instruction its task."""
    student: LocalStudent = LocalStudent()
    """S: the model that learns."""
    curriculum: Curriculum = Curriculum()
    """Rounds and mixtures."""
    training: Training = Training()
    """Fine-tuning."""
    evaluation: GymEvaluation = GymEvaluation()
    """What is measured after every round."""

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as JSON types."""
        return self.model_dump(mode="json")

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Keys whose values differ from another resolved recipe, as "key: theirs -> ours"."""
        theirs, ours = _flat(other), _flat(self.resolved())
        return [
            f"{key}: {theirs.get(key, 'not set')} -> {ours.get(key, 'not set')}"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key)
        ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
