"""Files and batches of the fake server."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(slots=True)
class FakeBatch:
    """One batch; its lines are worked on when it is looked at after its time has come."""

    id: str
    lines: list[Json]
    metadata: Json | None
    began: float = field(default_factory=time.time)
    status: str = "validating"
    errors: list[Json] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    done: tuple[int, int] = (0, 0)

    def as_json(self) -> Json:
        return {
            "id": self.id,
            "status": self.status,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": self.files.get("output"),
            "error_file_id": self.files.get("error"),
            "request_counts": {"total": len(self.lines), "completed": self.done[0], "failed": self.done[1]},
            "metadata": self.metadata,
        }


def uploaded_file(form: bytes) -> bytes:
    """The content of the field `file` in a multipart form whose purpose is "batch"."""
    edge = form.split(b"\r\n", 1)[0]
    fields: dict[str, bytes] = {}
    for part in form.split(edge)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        fields[re.findall(r'\bname="([^"]*)"', head.decode())[0]] = content.removesuffix(b"\r\n")
    assert fields["purpose"] == b"batch"
    return fields["file"]


def json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()
