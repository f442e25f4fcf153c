"""The learning rate over one round, and over all of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.round import Checkpoint
from tapir.errors import RecipeError
from tapir.recipe_file import parse
from tapir.roles import TrainJob
from tapir.training.arguments import arguments
from tapir.training.batches import Layout
from tapir.training.model import Device
from tests import tuning


def job(number: int, rounds: int) -> TrainJob:
    place = Path("nowhere/round")
    return TrainJob(Checkpoint("base", 0), (), place / "checkpoint", place / "work", number, 1.0, 7, rounds=rounds)


def rates(number: int, rounds: int, steps: int, *, whole_run: bool) -> list[float]:
    """The learning rate of every step, as the library that trains computes it from our arguments."""
    from transformers.optimization import get_scheduler

    settings = replace(tuning.SETTINGS, scheduler="linear", whole_run=whole_run, learning_rate=1e-3)
    layout = Layout(steps, lambda place: [[place]], 1, 1, steps)
    told = arguments(job(number, rounds), settings, layout, Device("cpu", "float32"))
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=told["learning_rate"])
    scheduler = get_scheduler(
        told["lr_scheduler_type"], optimizer, 0, steps, scheduler_specific_kwargs=told.get("lr_scheduler_kwargs", {})
    )
    found = []
    for _ in range(steps):
        found.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return found


def test_the_rounds_of_a_run_fall_along_one_line() -> None:
    steps = 20
    whole = [rate for number in (1, 2, 3) for rate in rates(number, 3, steps, whole_run=True)]
    falls = [before - after for before, after in itertools.pairwise(whole)]
    assert whole[0] == pytest.approx(1e-3)
    assert falls == pytest.approx([1e-3 / (3 * steps)] * len(falls))


def test_by_itself_each_round_begins_at_the_peak() -> None:
    assert [rates(number, 3, 5, whole_run=False)[0] for number in (1, 2, 3)] == [1e-3] * 3


@given(st.integers(1, 30))
def test_the_parts_of_the_rounds_make_the_whole(rounds: int) -> None:
    parts = [job(number, rounds).part for number in range(1, rounds + 1)]
    assert parts[0][0] == 0.0
    assert parts[-1][1] == 1.0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))


def test_a_warm_up_is_a_whole_by_itself() -> None:
    assert job(0, 3).part == (0.0, 1.0)


def test_only_a_line_can_fall_over_all_rounds() -> None:
    with pytest.raises(RecipeError, match="only 'linear' can fall over all rounds"):
        parse({"training": {"span": "run"}})
    parse({"training": {"span": "run", "scheduler": "linear"}})
