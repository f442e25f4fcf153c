"""Difficulty: MFD from the judge's scores of both answers, or another estimator's value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from tapir.data.run.reader import difficulties
from tapir.data.run.rows import AnswerRow, EstimateRow, JudgementRow
from tapir.domain.difficulty import Difficulty
from tapir.domain.errors import RoleError, commonest
from tapir.domain.instruction import Pair, id_of
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.randomness import seed_for, shuffled
from tapir.domain.roles import Comparison, Estimate, Estimator, Judge
from tapir.domain.round import Checkpoint
from tapir.stages.base import StageContext, Work, run_chunks, run_items

JUDGEMENTS = "judgements"
ESTIMATES = "estimates"
NULL_ANSWER = "I am not sure, but I hope this helps."
_NO_VERDICT = Unscored("no verdict")
_NO_ANSWER = "no student answer"
_STAGES = {JUDGEMENTS: "judge", "preferences": "prefer"}


@dataclass(frozen=True, slots=True)
class Score:
    """The judge scores the student's and the teacher's answer; what it cannot score stays unscored."""

    judge: Judge
    chunk: int
    tasks: Mapping[str, str] = field(default_factory=dict)  # t(x) by id, for a judge with a rubric for each task
    table: str = JUDGEMENTS

    def run(
        self, context: StageContext, pairs: Sequence[Pair], answers: Mapping[str, AnswerRow]
    ) -> dict[str, Difficulty | Unscored]:
        """Return MFD of each pair, or why there is none; raise `RoleError` if there is none for any."""
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(pending: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, list[JudgementRow]]]:
            left: dict[str, Unscored] = {}  # those without a verdict so far

            def comparisons() -> Iterator[Comparison]:
                for name, pair in pending:
                    text, failure = answers[name].text, answers[name].failure or ""
                    left[name] = Unscored(_NO_ANSWER, failure) if text is None else _NO_VERDICT
                    if text is not None:
                        yield Comparison(pair.instruction, pair.response.text, text, self.tasks.get(name, ""))

            for name, verdict in self.judge.judge(comparisons()):
                left.pop(name, None)
                yield name, _rows(name, verdict or _NO_VERDICT, self.judge.name)
            for name, why in left.items():
                yield name, _rows(name, why, self.judge.name)

        work = Work(_STAGES.get(self.table, self.table), self.table, self.chunk)
        scores = difficulties(run_items(context, work, JudgementRow, items, do))
        unscored = [score for score in scores.values() if isinstance(score, Unscored)]
        if self.table == JUDGEMENTS and scores and len(unscored) == len(scores):
            reasons = [score.reason for score in unscored]
            if {*reasons} == {_NO_ANSWER}:
                remedy = "The column failure of the round's answers.parquet says more. Fix the student in a new run."
                what = f"the student answered none of {len(scores)} instructions; the first: {unscored[0].raw}"
                raise RoleError(what, remedy=remedy)
            raise RoleError(
                f"the judge {self.judge.name} gave no score for any of {len(scores)} items: {commonest(reasons)}",
                remedy="Its replies are in the round's judgements.parquet (column raw) and in the ledger. Use a"
                " stronger judge, or one whose server takes a JSON schema (endpoints.NAME.json_schema); then start a"
                " new run.",
            )
        return scores


def score_null_answers(context: StageContext, score: Score, pairs: Sequence[Pair], count: int) -> None:
    """Score a constant answer to `count` pairs, chosen by the seed: a judge that likes it cannot be trusted."""
    if chosen := shuffled(pairs, id_of, seed_for(context.seed, "canary"))[:count]:
        score.run(context, chosen, {name: AnswerRow(name, NULL_ANSWER, "stop", 0, None) for name in map(id_of, chosen)})


def _rows(name: str, verdict: Verdict, judge: str) -> list[JudgementRow]:
    if isinstance(verdict, Unscored):
        return [JudgementRow(name, "alone", None, None, "", judge, verdict.reason, verdict.raw)]
    return [
        JudgementRow(name, score.order, score.student, score.reference, score.rationale, score.judge, None, None)
        for score in verdict
    ]


@dataclass(frozen=True, slots=True)
class EstimateDifficulty:
    """The estimator measures every pair; what it cannot measure stays unscored."""

    estimator: Estimator
    chunk: int
    tasks: Mapping[str, str]  # t(x) by id
    table: str = ESTIMATES

    def run(
        self, context: StageContext, checkpoint: Checkpoint, pairs: Sequence[Pair]
    ) -> dict[str, Difficulty | Unscored]:
        """Return the difficulty of each pair on the estimator's scale, or why there is none.

        Raises:
            RoleError: there is none for any pair, so that nothing can be called hard or easy.
        """
        length = {pair.instruction.id: len(pair.instruction.transcript) + len(pair.response.text) for pair in pairs}
        pairs_by_id = ((pair.instruction.id, pair) for pair in pairs)
        items = sorted(pairs_by_id, key=lambda item: (length[item[0]], item[0]))  # like lengths: little is padding

        def do(chunks: Iterator[Sequence[tuple[str, Pair]]]) -> Iterator[tuple[int, list[EstimateRow]]]:
            for number, chunk in enumerate(chunks):
                estimates = dict(self.estimator.estimate(checkpoint, [pair for _, pair in chunk], self.tasks))
                yield number, [self._row(name, estimates) for name, _ in chunk]

        stage = "estimate" if self.table == ESTIMATES else f"compare {self.estimator.name}"
        rows = run_chunks(context, Work(stage, self.table, self.chunk), EstimateRow, items, do)
        if rows and all(row.value is None for row in rows):
            raise RoleError(
                f"{self.estimator.name} could not be measured for any of {len(rows)} instructions: {rows[0].unscored}",
                remedy=f"Look at the column `unscored` of {context.path(self.table)}.parquet, then choose another"
                " curriculum.difficulty in a new run.",
            )
        return {
            row.id: Unscored(row.unscored or "", row.detail) if row.value is None else Difficulty(row.value, 0.0)
            for row in rows
        }

    def _row(self, name: str, estimates: Mapping[str, Estimate | Unscored]) -> EstimateRow:
        estimate = estimates.get(name, Unscored("no estimate"))
        if isinstance(estimate, Estimate) and not isfinite(estimate.value):
            estimate = Unscored(f"{estimate.value} is no difficulty", estimate.detail)
        if isinstance(estimate, Unscored):
            return EstimateRow(name, self.estimator.name, None, estimate.raw, estimate.reason)
        return EstimateRow(name, self.estimator.name, estimate.value, estimate.detail, None)
