"""What is compared where a program grades answers."""

from __future__ import annotations

import pytest

from tapir.evaluation.exact import number


@pytest.mark.parametrize(
    "end",
    ["", ".", ". ", "...", ".\n", ". So it is.", ".)", ".**", ",", "!", "?", ";", ":", ")", "%", "$", "*", "_", " m/s"],
)
@pytest.mark.parametrize(
    ("written", "value"), [("1.5e3", "1500"), ("2E5", "200000"), ("-2e+5", "-200000"), ("5e-3", "0.005"), ("7", "7")]
)
def test_a_number_in_scientific_notation_is_read_whatever_follows_it(written: str, value: str, end: str) -> None:
    assert number(f"The answer is {written}{end}") == value


@pytest.mark.parametrize("text", ["2e5x", "2e5.5", "2e5000"])
def test_what_goes_on_behind_the_exponent_is_no_scientific_notation(text: str) -> None:
    assert number(text) != "200000"


@pytest.mark.parametrize(
    ("text", "value"),
    [("GPT-4", "4"), ("x-3", "3"), ("16-3", "3"), ("x=-3", "-3"), ("$-3", "-3"), ("-$3", "-3"), ("is \u22123", "-3")],
)
def test_a_hyphen_behind_a_word_is_no_sign(text: str, value: str) -> None:
    assert number(text) == value
