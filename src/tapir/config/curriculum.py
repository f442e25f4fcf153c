"""The section of the recipe about the curriculum: rounds, sizes, shares, difficulty and its threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from tapir.config.base import BY_NAME, Count, CountOrCounts, CustomConfig, Section, Share, kind_or
from tapir.domain.curriculum import Schedule, competence_share
from tapir.domain.difficulty import Scale, Threshold
from tapir.domain.judgement import RANGE
from tapir.domain.roles import Estimator


class PaperScheduleConfig(Section):
    """Hard share by round, as in the paper: start, start + step, ... up to 1."""

    kind: Literal["paper"] = "paper"
    start: Share = 0.3
    """alpha_1, the hard share of the first round (recalled for the paper, unverified)."""
    step: Share = 0.2
    """delta alpha, added in every later round (recalled for the paper, unverified)."""


class ConstantScheduleConfig(Section):
    """The same hard share in every round."""

    kind: Literal["constant"]
    share: Share
    """Hard share."""


class LinearScheduleConfig(Section):
    """Hard share from start in the first round to end in the last."""

    kind: Literal["linear"]
    start: Share
    """Hard share of the first round."""
    end: Share
    """Hard share of the last round."""


class ListScheduleConfig(Section):
    """Hard share of each round, written out."""

    kind: Literal["list"]
    shares: Annotated[tuple[Share, ...], Field(min_length=1)]
    """One hard share per round, rising or falling."""


class CompetenceScheduleConfig(Section):
    """The hard share follows what the student can do, as the last scoring found it."""

    kind: Literal["competence"]
    start: Share = 0.3
    """Hard share of a student that can do nothing of the corpus."""
    end: Share = 1.0
    """Hard share of one that can do all of it."""


AnySchedule: TypeAlias = Annotated[
    PaperScheduleConfig | ConstantScheduleConfig | LinearScheduleConfig | ListScheduleConfig | CompetenceScheduleConfig,
    Field(discriminator="kind"),
    kind_or("paper"),
]


class MfdConfig(Section):
    """Model fitting difficulty: the judge's score of the teacher's answer minus that of the student's."""

    measured_by: ClassVar[str] = "judge"
    needs_judge: ClassVar[bool] = True
    kind: Literal["mfd"] = "mfd"


class NoDifficultyConfig(Section):
    """Nothing is measured: there is one pool, and every part of it may be drawn."""

    measured_by: ClassVar[str] = "nobody"
    needs_judge: ClassVar[bool] = False
    kind: Literal["none"]


class _EstimatorConfig(Section):
    """A difficulty that an estimator measures (`tapir.domain.roles.Estimator`)."""

    measured_by: ClassVar[str] = "estimator"
    needs_judge: ClassVar[bool] = False


class IfdConfig(_EstimatorConfig):
    """Instruction-following difficulty: the student's loss on the answer with the instruction by that without it."""

    implementation: ClassVar[str] = "tapir.models.estimators:Ifd"
    kind: Literal["ifd"]


class PassRateConfig(_EstimatorConfig):
    """The share of sampled answers that the judge finds worse than the teacher's."""

    implementation: ClassVar[str] = "tapir.models.estimators:PassRate"
    needs_judge: ClassVar[bool] = True
    kind: Literal["pass-rate"]
    samples: Annotated[int, Field(ge=2, strict=True)] = 4
    """Answers drawn for each instruction."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    """They are drawn with."""


class LengthConfig(_EstimatorConfig):
    """The length of the teacher's answer, in characters: needs nobody, and is hard to beat."""

    implementation: ClassVar[str] = "tapir.models.estimators:Length"
    kind: Literal["length"]


class CustomDifficultyConfig(CustomConfig, _EstimatorConfig):
    """An estimator of your own."""

    place: ClassVar[str] = "curriculum.difficulty"
    role: ClassVar[type] = Estimator


AnyDifficulty: TypeAlias = Annotated[
    MfdConfig | IfdConfig | PassRateConfig | LengthConfig | NoDifficultyConfig | CustomDifficultyConfig,
    Field(discriminator="kind"),
    kind_or("mfd"),
    BY_NAME,
]
Compared: TypeAlias = Literal["ifd", "pass-rate", "length"]


