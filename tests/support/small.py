"""A small real run: the embedded world, the real student, real training, in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHANGES = (
    'corpus.skills=["chain_sum", "gcd", "letter_counting", "simple_geometry"]',
    "corpus.size=120",
    "tagger.labelled=60",
    "chunk=32",
    "student.batch_size=16",
    "student.max_new_tokens=48",
    "curriculum.size=80",
    "curriculum.schedule.start=0.7",
    "curriculum.rounds=2",
    "training.epochs=1",
    "training.batch_size=16",
    "training.save_every=2",
    "evaluation.per_task=3",
    "evaluation.harder_per_task=1",
    "evaluation.unseen_per_task=1",
)


def command(folder: Path) -> list[str]:
    """The command that runs it in `folder`."""
    changes = [part for change in CHANGES for part in ("--set", change)]
    return [sys.executable, "-m", "tapir.cli.main", "run", "gym", "--out", str(folder), *changes]


def environment() -> dict[str, str]:
    """One thread, so that two runs side by side do not slow each other down."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it, or go on with it, to its end."""
    return subprocess.run(command(folder), capture_output=True, text=True, env=environment(), check=False)


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on how often the run was interrupted."""
    kept = [*folder.rglob("*.parquet"), *folder.rglob("metrics.json"), folder / "checksums.sha256"]
    kept += folder.rglob("model.safetensors")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}
