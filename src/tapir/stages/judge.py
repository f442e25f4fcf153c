"""Judge: f_J of the teacher's and the student's answer, and from it MFD."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from tapir.domain.difficulty import Difficulty, difficulty
from tapir.domain.instruction import Pair
from tapir.domain.judgement import Judgement, Order, Unscored, Verdict
from tapir.errors import RoleError
from tapir.roles import Comparison, Judge
from tapir.store.keep import Place, Work, stream
from tapir.store.rows import AnswerRow, JudgementRow

TABLE = "judgements"
_STAGES = {TABLE: "judge", "preferences": "prefer"}


@dataclass(frozen=True, slots=True)
class Score:
    """The judge compares; what it cannot score stays unscored.

    Attributes:
        tasks: t(x) by id, for a judge with a rubric for each task.
        table: where its judgements are kept.
    """

    judge: Judge
    chunk: int
    tasks: Mapping[str, str] = field(default_factory=dict)
    table: str = TABLE

    def run(
        self, place: Place, pairs: Sequence[Pair], answers: Mapping[str, AnswerRow]
    ) -> dict[str, Difficulty | Unscored]:
        """MFD for each pair, or why there is none.

        Raises:
            RoleError: there is none for any pair, so that nothing can be called hard or easy.
        """
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(owed: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, list[JudgementRow]]]:
            missing: list[str] = []
            asked: set[str] = set()

            def comparisons() -> Iterator[Comparison]:
                for name, pair in owed:
                    answer = answers[name]
                    if answer.text is None:
                        missing.append(name)
                    else:
                        asked.add(name)
                        yield Comparison(pair.instruction, pair.response.text, answer.text, self.tasks.get(name, ""))

            for name, verdict in self.judge.judge(comparisons()):
                asked.discard(name)
                yield name, _rows(name, verdict or Unscored("no verdict"), self.judge.name)
            for name in sorted(asked):
                yield name, [_unscored(name, Unscored("no verdict"), self.judge.name)]
            for name in missing:
                why = Unscored("no student answer", answers[name].failure or "")
                yield name, [_unscored(name, why, self.judge.name)]

        stream(place, Work(_STAGES.get(self.table, self.table), self.table, self.chunk), JudgementRow, items, do)
        found = difficulties(place.store.each(place.named(self.table), JudgementRow))
        if self.table == TABLE and found and all(isinstance(one, Unscored) for one in found.values()):
            raise _nothing_scored(self.judge.name, [one.reason for one in found.values() if isinstance(one, Unscored)])
        return found


def _nothing_scored(judge: str, reasons: Sequence[str]) -> RoleError:
    counts = ", ".join(f"{reason} ({count})" for reason, count in Counter(reasons).most_common(5))
    return RoleError(
        f"the judge {judge} gave no score for any of {len(reasons)} items: {counts}",
        remedy="Its replies are in the round's judgements.parquet (column raw) and in the ledger. Use a stronger judge,"
        " or one whose server takes a JSON schema (endpoints.NAME.json_schema); then start a new run.",
    )


def _rows(name: str, verdict: Verdict, judge: str) -> list[JudgementRow]:
    if isinstance(verdict, Unscored):
        return [_unscored(name, verdict, judge)]
    return [
        JudgementRow(name, one.order, one.student, one.reference, one.rationale, one.judge, None, None)
        for one in verdict
    ]


def _unscored(name: str, why: Unscored, judge: str) -> JudgementRow:
    return JudgementRow(name, "alone", None, None, "", judge, why.reason, why.raw)


def difficulties(rows: Iterable[JudgementRow]) -> dict[str, Difficulty | Unscored]:
    """MFD by id, or why there is none."""
    by_id: dict[str, list[Judgement]] = {}
    missing: dict[str, Unscored] = {}
    for row in rows:
        if row.student is None or row.reference is None:
            missing[row.id] = Unscored(row.unscored or "", row.raw or "")
            continue
        order = cast("Order", row.order)
        judgement = Judgement(row.student, row.reference, order, "", row.judge)
        by_id.setdefault(row.id, []).append(judgement)
    scored: dict[str, Difficulty | Unscored] = {
        name: difficulty(judgements) for name, judgements in by_id.items() if name not in missing
    }
    return scored | missing
