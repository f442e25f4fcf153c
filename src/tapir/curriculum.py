"""The section of the recipe about the method: rounds, sizes, shares, and what counts as hard.

The line under a field is its help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tapir.domain.difficulty import Threshold as Cut
from tapir.domain.schedule import Schedule
from tapir.sections import Count, Section, Share, kind_or


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


class CompetenceSchedule(Section):
    """Beyond the paper: the hard share follows what the student can do, as the last scoring found it."""

    kind: Literal["competence"]
    """The rule for the hard share."""
    start: Share = 0.3
    """Hard share of a student that can do nothing of the corpus."""
    end: Share = 1.0
    """Hard share of one that can do all of it."""


AnySchedule: TypeAlias = Annotated[
    PaperSchedule | ConstantSchedule | LinearSchedule | ListSchedule | CompetenceSchedule,
    Field(discriminator="kind"),
    kind_or("paper"),
]


class Mfd(Section):
    """Model fitting difficulty: the judge's score of the teacher's answer minus that of the student's (paper)."""

    kind: Literal["mfd"] = "mfd"
    """How difficulty is measured."""


class Ifd(Section):
    """Instruction-following difficulty: the student's loss on the answer with the instruction by that without it."""

    kind: Literal["ifd"]
    """How difficulty is measured."""


class PassRate(Section):
    """The share of sampled answers that the judge finds worse than the teacher's."""

    kind: Literal["pass-rate"]
    """How difficulty is measured."""
    samples: Annotated[int, Field(ge=2, strict=True)] = 4
    """Answers drawn for each instruction."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    """They are drawn with."""


class Length(Section):
    """The length of the teacher's answer, in characters: needs nobody, and is hard to beat."""

    kind: Literal["length"]
    """How difficulty is measured."""


class NoDifficulty(Section):
    """Nothing is measured: there is one pool, and every part of it may be drawn."""

    kind: Literal["none"]
    """How difficulty is measured."""


