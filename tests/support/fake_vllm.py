"""A program that takes vLLM's arguments and speaks its protocol as far as a student's server needs it.

It runs as `PYTHON -m vllm.entrypoints.openai.api_server ...` where PYTHON is the script that `install` writes. What it
does is read from a folder, one behaviour for each start, and each start leaves its arguments there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PLAN, _STARTS = "plan.json", "starts.jsonl"
_FOREVER = 1000.0  # seconds
_SEEN = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY")


@dataclass(frozen=True)
class Behaviour:
    """What one start of the server does.

    Attributes:
        says: printed at the start.
        ends: exit status right after that; negative goes on.
        healthy: whether it ever is.
        replies: so many, and then what `then` says: "crash", "hang" or "unwell" (errors, and no health).
        together: replies are held back until so many requests are there at once.
        adapters: whether it loads adapters while it runs.
        context: tokens; 0 does not tell.
        stubborn: does not listen to SIGTERM.
        broken: a request whose text holds this gets status 500, always.
    """

    says: str = ""
    ends: int = -1
    healthy: bool = True
    replies: int = 1_000_000
    then: str = "crash"
    together: int = 0
    adapters: bool = True
    context: int = 0
    stubborn: bool = False
    broken: str = "\0"


@dataclass(frozen=True)
class Start:
    """One start as it happened; `child` is a process that the server started in its turn."""

    arguments: list[str]
    environment: dict[str, str]
    pid: int
    child: int


@dataclass(frozen=True)
class Fake:
    """The program, and where it looks what to do."""

    python: str
    folder: Path

    def behave(self, *plan: Behaviour) -> None:
        """From now on: the first start, the second, ...; the last one again for every further start."""
        (self.folder / _PLAN).write_text(json.dumps([asdict(one) for one in plan]))
        (self.folder / _STARTS).unlink(missing_ok=True)

    def starts(self) -> list[Start]:
        """Every start so far."""
        file = self.folder / _STARTS
        return [Start(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def install(folder: Path) -> Fake:
    """Write the program; its name takes the place of a Python's."""
    folder.mkdir()
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nFAKE="{folder}" exec "{sys.executable}" "{__file__}" "$@"\n')
    script.chmod(0o755)
    fake = Fake(str(script), folder)
    fake.behave(Behaviour())
    return fake


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behaviour = behaviour
        self.changed = threading.Condition()
        self.waiting = self.given = self.most = 0

    def admit(self) -> str:
        """Wait until a request may be answered; what happens instead, if something does."""
        with self.changed:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.behaviour.together)
            self.waiting -= 1
            self.given += 1
            return self.behaviour.then if self.given > self.behaviour.replies else ""

    @property
    def unwell(self) -> bool:
        return self.behaviour.then == "unwell" and self.given > self.behaviour.replies


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        if self.path == "/health":
            self._send(200 if behaviour.healthy and not self.server.unwell else 503, {})
        else:
            card = {"id": "student", "max_model_len": behaviour.context or None}
            self._send(200, {"data": [card, {"id": "student-1", "max_model_len": None}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            loaded = self.server.behaviour.adapters
            return self._send(200 if loaded else 400, {} if loaded else {"error": {"message": "no adapters here"}})
        instead = self.server.admit()
        if instead == "crash":
            sys.stderr.write("the engine core died\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if instead == "hang":
            time.sleep(_FOREVER)
        text = asked["messages"][-1]["content"]
        if instead == "unwell" or self.server.behaviour.broken in text:
            return self._send(500, {"error": {"message": "EngineDeadError"}})
        shown = {
            "text": text,
            "turns": len(asked["messages"]),
            **{key: asked.get(key) for key in ("model", "seed", "max_tokens", "temperature")},
        }
        choice = {"message": {"role": "assistant", "content": json.dumps(shown)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        return self._send(200, {"model": asked["model"], "choices": [choice], "usage": usage})

    def _send(self, status: int, content: Any) -> None:
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until told to stop; `-c` asks a Python whether vLLM is there."""
    arguments = sys.argv[1:]
    if arguments[0] == "-c":
        return
    folder = Path(os.environ["FAKE"])
    plan = [Behaviour(**one) for one in json.loads((folder / _PLAN).read_text())]
    log = folder / _STARTS
    behaviour = plan[min(len(log.read_text().splitlines()) if log.exists() else 0, len(plan) - 1)]
    child = subprocess.Popen(["sleep", str(_FOREVER)])
    seen = {key: os.environ[key] for key in _SEEN if key in os.environ}
    with log.open("a") as file:
        file.write(json.dumps(asdict(Start(arguments, seen, os.getpid(), child.pid))) + "\n")
    sys.stdout.write(f"{behaviour.says}\n")
    sys.stdout.flush()
    if behaviour.ends >= 0:
        raise SystemExit(behaviour.ends)
    if behaviour.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _Server(int(arguments[arguments.index("--port") + 1]), behaviour).serve_forever()


if __name__ == "__main__":
    main()
