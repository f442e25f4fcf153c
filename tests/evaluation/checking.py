"""What the tests of the benchmarks that a program checks have in common."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tapir.roles import Prompt
from tapir.store.rows import EvaluationRow

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "eval"


def shared(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Place and fields of every row of a shared evaluation set."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"shared/data/eval/{name} is absent")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [(f"{name}:{place}", json.loads(line)) for place, line in enumerate(lines, 1)]


def row(prompt: Prompt, answer: str | None, failure: str | None = None) -> EvaluationRow:
    """An answer as an evaluation keeps it."""
    score = 0.0 if answer is None else None
    return EvaluationRow(
        "x",
        prompt.instruction.id,
        prompt.task,
        prompt.instruction.text,
        prompt.expected,
        answer,
        score,
        success=False,
        failure=failure,
    )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def answered(path: Path, answers: Mapping[str, str]) -> Path:
    """A file of answers, as AlpacaEval's model outputs."""
    path.write_text(json.dumps([{"instruction": one, "output": text} for one, text in answers.items()]), "utf-8")
    return path


def tapir(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a person uses it."""
    command = [sys.executable, "-m", "tapir.cli", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
