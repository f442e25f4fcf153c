from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from support.strategies import (
    LABELS,
    Round,
    alphas,
    counts_by_label,
    distributions,
    exact_shares,
    pool_of,
    pools,
    round_with_just_enough,
    rounds,
    rounds_with_enough_in_all,
    rounds_with_just_enough_of_every_task,
    rounds_with_room_in_every_task,
    seeds,
    task_totals,
)
from tapir.domain.apportion import apportion
from tapir.domain.mixture import Mixture, Pool, draw, hard_count, mix, resample
from tapir.domain.task import TaskDistribution

# Of "a" the pools hold what is asked for, and no more: the exact share of 2.3 cannot be rounded up.
JUST_ENOUGH = round_with_just_enough(
    TaskDistribution({"a": 0.23, "b": 0.24, "c": 0.53}), 10, 1.0, ((0, 50, 50), (0, 0, 0)), 7
)


def task_of(pool: Pool) -> dict[str, str]:
    return {name: pool.labels[task] for name, task in zip(pool.ids, pool.tasks, strict=True)}


def by_task(pool: Pool, ids: tuple[str, ...]) -> dict[str, int]:
    tasks = [task_of(pool)[name] for name in ids]
    return {label: tasks.count(label) for label in pool.labels}


def counts_of(hard: Pool, easy: Pool, mixture: Mixture) -> dict[str, int]:
    inside, outside = by_task(hard, mixture.hard), by_task(easy, mixture.easy)
    return {label: inside[label] + outside[label] for label in hard.labels}


def in_order(pool: Pool, ids: list[str]) -> Pool:
    return Pool.of(ids, task_of(pool), pool.labels)


# Pools


@given(st.lists(st.integers(0, 50), unique=True, max_size=20), st.data())
def test_a_pool_leaves_out_what_has_no_task_of_the_taxonomy(numbers: list[int], data: st.DataObject) -> None:
    ids = [f"{number:016x}" for number in numbers]
    tags = {name: data.draw(st.sampled_from((*LABELS, "Cooking", None))) for name in ids}
    pool = Pool.of(ids, {name: task for name, task in tags.items() if task is not None}, LABELS)
    assert list(pool.ids) == [name for name in ids if tags[name] in LABELS]
    assert task_of(pool) == {name: tags[name] for name in pool.ids}


# Draws


@given(pools(), counts_by_label(), seeds)
def test_a_draw_gets_what_is_wanted_or_all_there_is(pool: Pool, wanted: list[int], seed: int) -> None:
    drawn = by_task(pool, draw(pool, wanted, seed))
    assert list(drawn.values()) == np.minimum(wanted, pool.available).tolist()


@given(pools(), counts_by_label(), counts_by_label(), seeds)
def test_drawing_more_keeps_what_was_drawn(pool: Pool, wanted: list[int], more: list[int], seed: int) -> None:
    assert set(draw(pool, wanted, seed)) <= set(draw(pool, np.add(wanted, more), seed))


@given(counts_by_label(), counts_by_label(), counts_by_label(), seeds)
def test_a_pool_that_grows_keeps_the_preference_among_its_items(
    counts: list[int], added: list[int], wanted: list[int], seed: int
) -> None:
    small, large = pool_of("item", counts), pool_of("item", np.add(counts, added).tolist())
    survivors = set(draw(large, wanted, seed)) & set(small.ids)
    assert survivors <= set(draw(small, wanted, seed))


def test_another_seed_draws_other_items() -> None:
    pool = pool_of("item", [200] * len(LABELS))
    one, other = (draw(pool, [100] * len(LABELS), seed) for seed in (1, 2))
    assert one != other
    assert by_task(pool, one) == by_task(pool, other)


# Resampling


