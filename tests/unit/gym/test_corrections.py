"""Answers and scores of reasoning-gym that are wrong, and what stands in their place."""

from __future__ import annotations

from itertools import islice

import pytest

from tapir.gym import world
from tapir.gym.corrections import is_sound, true_score
from tapir.gym.steps import worked_answer

LEVELS = (1, 2, 3, 4)


def drawn(skill: str, level: int, count: int = 60) -> list[world.GymItem]:
    return list(islice(world.stream(skill, level, key="test", reserved=False), count))


@pytest.mark.parametrize("level", LEVELS)
def test_products_come_before_sums_in_the_answer_and_in_its_steps(level: int) -> None:
    for item in drawn("basic_arithmetic", level):
        value = eval(item.entry["metadata"]["expression"], {})  # noqa: S307 (numbers and signs)
        assert item.answer == str(value)
        steps, _, answer = worked_answer(item).rpartition(" #### ")
        assert steps.endswith(f"={answer}")
        assert world.score(item, str(value)) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_nobody_is_asked_who_is_related_by_marriage(level: int) -> None:
    assert not [item.address for item in drawn("family_relationships", level) if "in-law" in item.answer]


@pytest.mark.parametrize("level", LEVELS)
def test_a_convex_polygon_has_angles_below_180_degrees(level: int) -> None:
    assert all(0 < float(item.answer) < 180 for item in drawn("simple_geometry", level, 30))


@pytest.mark.parametrize(
    ("first", "second", "conclusion", "answer", "sound"),
    [
        ("All ants are bees", "All bees are cats", "All ants are cats", "Yes", True),
        ("All ants are bees", "All bees are cats", "All ants are cats", "No", False),
        ("All ants are bees", "Some bees are cats", "Some ants are cats", "Yes", False),
        ("All ants are bees", "Some bees are cats", "Some ants are cats", "No", True),
        ("All ants are bees", "All bees are cats", "Some ants are cats", "Yes", False),  # only if there are ants
        ("All ants are bees", "All bees are cats", "Some ants are cats", "No", False),
        ("No ants are bees", "Some bees are cats", "Some cats are not ants", "Yes", True),
        ("No ants are bees", "Some bees are cats", "Some ants are not cats", "Yes", False),
        ("No ants are bees", "All bees are cats", "No bees are ants", "Yes", True),
    ],
)
def test_a_syllogism_is_asked_where_all_readings_agree_with_its_answer(
    first: str, second: str, conclusion: str, answer: str, *, sound: bool
) -> None:
    entry = {"answer": answer, "metadata": {"premise1": first, "premise2": second, "conclusion": conclusion}}
    assert is_sound("syllogism", entry) is sound


@pytest.mark.parametrize(
    ("skill", "expected", "answer", "score", "success"),
    [
        ("coin_flip", "0.0546875", "0", 1.0, False),
        ("coin_flip", "0.34375", "0.3", 1.0, False),
        ("coin_flip", "0.34375", "11/32", 1.0, True),
        ("coin_flip", "0.34375", "0.3438", 1.0, True),
        ("time_intervals", "03:54", "03:56", 0.9917, False),
        ("time_intervals", "00:24", "-00:24", 1.0, False),
        ("time_intervals", "03:54", "3:54", 1.0, True),
        ("spell_backward", "llageb", "llagebx", 0.9999999999999999, False),
        ("spell_backward", "llageb", "LLAGEB", 1.0, True),
        ("gcd", "4", "4", 1.0, True),
    ],
)
def test_a_success_is_right(skill: str, expected: str, answer: str, score: float, *, success: bool) -> None:
    assert (true_score(skill, expected, answer, score) >= 0.99) is success


def test_a_number_that_is_the_limit_is_neither_above_nor_below_it() -> None:
    texts = [worked_answer(item) for level in LEVELS for item in drawn("number_filtering", level)]
    steps = [step for text in texts for step in text.split(" #### ")[0].split() if "=" in step or "<" in step]
    assert any("=" in step for step in steps)
    assert not [step for step in steps if "<" in step and len({*map(float, step.split("<"))}) == 1]
