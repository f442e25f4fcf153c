"""MT-Bench measured: the student answers in two turns, the judge grades every answer or compares it with another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from tapir.assemble.judging import Desk
from tapir.at_work import connected, opened, recorded
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored
from tapir.domain.round import Checkpoint
from tapir.errors import DataError
from tapir.evaluation.mtbench import LOWEST, TURNS, TurnGrade, TurnPair, TwoTurns, settled
from tapir.llm.grading import Graded
from tapir.llm.preference import ORDERS, Choice
from tapir.roles import Comparison, Resource, Watch
from tapir.stages.answer import row as answer_row
from tapir.store.files import write_json
from tapir.store.keep import Place, Work, keep
from tapir.store.lock import locked
from tapir.store.rows import AnswerRow
from tapir.store.run import RunStore
from tapir.students.conversing import Conversation, Conversing
from tapir.watching import Diary

JUDGMENTS = "judgments.json"
PROMPTS = (
    "judge-single",
    "reply-single-tagged",
    "reply-single-json",
    "prefer",
    "reply-prefer-reasoned",
    "judge-repair",
    "rubric-turn",
    "rubric-reference",
)
_NAMED = 5

Answers: TypeAlias = Mapping[tuple[int, int], AnswerRow]
"""By question and turn."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose answers are graded."""

    name: str
    student: Conversing
    checkpoint: Checkpoint
    resources: Sequence[Resource] = ()


