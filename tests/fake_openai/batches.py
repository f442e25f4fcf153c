"""The batch API: files of request lines in, files of response lines out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fake_openai.completions import Answer

Json = dict[str, Any]
CHAT = "/v1/chat/completions"

_VALIDATING_SHARE = 0.2


class MalformedUploadError(Exception):
    """An upload is no multipart form with a file and a purpose."""


@dataclass(slots=True)
class Batch:
    """One batch; its lines are worked on when it is looked at after its time has come."""

    id: str
    input_file_id: str
    lines: list[Json]
    metadata: Mapping[str, Any] | None
    began: float
    status: str = "validating"
    errors: list[Json] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    completed: int = 0
    failed: int = 0

    def as_json(self) -> Json:
        """As OpenAI describes a batch."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": CHAT,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.files.get("output"),
            "error_file_id": self.files.get("error"),
            "created_at": int(self.began),
            "request_counts": {"total": len(self.lines), "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


class Batches:
    """All files and batches of one server. They outlive a reset of the counts."""

    def __init__(self, answer: Callable[[Json], Answer]) -> None:
        """Lines are answered by `answer`, which is given the body of each."""
        self._answer = answer
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Batch] = {}

    def store(self, name: str, content: bytes) -> Json:
        """Keeps a file and describes it."""
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = (name, content)
        return self.describe(file_id)

    def describe(self, file_id: str) -> Json:
        """A file as OpenAI describes it."""
        name, content = self.files[file_id]
        purpose = "batch" if name != "output.jsonl" else "batch_output"
        return {"id": file_id, "object": "file", "bytes": len(content), "filename": name, "purpose": purpose}

    def create(self, input_file_id: str, metadata: Mapping[str, Any] | None) -> Json:
        """A new batch over a stored file; one with a bad line fails at once."""
        lines, errors = _read_lines(self.files[input_file_id][1])
        batch = Batch(f"batch_{len(self.batches) + 1}", input_file_id, lines, metadata, time.time(), errors=errors)
        if errors:
            batch.status = "failed"
        self.batches[batch.id] = batch
        return batch.as_json()

    def look(self, batch: Batch, seconds: float) -> Json:
        """A batch as it stands, given how long a batch takes."""
        share = (time.time() - batch.began) / seconds if seconds else 1.0
        if batch.status == "cancelling":
            batch.status = "cancelled"
        elif batch.status in {"validating", "in_progress"}:
            if share >= 1:
                self._work(batch, batch.lines)
                batch.status = "completed"
            elif share >= _VALIDATING_SHARE:
                batch.status = "in_progress"
        return batch.as_json()

    def cancel(self, batch: Batch, seconds: float) -> Json:
        """Stops a batch; the lines for which there was time have been worked on."""
        share = min(1.0, (time.time() - batch.began) / seconds) if seconds else 1.0
        if batch.status in {"validating", "in_progress"}:
            self._work(batch, batch.lines[: int(share * len(batch.lines))])
            batch.status = "cancelling"
        return batch.as_json()

    def _work(self, batch: Batch, lines: list[Json]) -> None:
        output: list[str] = []
        errors: list[str] = []
        # The order of the results is not the order of the requests, and nobody may rely on it.
        for line in reversed(lines):
            answer = self._answer(line["body"])
            found: Json = {"id": f"{batch.id}_{line['custom_id']}", "custom_id": line["custom_id"], "error": None}
            if answer.manner == "hang":
                late = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append(json.dumps({**found, "response": None, "error": late}))
            elif answer.manner == "whole":
                response = {"status_code": answer.status, "request_id": found["id"], "body": _json_or_text(answer.body)}
                good = answer.status == 200
                (output if good else errors).append(json.dumps({**found, "response": response}))
        batch.completed, batch.failed = len(output), len(lines) - len(output)
        for kind, found_lines in (("output", output), ("error", errors)):
            if found_lines:
                content = "".join(one + "\n" for one in found_lines).encode()
                batch.files[kind] = str(self.store(f"{kind}.jsonl", content)["id"])


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def _read_lines(content: bytes) -> tuple[list[Json], list[Json]]:
    """The request lines of a file, and what is wrong with them."""
    lines: list[Json] = []
    errors: list[Json] = []
    known: set[str] = set()
    for number, text in enumerate(content.decode().splitlines(), 1):
        try:
            line = json.loads(text)
            custom_id, body = str(line["custom_id"]), line["body"]
            sound = line["method"] == "POST" and line["url"] == CHAT and isinstance(body["messages"], list)
        except (ValueError, KeyError, TypeError):
            sound, custom_id = False, ""
        if not sound:
            errors.append({"code": "invalid_json_line", "message": "not a request line", "line": number})
        elif custom_id in known:
            errors.append({"code": "duplicate_custom_id", "message": custom_id, "line": number})
        else:
            known.add(custom_id)
            lines.append(line)
    if not lines and not errors:
        errors.append({"code": "empty_file", "message": "the file holds no request", "line": None})
    return lines, errors


def read_upload(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    """The purpose, the name and the content of a file in a multipart form.

    Raises:
        MalformedUploadError: a part is missing or this is no such form.
    """
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise MalformedUploadError("no multipart form")
    parts: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        names = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
        parts[names.get("name", "")] = (names.get("filename", ""), content.removesuffix(b"\r\n"))
    if not {"file", "purpose"} <= parts.keys():
        raise MalformedUploadError("a file and a purpose are required")
    return parts["purpose"][1].decode(), *parts["file"]
