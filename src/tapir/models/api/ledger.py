"""Ledger: every reply and failure that was paid for, on disk before it counts, looked up by the request's digest."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from tapir.data.files import GO_ON, disk_errors, full
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import StoreError
from tapir.models.api.protocol import pack, unpack

_MIGRATIONS = [(resources.files("tapir.models.api") / f"ledger-{one}.sql").read_text("utf-8") for one in range(1, 6)]
SCHEMA = len(_MIGRATIONS)
_BUSY = 60.0  # seconds that one process waits for another to finish writing
_LOOKUP = 500  # digests in one query; SQLite's limit is higher
_SPARE = 4 << 20  # bytes on the disk that are kept free for what was paid when it fills up
_DAMAGED = "Is it a ledger file, readable and writable? A damaged one can be moved away; its replies are paid again."
_REASONING = b',"reasoning":'  # in a packed reply with a thought: most replies are not worth the reading
_COLUMNS = "digest,model,request,reply,prompt_tokens,cached_tokens,completion_tokens,cost,run,round,stage,task,created"
_SUMS = "count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(cost)"
_INSERT = f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({','.join('?' * len(_COLUMNS.split(',')))})"
_INSERT_FAILURE = f"INSERT OR IGNORE INTO failures VALUES ({','.join('?' * 15)})"
_DUPLICATE = Failure("duplicate", "billed, though the ledger held a reply to this request already")
_BILLS = (
    f"(SELECT digest, model, '{_DUPLICATE.kind}' AS kind, '{_DUPLICATE.message}', prompt_tokens, cached_tokens,"
    " completion_tokens, cost, 1, run, round, stage, task, created, '' FROM {0}.calls"
    " UNION ALL SELECT * FROM {0}.failures)"
)  # calls as rows of `failures`


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a call was made for: the run that pays, its round and stage, the task it is about."""

    run: str = ""
    round: int = 0
    stage: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply to be written, or a failure; one without usage may have been billed for the `possible` tokens."""

    digest: bytes
    model: str
    request: bytes
    reply: Completion | Failure
    cost: float
    purpose: Purpose
    possible: Usage = Usage()  # noqa: RUF009 (it is frozen)
    batch: str = ""  # that brought it


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls, tokens and money for one purpose."""

    purpose: Purpose
    calls: int
    usage: Usage
    cost: float


