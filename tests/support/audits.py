"""Recorded judgements of others, and an audit of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from support.paths import ROOT, SHARED
from tapir.evaluation.audit.audit import Audit, RaterColumn, audit
from tapir.evaluation.audit.metrics import Metric, Metrics
from tapir.evaluation.audit.readers import open_all


def recorded(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is absent")
    return path


def rows(name: str) -> list[dict[str, Any]]:
    text = gzip.decompress(recorded(name).read_bytes()).decode()
    if name.endswith(".json.gz"):
        content: list[dict[str, Any]] = json.loads(text)
        return content
    return [json.loads(line) for line in text.split("\n") if line]


def convert(layout: str, path: Path) -> list[dict[str, Any]]:
    """Convert a file of another benchmark with lab/audit/convert.py."""
    return list(run_path(str(ROOT / "lab" / "audit" / "convert.py"))["convert"](layout, path))


@cache
def audited(*sources: Path, labels: tuple[Path, ...] = (), reference: str = "", number: int | None = None) -> Audit:
    return audit(open_all(sources, labels, reference=reference, number=number))


def column(result: Audit, name: str, kind: str = "comparisons") -> RaterColumn:
    columns = [column for section in result.sections if section.kind == kind for column in section.columns]
    return next(column for column in columns if column.name == name)


def metrics(result: Audit, name: str, kind: str = "comparisons") -> Metrics:
    return dict(column(result, name, kind).figures)


def write_lines(folder: Path, lines: Sequence[dict[str, Any]], name: str = "judged.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def value(metric: Metric) -> float:
    """Return the value of a metric that must have one, with an interval around it."""
    assert metric.value is not None, metric.why
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low <= metric.value <= metric.high
    return metric.value
