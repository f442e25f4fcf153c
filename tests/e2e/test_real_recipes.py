"""The recipes for a real student, small, with the models of `make models`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import small
from support.paths import MODELS
from tapir.data.files import read_json

STUDENT = MODELS / "smollm2-135m-instruct"

SMALL = (
    'corpus.skills=["letter_counting", "basic_arithmetic"]',
    "corpus.size=50",
    "tagger.labelled=20",
    "student.max_new_tokens=24",
    "curriculum.size=12",
    "curriculum.rounds=1",
    "evaluation.per_task=2",
    "evaluation.harder_per_task=1",
)


@pytest.mark.slow
@pytest.mark.skipif(not STUDENT.is_dir(), reason=f"there is no {STUDENT}: run `make models`")
def test_the_recipe_for_a_real_student_in_the_embedded_world_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = [part for change in (*SMALL, f"student.model={STUDENT}") for part in ("--set", change)]
    command = [sys.executable, "-m", "tapir.cli.main", "run", "smollm2-gym", "--out", str(out), *changes]
    done = subprocess.run(command, capture_output=True, text=True, env=small.environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "mean of the tasks" in done.stdout
    assert (out / "report.html").stat().st_size > 100_000
    for number in (0, 1):  # round 0 is the warm-up
        config = read_json(out / f"round-{number}" / "checkpoint" / "config.json")
        assert config["architectures"] == ["LlamaForCausalLM"]
