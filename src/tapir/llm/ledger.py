"""The ledger: every reply that was paid for, on disk before it counts, found again by what was asked."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tapir.domain.completion import Completion, Usage
from tapir.errors import StoreError, StoreFull
from tapir.llm.wire import pack, unpack

_MIGRATIONS = (
    """
    CREATE TABLE calls (
        digest BLOB NOT NULL UNIQUE,       -- what was asked, see wire.digest
        model TEXT NOT NULL,               -- as asked for
        request BLOB NOT NULL,             -- compressed JSON body
        reply BLOB NOT NULL,               -- compressed, see wire.pack
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cost REAL NOT NULL,
        run TEXT NOT NULL,                 -- who paid
        round INTEGER NOT NULL,
        stage TEXT NOT NULL,
        task TEXT NOT NULL,
        created REAL NOT NULL              -- seconds since 1970
    );
    CREATE INDEX calls_by_run ON calls (run, round, stage, task);
    """,
    """
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,               -- as the provider calls it
        endpoint TEXT NOT NULL,            -- base URL
        state TEXT NOT NULL,               -- open, collected or failed
        created REAL NOT NULL
    );
    CREATE TABLE batched (
        digest BLOB NOT NULL,
        batch TEXT NOT NULL REFERENCES batches (id),
        PRIMARY KEY (digest, batch)
    ) WITHOUT ROWID;
    """,
)
SCHEMA = len(_MIGRATIONS)
_BUSY = 60.0  # seconds that one process waits for another to finish writing
_LOOKUP = 500  # digests in one question; SQLite's limit is higher
_DAMAGED = (
    "Is it a ledger file, readable and writable? A damaged one can be moved away; its replies are then paid for again."
)
_COLUMNS = (
    "digest, model, request, reply, prompt_tokens, cached_tokens, completion_tokens, cost, run, round, stage, task,"
    " created"
)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a call was made for: the run that pays, its round and stage, the task it is about."""

    run: str = ""
    round: int = 0
    stage: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply on its way to the ledger."""

    digest: bytes
    model: str
    request: bytes
    completion: Completion
    cost: float
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls, tokens and money for one purpose."""

    purpose: Purpose
    calls: int
    usage: Usage
    cost: float


