"""Annotations read or refused, and the rate made from them."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from tapir.domain.errors import DataError
from tapir.evaluation.alpaca_eval import win_rate
from tapir.evaluation.annotations import Annotation, by_model, parse


def row(index: int, preference: float | None, model: str = "small", **more: Any) -> dict[str, Any]:
    sides = {"generator_1": "big", "generator_2": model, "output_1": "a long answer", "output_2": "short"}
    place = {"instruction": f"prompt {index}", "index": index, "dataset": "koala"}
    return {**place, "preference": preference, **sides, **more}


def read(*rows: dict[str, Any]) -> list[Annotation]:
    return parse([(f"a.jsonl:{number}", one) for number, one in enumerate(rows, 1)], "a.jsonl")


def refusal(*rows: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        read(*rows)
    assert caught.value.remedy
    return str(caught.value)


def test_a_rate_is_the_mean_preference_and_a_draw_is_written_as_0_or_a_half() -> None:
    ((_, rows),) = by_model(read(row(0, 2), row(1, 1), row(2, 0), row(3, 1.5), row(4, 1.9))).items()
    found = win_rate(rows)
    assert found.rate.value == pytest.approx((1 + 0 + 0.5 + 0.5 + 0.9) / 5)
    assert (found.wins, found.losses, found.draws) == (2, 1, 2)
    assert found.discrete == pytest.approx(3 / 5)


def test_an_empty_file_is_an_error() -> None:
    assert "holds no rows" in refusal()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preference": 2.5}, "preference 2.5 is not between 1 and 2"),
        ({"preference": "model"}, "preference 'model' is no number"),
        ({"index": -1}, "index -1 is no place"),
        *(({name: None}, f"{name} is not text") for name in ("instruction", "generator_1", "generator_2")),
    ],
)
def test_a_row_that_is_no_annotation_is_named_with_its_place(fields: dict[str, Any], said: str) -> None:
    message = refusal(row(0, 1.0), row(1, 1.0) | fields)
    assert message == f"a.jsonl: 1 rows cannot be used; the first: a.jsonl:2: {said}"


@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_a_row_nobody_judged_stops_the_number_until_it_is_left_out_by_name(missing: float | str | None) -> None:
    as_text = {"preference": "2.0"}  # as a table writes it
    ((_, rows),) = by_model(read(row(0, 2) | as_text, row(1, 2) | {"preference": missing}, row(2, 1))).items()
    with pytest.raises(DataError, match=r"1 of 3 prompts .* judged: no preference \(1\); their places: 1") as caught:
        win_rate(rows)
    assert "--without-unjudged" in caught.value.remedy
    found = win_rate(rows, without_unjudged=True)
    assert (found.rate.value, found.rate.n, found.unjudged) == (0.5, 2, {"no preference": 1})


def test_a_row_that_one_model_lacks_is_missing_and_not_passed_over() -> None:
    models = by_model(read(row(0, 2), row(1, 1), row(2, 1), row(0, 1, "tiny"), row(2, 2, "tiny")))
    with pytest.raises(DataError, match="tiny: 1 row is missing of 3; their places: 1 'prompt 1'"):
        win_rate(models["tiny"])


def test_two_annotations_of_one_prompt_that_differ_are_refused_and_equal_ones_are_one() -> None:
    for again in (row(0, 1), row(0, 2, output_2="another answer"), row(0, 1) | {"index": None}):
        with pytest.raises(DataError, match=r"two annotations of 'prompt 0' that differ: .*a.jsonl:1\) .*a.jsonl:3\)"):
            by_model(read(row(0, 2), row(1, 2), again))
    assert len(by_model(read(row(0, 2), row(0, 2)))["small"]) == 1


def test_a_row_without_a_verdict_yields_to_one_that_has_it() -> None:
    for rows in ((row(0, None), row(0, 2)), (row(0, 2), row(0, None))):
        assert [each.preference for each in by_model(read(*rows))["small"]] == [1.0]


def test_rows_without_an_index_belong_together_by_their_prompt() -> None:
    """As the official package writes them; the model with most rows says which prompts there are, and their order."""
    few = [row(number, 1, "few") | {"index": None} for number in (4, 0, 2)]
    more = [row(number, 2, "more") | {"index": None, "instruction": f"prompt {number}\n"} for number in range(6)]
    models = by_model(read(*few, *more))
    assert [each.preference for each in models["more"]] == [1.0] * 6
    assert [each.preference for each in models["few"]] == [0, None, 0, None, 0, None]
    with pytest.raises(DataError, match="few: 3 rows are missing of 6; their places: 1 'prompt 1'; 3 'prompt 3'; 5"):
        win_rate(models["few"])


ALTERNATELY = [{"output_2": f"answer {number}"} for number in range(20)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"output_2": "short"}] * 20, "20 of 20 answers are the same text, which wins 50.0 % of its prompts"),
        ([{**each, "output_1": "x" * 99} for each in ALTERNATELY], r"0.086 times the length of the baseline's"),
        ([{**each, "output_1": "x"} for each in ALTERNATELY], r"8.5 times the length of the baseline's"),
        (
            [{**each, "flipped": True, "shown_first": [2, 2]} for each in ALTERNATELY],
            r"\(20 of 20 prompts\), the judge named the answer shown first in 100 %",
        ),
        (
            [{**each, "flipped": True, "shown_first": [0, 2]} for each in ALTERNATELY],
            "the judge named the answer shown second in 100 %",
        ),
        (
            [{**each, "flipped": True, "shown_first": [number % 2 * 2, 2]} for number, each in enumerate(ALTERNATELY)],
            "",
        ),
        (ALTERNATELY, ""),
    ],
)
def test_a_rate_that_looks_better_than_it_is_says_why(rows: list[dict[str, Any]], said: str) -> None:
    judged = by_model(read(*(row(number, 1 + number % 2, **each) for number, each in enumerate(rows))))["small"]
    remarks = win_rate(judged).remarks
    assert len(remarks) == bool(said)
    assert not said or re.search(said, remarks[0])


def test_two_baselines_are_refused() -> None:
    with pytest.raises(DataError, match="2 baselines: big, huge"):
        by_model(read(row(0, 2), row(1, 2) | {"generator_1": "huge"}))


@pytest.mark.parametrize("preferences", [(1.5, 1.5, 1.5), (2, 2, 2), (1.25,)])
def test_equal_preferences_or_a_single_prompt_have_a_rate_and_no_interval(preferences: tuple[float, ...]) -> None:
    ((_, rows),) = by_model(read(*(row(place, one) for place, one in enumerate(preferences)))).items()
    found = win_rate(rows)
    assert found.rate.value == preferences[0] - 1
    assert math.isnan(found.rate.low)
    assert math.isnan(found.rate.high)


def test_rates_come_by_category_where_there_are_several() -> None:
    rows = by_model(read(row(0, 2), row(1, 1, dataset="vicuna"), row(2, 1)))["small"]
    found = win_rate(rows)
    assert {name: (one.value, one.n) for name, one in found.categories.items()} == {"koala": (0.5, 2), "vicuna": (0, 1)}


def test_indexes_that_contradict_those_of_another_model_are_refused() -> None:
    other = [row(0, 2, "y", instruction="prompt 1"), row(1, 2, "y", instruction="prompt 0")]
    with pytest.raises(
        DataError, match="rows of y have other places than those of small: 'prompt 1' is at 0"
    ) as caught:
        by_model(read(row(0, 2), row(1, 2), *other))
    assert "--prompts" in caught.value.remedy


def test_a_row_beyond_the_prompts_is_refused_and_not_passed_over() -> None:
    with pytest.raises(DataError, match="its instruction is not among the prompts"):
        parse([("a.jsonl:1", row(5, 2))], "a.jsonl", {"x": 0, "y": 1})
