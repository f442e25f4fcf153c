"""Tokens of a text and items of a round, as a plan counts them."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.config.curriculum import CurriculumConfig
from tapir.domain.task import TaskDistribution
from tapir.runs.plan.rounds import Assumptions, Round, expected_rounds
from tapir.runs.plan.tokens import cut, filler, tokens

COMPETENCE: dict[str, Any] = {"schedule": {"kind": "competence", "start": 0.2, "end": 0.9}, "rescoring": "every-round"}


def test_english_has_about_four_tokens_for_three_words() -> None:
    prompts = [one for one in resources.files("tapir.models.prompts").iterdir() if one.name.endswith(".txt")]
    text = "".join(one.read_text("utf-8") for one in prompts)
    assert tokens(text) == pytest.approx(len(text.split()) / 0.75, rel=0.1)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 1), ("cat dog", 2), ("responsibility", 2), ("2024", 2), ("\n\n", 1), ("知识", 2), ("():", 2)],
)
def test_pieces_are_counted(text: str, count: int) -> None:
    assert tokens(text) == count


@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 2000), st.integers(0, 300))
def test_fillers_have_their_tokens_and_joined_texts_no_more(one: str, other: str, count: int, limit: int) -> None:
    assert tokens(one + other) <= tokens(one) + tokens(other)
    assert tokens(filler(count)) == count
    assert tokens(cut(filler(count), limit)) == min(count, limit)


# Rounds


def rounds_of(
    size: int, hard: float, tasks: tuple[float, float] = (0.5, 0.5), n: int | tuple[int, ...] = 100, **settings: Any
) -> list[Round]:
    curriculum = CurriculumConfig(size=n, rounds=3, **settings)
    assumed = Assumptions(hard, dict(zip("ab", tasks, strict=True)), 0.5)
    return [*expected_rounds(curriculum, size, assumed, TaskDistribution.of({"a": 1.0, "b": 1.0}), at_once=5)]


def test_a_pool_is_expanded_until_the_hard_share_is_met() -> None:
    assert all(one.written.expected == 0 for one in (*rounds_of(10_000, 0.5), *rounds_of(1_000, 0.0)))
    poor = rounds_of(1_000, 0.02)
    assert poor[0].answered.expected == 30 - 20
    assert poor[0].written.expected > poor[0].answered.expected  # half of it is dropped and requested again
    assert [one.trained.expected for one in poor] == [100, 100, 100]


def test_every_round_may_have_a_size_of_its_own() -> None:
    found = rounds_of(10_000, 0.5, n=(50, 100, 200))
    assert [(one.trained.expected, one.trained.most) for one in found] == [(50, 50), (100, 100), (200, 200)]


def test_an_example_is_refined_once_in_a_run() -> None:
    found = rounds_of(110, 0.5, expand=False)
    assert found[0].refined.expected > 80
    assert sum(one.refined.expected for one in found) <= 110


def test_tasks_that_come_as_they_are_found_need_no_expansion_and_are_not_filled_up() -> None:
    rare = (0.97, 0.03)
    one_pool = rounds_of(1_000, 1.0, rare, difficulty="none")
    assert (one_pool[0].answered.expected, one_pool[0].trained.expected) == (50 - 30, 100)  # b has 30 of its 50
    assert rounds_of(1_000, 0.5, rare)[0].written.expected > 0
    assert rounds_of(1_000, 0.5, rare, target={"shares": "pool"})[0].written.expected == 0
    assert rounds_of(1_000, 0.01, target={"shares": "pool"}, expand=False)[0].trained.expected == 70 + 10


def test_a_schedule_that_follows_competence_is_planned_as_it_starts_and_bounded_by_its_end() -> None:
    found = rounds_of(1_000, 0.5, **COMPETENCE)
    constant = rounds_of(1_000, 0.5, schedule={"kind": "constant", "share": 0.2})
    assert [one.refined.expected for one in found] == [one.refined.expected for one in constant]
    assert (found[0].written.most, constant[0].written.most) == (3 * 90, 3 * 20)