class Ledger:
    """One SQLite file in WAL mode; processes may share it. A connection belongs to the thread that made it."""

    def __init__(self, path: Path) -> None:
        """Open the file, making or migrating it.

        Raises:
            StoreError: it is no ledger, is from a newer version, or cannot be opened.
        """
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            with ExitStack() as undo:
                undo.callback(self._database.close)
                self._set_up()
                undo.pop_all()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def find(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """The replies that are there, by digest."""
        found: dict[bytes, Completion] = {}
        with self._errors():
            for start in range(0, len(digests), _LOOKUP):
                asked = digests[start : start + _LOOKUP]
                marks = ",".join("?" * len(asked))
                rows = self._database.execute(f"SELECT digest, reply FROM calls WHERE digest IN ({marks})", asked)  # noqa: S608
                found |= {bytes(digest): self._read(reply) for digest, reply in rows}
        return found

    def add(self, entries: Iterable[Entry]) -> None:
        """Write replies in one transaction; on return they are on disk. A reply that is there already stays."""
        now = time.time()
        rows = [
            (
                entry.digest,
                entry.model,
                zlib.compress(entry.request, 1),
                zlib.compress(pack(entry.completion), 1),
                entry.completion.usage.prompt_tokens,
                entry.completion.usage.cached_tokens,
                entry.completion.usage.completion_tokens,
                entry.cost,
                entry.purpose.run,
                entry.purpose.round,
                entry.purpose.stage,
                entry.purpose.task,
                now,
            )
            for entry in entries
        ]
        with self._errors(), self._transaction():
            marks = ",".join("?" * len(_COLUMNS.split(",")))
            self._database.executemany(f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({marks})", rows)  # noqa: S608

    def spent(self, run: str | None = None) -> list[Spent]:
        """What was paid, by run, round, stage and task; of one run, or of all."""
        with self._errors():
            rows = self._database.execute(
                "SELECT run, round, stage, task, count(*), sum(prompt_tokens), sum(completion_tokens),"
                " sum(cached_tokens), sum(cost) FROM calls WHERE ?1 IS NULL OR run = ?1"
                " GROUP BY run, round, stage, task ORDER BY run, round, min(created)",
                (run,),
            )
            return [Spent(Purpose(*row[:4]), row[4], Usage(*row[5:8]), row[8]) for row in rows]

    def models(self) -> list[tuple[str, int, Usage, float]]:
        """Calls, tokens and money by model."""
        with self._errors():
            rows = self._database.execute(
                "SELECT model, count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(cost)"
                " FROM calls GROUP BY model ORDER BY model"
            )
            return [(row[0], row[1], Usage(*row[2:5]), row[5]) for row in rows]

    def export(self) -> Iterator[tuple[bytes, bytes, bytes, Purpose, float]]:
        """Digest, request (JSON), reply (JSON), purpose and cost of every call, oldest first."""
        with self._errors():
            for row in self._database.execute(
                "SELECT digest, request, reply, run, round, stage, task, cost FROM calls ORDER BY rowid"
            ):
                yield row[0], zlib.decompress(row[1]), zlib.decompress(row[2]), Purpose(*row[3:7]), row[7]

    def merge(self, other: Path) -> int:
        """Take over the replies of another ledger; returns how many were new.

        Raises:
            StoreError: the other file is no ledger, or is this one.
        """
        _check_source(other, self.path)
        with self._errors():
            before = self._count()
            self._database.execute("ATTACH ? AS other", (str(other),))
            try:
                with self._transaction():
                    self._database.execute(
                        f"INSERT OR IGNORE INTO calls ({_COLUMNS}) SELECT {_COLUMNS} FROM other.calls ORDER BY rowid"  # noqa: S608
                    )
            finally:
                self._database.execute("DETACH other")
            return self._count() - before

    def open_batch(self, batch: str, endpoint: str, digests: Iterable[bytes]) -> None:
        """Remember a batch that was handed to a provider, and what is in it; one that was closed is open again."""
        row = (batch, endpoint, time.time())
        with self._errors(), self._transaction():
            self._database.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, 'open', ?)", row)
            self._database.executemany("INSERT OR IGNORE INTO batched VALUES (?, ?)", ((one, batch) for one in digests))

    def close_batch(self, batch: str, state: str) -> None:
        """A batch is "collected" or "failed": what it did not bring may be asked for again."""
        with self._errors(), self._transaction():
            self._database.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch))

    def batches(self, endpoint: str) -> dict[str, set[bytes]]:
        """The open batches of an endpoint and the digests in each, oldest first."""
        with self._errors():
            found: dict[str, set[bytes]] = {}
            for batch, digest in self._database.execute(
                "SELECT id, digest FROM batches JOIN batched ON batch = id"
                " WHERE endpoint = ? AND state = 'open' ORDER BY created",
                (endpoint,),
            ):
                found.setdefault(batch, set()).add(bytes(digest))
            return found

    def settled(self, endpoint: str) -> set[str]:
        """The batches of an endpoint that are open or collected: nobody needs to find them again."""
        with self._errors():
            rows = self._database.execute(
                "SELECT id FROM batches WHERE endpoint = ? AND state != 'failed'", (endpoint,)
            )
            return {str(row[0]) for row in rows}

    def unanswered(self, batch: str) -> int:
        """How many requests of a batch have no reply here."""
        with self._errors():
            row = self._database.execute(
                "SELECT count(*) FROM batched WHERE batch = ? AND digest NOT IN (SELECT digest FROM calls)", (batch,)
            ).fetchone()
            return int(row[0])

    def _read(self, reply: bytes) -> Completion:
        try:
            return unpack(zlib.decompress(reply))
        except (zlib.error, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"{self.path} holds a reply that cannot be read: {error}", remedy=_DAMAGED) from error

    def _count(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM calls").fetchone()[0])

    def _set_up(self) -> None:
        """Make or migrate the tables. Only the change to WAL does not wait for other processes by itself."""
        until = time.monotonic() + _BUSY
        while True:
            try:
                self._migrate()
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_BUSY / 1000)
            else:
                return

    def _migrate(self) -> None:
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA:
            raise StoreError(
                f"{self.path} is a ledger of version {version}; this tapir knows versions up to {SCHEMA}",
                remedy="Use the newer tapir that wrote it, or another ledger file.",
            )
        if not version and self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
            if not version:
                raise StoreError(f"{self.path} is a database, but no ledger", remedy="Name another file.")
        for number in range(version, SCHEMA):
            with self._transaction():
                if int(self._database.execute("PRAGMA user_version").fetchone()[0]) > number:
                    continue  # another process was faster
                for statement in _MIGRATIONS[number].split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {number + 1}")

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
        """SQLite's errors as ours."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path}: {error}", remedy="Choose a file you can write to.") from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StoreFull(
                    f"no space left while writing {self.path}",
                    remedy="Free some space and run `tapir resume`; every reply written before is kept.",
                ) from error
            raise StoreError(
                f"{self.path} cannot be used as a ledger: {error}",
                remedy=_DAMAGED,
            ) from error


def merge_ledgers(into: Path, others: Sequence[Path]) -> list[int]:
    """Take over the replies of other ledgers into one, made if it is not there; how many each brought.

    Raises:
        StoreError: a file is no ledger, or is merged with itself; nothing is made or changed then.
    """
    for other in others:
        _check_source(other, into)
    with closing(Ledger(into)) as ledger:
        return [ledger.merge(other) for other in others]


def _check_source(other: Path, into: Path) -> None:
    """Raise `StoreError` unless the file is a ledger, migrated by this, and another one than it is merged into."""
    if not other.is_file():
        raise StoreError(f"{other} is not a file", remedy="Name a ledger, e.g. runs/NAME/ledger.sqlite.")
    if into.exists() and other.samefile(into):
        raise StoreError(f"{other} cannot be merged with itself", remedy="Name another ledger to take from.")
    Ledger(other).close()


def read_only_spent(path: Path, run: str) -> list[Spent]:
    """What a run has paid so far, from a ledger that another process may be writing; nothing where it is not there."""
    if not path.exists():
        return []
    with closing(Ledger(path)) as ledger:
        return ledger.spent(run)
