"""The same small run with the student in this process and behind a real vLLM server."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import small
from support import vllm_server as vllm
from tapir.config.recipe import Recipe
from tapir.config.toml import load
from tapir.data.run.rows import AnswerRow, EvaluationRow
from tapir.data.run.store import RunStore
from tapir.runs import session

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

FLOAT_NOISE = 0.05
"""Share of answers that may differ: where two tokens are nearly as likely, the last bits decide, and all follows."""

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


def recipe(*changes: str, served: bool) -> Recipe:
    common = [one for one in small.CHANGES if not one.startswith("student.batch_size")]
    kind = ("student.kind=vllm", *SERVED) if served else ("student.batch_size=16",)
    return load("gym", [*common, "curriculum.rounds=1", *changes, *kind])


def run(folder: Path, asked: Recipe) -> RunStore:
    session.run(asked, folder)
    return RunStore(folder)


def answers(store: RunStore) -> dict[str, str | None]:
    """Every answer of S_0: to the corpus and to what was held out."""
    found = {row.id: row.text for row in store.read("round-0/answers", AnswerRow)}
    return found | {row.id: row.answer for row in store.read("round-0/evaluation", EvaluationRow)}


def test_a_run_behind_a_server_answers_as_one_in_this_process_and_gets_to_its_end(tmp_path: Path) -> None:
    here = run(tmp_path / "here", recipe(served=False))
    served = run(tmp_path / "served", recipe(served=True))
    ours, theirs = answers(here), answers(served)
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if ours[name] != theirs[name]]
    assert len(differing) <= FLOAT_NOISE * len(ours), f"{len(differing)} of {len(ours)} answers differ"
    assert all(row.failure is None for row in served.read("round-1/evaluation", EvaluationRow))
    assert (served.folder / "student-server.log").is_file()


def test_an_adapter_of_every_round_is_loaded_into_the_same_server(tmp_path: Path) -> None:
    changes = (*ADAPTERS, "curriculum.rounds=2")
    served = run(tmp_path / "served", recipe(*changes, 'student.while_training="keep"', served=True))
    assert (served.folder / "round-2" / "checkpoint" / "adapter_config.json").is_file()
    rounds = [served.read(f"round-{number}/evaluation", EvaluationRow) for number in (0, 1, 2)]
    assert all(row.failure is None for rows in rounds for row in rows)
    said = [[row.answer for row in rows] for rows in rounds]
    assert said[0] != said[1] != said[2], "every round's adapter answers in its own way"
    starts = (served.folder / "student-server.log").read_text(errors="replace").count("Started server process")
    assert starts == 1
