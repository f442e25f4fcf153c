"""Expand: what the teacher writes is checked, answered and kept, or dropped with a reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest

from support import fakes
from support.scripted import Watcher, completion
from tapir.data.duplicates import DuplicateIndex, NearDuplicates
from tapir.data.run.rows import ExpansionRow
from tapir.data.run.store import RunStore
from tapir.data.screen import REFUSAL
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import Interrupted
from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id
from tapir.domain.mixture import Draw
from tapir.domain.randomness import seed_for
from tapir.domain.roles import ExpandRequest, Reply
from tapir.domain.task import TaskDistribution, TaskTag
from tapir.stages.base import StageContext
from tapir.stages.expand import Expand, record_draws

SEED, ROUND, ATTEMPTS = 7, 1, 3
TABLE = f"round-{ROUND}/expansions"

HELD = "add up all the prices on this long list of fresh fruit from the market"
NEAR_HELD = "add up all the prices on this long list of dried fruit from the market"
OLD = "add the ages of the seven brothers in the tale of the ravens"
NEAR_OLD = "add the ages of the seven sisters in the tale of the ravens"

Said: TypeAlias = str | Failure


def seeds(task: str, count: int = 4) -> list[Pair]:
    return [Pair(fakes.instruction(task, number), Response("right", "corpus")) for number in range(count)]


def attempt_of(request: ExpandRequest) -> int:
    """Which attempt a request belongs to: its seed says so."""
    return next(
        attempt for attempt in range(ATTEMPTS) if request.seed == seed_for(SEED, "expand", ROUND, request.task, attempt)
    )


def new(task: str, *parts: object) -> str:
    """A text unlike any other of the task."""
    return f"{task} {instruction_id(str(parts))}s"


@dataclass
class Writer(fakes.Teacher):
    """Writes what `say` tells it for a task and an attempt, from one seed each; it has no answer to mute things."""

    say: Callable[[str, int], Sequence[Said]] = lambda task, attempt: [new(task, attempt)]
    order: int = 0
    requests: list[tuple[str, int, int]] = field(default_factory=list)
    seen: list[list[str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        found: list[tuple[str, Instruction | Failure]] = []
        for one in requests:
            attempt = attempt_of(one)
            self.requests.append((one.task, attempt, one.wanted))
            self.seen.append([pair.instruction.id for pair in one.seeds])
            for turn, said in enumerate(self.say(one.task, attempt)):
                parent = one.seeds[turn % len(one.seeds)].instruction.id
                origin = Origin("expansion", parents=(parent,), source="writer")
                found.append((one.task, said if isinstance(said, Failure) else Instruction.of(said, origin)))
        random.Random(self.order).shuffle(found)
        yield from found

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.answered.append(one.text)
            reply: Completion | Failure = completion(f"the answer{'<|end|>' * ('forged' in one.text)} to {one.text}")
            yield one.id, Failure("timeout", "no answer") if "mute" in one.text else reply


class Tagger(fakes.Tagger):
    """Can be asked about an empty text, too."""

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        for one in instructions:
            yield from super().tag([one]) if one.text.strip() else [(one.id, Failure("no label", "?"))]


def knowing(*texts: str) -> DuplicateIndex:
    found = DuplicateIndex(NearDuplicates())
    found.learn_all((instruction_id(text), text) for text in texts)
    return found


def expand(
    folder: Path,
    writer: Writer,
    wanted: dict[str, int],
    *,
    known: DuplicateIndex | None = None,
    progress: Watcher | None = None,
) -> list[ExpansionRow]:
    """The rows of one round whose hard pool lacks `wanted`; "list" has no hard seed."""
    need = Draw(wanted=wanted, got=dict.fromkeys(wanted, 0))
    place = StageContext(RunStore(folder), progress or Watcher(), ROUND, SEED)
    stage = Expand(writer, Tagger(), ATTEMPTS, knowing(HELD), unfit)
    return stage.run(place, need, {"add": seeds("add"), "spell": seeds("spell")}, known or knowing(OLD))


def unfit(text: str) -> str:
    """As of a student with one special token, and of a screen."""
    if text.startswith("add what I cannot"):
        return f"{REFUSAL}: {text}"
    return "special token: <|end|> is written out in it" if "<|end|>" in text else ""


def table(folder: Path) -> bytes:
    return (folder / f"{TABLE}.parquet").read_bytes()


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        (" \n", "empty instruction", ""),
        ("add <|end|> to the list", "special token", "<|end|> is written out in it"),
        ("add the forged ones", "not answered", "special token: <|end|> is written out in it"),
        (HELD.upper(), "in an evaluation set", instruction_id(HELD)),
        (NEAR_HELD, "near an evaluation item", f"{instruction_id(HELD)} rouge-l 0.93"),
        (f" {OLD} ", "duplicate", instruction_id(OLD)),
        (NEAR_OLD, "near-duplicate", f"{instruction_id(OLD)} rouge-l 0.92"),
        ("add what is left of 99", "not tagged", ""),
        ("spell the word ravens", "tagged as another task", "spell"),
        ("add the mute ones", "not answered", "timeout: no answer"),
        ("add the lengths of all rivers", None, ""),
        ("add what I cannot add", None, ""),  # an instruction may begin as a refusal does
    ],
)
def test_every_text_is_kept_or_dropped_with_a_reason_and_what_it_met(
    tmp_path: Path, text: str, reason: str | None, detail: str
) -> None:
    writer = Writer(say=lambda _, attempt: [text] if attempt == 0 else [])
    (row,) = expand(tmp_path, writer, {"add": 1})
    assert (row.reason, row.detail, row.text, row.task_wanted) == (reason, detail, text, "add")
    assert row.response == ("" if reason else f"the answer to {text}")
    assert RunStore(tmp_path).read(TABLE, ExpansionRow) == [row]


def test_what_is_kept_has_its_author_its_parent_and_its_label(tmp_path: Path) -> None:
    (row,) = expand(tmp_path, Writer(), {"add": 1})
    (parent,) = row.parents
    assert parent in {pair.instruction.id for pair in seeds("add")}
    assert (row.author, row.source, row.task, row.id) == ("fake-teacher", "writer", "add", instruction_id(row.text))


def test_only_what_passed_every_check_is_answered_and_of_equal_or_nearly_equal_texts_one(tmp_path: Path) -> None:
    writer = Writer(
        say=lambda *_: ["", OLD, NEAR_OLD, HELD, "spell a word", "add 9", "add the rivers", "add the rivers"]
    )
    expand(tmp_path, writer, {"add": 1})
    assert writer.answered == ["add the rivers"]
    rows = expand(tmp_path / "thrice", Writer(say=lambda *_: ["add the rivers"] * 3), {"add": 1})
    assert sorted((row.reason or "", row.response) for row in rows) == [
        ("", "the answer to add the rivers"),
        ("duplicate", ""),
        ("duplicate", ""),
    ]
    rows = expand(tmp_path / "nearly", Writer(say=lambda *_: [NEAR_OLD, OLD]), {"add": 2}, known=knowing())
    assert sorted(row.reason or "" for row in rows[:2]) == ["", "near-duplicate"]


def test_only_what_is_still_missing_is_asked_for_again(tmp_path: Path) -> None:
    def say(task: str, attempt: int) -> list[str]:
        kept = {("add", 0): 2, ("add", 1): 1, ("spell", 0): 4}.get((task, attempt), 0)
        return [new(task, attempt, number) for number in range(kept)]

    writer = Writer(say=say)
    rows = expand(tmp_path, writer, {"add": 5, "spell": 3})
    assert writer.requests == [("add", 0, 5), ("spell", 0, 3), ("add", 1, 3), ("add", 2, 2)]
    assert sum(row.reason is None for row in rows) == 7


def test_what_has_no_hard_seed_or_is_not_short_is_not_asked_for(tmp_path: Path) -> None:
    writer, progress = Writer(), Watcher()
    expand(tmp_path, writer, {"add": 1, "list": 4}, progress=progress)
    assert writer.requests == [("add", 0, 1)]
    assert progress.notes == ["list: 4 hard examples short and no hard seed to expand"]
    writer = Writer()
    assert expand(tmp_path / "nothing", writer, {"add": 0}) == []
    assert not writer.requests
    assert RunStore(tmp_path / "nothing").has(TABLE)


def test_calls_that_failed_are_counted_and_said(tmp_path: Path) -> None:
    progress = Watcher()
    failures = [Failure("timeout", "no answer in 60 s")] * 2
    rows = expand(tmp_path, Writer(say=lambda *_: [*failures, "add the rivers"]), {"add": 1}, progress=progress)
    assert len(rows) == 1
    assert progress.notes == ["add: expansion failed 2 x: timeout: no answer in 60 s"]


def test_the_seeds_are_shown_in_another_order_in_every_attempt_and_in_the_same_in_every_run(tmp_path: Path) -> None:
    one, other = Writer(say=lambda *_: []), Writer(say=lambda *_: [])
    expand(tmp_path / "one", one, {"add": 1})
    expand(tmp_path / "other", other, {"add": 1})
    assert one.seen == other.seen
    assert len({tuple(order) for order in one.seen}) > 1
    assert {frozenset(order) for order in one.seen} == {frozenset(pair.instruction.id for pair in seeds("add"))}


def test_what_passed_is_known_from_then_on(tmp_path: Path) -> None:
    known = knowing(OLD)
    say = ["add the rivers", "add the mute ones", "spell a word"]
    expand(tmp_path, Writer(say=lambda *_: say), {"add": 1}, known=known)
    assert [known.find(text) is not None for text in say] == [True, True, False]


def busy(task: str, attempt: int) -> list[Said]:
    """Something of everything; each attempt writes a text thrice and repeats those of the one before."""
    fresh = [new(task, attempt, number) + " mute" * (number % 2) for number in range(4)]
    before = [new(task, attempt - 1, number) + " mute" * (number % 2) for number in range(4)]
    again = [new(task, attempt, "again")] * 3
    return [*fresh, *before, *again, f"{task} {attempt}9", "list what is left", Failure("timeout", "no answer"), ""]


def test_the_order_of_the_replies_changes_no_byte(tmp_path: Path) -> None:
    tables = set()
    for order in range(5):
        rows = expand(tmp_path / f"{order}", Writer(say=busy, order=order), {"add": 30, "spell": 4})
        tables.add(table(tmp_path / f"{order}"))
    assert len(tables) == 1
    assert {row.reason for row in rows} >= {None, "duplicate", "not tagged", "tagged as another task", "not answered"}


@dataclass
class Dying(Writer):
    """Its process is killed in one of the attempts."""

    dies_in: int = 0

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        if attempt_of(requests[0]) == self.dies_in:
            raise KeyboardInterrupt
        return super().expand(requests)


@pytest.mark.parametrize("dies_in", range(ATTEMPTS))
def test_killed_between_two_attempts_it_goes_on_to_the_same_bytes_and_asks_for_no_attempt_twice(
    tmp_path: Path, dies_in: int
) -> None:
    wanted = {"add": 30, "spell": 4}
    straight = Writer(say=busy)
    rows = expand(tmp_path / "straight", straight, wanted)
    killed = Dying(say=busy, dies_in=dies_in)
    with pytest.raises(KeyboardInterrupt):
        expand(tmp_path / "killed", killed, wanted)
    assert not RunStore(tmp_path / "killed").has(TABLE)
    again = Writer(say=busy, order=1)
    assert expand(tmp_path / "killed", again, wanted) == rows
    assert table(tmp_path / "killed") == table(tmp_path / "straight")
    assert killed.requests + again.requests == straight.requests
    assert not list(tmp_path.rglob("*.parts.jsonl"))


def test_after_a_resume_the_same_texts_are_known(tmp_path: Path) -> None:
    straight, resumed = knowing(OLD), knowing(OLD)
    writer = Writer(say=busy)
    rows = expand(tmp_path, writer, {"add": 30}, known=straight)
    count = len(writer.requests)
    assert expand(tmp_path, writer, {"add": 30}, known=resumed) == rows
    assert len(writer.requests) == count
    assert [resumed.find(row.text) for row in rows] == [straight.find(row.text) for row in rows]


def test_a_stop_ends_it_between_two_attempts(tmp_path: Path) -> None:
    writer = Writer(say=busy)
    with pytest.raises(Interrupted):
        expand(tmp_path, writer, {"add": 30}, progress=Watcher(stop_after=1))
    assert {attempt for _, attempt, _ in writer.requests} == {0}
    assert not RunStore(tmp_path).has(TABLE)


def test_a_tagger_that_leaves_out_a_text_leaves_it_untagged(tmp_path: Path) -> None:
    class Forgetful(fakes.Tagger):
        def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
            return super().tag(one for one in instructions if "rivers" not in one.text)

    place = StageContext(RunStore(tmp_path), Watcher(), ROUND, SEED)
    stage = Expand(Writer(say=lambda *_: ["add the rivers", "add the hills"]), Forgetful(), 1, knowing())
    rows = stage.run(place, Draw({"add": 1}, {"add": 0}), {"add": seeds("add")}, knowing())
    assert {row.text: row.reason for row in rows} == {"add the rivers": "not tagged", "add the hills": None}


def test_the_draws_table_counts_what_was_written_for_each_task(tmp_path: Path) -> None:
    wanted = {"add": 3, "spell": 1, "list": 2}
    rows = expand(tmp_path, Writer(say=lambda task, _: [f"{task} the rivers", f"{task} the hills"]), wanted)
    need = Draw(wanted=wanted, got={"add": 1, "spell": 0, "list": 2})
    target = TaskDistribution({"add": 0.5, "spell": 0.25, "list": 0.25})
    context = StageContext(RunStore(tmp_path), Watcher(), ROUND, SEED)
    found = record_draws(context, need, target, rows)
    assert [(row.task, row.wanted, row.got, row.shortfall, row.expanded) for row in found] == [
        ("add", 3, 1, 2, 2),
        ("spell", 1, 0, 1, 2),
        ("list", 2, 2, 0, 0),
    ]
