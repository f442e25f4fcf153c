"""Refinement: the teacher rewrites a response in the style of its task."""

from __future__ import annotations

import re
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

_REWRITING = re.compile(
    r"\b(?:re-?written|revised|refined|original)\s+(?:answer|response|instructions?)\b"
    r"|\b(?:every|this|the)\s+re-?write\b"  # the prompt's words
    r"|\b(?:this|the)\s+(?:answer|response)\b[^.\n]{0,40}\b(?:no|not\s+need\s+any)\s+(?:further\s+)?changes\b"
    r"|\b(?:this|the)\s+(?:answer|response)\b[^.\n]{0,40}\b(?:address|follow|meet|adher|fulfil)\w*[^.\n]{0,20}\binstructions?\b",
    re.IGNORECASE,
)


def speaks_of_rewriting(text: str, pair: Pair) -> str:
    """Return why a rewrite is no answer but speaks of itself ("This rewritten answer ..."); empty where it does not.

    Small models do so although the prompt forbids it. Words that the instruction or its answer has prove nothing.
    """
    known = f"{pair.instruction.transcript}\n{pair.response.text}".lower()
    found = next((each[0] for each in _REWRITING.finditer(text) if each[0].lower() not in known), "")
    return f"speaks of the rewriting: {found!r}" if found else ""


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
        pair_of = dict(items)

        def do(pending: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, list[RefinementRow]]]:
            for name, reply in self.teacher.refine(RefineRequest(pair, task_of[name]) for name, pair in pending):
                text, failure = usable(reply, self.unfit)
                if text is not None and (talk := speaks_of_rewriting(text, pair_of[name])):
                    text, failure = None, talk
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
