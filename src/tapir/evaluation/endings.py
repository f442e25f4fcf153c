"""How answers end: what went wrong with them, by kind, beside how good they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Reply, Student, answers
from tapir.store.files import disk_errors
from tapir.store.rows import EvaluationRow

CUT = "cut at length"
NOTHING = "no answer"
_FILE = "cut.txt"


class NotingStudent:
    """Another student's answers; which of them were cut off at their greatest length is noted in a folder.

    A cut answer is graded as it stands, as in a run. The note is written before the answer is kept, so an answer that
    has to be given again after a stop is noted again; the file may name an instruction more than once.
    """

    def __init__(self, student: Student, folder: Path) -> None:
        """Ask `student`, and note in `folder`."""
        self._student = student
        self._path = folder / _FILE

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """The student's replies."""
        for _, replies in self.answer_all(checkpoint, [instructions]):
            yield from replies

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        """The student's replies to each chunk."""
        for place, replies in answers(self._student, checkpoint, chunks):
            self._note([name for name, reply in replies if _cut(reply)])
            yield place, replies

    def _note(self, names: Sequence[str]) -> None:
        if names:
            with disk_errors(self._path), self._path.open("a", encoding="utf-8") as notes:
                notes.writelines(f"{name}\n" for name in names)


def endings(rows: Iterable[EvaluationRow], folder: Path) -> Counter[str]:
    """How many answers there are of each kind of trouble.

    Kinds are those of `Failure` ("missing", "too long"), "unscored: REASON", `NOTHING` for an answer without a word,
    and `CUT` for one that was cut off (`NotingStudent` noted it). An answer counts once, for the first that holds.

    Args:
        rows: any rows of an evaluation.
        folder: of that evaluation.
    """
    path = folder / _FILE
    with disk_errors(path):
        cut = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    kinds = (_kind(row, cut) for row in rows)
    return Counter(kind for kind in kinds if kind)


def _kind(row: EvaluationRow, cut: set[str]) -> str:
    if row.failure:
        return row.failure
    if not (row.answer or "").strip():
        return NOTHING
    return CUT if row.id in cut else ""


def _cut(reply: Completion | Failure) -> bool:
    return isinstance(reply, Completion) and reply.finish_reason == "length"
