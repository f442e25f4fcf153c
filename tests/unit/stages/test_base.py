"""Work on items that do not depend on each other: kept when finished, the same table in any order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.paths import ROOT
from support.scripted import Watcher
from tapir.data.run import tables
from tapir.data.run.store import RunStore, cells
from tapir.domain.errors import Interrupted, RoleError
from tapir.stages.base import StageContext, Work, run_items

TABLE = "round-0/things"


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    turn: int
    weight: float | None
    parents: tuple[str, ...]


def rows_of(key: str, number: int) -> list[Thing]:
    """None, one or two rows, with everything a cell can hold."""
    return [Thing(f"{key}\u2028", turn, None if number % 2 else 0.5, (key, "x")) for turn in range(number % 3)]


@dataclass
class Worker:
    """Does the owed items in a random order and remembers which it was given; fails before the item `fail_at`."""

    order: int = 0
    fail_at: int | None = None
    ahead: int = 5
    given: list[str] = field(default_factory=list)

    def __call__(self, pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[Thing]]]:
        rng, waiting = random.Random(self.order), list[tuple[str, int]]()
        finished = 0
        while True:
            while len(waiting) < self.ahead and (one := next(pending, None)) is not None:
                self.given.append(one[0])
                waiting.append(one)
            if not waiting:
                return
            if finished == self.fail_at:
                raise RuntimeError("out of luck")
            key, number = waiting.pop(rng.randrange(len(waiting)))
            finished += 1
            yield key, rows_of(key, number)


def items(count: int) -> list[tuple[str, int]]:
    return [(f"item-{number}", number) for number in range(count)]


def make(
    folder: Path,
    work: Callable[[Iterator[tuple[str, int]]], Iterable[tuple[str, Sequence[Thing]]]],
    count: int = 20,
    chunk: int = 3,
    progress: Watcher | None = None,
) -> bytes:
    store = RunStore(folder)
    run_items(StageContext(store, progress or Watcher(), 0, 7), Work("do", "things", chunk), Thing, items(count), work)
    return (folder / f"{TABLE}.parquet").read_bytes()


def saved(folder: Path) -> set[str]:
    """What a process that dies now leaves finished."""
    return {key for _, key, _ in RunStore(folder).parts(TABLE).lines()}


@pytest.mark.parametrize("count", [0, 20])
def test_the_table_has_the_rows_of_every_item_in_the_order_of_the_items(tmp_path: Path, count: int) -> None:
    make(tmp_path, Worker(order=3), count)
    assert RunStore(tmp_path).read(TABLE, Thing) == [row for one in items(count) for row in rows_of(*one)]
    assert not list(tmp_path.rglob("*.parts.jsonl"))


@given(
    count=st.integers(0, 25),
    chunk=st.integers(1, 9),
    orders=st.tuples(st.integers(), st.integers()),
    ahead=st.integers(1, 30),
    fail_at=st.integers(0, 25),
)
def test_any_order_of_completion_and_any_interruption_gives_the_same_bytes_and_nothing_is_done_twice(
    tmp_path_factory: pytest.TempPathFactory, count: int, chunk: int, orders: tuple[int, int], ahead: int, fail_at: int
) -> None:
    folder = tmp_path_factory.mktemp("keep")
    straight = make(folder / "straight", Worker(ahead=1), count)
    broken = Worker(orders[0], fail_at, ahead)
    if fail_at < count:
        with pytest.raises(RuntimeError, match="out of luck"):
            make(folder / "broken", broken, count, chunk)
        assert len(saved(folder / "broken")) == fail_at
    again = Worker(orders[1], ahead=ahead)
    finished = saved(folder / "broken")
    assert make(folder / "broken", again, count, chunk) == straight
    assert sorted(again.given) == sorted({key for key, _ in items(count)} - finished)
    never = Worker()
    assert make(folder / "broken", never, count, chunk) == straight
    assert not never.given


def test_a_process_that_is_killed_owes_at_most_the_chunk_it_was_at(tmp_path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from unit.stages import test_base as t\n"
        "def work(owed):\n"
        "    for number, (key, item) in enumerate(owed):\n"
        "        if number == 11: os._exit(9)\n"
        "        yield key, t.rows_of(key, item)\n"
        f"t.make(Path({str(tmp_path)!r}), work)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), *sys.path))}
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False).returncode == 9
    worker = Worker(ahead=1)
    straight = make(tmp_path / "straight", Worker())
    assert make(tmp_path, worker) == straight
    assert worker.given == [key for key, _ in items(20)[9:]]


def test_finished_items_are_saved_in_groups_of_a_chunk_and_only_those_of_cut_lines_are_owed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, synced = tmp_path / f"{TABLE}.parts.jsonl", list[int]()

    def fsync(descriptor: int) -> None:
        if parts.exists() and os.path.samestat(os.fstat(descriptor), parts.stat()):
            synced.append(parts.read_bytes().count(b"\n"))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RuntimeError):
        make(tmp_path, Worker(fail_at=8, ahead=1), chunk=3)
    assert synced == [3, 6, 8]
    lines = parts.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["key"] for line in lines] == [key for key, _ in items(8)]
    parts.write_bytes(b"".join(lines[:7])[:-5])  # killed within the third chunk, of which one line is whole
    worker = Worker(ahead=1)
    assert make(tmp_path, worker) == make(tmp_path / "straight", Worker())
    assert worker.given == [key for key, _ in items(20)[6:]]


def test_a_line_of_several_items_as_earlier_versions_wrote_it_is_read(tmp_path: Path) -> None:
    done = [items(20)[:3], items(20)[9:12]]
    lines = [
        {"key": [key for key, _ in chunk], "rows": [[*map(cells, rows_of(*one))] for one in chunk]} for chunk in done
    ]
    RunStore(tmp_path).round(0).mkdir()
    (tmp_path / f"{TABLE}.parts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    worker = Worker(order=5)
    assert make(tmp_path, worker) == make(tmp_path / "straight", Worker())
    assert sorted(worker.given) == sorted({key for key, _ in items(20)} - {key for chunk in done for key, _ in chunk})


def test_a_saved_item_is_parsed_once_whatever_the_order_of_the_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, loads = list[int](), json.loads

    def counted(line: bytes) -> object:
        parsed.append(len(line))
        return loads(line)

    straight = make(tmp_path / "straight", Worker(ahead=1), 400)
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", counted)
        assert make(tmp_path / "shuffled", Worker(ahead=400), 400, chunk=20) == straight
    assert sum(parsed) < 400 * 100


def test_a_stop_saves_what_is_finished_and_makes_no_table(tmp_path: Path) -> None:
    progress = Watcher(stop_after=10)

    def work(pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[Thing]]]:
        for key, number in pending:
            yield key, rows_of(key, number)
            progress.check()

    with pytest.raises(Interrupted):
        make(tmp_path, work, progress=progress)
    assert len(saved(tmp_path)) == 10
    assert not RunStore(tmp_path).has(TABLE)
    resumed = Watcher()
    make(tmp_path, Worker(), progress=resumed)
    assert resumed.started == [(0, "do", 20, 10)]
    assert resumed.advanced == 10


def test_a_role_that_leaves_out_an_item_is_told_so_and_what_it_gave_is_kept(tmp_path: Path) -> None:
    def forgetful(pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[Thing]]]:
        return ((key, rows_of(key, number)) for key, number in pending if number not in {4, 9})

    with pytest.raises(RoleError, match="do: 2 of 20 items came back without a reply, the first is item-4") as caught:
        make(tmp_path, forgetful)
    assert "exactly one reply per item" in caught.value.remedy
    worker = Worker()
    make(tmp_path, worker)
    assert worker.given == ["item-4", "item-9"]


def test_items_are_taken_as_they_are_worked_on(tmp_path: Path) -> None:
    most = 0

    def work(pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[Thing]]]:
        nonlocal most
        worker = Worker(ahead=4)
        for done, finished in enumerate(worker(pending)):
            most = max(most, len(worker.given) - done)
            yield finished

    make(tmp_path, work)
    assert most == 4


@dataclass
class Living:
    """How many rows live now, and the most there were at once."""

    now: int = 0
    most: int = 0


LIVING = Living()


@dataclass
class Row:
    """A row that is counted while it lives."""

    name: str
    text: str

    def __post_init__(self) -> None:
        LIVING.now += 1
        LIVING.most = max(LIVING.most, LIVING.now)

    def __del__(self) -> None:
        LIVING.now -= 1


def test_few_rows_are_in_memory_at_once_however_many_items_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_GROUP", 50)
    count, chunk = 2000, 20

    def work(pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[Row]]]:
        return ((key, [Row(key, str(number)), Row(key, "again")]) for key, number in pending)

    place = StageContext(RunStore(tmp_path), Watcher(), 0, 7)
    run_items(place, Work("do", "things", chunk), Row, items(count), work)
    assert LIVING.most <= 2 * (chunk + 50)
    assert sum(1 for _ in RunStore(tmp_path).each(TABLE, Row)) == 2 * count
    assert LIVING.most <= 4 * 50
