from __future__ import annotations

from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.strategies import LABELS, distributions, exact_shares, weights_or_zero
from tapir.domain.task import TaskDistribution, Taxonomy, shares

PUBLISHED = (
    "Common-Sense|History|Law|Code Generation|Technology|Sport|Code Debug|Toxicity|Counterfactual|Physics|"
    "Academic Writing|Philosophy|Music|Math|Writing|Complex Format|Art|Grammar|Computer Science|Economy|"
    "Paraphrase|Reasoning|Medicine|Biology|Health|Ethics|Chemistry|Multilingual|Ecology|Roleplay|Entertainment|"
    "Others|Literature"
)
PUBLISHED_ORDER = tuple(PUBLISHED.split("|"))
NAMED_SHARES = {"Math": 0.167, "Reasoning": 0.167, "Code Generation": 0.083, "Code Debug": 0.083, "Others": 0.024}

rooms = st.dictionaries(st.sampled_from(LABELS), st.floats(0, 1))
minimums = st.floats(0, 1 / len(LABELS))


def shipped_taxonomy(name: str) -> Taxonomy:
    return Taxonomy.from_toml((resources.files("tapir.recipes") / "taxonomies" / f"{name}.toml").read_text("utf-8"))


def test_the_taxonomy_of_the_paper_has_the_published_33_labels_in_order_and_their_shares() -> None:
    assert shipped_taxonomy("paper").labels == PUBLISHED_ORDER
    assert len(PUBLISHED_ORDER) == 33
    target = shipped_taxonomy("paper").target.shares
    assert dict(target) == {label: NAMED_SHARES.get(label, 0.017) for label in PUBLISHED_ORDER}
    assert sum(target.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["paper", "gym"])
def test_a_shipped_taxonomy_has_a_name_and_a_version(name: str) -> None:
    taxonomy = shipped_taxonomy(name)
    assert (taxonomy.name, taxonomy.version) == (name, "1")


@pytest.mark.parametrize(
    "text",
    [
        "name = ",
        'version = "1"\n[shares]\na = 1.0',
        'name = "x"\n[shares]\na = 1.0',
        'name = "x"\nversion = "1"',
        'name = "x"\nversion = "1"\n[shares]',
        'name = "x"\nversion = "1"\n[shares]\na = 0.5',
        'name = "x"\nversion = "1"\n[shares]\na = 1.5\nb = -0.5',
        'name = "x"\nversion = "1"\n[shares]\na = "all"',
        'name = "x"\nversion = "1"\nshares = 1.0',
        'name = "x"\nversion = "1"\nshares = [1.0]',
    ],
)
def test_a_text_that_is_no_taxonomy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"taxonomy|shares"):
        Taxonomy.from_toml(text)


@given(st.lists(weights_or_zero, min_size=1, max_size=40).filter(any))
def test_weights_become_shares_in_proportion(found: list[float]) -> None:
    distribution = TaskDistribution.of({f"task {place}": weight for place, weight in enumerate(found)})
    assert sum(distribution.shares.values()) == pytest.approx(1)
    assert distribution.labels == tuple(f"task {place}" for place in range(len(found)))
    for share, weight in zip(distribution.shares.values(), found, strict=True):
        assert share == pytest.approx(weight / sum(found))


@pytest.mark.parametrize("bad", [{}, {"a": 0.0}, {"a": 0.0, "b": 0.0}])
def test_weights_that_are_all_zero_are_no_distribution(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one positive weight"):
        TaskDistribution.of(bad)


@pytest.mark.parametrize("bad", [{"a": -1.0, "b": 2.0}, {"a": -0.5, "b": 1.5}])
def test_negative_weights_and_shares_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        TaskDistribution.of(bad)
    with pytest.raises(ValueError, match="non-negative"):
        TaskDistribution(bad)


@pytest.mark.parametrize("bad", [{"a": 0.5}, {"a": 0.6, "b": 0.6}, {"a": 1.00001}, {"a": float("inf")}])
def test_shares_that_do_not_sum_to_one_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not to 1"):
        TaskDistribution(bad)


def test_a_share_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        TaskDistribution({"a": float("nan"), "b": 1.0})


@given(distributions(zeros=True), st.integers(0, 5000))
def test_counts_sum_to_the_total_and_lie_within_one_of_the_exact_share(target: TaskDistribution, total: int) -> None:
    counts = target.counts(total)
    assert tuple(counts) == target.labels
    assert sum(counts.values()) == total
    assert np.all(np.abs(np.array(list(counts.values())) - exact_shares(target, total)) < 1 + 1e-6)


@given(distributions(zeros=True), distributions(zeros=True))
def test_only_equal_distributions_are_at_distance_zero(one: TaskDistribution, other: TaskDistribution) -> None:
    assert one.distance(one.shares) == 0
    assert one.distance(other.shares) == pytest.approx(other.distance(one.shares))
    assert 0 <= one.distance(other.shares) <= 1 + 1e-9
    assert (one.distance(other.shares) == 0) == (one.shares == other.shares)


@given(distributions())
def test_distributions_without_a_common_task_are_at_distance_one(target: TaskDistribution) -> None:
    elsewhere = {f"other {label}": share for label, share in target.shares.items()}
    assert target.distance(elsewhere) == pytest.approx(1)


@given(distributions(zeros=True), rooms, minimums)
def test_leaning_keeps_the_minimum_sums_to_one_and_gives_nothing_to_a_task_without_a_target(
    target: TaskDistribution, room: dict[str, float], minimum: float
) -> None:
    leant = target.leaning(room, minimum)
    assert leant.labels == target.labels
    assert sum(leant.shares.values()) == pytest.approx(1)
    assert all(leant.shares[label] >= minimum for label, share in target.shares.items() if share > 0)
    assert all(leant.shares[label] == 0 for label, share in target.shares.items() if share == 0)


@given(distributions(zeros=True), st.floats(0.01, 1), minimums)
def test_where_every_task_has_equal_room_or_none_has_any_the_target_decides(
    target: TaskDistribution, room: float, minimum: float
) -> None:
    equal = target.leaning(dict.fromkeys(LABELS, room), 0.0)
    assert equal.distance(target.shares) == pytest.approx(0, abs=1e-9)
    without_room = target.leaning(dict.fromkeys(LABELS, 0.0), minimum)
    assert without_room.distance(target.leaning({}, minimum).shares) == pytest.approx(0, abs=1e-9)


@given(distributions(), rooms, minimums)
def test_a_task_with_more_room_never_loses_to_an_equal_task_with_less(
    target: TaskDistribution, room: dict[str, float], minimum: float
) -> None:
    leant = TaskDistribution.of(dict.fromkeys(target.labels, 1.0)).leaning(room, minimum)
    by_room = sorted(LABELS, key=lambda label: room.get(label, 1.0))
    found = [leant.shares[label] for label in by_room]
    assert all(before <= after + 1e-12 for before, after in pairwise(found))


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 10**6), max_size=10))
def test_counts_as_shares_sum_to_one_or_are_all_zero(counts: dict[str, int]) -> None:
    found = shares(counts)
    assert found.keys() == counts.keys()
    assert sum(found.values()) == pytest.approx(1 if any(counts.values()) else 0)
