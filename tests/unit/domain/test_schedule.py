from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.strategies import alphas
from tapir.domain.curriculum import Schedule, competence_share

numbers = st.integers(1, 30)
steps = st.integers(0, 100).map(lambda percent: percent / 100)


@given(alphas, steps, numbers)
def test_the_paper_schedule_rises_by_its_step_up_to_one(start: float, step: float, rounds: int) -> None:
    schedule = Schedule.paper(start, step, rounds)
    assert schedule.rounds == rounds
    for number in range(1, rounds + 1):
        assert schedule.share(number) == pytest.approx(min(1.0, start + step * (number - 1)), abs=1e-9)


def test_the_settings_reported_for_the_paper_give_03_05_07() -> None:
    assert Schedule.paper(0.3, 0.2, 3).shares == (0.3, 0.5, 0.7)


@given(alphas, numbers)
def test_a_constant_schedule_never_changes(share: float, rounds: int) -> None:
    assert Schedule.constant(share, rounds).shares == (share,) * rounds


@given(alphas, alphas, numbers)
@example(0.03, 0.0, 10)
def test_a_linear_schedule_goes_from_its_start_to_its_end_in_equal_steps(start: float, end: float, rounds: int) -> None:
    schedule = Schedule.linear(start, end, rounds)
    assert (schedule.rounds, schedule.share(1)) == (rounds, start)
    if rounds > 1:
        assert schedule.share(rounds) == pytest.approx(end, abs=1e-9)
        step = (end - start) / (rounds - 1)
        assert all(after - before == pytest.approx(step, abs=1e-9) for before, after in pairwise(schedule.shares))


@given(st.lists(alphas, min_size=1, max_size=10), st.booleans())
def test_a_list_that_only_rises_or_only_falls_is_a_schedule(shares: list[float], falling: bool) -> None:  # noqa: FBT001
    written = tuple(sorted(shares, reverse=falling))
    schedule = Schedule(written)
    assert tuple(schedule.share(number) for number in range(1, schedule.rounds + 1)) == written


@st.composite
def zigzags(draw: st.DrawFn) -> tuple[float, ...]:
    """Shares that change direction somewhere."""
    shares = tuple(draw(st.lists(alphas, min_size=3, max_size=8, unique=True)))
    monotone = (tuple(sorted(shares)), tuple(sorted(shares, reverse=True)))
    return (shares[1], shares[0], *shares[2:]) if shares in monotone else shares


@given(zigzags())
@example((0.2, 0.6, 0.4))
@example((0.6, 0.2, 0.4))
@example((0.2, 0.6, 0.6, 0.4))
def test_a_list_that_rises_and_falls_is_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must rise or fall, not both"):
        Schedule(shares)


@given(alphas, alphas, st.floats(0, 1))
def test_a_share_that_follows_competence_lies_between_its_ends(start: float, end: float, able: float) -> None:
    share = competence_share(start, end, able)
    assert min(start, end) - 1e-12 <= share <= max(start, end) + 1e-12
    assert 0 <= share <= 1
    assert competence_share(start, end, 0.0) == start
    assert competence_share(start, end, 1.0) == pytest.approx(end)
