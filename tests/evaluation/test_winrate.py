"""Annotations read or refused, and the rate made from them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tapir.errors import DataError
from tapir.evaluation.annotations import Annotation, by_model, parsed
from tapir.evaluation.winrate import win_rate


def row(index: int, preference: float | None, model: str = "small", **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "baseline": "big",
        "index": index,
        "dataset": "koala",
        "preference": preference,
        "len_output_1": 20,
        "len_output_2": 10,
        **more,
    }


def read(*rows: dict[str, Any]) -> list[Annotation]:
    return parsed([(f"a.jsonl:{number}", one) for number, one in enumerate(rows, 1)], "a.jsonl")


def refusal(*rows: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        read(*rows)
    assert caught.value.remedy
    return str(caught.value)


def test_a_rate_is_the_mean_preference_and_a_draw_is_written_as_0_or_a_half() -> None:
    ((_, rows),) = by_model(read(row(0, 2), row(1, 1), row(2, 0), row(3, 1.5), row(4, 1.9))).items()
    found = win_rate(rows, seed=0)
    assert found.rate.value == pytest.approx((1 + 0 + 0.5 + 0.5 + 0.9) / 5)
    assert (found.wins, found.losses, found.draws) == (2, 1, 2)
    assert found.discrete == pytest.approx(3 / 5)


def test_an_empty_file_is_an_error() -> None:
    assert "holds no annotations" in refusal()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preference": 2.5}, "preference 2.5 is not between 1 and 2"),
        ({"preference": "model"}, "preference 'model' is no number"),
        ({"len_output_2": -1}, "len_output_2 is -1"),
        ({"index": None}, "no 'index'"),
    ],
)
def test_a_row_that_is_no_annotation_is_named_with_its_place(fields: dict[str, Any], said: str) -> None:
    message = refusal(row(0, 1.0), row(1, 1.0) | fields)
    assert message == f"a.jsonl: 1 rows are no annotations: a.jsonl:2: {said}"


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_row_nobody_judged_stops_the_number_until_it_is_left_out_by_name(missing: float | None) -> None:
    ((_, rows),) = by_model(read(row(0, 2), row(1, missing), row(2, 1))).items()
    with pytest.raises(
        DataError, match=r"1 of 3 prompts were not judged: no preference \(1\); their places: 1"
    ) as caught:
        win_rate(rows, seed=0)
    assert "--without-unjudged" in caught.value.remedy
    found = win_rate(rows, seed=0, without_unjudged=True)
    assert (found.rate.value, found.rate.n, found.unjudged) == (0.5, 2, {"no preference": 1})


def test_a_row_that_one_model_lacks_is_missing_and_not_passed_over() -> None:
    models = by_model(read(row(0, 2), row(1, 1), row(2, 1), row(0, 1, "tiny"), row(2, 2, "tiny")))
    with pytest.raises(DataError, match=r"tiny: 1 of 3 prompts were not judged: no annotation \(1\); their places: 1"):
        win_rate(models["tiny"], seed=0)


def test_two_annotations_of_one_prompt_that_differ_are_refused_and_equal_ones_are_one() -> None:
    with pytest.raises(DataError, match="small has two annotations of prompt 0: 2 and 1"):
        by_model(read(row(0, 2), row(0, 1)))
    assert len(by_model(read(row(0, 2), row(0, 2)))["small"]) == 1


def test_two_baselines_are_refused() -> None:
    with pytest.raises(DataError, match="2 baselines: big, huge"):
        by_model(read(row(0, 2), row(1, 2) | {"baseline": "huge"}))


@pytest.mark.parametrize("preferences", [(1.5, 1.5, 1.5), (2, 2, 2), (1.25,)])
def test_equal_preferences_or_a_single_prompt_have_a_rate_and_no_interval(preferences: tuple[float, ...]) -> None:
    ((_, rows),) = by_model(read(*(row(place, one) for place, one in enumerate(preferences)))).items()
    found = win_rate(rows, seed=0)
    assert found.rate.value == preferences[0] - 1
    assert math.isnan(found.rate.low)
    assert math.isnan(found.rate.high)


def test_rates_come_by_category_where_there_are_several() -> None:
    rows = by_model(read(row(0, 2), row(1, 1, dataset="vicuna"), row(2, 1)))["small"]
    found = win_rate(rows, seed=0)
    assert {name: (one.value, one.n) for name, one in found.categories.items()} == {"koala": (0.5, 2), "vicuna": (0, 1)}


def full(instruction: str, model: str) -> dict[str, Any]:
    answers = {"output_1": "long", "output_2": "short", "generator_1": "big", "generator_2": model}
    return {"instruction": instruction, "preference": 2, **answers}


def test_rows_in_another_order_than_those_of_another_model_are_no_pairs() -> None:
    one, other = read(full("a", "x"), full("b", "x")), read(full("b", "y"), full("a", "y"))
    with pytest.raises(DataError, match="the rows of y are in another order: prompt 0") as caught:
        by_model([*one, *other])
    assert "--prompts" in caught.value.remedy


def test_a_row_beyond_the_prompts_is_refused_and_not_passed_over() -> None:
    with pytest.raises(DataError, match="index 5 is beyond the 2 prompts"):
        parsed([("a.jsonl:1", row(5, 2))], "a.jsonl", {"x": 0, "y": 1})
