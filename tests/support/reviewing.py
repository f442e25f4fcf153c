"""A run to review whose texts give nothing away, and the command that serves it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.runs import HOSTILE, build_run
from tapir.data.run.rows import AnswerRow, CorpusRow
from tapir.data.run.store import RunStore

LABELS = ("Math", "Reasoning", "Code Generation", "Writing", "History")
PATIENCE = 60.0


def reviewable(folder: Path, *, size: int = 60, answered: int | None = None, hostile: bool = False) -> RunStore:
    """A run after its first look at the corpus; ỹ begins with "Short." and y with "Full.".

    Args:
        folder: where.
        size: instructions in the corpus.
        answered: how many of them, from the first, the student has answered; all but one where it is not said.
        hostile: whether answers carry markup too; some instructions always do.
    """
    store = build_run(folder, done=0, corpus=size, tasks=LABELS)
    corpus = store.read("corpus", CorpusRow)
    by_id = {row.id: row for row in store.read("round-0/answers", AnswerRow)}
    answers = [by_id[row.id] for row in corpus]
    evil = {row.id: HOSTILE[place % len(HOSTILE)] if hostile else "" for place, row in enumerate(corpus)}
    store.write("corpus", CorpusRow, [replace(row, response=f"Full. {evil[row.id]}", author="x") for row in corpus])
    store.write(
        "round-0/answers",
        AnswerRow,
        [row if row.text is None else replace(row, text=f"Short. {evil[row.id]}") for row in answers[:answered]],
    )
    return store


@dataclass(frozen=True)
class Got:
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reviewing:
    """A running `tapir review`."""

    folder: Path
    process: subprocess.Popen[str]
    address: str
    said: str

    @property
    def port(self) -> int:
        return int(urlsplit(self.address).port or 0)

    @property
    def path(self) -> str:
        """/TOKEN/."""
        return urlsplit(self.address).path

    def get(self, path: str, **headers: str) -> Got:
        return self.send("GET", path, None, headers)

    def rate(self, content: object, **changed: str) -> Got:
        """Send a rating as the page does."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        ours = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}"}
        headers = ours | {name.replace("_", "-"): value for name, value in changed.items()}
        return self.send("POST", f"{self.path}rate", body, headers)

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {name: value for name, value in headers.items() if value})
            reply = connection.getresponse()
            return Got(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def pairs(self) -> list[dict[str, Any]]:
        return list(self.get(f"{self.path}state").json["pairs"])

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Stop it; its exit status and what it said last."""
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, rest


@contextmanager
def reviewing(folder: Path, *options: str) -> Iterator[Reviewing]:
    """Start the command on a run and wait for all that it prints before it serves, the address among it."""
    command = [sys.executable, "-u", "-m", "tapir.cli.main", "review", str(folder), "--no-open", *options]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            yield Reviewing(folder, process, *_address(process))
        finally:
            if process.poll() is None:
                process.kill()


def _address(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE, process.kill)
    patience.start()
    said = address = ""
    try:
        for line in iter(process.stdout.readline, ""):
            said += line
            if line.startswith("open http://"):
                address = line.removeprefix("open ").strip()
            elif address:
                return address, said
    finally:
        patience.cancel()
    raise AssertionError(f"no address was printed: {said}")


def rating(pair: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """What the page sends about a pair."""
    return {"id": pair["id"], "preference": "a", "difficulty": 2, "task": None, "seconds": 3.21} | changed


def lines(folder: Path, name: str = "reviews.jsonl") -> Sequence[dict[str, Any]]:
    """The reviews on disk."""
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
