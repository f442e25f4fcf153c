"""Judge: f_J of the teacher's and the student's answer, and from it MFD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from tapir.domain.difficulty import Difficulty, difficulty
from tapir.domain.instruction import Pair
from tapir.domain.judgement import Judgement, Order, Unscored, Verdict
from tapir.roles import Comparison, Judge
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import AnswerRow, JudgementRow


@dataclass(frozen=True, slots=True)
class Score:
    """The judge compares; what it cannot score stays unscored."""

    judge: Judge
    chunk: int

    def run(
        self, place: Place, pairs: Sequence[Pair], answers: Mapping[str, AnswerRow]
    ) -> dict[str, Difficulty | Unscored]:
        """MFD for each pair, or why there is none."""
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(chunk: Sequence[tuple[str, Pair]]) -> Iterator[JudgementRow]:
            comparisons = []
            for name, pair in chunk:
                answer = answers[name]
                if answer.text is None:
                    yield _unscored(name, Unscored("no student answer", answer.failure or ""), self.judge.name)
                else:
                    comparisons.append(Comparison(pair.instruction, pair.response.text, answer.text))
            owed = {comparison.instruction.id for comparison in comparisons}
            for name, verdict in self.judge.judge(comparisons):
                owed.discard(name)
                yield from _rows(name, verdict or Unscored("no verdict"), self.judge.name)
            for name in sorted(owed):
                yield _unscored(name, Unscored("no verdict"), self.judge.name)

        rows = keep(place, Work("judge", "judgements", self.chunk), JudgementRow, items, do)
        return _difficulties(rows)


def _rows(name: str, verdict: Verdict, judge: str) -> Iterator[JudgementRow]:
    if isinstance(verdict, Unscored):
        yield _unscored(name, verdict, judge)
        return
    for one in verdict:
        yield JudgementRow(name, one.order, one.student, one.reference, one.rationale, one.judge, None, None)


def _unscored(name: str, why: Unscored, judge: str) -> JudgementRow:
    return JudgementRow(name, "alone", None, None, "", judge, why.reason, why.raw)


def _difficulties(rows: Sequence[JudgementRow]) -> dict[str, Difficulty | Unscored]:
    by_id: dict[str, list[Judgement]] = {}
    missing: dict[str, Unscored] = {}
    for row in rows:
        if row.student is None or row.reference is None:
            missing[row.id] = Unscored(row.unscored or "", row.raw or "")
            continue
        order = cast("Order", row.order)
        judgement = Judgement(row.student, row.reference, order, row.rationale, row.judge)
        by_id.setdefault(row.id, []).append(judgement)
    scored: dict[str, Difficulty | Unscored] = {
        name: difficulty(judgements) for name, judgements in by_id.items() if name not in missing
    }
    return scored | missing
