"""Judgements that were recorded by others, and an audit of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tapir.audit.auditing import Audit, Column, audit
from tapir.audit.measures import Figure
from tapir.audit.sources import Reading, open_all

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PLAIN = Reading("auto", "", None)


def recorded(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is absent")
    return path


def rows(name: str) -> list[dict[str, Any]]:
    text = gzip.decompress(recorded(name).read_bytes()).decode()
    if name.endswith(".json.gz"):
        found: list[dict[str, Any]] = json.loads(text)
        return found
    return [json.loads(line) for line in text.split("\n") if line]


@cache
def audited(*sources: Path, labels: tuple[Path, ...] = (), reference: str = "", reading: Reading = PLAIN) -> Audit:
    return audit(open_all(sources, labels, reading, reference))


def column(found: Audit, name: str, kind: str = "comparisons") -> Column:
    return next(
        one for section in found.sections if section.kind == kind for one in section.columns if one.name == name
    )


def figures(found: Audit, name: str, kind: str = "comparisons") -> dict[str, Figure]:
    return dict(column(found, name, kind).figures)


def written(folder: Path, lines: Sequence[dict[str, Any]], name: str = "judged.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def value(one: Figure) -> float:
    """The value of a figure that must have one, with an interval around it."""
    assert one.value is not None, one.why
    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.value <= one.high
    return one.value