class ThresholdConfig(Section):
    """Which gaps (teacher's score minus student's, or the value of another estimator) are hard."""

    rule: Literal["delta", "quantile", "budget"] = "delta"
    """delta: gap > value (as in the paper); quantile: that share of the items, the largest gaps; budget: that many."""
    value: Annotated[float, Field(ge=0)] = 2.0
    """The threshold (delta = 2 recalled for the paper, unverified), a share below 1, or a number of items."""
    most: Annotated[float, Field(ge=0)] = 0.0
    """Skip items whose gap exceeds this value in this round; 0 disables the filter."""

    @model_validator(mode="after")
    def _fits_its_rule(self) -> ThresholdConfig:
        if self.rule == "quantile" and not 0 < self.value < 1:
            raise ValueError(f"with rule = 'quantile' value is a share between 0 and 1, got {self.value:g}")
        chosen = "value" in self.model_fields_set
        if self.rule == "budget" and not (chosen and self.value >= 1 and self.value.is_integer()):
            got = f"{self.value:g}" if chosen else "none"
            raise ValueError(f"with rule = 'budget' value is a number of items, got {got}: set it to 1 or more")
        if self.rule == "delta" and 0 < self.most <= self.value:
            raise ValueError(f"most = {self.most:g} leaves nothing above value = {self.value:g}: raise most")
        return self


class TargetConfig(Section):
    """P(t): the share of each task in a round."""

    taxonomy: str = "gym"
    """A shipped taxonomy (gym, paper) or a TOML file of your own with name, version and [shares]."""
    shares: Literal["fixed", "room", "competence", "pool"] = "fixed"
    """fixed: the taxonomy's; room, competence: leant to tasks with room to grow; pool: as they come."""
    minimum: Share = 0.01
    """With shares = "room" or "competence": share every task keeps."""

    def idle(self) -> Mapping[str, str]:
        """Shares that lean to nothing know no minimum."""
        return {"minimum": "shares"} if self.shares in {"fixed", "pool"} else {}


class NoveltyConfig(Section):
    """When an instruction is new: none that the teacher wrote repeats a known one, and none repeats a held-out one."""

    rule: Literal["exact", "near"] = "exact"
    """exact: no such instruction has the same text; near: none resembles it either."""
    rouge: Share = 0.7
    """With rule = "near": a ROUGE-L above this is a near-duplicate."""
    minhash: Share = 0.7
    """With rule = "near": a Jaccard similarity above this, estimated by MinHash, is a near-duplicate."""

    def idle(self) -> Mapping[str, str]:
        """Equal texts need no measure."""
        return dict.fromkeys(("rouge", "minhash"), "rule") if self.rule == "exact" else {}


