"""Small runs with the student behind a real vLLM server."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import small
from support import vllm_server as vllm
from tapir.config.recipe import Recipe
from tapir.config.toml import load
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.runs import session

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ADAPTERS = ("training.method=lora", "training.lora.rank=8")
SERVED = (
    f"student.python={vllm.ENVIRONMENT / 'bin' / 'python'}",
    'student.options=["--enforce-eager", "--max-num-seqs", "32"]',
    "student.dtype=float32",
)


@pytest.fixture(scope="module", autouse=True)
def needs_vllm() -> None:
    if not vllm.installed():
        pytest.skip(".venv-vllm is absent or not complete: `make vllm` installs it")


def recipe(*changes: str) -> Recipe:
    common = [one for one in small.CHANGES if not one.startswith("student.batch_size")]
    return load("gym", [*common, "curriculum.rounds=1", *changes, "student.kind=vllm", *SERVED])


def run(folder: Path, asked: Recipe) -> RunStore:
    session.run(asked, folder)
    return RunStore(folder)


def test_a_run_behind_a_server_that_stops_for_training_gets_to_its_end(tmp_path: Path) -> None:
    served = run(tmp_path / "served", recipe())
    for number in (0, 1):
        rows = served.read(f"round-{number}/evaluation", EvaluationRow)
        assert all(row.failure is None for row in rows)
    said = [[row.answer for row in served.read(f"round-{number}/evaluation", EvaluationRow)] for number in (0, 1)]
    assert said[0] != said[1], "the trained student answers in its own way"
    starts = (served.folder / "student-server.log").read_text(errors="replace").count("Started server process")
    assert starts == 2


def test_an_adapter_of_every_round_is_loaded_into_the_same_server(tmp_path: Path) -> None:
    changes = (*ADAPTERS, "curriculum.rounds=2")
    served = run(tmp_path / "served", recipe(*changes, 'student.while_training="keep"'))
    assert (served.folder / "round-2" / "checkpoint" / "adapter_config.json").is_file()
    rounds = [served.read(f"round-{number}/evaluation", EvaluationRow) for number in (0, 1, 2)]
    assert all(row.failure is None for rows in rounds for row in rows)
    said = [[row.answer for row in rows] for rows in rounds]
    assert said[0] != said[1] != said[2], "every round's adapter answers in its own way"
    starts = (served.folder / "student-server.log").read_text(errors="replace").count("Started server process")
    assert starts == 1
