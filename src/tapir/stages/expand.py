"""Expand: the teacher writes what is scarce, from hard seeds; every text is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir.data.novelty import Novelty
from tapir.domain.completion import Completion, Failure, usable
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.mixture import Draw
from tapir.domain.randomness import priorities, seed_for
from tapir.domain.task import TaskTag
from tapir.roles import ExpandRequest, Tagger, Teacher
from tapir.store.keep import Place, restored
from tapir.store.rows import DrawRow, ExpansionRow
from tapir.store.run import cells

_UNANSWERED = "not answered"


@dataclass(frozen=True, slots=True)
class _Check:
    """The label found, and why the text is dropped."""

    label: str | None
    reason: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Expand:
    """Ask for the shortfall of each task; keep what is new, well tagged and in no evaluation set.

    Attributes:
        attempts: how often a task is asked again for what its last batch still lacked.
        forbidden: all evaluation sets.
    """

    teacher: Teacher
    tagger: Tagger
    attempts: int
    forbidden: Novelty

    def run(self, place: Place, need: Draw, seeds: Mapping[str, Sequence[Pair]], known: Novelty) -> list[ExpansionRow]:
        """Everything the teacher wrote, kept or dropped; what is kept is known from then on.

        Args:
            place: the run and round.
            need: its shortfall says what to write.
            seeds: hard pairs by task; a task without any cannot be expanded.
            known: everything in the pools.
        """
        name = place.named("expansions")
        if place.store.has(name):
            place.store.parts(name).drop()
            rows = place.store.read(name, ExpansionRow)
            _learn(known, rows)
            return rows
        for task in need.shortfall:
            if not seeds.get(task):
                place.watch.note(f"{task}: {need.shortfall[task]} hard examples short and no hard seed to expand")
        owed = {task: count for task, count in need.shortfall.items() if seeds.get(task)}
        rows = self._attempts(place, owed, seeds, known)
        place.store.write(name, ExpansionRow, rows)
        place.store.parts(name).drop()
        place.watch.finish()
        return rows

    def _attempts(
        self, place: Place, owed: dict[str, int], seeds: Mapping[str, Sequence[Pair]], known: Novelty
    ) -> list[ExpansionRow]:
        """Ask until nothing is owed or the attempts are used up; every attempt is kept when it is complete."""
        parts = place.store.parts(place.named("expansions"))
        finished = parts.read()
        rows: list[ExpansionRow] = []
        place.watch.start(place.number, "expand", sum(owed.values()))
        for attempt in range(self.attempts):
            if not owed:
                break
            key = f"attempt {attempt}"
            if key in finished:
                made = [restored(ExpansionRow, one) for one in finished[key]]
                _learn(known, made)
            else:
                place.watch.check()
                made = list(self._attempt(place, attempt, owed, seeds, known))
                place.watch.check()
                parts.append(key, [cells(row) for row in made])
            kept = Counter(row.task_wanted for row in made if row.reason is None)
            place.watch.advance(sum(min(kept[task], count) for task, count in owed.items()))
            owed = {task: count - kept[task] for task, count in owed.items() if count > kept[task]}
            rows += made
        return rows

    def _attempt(
        self,
        place: Place,
        attempt: int,
        owed: Mapping[str, int],
        seeds: Mapping[str, Sequence[Pair]],
        known: Novelty,
    ) -> Iterator[ExpansionRow]:
        """Ask once for every task, check every text."""
        requests = []
        for task, count in owed.items():
            seed = seed_for(place.seed, "expand", place.number, task, attempt)
            requests.append(ExpandRequest(task, _shuffled(seeds[task], seed), count, seed))
        written: list[tuple[str, Instruction]] = []
        failed: Counter[tuple[str, str]] = Counter()
        for task, reply in self.teacher.expand(requests):
            place.watch.advance(0)  # nothing is kept yet, but the meter moves
            if isinstance(reply, Failure):
                failed[task, f"{reply.kind}: {reply.message}"] += 1
            else:
                written.append((task, reply))
        for (task, why), count in sorted(failed.items()):
            place.watch.note(f"{task}: expansion failed {count} x: {why}")
        written.sort(key=lambda one: (one[0], one[1].id, one[1].origin.parents))  # replies come in any order
        fresh = {one.id: one for _, one in written if self._repeats(one.text, known)[0] is None}
        tags = dict(self.tagger.tag(fresh.values()))
        checked = [(task, one, self._checked(task, one, tags.get(one.id), known)) for task, one in written]
        answers = dict(self.teacher.answer(one for _, one, check in checked if check.reason is None))
        for task, one, check in checked:
            yield self._row(task, one, check, answers.get(one.id) if check.reason is None else None)

    def _checked(self, task: str, one: Instruction, tag: TaskTag | Failure | None, known: Novelty) -> _Check:
        """Whether a text may be kept; if so, it is known from now on."""
        label = tag.task if isinstance(tag, TaskTag) else None
        reason, detail = self._reason(one.text, label, task, known)
        if reason is None:
            known.learn(one.id, one.text)
        return _Check(label, reason, detail)

    def _row(self, task: str, one: Instruction, check: _Check, reply: Completion | Failure | None) -> ExpansionRow:
        """What was kept has an answer; without one it is dropped after all."""
        text, failure = usable(reply) if reply else (None, None)
        reason, detail = (check.reason, check.detail) if text or check.reason else (_UNANSWERED, failure or "")
        origin = one.origin
        return ExpansionRow(
            one.id,
            one.text,
            text or "",
            self.teacher.name,
            origin.source,
            origin.parents,
            task,
            check.label,
            reason,
            detail,
        )

    def _reason(self, text: str, label: str | None, task: str, known: Novelty) -> tuple[str | None, str]:
        """Why a text is dropped, and what it met; (None, "") keeps it."""
        reason, detail = self._repeats(text, known)
        if reason:
            return reason, detail
        if label is None:
            return "not tagged", ""
        return (None, "") if label == task else ("tagged as another task", label)

    def _repeats(self, text: str, known: Novelty) -> tuple[str | None, str]:
        """Why a text is dropped whatever its task."""
        if not text.strip():
            return "empty instruction", ""
        if met := self.forbidden.find(text):
            return ("near an evaluation item" if met.near else "in an evaluation set"), f"{met.name} {met.near}".strip()
        if met := known.find(text):
            return ("near-duplicate" if met.near else "duplicate"), f"{met.name} {met.near}".strip()
        return None, ""


def _learn(known: Novelty, rows: Iterable[ExpansionRow]) -> None:
    """As when they were written: a text that passed every check is known from then on, answered or not."""
    known.learn_all((row.id, row.text) for row in rows if row.reason in {None, _UNANSWERED})


def pair_of(row: ExpansionRow, number: int) -> Pair:
    """The pair a kept row stands for."""
    origin = Origin("expansion", number, row.parents, row.source)
    return Pair(Instruction(row.id, row.text, origin), Response(row.response, row.author))


def draw_rows(need: Draw, shares: Mapping[str, float], rows: Sequence[ExpansionRow]) -> list[DrawRow]:
    """The round's need by task and how much of its shortfall was written."""
    written = dict.fromkeys(need.wanted, 0)
    for row in rows:
        if row.reason is None:
            written[row.task_wanted] += 1
    return [
        DrawRow(task, shares[task], wanted, need.got[task], need.shortfall.get(task, 0), written[task])
        for task, wanted in need.wanted.items()
    ]


def _shuffled(seeds: Sequence[Pair], seed: int) -> list[Pair]:
    order = priorities([pair.instruction.id for pair in seeds], seed).argsort(kind="stable")
    return [seeds[place] for place in order]