def _by_name(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


AnyDifficulty: TypeAlias = Annotated[
    Mfd | Ifd | PassRate | Length | NoDifficulty,
    Field(discriminator="kind"),
    kind_or("mfd"),
    BeforeValidator(_by_name),
]
Compared: TypeAlias = Literal["ifd", "pass-rate", "length"]


class Threshold(Section):
    """Which gaps (teacher's score minus student's, or what another estimator found) are hard."""

    rule: Literal["delta", "quantile", "budget"] = "delta"
    """delta: gap > value; quantile: the largest gaps, that share of the scored items; budget: that many."""
    value: Annotated[float, Field(ge=0)] = 2.0
    """The threshold, a share below 1, or a number of items."""
    most: Annotated[float, Field(ge=0)] = 0.0
    """Beyond the paper: a gap above this is hopeless now, and set aside for the round; 0 sets none aside."""

    @model_validator(mode="after")
    def _fits_its_rule(self) -> Threshold:
        if self.rule == "quantile" and not 0 < self.value < 1:
            raise ValueError(f"with rule = 'quantile' value is a share between 0 and 1, got {self.value:g}")
        if self.rule == "delta" and 0 < self.most <= self.value:
            raise ValueError(f"most = {self.most:g} leaves nothing above value = {self.value:g}: raise most")
        return self


class Target(Section):
    """P(t): the share of each task in a round."""

    taxonomy: str = "gym"
    """A shipped taxonomy (gym, paper) or a TOML file of your own with name, version and [shares]."""
    shares: Literal["fixed", "room", "competence", "pool"] = "fixed"
    """fixed: the taxonomy's (paper); room, competence: leant to tasks with room to grow; pool: as they come."""
    minimum: Share = 0.01
    """With shares = "room" or "competence": share every task keeps."""

    def idle(self) -> Mapping[str, str]:
        """Shares that lean to nothing know no minimum."""
        return {"minimum": "shares"} if self.shares in {"fixed", "pool"} else {}


class Novelty(Section):
    """When an instruction is new: none that the teacher wrote repeats a known one, and none repeats a held-out one."""

    rule: Literal["exact", "near"] = "exact"
    """exact: no such instruction has the same text; near: none resembles it either (paper)."""
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
    difficulty: AnyDifficulty = Mfd()
    """How hard an instruction is for the student."""
    compare: tuple[Compared, ...] = ()
    """Estimators measured besides on the corpus, before round 1, to see how far they rank it alike."""
    threshold: Threshold = Threshold()
    """What counts as hard."""
    target: Target = Target()
    """What the mix of tasks should be."""
    rescoring: Literal["once", "every-round"] = "once"
    """once: MFD of the warm-up student throughout (paper); every-round: the last student answers again."""
    continue_from: Literal["previous", "warm-up"] = "previous"
    """previous: each round trains the last round's student (paper); warm-up: each starts again from S_0."""
    repeats: Literal["drawn", "last"] = "drawn"
    """drawn: every round draws from the whole pools; last: what a round trained on is drawn again only in need."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Passes over the corpus before the first round; 0 for a student that already follows instructions."""
    expand: bool = True
    """Have the teacher write what the hard pool lacks."""
    expand_attempts: Count = 3
    """How often the teacher is asked again for what a task still lacks."""
    novelty: Novelty = Novelty()
    """When an instruction is new."""
    refine: bool = True
    """Have the teacher rewrite the answers in the manner of their task."""
    refine_keep: Literal["always", "judge"] = "always"
    """always: the rewritten answer is trained on; judge: the original is, where the judge prefers it."""

    def idle(self) -> Mapping[str, str]:
        """A single round has no schedule; what is not done has no settings."""
        found: dict[str, str] = {}
        if self.difficulty.kind == "none":
            found |= dict.fromkeys(("schedule", "threshold", "rescoring"), "difficulty")
        if self.variant == "single-round":
            found |= dict.fromkeys(("rounds", "schedule", "repeats", "rescoring", "continue_from"), "variant")
        if not self.expand:
            found |= {"expand_attempts": "expand"}
        if not self.refine:
            found |= {"refine_keep": "refine"}
        return found

    @model_validator(mode="after")
    def _has_a_schedule(self) -> Curriculum:
        if isinstance(self.schedule, ListSchedule) and len(self.schedule.shares) != self.rounds:
            raise ValueError(f"schedule.shares has {len(self.schedule.shares)} entries for rounds = {self.rounds}")
        self.alpha()
        return self

    @model_validator(mode="after")
    def _fits_its_difficulty(self) -> Curriculum:
        kind, follows = self.difficulty.kind, self.schedule.kind == "competence" or self.target.shares == "competence"
        if follows and (self.rescoring != "every-round" or kind == "none"):
            raise ValueError(
                "competence is read from the scores of every round: set rescoring = 'every-round'"
                + (" and a difficulty other than 'none'" if kind == "none" else "")
            )
        if (
            kind not in {"mfd", "none"}
            and self.threshold.rule == "delta"
            and "value" not in self.threshold.model_fields_set
        ):
            raise ValueError(
                f"difficulty = {kind!r} has a scale of its own, on which threshold.value = {self.threshold.value:g}"
                " means nothing: set threshold.rule to 'quantile' or 'budget', or threshold.value"
            )
        if kind == "pass-rate" and self.threshold.rule == "delta" and self.threshold.value >= 1:
            raise ValueError(
                f"threshold.value = {self.threshold.value:g}: a share of failures is at most 1: nothing would be hard"
            )
        if len(set(self.compare)) < len(self.compare) or kind in self.compare:
            raise ValueError(f"compare = {list(self.compare)} beside difficulty = {kind!r}: name each estimator once")
        return self

    def alpha(self) -> Schedule:
        """The schedule as values: one hard share per round; one that follows competence is given as it starts."""
        if self.variant == "single-round" or self.difficulty.kind == "none":
            return Schedule.constant(1.0, 1 if self.variant == "single-round" else self.rounds)
        match self.schedule:
            case PaperSchedule(start=start, step=step):
                return Schedule.paper(start, step, self.rounds)
            case ConstantSchedule(share=share) | CompetenceSchedule(start=share):
                return Schedule.constant(share, self.rounds)
            case LinearSchedule(start=start, end=end):
                return Schedule.linear(start, end, self.rounds)
            case ListSchedule(shares=shares):
                return Schedule(shares)

    def delta(self) -> Cut:
        """The threshold as a value of the domain."""
        return Cut(self.threshold.rule, self.threshold.value, self.threshold.most or math.inf)