class CurriculumConfig(Section):
    """The method: rounds, sizes, shares."""

    variant: Literal["multi-round", "single-round"] = "multi-round"
    """single-round is one round of hard examples only."""
    rounds: Count = 3
    """N, the number of rounds; 3 (recalled for the paper, unverified)."""
    size: CountOrCounts = 1500
    """n, the training examples of one round; or a list, one number for each round."""
    schedule: AnySchedule = PaperScheduleConfig()
    """Hard share by round."""
    difficulty: AnyDifficulty = MfdConfig()
    """How hard an instruction is for the student."""
    compare: tuple[Compared, ...] = ()
    """Estimators measured besides on the corpus, before round 1, to see how far they rank it alike."""
    threshold: ThresholdConfig = ThresholdConfig()
    """What counts as hard."""
    target: TargetConfig = TargetConfig()
    """What the mix of tasks should be."""
    rescoring: Literal["once", "every-round"] = "once"
    """once: MFD of the warm-up student throughout; every-round: the last student answers again."""
    continue_from: Literal["previous", "warm-up"] = "previous"
    """previous: each round trains the last round's student; warm-up: each starts again from S_0."""
    repeats: Literal["drawn", "last"] = "drawn"
    """drawn: sample from the full pools every round; last: reuse items of earlier rounds only if too few are left."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Passes over the corpus before the first round; 0 for a student that already follows instructions."""
    expand: bool = True
    """Have the teacher write what the hard pool lacks."""
    expand_attempts: Count = 3
    """Number of times the teacher is asked for what a task still lacks."""
    novelty: NoveltyConfig = NoveltyConfig()
    """When an instruction is new."""
    refine: bool = True
    """Have the teacher rewrite the answers in the style of their task (as in the paper)."""
    refine_keep: Literal["always", "judge"] = "always"
    """always: the rewritten answer is trained on; judge: the original is, where the judge prefers it."""

    def idle(self) -> Mapping[str, str]:
        """A single round has no schedule; what is not done has no settings."""
        idle: dict[str, str] = {}
        if self.difficulty.measured_by == "nobody":
            idle |= dict.fromkeys(("schedule", "threshold", "rescoring"), "difficulty")
        if self.variant == "single-round":
            idle |= dict.fromkeys(("rounds", "schedule", "repeats", "rescoring", "continue_from"), "variant")
        if not self.expand:
            idle |= {"expand_attempts": "expand"}
        if not self.refine:
            idle |= {"refine_keep": "refine"}
        return idle

    @model_validator(mode="after")
    def _has_a_schedule(self) -> CurriculumConfig:
        if isinstance(self.schedule, ListScheduleConfig) and len(self.schedule.shares) != self.rounds:
            raise ValueError(f"schedule.shares has {len(self.schedule.shares)} entries for rounds = {self.rounds}")
        rounds = self.alpha().rounds
        if isinstance(self.size, tuple) and len(self.size) != rounds:
            raise ValueError(f"size has {len(self.size)} entries for {rounds} rounds: give one, or one for each round")
        return self

    @model_validator(mode="after")
    def _fits_its_difficulty(self) -> CurriculumConfig:
        kind, follows = self.difficulty.kind, self.schedule.kind == "competence" or self.target.shares == "competence"
        nothing = self.difficulty.measured_by == "nobody"
        if follows and (self.rescoring != "every-round" or nothing):
            more = " and a difficulty other than 'none'" if nothing else ""
            if self.variant == "single-round":
                more += " and variant = 'multi-round', or choose other target.shares"
            raise ValueError(f"competence is read from the scores of every round: set rescoring = 'every-round'{more}")
        if (
            self.difficulty.measured_by == "estimator"
            and self.threshold.rule == "delta"
            and "value" not in self.threshold.model_fields_set
        ):
            raise ValueError(
                f"difficulty = {kind!r} has a scale of its own, on which threshold.value = {self.threshold.value:g}"
                " means nothing: set threshold.rule to 'quantile' or 'budget', or threshold.value"
            )
        largest, why = {
            "mfd": (RANGE, f"no gap is above {RANGE:g}"),
            "pass-rate": (1.0, "a share of failures is at most 1"),
        }.get(kind, (math.inf, ""))
        if self.threshold.rule == "delta" and self.threshold.value >= largest:
            raise ValueError(f"threshold.value = {self.threshold.value:g}: {why}: nothing would be hard")
        if len(set(self.compare)) < len(self.compare) or kind in self.compare:
            raise ValueError(f"compare = {list(self.compare)} beside difficulty = {kind!r}: name each estimator once")
        return self

    def compared(self) -> tuple[AnyDifficulty, ...]:
        """Return the sections of the estimators in `compare`, with the settings that are the default."""
        kinds = {"ifd": IfdConfig, "pass-rate": PassRateConfig, "length": LengthConfig}
        return tuple(kinds[name](kind=name) for name in self.compare)

    def alpha(self) -> Schedule:
        """Return the schedule as values: one hard share per round; one that follows competence as it starts."""
        if self.variant == "single-round" or self.difficulty.measured_by == "nobody":
            return Schedule.constant(1.0, 1 if self.variant == "single-round" else self.rounds)
        match self.schedule:
            case PaperScheduleConfig(start=start, step=step):
                return Schedule.paper(start, step, self.rounds)
            case ConstantScheduleConfig(share=share) | CompetenceScheduleConfig(start=share):
                return Schedule.constant(share, self.rounds)
            case LinearScheduleConfig(start=start, end=end):
                return Schedule.linear(start, end, self.rounds)
            case ListScheduleConfig(shares=shares):
                return Schedule(shares)

    def size_of(self, number: int) -> int:
        """Return n of round `number`, counted from 1."""
        return self.size[number - 1] if isinstance(self.size, tuple) else self.size

    def hard_share(self, number: int, competence: float) -> float:
        """Return α of round `number`; a competence schedule follows `competence` instead, 0 to 1."""
        if isinstance(self.schedule, CompetenceScheduleConfig):
            return competence_share(self.schedule.start, self.schedule.end, competence)
        return self.alpha().share(number)

    def difficulty_threshold(self, scale: Scale | None = None) -> Threshold:
        """Return the threshold as a value of the domain: on a scale, MFD's by default."""
        floor = scale.floor if scale else 0.0
        return Threshold(self.threshold.rule, self.threshold.value, self.threshold.most or math.inf, floor)