@given(pools("hard"), pools("easy"), st.integers(0, 300), alphas, distributions(zeros=True))
def test_resampling_wants_the_hard_count_gets_what_the_pool_has_and_names_the_rest(
    hard: Pool, easy: Pool, size: int, share: float, target: TaskDistribution
) -> None:
    drawn = resample(hard, easy, size, share, target)
    wanted = np.array(list(drawn.wanted.values()))
    assert wanted.sum() == hard_count(size, share)
    assert np.all(wanted <= task_totals(target, size))
    assert list(drawn.got.values()) == np.minimum(list(drawn.wanted.values()), hard.available).tolist()
    assert sum(drawn.got.values()) + sum(drawn.shortfall.values()) == hard_count(size, share)


def test_hard_examples_go_first_where_the_easy_pool_has_none() -> None:
    labels = ("Math", "Law")
    target = TaskDistribution({"Math": 0.5, "Law": 0.5})
    drawn = resample(pool_of("hard", (3, 20), labels), pool_of("easy", (0, 20), labels), 20, 0.5, target)
    assert drawn.wanted == {"Math": 10, "Law": 0}
    assert drawn.shortfall == {"Math": 7}


# Mixtures


@given(st.integers(0, 5000), alphas)
@example(45, 0.7)
@example(50, 0.29)
def test_the_hard_count_is_alpha_n_with_halves_rounded_up(size: int, share: float) -> None:
    product = Decimal(str(share)) * size
    assert hard_count(size, share) == int(product.quantize(Decimal(1), ROUND_HALF_UP))


def as_found(case: Round) -> Mixture:
    return mix(case.hard, case.easy, case.size, case.share, None, case.seed)


@given(rounds() | rounds_with_enough_in_all())
def test_a_mixture_never_repeats_and_never_invents_and_lacks_only_what_a_pool_lacks_in_all(case: Round) -> None:
    for mixture in (case.mixed(), as_found(case)):
        assert len({*mixture.hard, *mixture.easy}) == mixture.size <= case.size
        assert set(mixture.hard) <= set(case.hard.ids)
        assert set(mixture.easy) <= set(case.easy.ids)
        assert len(mixture.hard) == min(case.hard_wanted, len(case.hard.ids))
        assert len(mixture.easy) == min(case.size - case.hard_wanted, len(case.easy.ids))


@given(rounds(zeros=True))
def test_a_task_without_a_target_has_no_examples(case: Round) -> None:
    found = counts_of(case.hard, case.easy, case.mixed())
    assert all(found[label] == 0 for label, share in case.target.shares.items() if share == 0)


@given(rounds_with_room_in_every_task())
def test_where_the_pools_hold_enough_the_target_is_met_with_what_resampling_draws(case: Round) -> None:
    mixture = case.mixed()
    found = counts_of(case.hard, case.easy, mixture)
    assert np.all(np.abs(np.array(list(found.values())) - exact_shares(case.target, case.size)) < 1 + 1e-6)
    assert found == case.target.counts(case.size)
    drawn = resample(case.hard, case.easy, case.size, case.share, case.target)
    assert not drawn.shortfall
    assert drawn.got == by_task(case.hard, mixture.hard)


@given(rounds_with_just_enough_of_every_task())
@example(JUST_ENOUGH)
def test_the_target_is_met_even_when_the_pools_hold_not_one_item_more(case: Round) -> None:
    mixture = case.mixed()
    assert counts_of(case.hard, case.easy, mixture) == case.target.counts(case.size)
    assert len(mixture.hard) == case.hard_wanted
    drawn = resample(case.hard, case.easy, case.size, case.share, case.target)
    assert not drawn.shortfall
    assert drawn.got == by_task(case.hard, mixture.hard)


@given(rounds(), st.data())
def test_a_mixture_does_not_depend_on_the_order_of_the_pools(case: Round, data: st.DataObject) -> None:
    hard = in_order(case.hard, data.draw(st.permutations(list(case.hard.ids))))
    easy = in_order(case.easy, data.draw(st.permutations(list(case.easy.ids))))
    assert mix(hard, easy, case.size, case.share, case.target, case.seed) == case.mixed()


