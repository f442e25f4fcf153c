"""The learning rate over one round, and over all of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.training import FULL, changed
from tapir.config.toml import parse
from tapir.domain.errors import RecipeError
from tapir.domain.round import Checkpoint
from tapir.domain.training import TrainJob
from tapir.training.dataset import BatchPlan
from tapir.training.loop import training_arguments
from tapir.training.model import Device


def job(number: int, rounds: int) -> TrainJob:
    place = Path("nowhere/round")
    return TrainJob(Checkpoint("base", 0), (), place / "checkpoint", place / "work", number, 1.0, 7, rounds=rounds)


def rates(number: int, rounds: int, steps: int, *, span: str) -> list[float]:
    """The learning rate of every step, as the library that trains computes it from our arguments."""
    from transformers.optimization import get_scheduler

    config = changed(FULL, scheduler="linear", span=span, learning_rate=1e-3)
    plan = BatchPlan(steps, lambda place: [[place]], 1, 1, steps)
    arguments = training_arguments(job(number, rounds), config, plan, Device("cpu", "float32"))
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=arguments["learning_rate"])
    scheduler = get_scheduler(
        arguments["lr_scheduler_type"],
        optimizer,
        0,
        steps,
        scheduler_specific_kwargs=arguments.get("lr_scheduler_kwargs", {}),
    )
    result = []
    for _ in range(steps):
        result.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return result


def test_the_rounds_of_a_run_fall_along_one_line_and_by_itself_each_begins_at_the_peak() -> None:
    steps = 20
    whole = [rate for number in (1, 2, 3) for rate in rates(number, 3, steps, span="run")]
    falls = [before - after for before, after in itertools.pairwise(whole)]
    assert whole[0] == pytest.approx(1e-3)
    assert falls == pytest.approx([1e-3 / (3 * steps)] * len(falls))
    assert [rates(number, 3, 5, span="round")[0] for number in (1, 2, 3)] == [1e-3] * 3


@given(st.integers(1, 30))
def test_the_parts_of_the_rounds_make_the_whole(rounds: int) -> None:
    parts = [job(number, rounds).part for number in range(1, rounds + 1)]
    assert parts[0][0] == 0.0
    assert parts[-1][1] == 1.0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    assert job(0, rounds).part == (0.0, 1.0), "a warm-up is a whole by itself"


def test_only_a_line_can_fall_over_all_rounds() -> None:
    with pytest.raises(RecipeError, match="only 'linear' can fall over all rounds"):
        parse({"training": {"span": "run"}})
    parse({"training": {"span": "run", "scheduler": "linear"}})
