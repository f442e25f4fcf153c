"""Expansion: the teacher writes new instructions from hard seeds; every text is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tapir.data.duplicates import DuplicateIndex
from tapir.data.run.rows import DrawRow, ExpansionRow
from tapir.data.run.store import cells
from tapir.data.screen import unless_refusal
from tapir.domain.completion import Completion, Failure, always_fit, usable
from tapir.domain.instruction import Instruction, Origin, Pair, Response, id_of
from tapir.domain.mixture import Draw
from tapir.domain.randomness import seed_for, shuffled
from tapir.domain.roles import ExpandRequest, Tagger, Teacher
from tapir.domain.task import TaskDistribution, TaskTag
from tapir.stages.base import StageContext, restore_row

_UNANSWERED = "not answered"


@dataclass(frozen=True, slots=True)
class Expand:
    """Ask for the shortfall of each task; keep what is new, tagged as asked for and in no evaluation set."""

    teacher: Teacher
    tagger: Tagger
    attempts: int  # how often the teacher is asked for what a task still lacks
    forbidden: DuplicateIndex  # texts of all evaluation sets
    unfit: Callable[[str], str] = always_fit  # why a text cannot be trained on

    def run(
        self, context: StageContext, need: Draw, seeds: Mapping[str, Sequence[Pair]], known: DuplicateIndex
    ) -> list[ExpansionRow]:
        """Return everything the teacher wrote, kept or dropped; kept texts are added to `known`, those of the pools.

        `need.shortfall` says how many of each task to write, from its hard `seeds`; without any it cannot be expanded.
        """
        name = context.path("expansions")
        if context.store.has(name):
            context.store.parts(name).drop()
            rows = context.store.read(name, ExpansionRow)
            _learn(known, rows)
            return rows
        for task in need.shortfall:
            if not seeds.get(task):
                context.progress.note(f"{task}: {need.shortfall[task]} hard examples short and no hard seed to expand")
        pending = {task: count for task, count in need.shortfall.items() if seeds.get(task)}
        rows = self._attempts(context, pending, seeds, known)
        context.store.write(name, ExpansionRow, rows)
        context.store.parts(name).drop()
        context.progress.finish()
        return rows

    def _attempts(
        self, context: StageContext, pending: dict[str, int], seeds: Mapping[str, Sequence[Pair]], known: DuplicateIndex
    ) -> list[ExpansionRow]:
        """Ask until nothing is pending or the attempts are used up; a complete attempt is saved."""
        parts = context.store.parts(context.path("expansions"))
        finished = parts.read()
        rows: list[ExpansionRow] = []
        context.progress.start(context.number, "expand", sum(pending.values()))
        for attempt in range(self.attempts):
            if not pending:
                break
            key = f"attempt {attempt}"
            if key in finished:
                made = [restore_row(ExpansionRow, saved) for saved in finished[key]]
                _learn(known, made)
            else:
                context.progress.check()
                made = list(self._attempt(context, attempt, pending, seeds, known))
                context.progress.check()
                parts.append([(key, [cells(row) for row in made])])
            kept = Counter(row.task_wanted for row in made if row.reason is None)
            context.progress.advance(sum(min(kept[task], count) for task, count in pending.items()))
            pending = {task: count - kept[task] for task, count in pending.items() if count > kept[task]}
            rows += made
        return rows

    def _attempt(
        self,
        context: StageContext,
        attempt: int,
        pending: Mapping[str, int],
        seeds: Mapping[str, Sequence[Pair]],
        known: DuplicateIndex,
    ) -> Iterator[ExpansionRow]:
        requests = []
        for task, count in pending.items():
            seed = seed_for(context.seed, "expand", context.number, task, attempt)
            requests.append(ExpandRequest(task, shuffled(seeds[task], id_of, seed), count, seed))
        texts: list[tuple[str, Instruction]] = []
        failed: Counter[tuple[str, str]] = Counter()
        for task, reply in self.teacher.expand(requests):
            context.progress.advance(0)  # nothing is kept yet, but the cost display moves
            if isinstance(reply, Failure):
                failed[task, f"{reply.kind}: {reply.message}"] += 1
            else:
                texts.append((task, reply))
        for (task, why), count in sorted(failed.items()):
            context.progress.note(f"{task}: expansion failed {count} x: {why}")
        texts.sort(key=lambda item: (item[0], item[1].id, item[1].origin.parents))  # replies come in any order
        fresh = {new.id: new for _, new in texts if self._repeats(new.text, known)[0] is None}
        tags = dict(self.tagger.tag(fresh.values()))
        rows = [self._checked(task, new, tags.get(new.id), known) for task, new in texts]
        kept = (new for (_, new), row in zip(texts, rows, strict=True) if row.reason is None)
        answers = dict(self.teacher.answer(kept))
        for row in rows:
            yield self._answered(row, answers.get(row.id)) if row.reason is None else row

    def _checked(
        self, task: str, new: Instruction, tag: TaskTag | Failure | None, known: DuplicateIndex
    ) -> ExpansionRow:
        """Return the row of a text, with the reason if it is dropped; a kept one is known from now on."""
        label = tag.task if isinstance(tag, TaskTag) else None
        reason, detail = self._repeats(new.text, known)
        if reason is None and label != task:
            reason, detail = ("not tagged", "") if label is None else ("tagged as another task", label)
        if reason is None:
            known.learn(new.id, new.text)
        return ExpansionRow(
            id=new.id,
            text=new.text,
            response="",
            author=self.teacher.name,
            source=new.origin.source,
            parents=new.origin.parents,
            task_wanted=task,
            task=label,
            reason=reason,
            detail=detail,
        )

    def _answered(self, row: ExpansionRow, reply: Completion | Failure | None) -> ExpansionRow:
        """Return the row of a text that passed the checks with its answer; without one it is dropped after all."""
        text, failure = usable(reply, self.unfit) if reply else (None, None)
        if text and isinstance(reply, Completion):
            return replace(row, response=text, thought=reply.reasoning)
        return replace(row, reason=_UNANSWERED, detail=failure or "")

    def _repeats(self, text: str, known: DuplicateIndex) -> tuple[str | None, str]:
        """Return why a text is dropped whatever its task, and what it resembles; (None, "") keeps it."""
        if not text.strip():
            return "empty instruction", ""
        if fault := unless_refusal(self.unfit(text)):
            reason, _, detail = fault.partition(": ")
            return reason, detail
        if met := self.forbidden.find(text):
            return ("near an evaluation item" if met.near else "in an evaluation set"), f"{met.name} {met.near}".strip()
        if met := known.find(text):
            return ("near-duplicate" if met.near else "duplicate"), f"{met.name} {met.near}".strip()
        return None, ""


def _learn(known: DuplicateIndex, rows: Iterable[ExpansionRow]) -> None:
    """Add the texts that passed every check, answered or not, as when they were written."""
    known.learn_all((row.id, row.text) for row in rows if row.reason in {None, _UNANSWERED})


def pair_of(row: ExpansionRow, number: int) -> Pair:
    """Return the pair of a kept row."""
    origin = Origin("expansion", number, row.parents, row.source)
    return Pair(Instruction(row.id, row.text, origin), Response(row.response, row.author, row.thought))


def seeds_by_task(pairs: Iterable[Pair], task_of: Mapping[str, str]) -> dict[str, list[Pair]]:
    """Group the tagged ones of the hard pairs by task."""
    seeds: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.instruction.id in task_of:
            seeds.setdefault(task_of[pair.instruction.id], []).append(pair)
    return seeds


def record_draws(
    context: StageContext, need: Draw, target: TaskDistribution, expansions: Sequence[ExpansionRow]
) -> list[DrawRow]:
    """Record the round's need by task and how many instructions were written for it."""
    written = Counter(row.task_wanted for row in expansions if row.reason is None)
    rows = [
        DrawRow(task, target.shares[task], wanted, need.got[task], need.shortfall.get(task, 0), written[task])
        for task, wanted in need.wanted.items()
    ]
    return context.store.once(context.path("draws"), DrawRow, lambda: rows)