@dataclass(frozen=True, slots=True)
class Grading:
    """A grading to be made in a claimed folder.

    Attributes:
        against: whom every answer is compared with; None grades from 1 to 10.
        chunk: conversations that a student answers and saves together.
    """

    folder: Path
    speaker: Speaker
    against: Speaker | None
    questions: Sequence[TwoTurns]
    desk: Desk
    chunk: int
    seed: int

    def run(self, watch: Watch) -> list[TurnGrade] | list[TurnPair]:
        """Have every question answered in both turns, and every answer judged; the same command goes on.

        Raises:
            DataError: recorded answers lack a turn.
            RoleError: no endpoint works.
            Interrupted: the watch was asked to stop.
        """
        with locked(self.folder):
            store = RunStore(self.folder)
            store.verify()
            diary = Diary(watch, store, self.desk.calls)
            with recorded(store):
                place = Place(store, Diary(watch, store), 0, self.seed)
                mine = self._answers(place, self.speaker, "answers")
                others = self._answers(place, self.against, "answers-of-the-other") if self.against else None
                with connected(self.desk.calls, store, diary):
                    found = self._grades(mine, diary) if others is None else self._pairs(mine, others, diary)
                write_json(self.folder / JUDGMENTS, [asdict(one) for one in found])
        return found

    def _answers(self, place: Place, who: Speaker, table: str) -> Answers:
        """Both turns; the second follows from the first, and is not asked where there is none."""
        found: dict[tuple[int, int], AnswerRow] = {}
        with opened(who.resources, place.store, place.watch):
            for turn in TURNS:
                talks = [self._talk(one, turn, found) for one in self.questions]
                items = [(one.id, one) for one in sorted((t for t in talks if t), key=lambda one: one.question)]

                def do(
                    chunks: Iterator[Sequence[tuple[str, Conversation]]],
                ) -> Iterator[tuple[int, list[AnswerRow]]]:
                    for number, chunk in enumerate(chunks):
                        replies = who.student.converse(who.checkpoint, [one for _, one in chunk])
                        yield number, [answer_row(reply) for reply in replies]

                work = Work("answer", f"{table}-{turn}", self.chunk)
                rows = {row.id: row for row in keep(place, work, AnswerRow, items, do)}
                found |= {(one.question, turn): rows[one.id] for _, one in items}
        missing = [key for key, row in found.items() if (row.failure or "").startswith("missing:")]
        if missing:
            first = ", ".join(f"question {question} turn {turn}" for question, turn in sorted(missing)[:_NAMED])
            raise DataError(
                f"{who.name} has no answer to {len(missing):,} turns; the first: {first}",
                remedy="Give a file with both answers to every question, or fewer questions.",
            )
        return found

    @staticmethod
    def _talk(one: TwoTurns, turn: int, found: Answers) -> Conversation | None:
        if turn == 1:
            return Conversation(f"{one.id}-1", one.id, (one.turns[0],))
        first = found[one.id, 1].text
        return None if first is None else Conversation(f"{one.id}-2", one.id, (one.turns[0], first, one.turns[1]))

    def _grades(self, answers: Answers, diary: Diary) -> list[TurnGrade]:
        found: dict[tuple[int, int], TurnGrade] = {}
        owed: dict[str, tuple[TwoTurns, int]] = {}
        for one in self.questions:
            for turn in TURNS:
                failure = _no_answer(answers, one.id, turn)
                if failure:
                    found[one.id, turn] = TurnGrade(self.speaker.name, one.id, one.category, turn, LOWEST, failure)
                else:
                    owed[f"{one.id}-{turn}"] = (one, turn)
        diary.start(0, "grade", len(found) + len(owed), len(found))

        def items() -> Iterator[Graded]:
            for name, (one, turn) in owed.items():
                yield Graded(name, _asked(one, turn), _said(answers, one, turn), self._rubric(one, turn), one.category)

        for name, scores in self.desk.grader().grade(items()):
            one, turn = owed[name]
            score, why = (None, scores.reason) if isinstance(scores, Unscored) else (scores.values[0], "")
            found[one.id, turn] = TurnGrade(self.speaker.name, one.id, one.category, turn, score, why)
            diary.advance()
        diary.finish()
        return [found[key] for key in sorted(found)]

    def _pairs(self, mine: Answers, others: Answers, diary: Diary) -> list[TurnPair]:
        names = self.speaker.name, self.against.name if self.against else ""
        found: dict[tuple[int, int], TurnPair] = {}
        owed: dict[str, tuple[TwoTurns, int]] = {}
        for one in self.questions:
            for turn in TURNS:
                failures = [_no_answer(answers, one.id, turn) for answers in (mine, others)]
                if any(failures):
                    outcome = 0.5 if all(failures) else float(bool(failures[1]))
                    why = failures[0] or f"{names[1]}: {failures[1]}"
                    found[one.id, turn] = TurnPair(*names, one.id, one.category, turn, outcome, None, why)
                elif _said(mine, one, turn) == _said(others, one, turn):
                    found[one.id, turn] = TurnPair(*names, one.id, one.category, turn, 0.5)
                else:
                    owed[f"{one.id}-{turn}"] = (one, turn)
        diary.start(0, "compare", len(found) + len(owed), len(found))
        rubrics = {name: self._rubric(one, turn) for name, (one, turn) in owed.items()}

        def items() -> Iterator[Comparison]:
            for name, (one, turn) in owed.items():
                asked = Instruction(name, _asked(one, turn), Origin("evaluation"))
                yield Comparison(asked, _said(others, one, turn), _said(mine, one, turn), one.category)

        for name, verdict in self.desk.preference(reasoned=True).prefer(items(), rubrics):
            one, turn = owed[name]
            if isinstance(verdict, Unscored):
                found[one.id, turn] = TurnPair(*names, one.id, one.category, turn, None, None, verdict.reason)
            else:
                first, second = (_side(verdict, order) for order in ORDERS)
                found[one.id, turn] = TurnPair(
                    *names, one.id, one.category, turn, settled(first, second), first != second
                )
            diary.advance()
        diary.finish()
        return [found[key] for key in sorted(found)]

    def _rubric(self, one: TwoTurns, turn: int) -> str:
        book = self.desk.book
        parts = [book["rubric-turn"].fill(turn=str(turn))] if turn > 1 else []
        if one.references:
            parts.append(book["rubric-reference"].fill(reference=one.references[turn - 1]))
        return "\n\n".join(parts)


def _no_answer(answers: Answers, question: int, turn: int) -> str:
    """Why there is no answer; empty where there is one."""
    row = answers.get((question, turn))
    if row is None:
        return "student: no first answer to follow"
    if row.text is None:
        return f"student: {(row.failure or '').partition(':')[0]}"
    return "" if row.text.strip() else "student: empty answer"


def _asked(one: TwoTurns, turn: int) -> str:
    if turn == 1:
        return one.turns[0]
    return f"Question 1:\n{one.turns[0]}\n\nQuestion 2:\n{one.turns[1]}"


def _said(answers: Answers, one: TwoTurns, turn: int) -> str:
    first = answers[one.id, 1].text or ""
    return first if turn == 1 else f"Answer to question 1:\n{first}\n\nAnswer to question 2:\n{answers[one.id, 2].text}"


def _side(choices: Sequence[Choice], order: str) -> str:
    """What most of the verdicts in one order name."""
    votes = [one.better for one in choices if one.order == order]
    lead = votes.count("student") - votes.count("reference")
    return "model" if lead > 0 else "other" if lead < 0 else "tie"