def test_what_one_pool_lacks_of_a_task_is_made_up_by_other_tasks_and_alpha_kept() -> None:
    labels = ("Math", "Law")
    target = TaskDistribution({"Math": 0.5, "Law": 0.5})
    hard, easy = pool_of("hard", (10, 0), labels), pool_of("easy", (0, 10), labels)
    mixture = mix(hard, easy, 10, 0.8, target, 7)
    assert (len(mixture.hard), len(mixture.easy)) == (8, 2)
    assert counts_of(hard, easy, mixture) == {"Math": 8, "Law": 2}
    target = TaskDistribution({"Math": 0.5, "Law": 0.25, "Music": 0.25})
    hard, easy = (pool_of(name, (1, 50, 50), target.labels) for name in ("hard", "easy"))
    assert counts_of(hard, easy, mix(hard, easy, 20, 0.5, target, 7)) == {"Math": 2, "Law": 9, "Music": 9}


@given(rounds())
def test_what_a_pool_alone_can_fill_of_a_round_is_shared_out_by_the_target(case: Round) -> None:
    empty, weights = pool_of("item", [0] * len(LABELS)), list(case.target.shares.values())
    easy_wanted = case.size - case.hard_wanted
    for pool, wanted, alone in (
        (case.hard, case.hard_wanted, replace(case, easy=empty)),
        (case.easy, easy_wanted, replace(case, hard=empty)),
    ):
        expected = apportion(weights, min(wanted, len(pool.ids)), high=pool.available)
        assert list(counts_of(alone.hard, alone.easy, alone.mixed()).values()) == expected.tolist()


def test_pools_too_small_for_a_round_do_not_take_it_from_the_target() -> None:
    target = TaskDistribution({"Math": 0.5, "Law": 0.5})
    hard, easy = (pool_of(name, counts, target.labels) for name, counts in (("hard", (12, 30)), ("easy", (0, 0))))
    mixture = mix(hard, easy, 40, 0.6, target, 7)
    assert counts_of(hard, easy, mixture) == {"Math": 12, "Law": 12}


def test_a_round_of_nothing_is_nothing() -> None:
    empty = pool_of("item", [0] * len(LABELS))
    target = TaskDistribution.of(dict.fromkeys(LABELS, 1.0))
    assert mix(empty, empty, 0, 0.3, target, 7).size == 0


@given(rounds())
def test_as_found_tasks_have_the_shares_they_have_in_the_pool_to_within_one(case: Round) -> None:
    mixture = as_found(case)
    for pool, taken in ((case.hard, mixture.hard), (case.easy, mixture.easy)):
        drawn, there = by_task(pool, taken), by_task(pool, tuple(pool.ids))
        for label in LABELS:
            exact = len(taken) * there[label] / max(1, len(pool.ids))
            assert abs(drawn[label] - exact) < 1 + 1e-6
            assert drawn[label] <= there[label]
    need = resample(case.hard, case.easy, case.size, case.share, None)
    assert need.got == by_task(case.hard, mixture.hard)
    wanted = case.hard_wanted if len(case.hard.ids) else 0  # an empty pool has no shares
    assert sum(need.wanted.values()) == wanted
    assert sum(need.shortfall.values()) == max(0, wanted - len(case.hard.ids))


def test_as_found_a_shortfall_of_the_hard_pool_is_not_filled_with_easy_examples() -> None:
    labels = ("Math", "Law")
    mixture = mix(pool_of("hard", (3, 0), labels), pool_of("easy", (50, 50), labels), 20, 0.5, None, 7)
    assert (len(mixture.hard), len(mixture.easy)) == (3, 10)


@given(pools(), counts_by_label(), seeds, st.sets(st.integers(0, 80)))
def test_what_is_to_be_drawn_last_is_drawn_only_where_its_task_has_no_others(
    pool: Pool, wanted: list[int], seed: int, places: set[int]
) -> None:
    last = {name for place, name in enumerate(pool.ids) if place in places}
    drawn, plain = draw(replace(pool, last=last), wanted, seed), draw(pool, wanted, seed)
    assert by_task(pool, drawn) == by_task(pool, plain)
    of = task_of(pool)
    left = {of[name] for name in pool.ids if name not in last and name not in drawn}
    assert not {of[name] for name in drawn if name in last} & left
