"""Refinement: the teacher rewrites a response in the style of its task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tapir.data.run.rows import AnswerRow, RefinementRow
from tapir.domain.completion import always_fit, usable
from tapir.domain.difficulty import Difficulty
from tapir.domain.instruction import Pair
from tapir.domain.judgement import Unscored
from tapir.domain.roles import RefineRequest, Teacher
from tapir.stages.base import StageContext, Work, run_items

Scorer: TypeAlias = Callable[
    [StageContext, Sequence[Pair], Mapping[str, AnswerRow]], Mapping[str, Difficulty | Unscored]
]


@dataclass(frozen=True, slots=True)
class Refine:
    """The teacher rewrites y to y'; a rewrite that failed or says the same leaves y in use."""

    teacher: Teacher
    chunk: int
    prefer: Scorer | None = None  # scores y' against y, where only rewrites as good as y are kept (METHOD 4.10)
    unfit: Callable[[str], str] = always_fit  # why a text cannot be trained on

    def run(self, context: StageContext, pairs: Sequence[Pair], task_of: Mapping[str, str]) -> dict[str, str]:
        """Return the kept rewrites by id."""
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(pending: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, list[RefinementRow]]]:
            for name, reply in self.teacher.refine(RefineRequest(pair, task_of[name]) for name, pair in pending):
                text, failure = usable(reply, self.unfit)
                yield name, [RefinementRow(name, task_of[name], text, self.teacher.name, failure)]

        rows = run_items(context, Work("refine", "refinements", self.chunk), RefinementRow, items, do)
        before = {name: pair.response.text.strip() for name, pair in items}
        rewrites = {row.id: row.text for row in rows if row.text is not None and row.text.strip() != before[row.id]}
        if self.prefer is None:
            return rewrites
        answers = {name: AnswerRow(name, text, "stop", 0, None) for name, text in rewrites.items()}
        scores = self.prefer(context, [pair for name, pair in items if name in rewrites], answers)
        return {
            name: rewrites[name] for name, score in scores.items() if isinstance(score, Difficulty) and score.gap <= 0
        }