class Ledger:
    """One SQLite file in WAL mode; processes may share it. A connection belongs to the thread that made it."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open the file; create or migrate it where needed and `writable`."""
        self.path, how = path, "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"  # which makes no file
        place = path if writable else f"{path.absolute().as_uri()}?{how}"
        self._spare = cast("IO[bytes]", BytesIO())
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                place, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=not writable
            )
            with ExitStack() as undo:
                undo.callback(self._database.close)
                if not writable:  # a copy in memory can be migrated
                    self._database.backup(copy := sqlite3.connect(":memory:", isolation_level=None))
                    self._database.close()
                    self._database = copy
                self._set_up()
                self._database.execute(f"PRAGMA query_only = {not writable:d}")
                undo.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._spare.close()
        self._database.close()

    def find(self, digests: Sequence[bytes]) -> dict[bytes, Completion | Failure]:
        """Return what the ledger holds, by digest: replies, and refusals that were paid for."""
        known: dict[bytes, Completion | Failure] = {}
        with self._errors():
            for start in range(0, len(digests), _LOOKUP):
                wanted = digests[start : start + _LOOKUP]
                where = f"digest IN ({','.join('?' * len(wanted))})"
                refused = f"SELECT digest, message FROM failures WHERE kind = 'refused' AND billed AND {where}"
                rows = self._database.execute(refused, wanted)
                known |= {bytes(digest): Failure("refused", message) for digest, message in rows}
                rows = self._database.execute(f"SELECT digest, reply FROM calls WHERE {where}", wanted)
                known |= {bytes(digest): self._read(reply) for digest, reply in rows}
        return known

    def add(self, entries: Iterable[Entry]) -> None:
        """Write entries in one transaction; on return they are on disk. A reply that the ledger holds already stays.

        One more reply to its request is charged as well, a line of a batch only once, whichever run collects it.
        """
        now = time.time()
        replies, failures = [], []
        for entry in entries:
            purpose, reply = entry.purpose, entry.reply
            usage = reply.usage or entry.possible
            counts = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, entry.cost
            last = purpose.run, purpose.round, purpose.stage, purpose.task, now
            failure = reply if isinstance(reply, Failure) else _DUPLICATE
            words, billed = (failure.kind, failure.message), reply.usage is not None
            bill = (entry.digest, entry.model, *words, *counts, billed, *last, entry.batch)
            if isinstance(reply, Completion):
                texts = _compressed(entry.request), _compressed(pack(reply))
                replies.append(((entry.digest, entry.model, *texts, *counts, *last), bill, entry.batch))
            else:
                failures.append(bill)
        with self._errors(), self._transaction():
            for row, bill, batch in replies:
                if not (self._database.execute(_INSERT, row).rowcount or batch):
                    failures.append(bill)
            self._database.executemany(_INSERT_FAILURE, failures)

    def keep_room(self, run: str) -> None:
        """Take in what a session of the run had to write beside this file, and keep room for the next time."""
        if (beside := self._beside(run)).exists():
            merge_ledgers(self.path, [beside])
            beside.unlink()
        with suppress(OSError):  # of a disk that is nearly full it is the rest
            self._spare = tempfile.TemporaryFile(buffering=0, dir=self.path.parent)  # noqa: SIM115 (closed to make room)
            self._spare.write(os.urandom(_SPARE))

    def add_beside(self, entries: Sequence[Entry]) -> None:
        """Write entries for which this file is locked or has no room to another one, in the room that was kept."""
        self._spare.close()
        with closing(Ledger(self._beside(entries[0].purpose.run))) as beside:
            beside.add(entries)

    def _beside(self, run: str) -> Path:
        return self.path.with_name(f"{self.path.name}-unsaved-{run}")

    def spent(self, run: str | None = None, *, possibly: bool = False) -> list[Spent]:
        """Return what was billed, by run, round, stage and task; of one run, or of all.

        With `possibly`: what may have been billed at most, though no reply says so, for calls that ended without one.
        """
        source, by = "failures WHERE NOT billed AND" if possibly else "billed WHERE", "run, round, stage, task"
        query = f"SELECT {by}, {_SUMS} FROM {source} (?1 IS NULL OR run = ?1) GROUP BY {by} ORDER BY 1, 2, min(created)"
        with self._errors():
            rows = self._database.execute(query, (run,))
            return [Spent(Purpose(*row[:4]), row[4], Usage(*row[5:8]), row[8]) for row in rows]

    def thoughts(self) -> Iterator[tuple[str, Completion]]:
        """Yield the stage and the reply of every call whose model thought, oldest first."""
        with self._errors():
            for stage, reply in self._database.execute("SELECT stage, reply FROM calls ORDER BY rowid"):
                if _REASONING in zlib.decompress(reply):
                    yield stage, self._read(reply)

    def models(self) -> list[tuple[str, int, Usage, float]]:
        """Return calls, tokens and money by model."""
        with self._errors():
            rows = self._database.execute(f"SELECT model, {_SUMS} FROM billed GROUP BY model ORDER BY model")
            return [(row[0], row[1], Usage(*row[2:5]), row[5]) for row in rows]

    def export(self) -> Iterator[tuple[bytes, bytes, bytes, Purpose, float]]:
        """Yield digest, request (JSON), reply (JSON), purpose and cost of every call, oldest first."""
        with self._errors():
            query = "SELECT digest, request, reply, run, round, stage, task, cost FROM calls ORDER BY rowid"
            for row in self._database.execute(query):
                yield row[0], zlib.decompress(row[1]), zlib.decompress(row[2]), Purpose(*row[3:7]), row[7]

    def merge(self, other: Path) -> int:
        """Copy the replies of another ledger, checked by `merge_ledgers`; return how many were new."""
        copy = f"INSERT OR IGNORE INTO calls ({_COLUMNS}) SELECT {_COLUMNS} FROM other.calls ORDER BY rowid"
        bills = (
            f"INSERT OR IGNORE INTO failures SELECT * FROM {_BILLS.format('other')} AS new WHERE NOT EXISTS"
            f" (SELECT 1 FROM {_BILLS.format('main')} AS old"
            " WHERE old.digest = new.digest AND old.created = new.created AND old.kind = new.kind)"
        )
        with self._errors():
            self._database.execute("ATTACH ? AS other", (str(other),))
            try:
                with self._transaction():
                    new = self._database.execute(copy).rowcount
                    self._database.execute(bills)
                    for table in ("facts", "batches", "batched"):
                        self._database.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
                    return new
            finally:
                self._database.execute("DETACH other")

    def find_fact(self, run: str, endpoint: str, base_url: str, model: str, name: str = "json_schema") -> int | None:
        """Return a fact about an endpoint, as this run found it, else another one; None if none has."""
        query = (
            "SELECT value FROM facts WHERE model = ?4 AND name = ?5 AND (base_url = ?3 OR (run = ?1 AND endpoint = ?2))"
            " ORDER BY run = ?1 AND endpoint = ?2 DESC, run = ?1 DESC, created DESC"
        )
        with self._errors():
            row = self._database.execute(query, (run, endpoint, base_url, model, name)).fetchone()
            return None if row is None else int(row[0])

    def add_fact(self, run: str, endpoint: str, base_url: str, model: str, **fact: int) -> None:
        """Keep a fact about an endpoint, e.g. json_schema=True; what the run has found before stays."""
        rows = [(run, endpoint, base_url, model, name, value, time.time()) for name, value in fact.items()]
        with self._errors(), self._transaction():
            self._database.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def open_batch(self, batch: str, url: str, digests: Iterable[bytes], run: str = "", state: str = "open") -> None:
        """Record a batch and its requests, by its mark where it is "begun" and its id not known yet."""
        row = (batch, url, state, time.time(), run)
        rows = ((digest, batch) for digest in digests)
        with self._errors(), self._transaction():
            self._database.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?)", row)
            self._database.executemany("INSERT OR IGNORE INTO batched VALUES (?, ?)", rows)

    def name_batch(self, mark: str, batch: str) -> None:
        """Record the id of a batch that was begun with this mark; one that was closed is open again."""
        with self._errors(), self._transaction():
            self._database.execute("UPDATE OR REPLACE batches SET id = ?2, state = 'open' WHERE id = ?1", (mark, batch))
            self._database.execute("UPDATE OR REPLACE batched SET batch = ?2 WHERE batch = ?1", (mark, batch))

    def close_batch(self, batch: str, state: str) -> None:
        """Record that a batch is "collected" or "failed": requests it did not answer may be sent again."""
        with self._errors(), self._transaction():
            self._database.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch))

    def open_batches(self, endpoint: str, run: str = "", state: str = "open") -> dict[str, set[bytes]]:
        """Return the open batches of an endpoint or a run, wherever that was, and the digests in each, oldest first."""
        query = (
            "SELECT id, digest FROM batches JOIN batched ON batch = id"
            " WHERE (endpoint = ? OR (run = ? AND run != '')) AND state = ? ORDER BY created"
        )
        batches: dict[str, set[bytes]] = {}
        with self._errors():
            for batch, digest in self._database.execute(query, (endpoint, run, state)):
                batches.setdefault(batch, set()).add(bytes(digest))
        return batches

    def known_batches(self, endpoint: str) -> set[str]:
        """Return the batches of an endpoint that are open or collected: their record was not lost."""
        query = "SELECT id FROM batches WHERE endpoint = ? AND state != 'failed'"
        with self._errors():
            return {str(row[0]) for row in self._database.execute(query, (endpoint,))}

    def unanswered(self, batch: str) -> set[bytes]:
        """Return the requests of a batch that have neither a reply nor a failure from it here."""
        query = (
            "SELECT digest FROM batched WHERE batch = ?1 AND digest NOT IN (SELECT digest FROM calls)"
            " EXCEPT SELECT digest FROM failures WHERE batch = ?1"
        )
        with self._errors():
            return {bytes(row[0]) for row in self._database.execute(query, (batch,))}

    def _read(self, reply: bytes) -> Completion:
        try:
            return unpack(zlib.decompress(reply))
        except (zlib.error, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"{self.path} holds a reply that cannot be read: {error}", remedy=_DAMAGED) from error

    def _set_up(self) -> None:
        """Create or migrate the tables. Only the change to WAL does not wait for other processes by itself."""
        until = time.monotonic() + _BUSY
        while True:
            try:
                self._migrate()
                self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_BUSY / 1000)
            else:
                return

    def _migrate(self) -> None:
        version = self._version()
        if version > SCHEMA:
            raise StoreError(
                f"{self.path} is a ledger of version {version}; this tapir knows versions up to {SCHEMA}",
                remedy="Use the newer tapir that wrote it, or another ledger file.",
            )
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not version and tables and not (version := self._version()):
            raise StoreError(f"{self.path} is a database, but no ledger", remedy="Name another file.")
        for number in range(version, SCHEMA):
            with self._transaction():
                if self._version() > number:
                    continue  # another process was faster
                for statement in _MIGRATIONS[number].split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {number + 1}")

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate errors of SQLite and the file system."""
        try:
            with disk_errors(self.path):
                yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            unopened = code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # at times the disk's, not the file's
            if code == sqlite3.SQLITE_FULL or (unopened and not os.statvfs(self.path.parent).f_bavail):
                raise full(self.path) from error
            locked = f"Wait for the process that holds it, or end it; then {GO_ON}."
            remedy = locked if code == sqlite3.SQLITE_BUSY else _DAMAGED
            raise StoreError(f"{self.path} cannot be used as a ledger: {error}", remedy=remedy) from error


def _compressed(content: bytes) -> bytes:
    """Compress in a window of 8 KiB: to set up zlib's default of 32 KiB takes longer than to compress a call."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, wbits=13, memLevel=6)
    return compressor.compress(content) + compressor.flush()


def merge_ledgers(into: Path, others: Sequence[Path]) -> list[int]:
    """Copy the replies of other ledgers into one, created if need be; return how many each brought."""
    for other in others:
        if not other.is_file():
            raise StoreError(f"{other} is not a file", remedy="Name a ledger, e.g. runs/NAME/ledger.sqlite.")
        if into.exists() and other.samefile(into):
            raise StoreError(f"{other} cannot be merged with itself", remedy="Name another ledger to take from.")
        Ledger(other).close()  # it is one, and migrated
    with closing(Ledger(into)) as ledger:
        return [ledger.merge(other) for other in others]
