"""Rows of the tables of a run; docs/run-directory.md says what every table holds."""

from __future__ import annotations

from dataclasses import dataclass

from tapir.domain.instruction import Turn


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """corpus.parquet: D, in the order read; `context` is what stands before `text`, the user's last turn."""

    id: str
    text: str
    response: str
    author: str
    source: str
    context: tuple[Turn, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class DropRow:
    """drops.parquet: what was dropped and why. `stage` is where it happened."""

    id: str
    stage: str
    reason: str
    detail: str
    text: str


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """neighbours.parquet: a corpus instruction and the earlier one it nearly repeats; similarity is 0 to 1."""

    id: str
    other: str
    similarity: float
    measure: str


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """responses.parquet: y where the teacher was asked for it. Either `text` or `failure` is set."""

    id: str
    text: str | None
    author: str
    failure: str | None
    thought: str = ""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """answers.parquet: ỹ. Either `text` or `failure` is set."""

    id: str
    text: str | None
    finish_reason: str | None
    tokens: int
    failure: str | None
    thought: str | None = None


@dataclass(frozen=True, slots=True)
class JudgementRow:
    """judgements.parquet: one row per display order; scores are null where unscored."""

    id: str
    order: str
    student: float | None
    reference: float | None
    rationale: str
    judge: str
    unscored: str | None
    raw: str | None


@dataclass(frozen=True, slots=True)
class DifficultyRow:
    """difficulty.parquet: MFD and the part of the split: hard, easy, withheld, hopeless or unscored."""

    id: str
    gap: float | None
    spread: float | None
    part: str


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """estimates.parquet, compared-NAME.parquet: values of an estimator other than MFD; `value` is null if unscored."""

    id: str
    estimator: str
    value: float | None
    detail: str
    unscored: str | None


@dataclass(frozen=True, slots=True)
class TagRow:
    """tags.parquet: t(x). `task` is null where the tagger failed."""

    id: str
    task: str | None
    confidence: float
    failure: str | None


@dataclass(frozen=True, slots=True)
class DrawRow:
    """draws.parquet: what the round needs from the hard pool, by task, and what it lacks."""

    task: str
    target_share: float
    wanted: int
    got: int
    shortfall: int
    expanded: int


@dataclass(frozen=True, slots=True)
class ExpansionRow:
    """expansions.parquet: everything the teacher wrote; `reason` and `detail` say why a row was dropped."""

    id: str
    text: str
    response: str
    author: str
    source: str
    parents: tuple[str, ...]
    task_wanted: str
    task: str | None
    reason: str | None
    detail: str
    thought: str = ""


@dataclass(frozen=True, slots=True)
class RefinementRow:
    """refinements.parquet: y'. Either `text` or `failure` is set; the original stays with the item."""

    id: str
    task: str
    text: str | None
    author: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """mixture.parquet: what the round drew to train on, in order; `RunReader.left_out` names what training left out."""

    id: str
    instruction: str
    response: str
    task: str
    pool: str
    origin: str
    refined: bool
    context: tuple[Turn, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class ContrastRow:
    """contrasts.parquet: preference pairs of the round; `rejected` is the student's own answer.

    The thoughts are what is learnt before each of the two: both sides have one, or neither.
    """

    id: str
    instruction: str
    chosen: str
    rejected: str
    gap: float
    context: tuple[Turn, ...] = ()
    thought: str = ""
    rejected_thought: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """evaluation.parquet: every held-out answer with its grade; `score` is null where the judge could not be read.

    `finish_reason` is "length" for an answer that was cut off, else "stop"; null where there is no answer.
    """

    benchmark: str
    id: str
    task: str
    instruction: str
    expected: str
    answer: str | None
    score: float | None
    success: bool
    failure: str | None
    finish_reason: str | None = None
    context: tuple[Turn, ...] = ()
    thought: str | None = None


PRELUDE_TABLES = (
    "corpus",
    "drops",
    "neighbours",
    *(f"round-0/{name}" for name in ("responses", "labels", "tags", "canary", "evaluation")),
)
"""Tables finished before round 1 whatever measures difficulty; runs with the same prelude have the same bytes."""
JUDGED_TABLES = ("round-0/answers", "round-0/judgements")
"""Tables finished before round 1 where the judge measures difficulty."""
