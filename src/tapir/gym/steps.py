"""Worked steps: the answer style of each skill that a small model learns best.

A worked answer is short intermediate results, then `#### ` and the final answer. Skills without an entry are
answered directly. Steps are computed from the library's metadata, never from the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from itertools import accumulate, pairwise
from operator import floordiv
from typing import Any, TypeAlias

from tapir.gym.world import FINAL_MARK, GymItem

Steps: TypeAlias = Callable[[dict[str, Any]], list[str]]

_TERM = re.compile(r"([+-]?)\s*(?:(\d+)\*?)?([a-z])?\s*")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def worked_answer(item: GymItem) -> str:
    """Return the answer in the style of its skill: steps, the mark, the exact answer."""
    write = _STEPS.get(item.skill)
    if write is None:
        return item.answer
    return f"{' '.join(write(item.entry['metadata']))} {FINAL_MARK} {item.answer}"


def _running_sum(first: int, signed: Iterable[int]) -> list[str]:
    totals = accumulate(signed, initial=first)
    return [f"{before}{after - before:+d}={after}" for before, after in pairwise(totals)]


def _chain_sum(metadata: dict[str, Any]) -> list[str]:
    first, *rest = metadata["expression"].split()
    signed = (int(value) * (-1 if sign == "-" else 1) for sign, value in zip(rest[::2], rest[1::2], strict=True))
    return _running_sum(int(first), signed)


def _basic_arithmetic(metadata: dict[str, Any]) -> list[str]:
    first, *rest = metadata["expression"].split()
    sign, total, steps, terms = 1, int(first), [], []
    for operator, value in zip(rest[::2], map(int, rest[1::2]), strict=True):
        if operator == "*":
            steps.append(f"{total}*{value}={total * value}")
            total *= value
        else:
            terms.append(sign * total)
            sign, total = (-1 if operator == "-" else 1), value
    first_term, *others = [*terms, sign * total]
    return steps + _running_sum(first_term, others)


def _products(metadata: dict[str, Any]) -> list[str]:
    first, *rest = (int(value) for value in metadata["expression"].split(" * "))
    steps, total = [], first
    for value in rest:
        digits = reversed(str(value))
        parts = [int(digit) * 10**place for place, digit in enumerate(digits) if digit != "0"] or [0]
        steps += [f"{total}*{part}={total * part}" for part in parts]
        steps += _running_sum(total * parts[0], [total * part for part in parts[1:]])
        total *= value
    return steps


def _euclid(a: int, b: int) -> tuple[list[str], int]:
    large, small, steps = max(a, b), min(a, b), []
    while small:
        steps.append(f"{large}%{small}={large % small}")
        large, small = small, large % small
    return steps, large


def _prime_factorization(metadata: dict[str, Any]) -> list[str]:
    rests = accumulate(metadata["factors"], floordiv, initial=metadata["number"])
    return [f"{number}/{number // rest}={rest}" for number, rest in pairwise(rests)]


def _fraction_simplification(metadata: dict[str, Any]) -> list[str]:
    numerator, denominator = metadata["numerator"], metadata["denominator"]
    steps, divisor = _euclid(numerator, denominator)
    return steps + [f"{value}/{divisor}={value // divisor}" for value in (numerator, denominator)]


def _simple_equations(metadata: dict[str, Any]) -> list[str]:
    left, right = metadata["equation"].split(" = ")
    name, target = metadata["variable"], int(right)
    terms = [(f"{sign}{number or 1}", letter) for sign, number, letter in _TERM.findall(left) if number or letter]
    factor = sum(int(value) for value, letter in terms if letter)
    constant = sum(int(value) for value, letter in terms if not letter)
    steps = [f"{factor}*{name}={target}{-constant:+d}={target - constant}"] if constant else []
    return [*steps, f"{target - constant}/{factor}={(target - constant) // factor}"]


def _complex_arithmetic(metadata: dict[str, Any]) -> list[str]:
    pairs = zip(metadata["num1"], metadata["num2"], strict=True)
    sign = 1 if metadata["operation"] == "+" else -1
    return [f"{int(a)}{sign * int(b):+d}={int(a) + sign * int(b)}" for a, b in pairs]


def _word_sequence_reversal(metadata: dict[str, Any]) -> list[str]:
    numbered = [f"{place} {word}" for place, word in enumerate(metadata["words"], start=1)]
    return [*numbered, *reversed(numbered)]


def _number_filtering(metadata: dict[str, Any]) -> list[str]:
    limit, result = metadata["filter_value"], metadata["result"]

    def sign(number: str) -> str:
        return "=" if float(number) == float(limit) else "<" if float(number) < float(limit) else ">"

    return [
        f"{number}{sign(number)}{limit} {'yes' if number in result else 'no'}"
        for number in metadata["original_numbers"]
    ]


def _letter_counting(metadata: dict[str, Any]) -> list[str]:
    totals = accumulate(word.lower().count(metadata["target_letter"]) for word in metadata["span"])
    return [f"{word} {total}" for word, total in zip(metadata["span"], totals, strict=True)]


def _count_bits(metadata: dict[str, Any]) -> list[str]:
    halves = [metadata["number"] >> place for place in range(metadata["number"].bit_length())]
    ones = accumulate(number % 2 for number in halves)
    return [f"{number}:{count}" for number, count in zip(halves, ones, strict=True)]


def _leg_counting(metadata: dict[str, Any]) -> list[str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    legs = [(count, ANIMALS[animal]) for animal, count in metadata["animals"].items()]
    first, *rest = [count * each for count, each in legs]
    products = [f"{count}*{each}={count * each}" for count, each in legs]
    return products + _running_sum(first, rest)


def _calendar_arithmetic(metadata: dict[str, Any]) -> list[str]:
    if metadata["task"] == "is_leap_year":
        century, rest = divmod(metadata["year"], 100)
        return [f"{rest}%4={rest % 4}"] if rest else [f"0 {century}%4={century % 4}"]
    offset = metadata["offset_days"]
    days, step = abs(offset) % 7, (1 if offset > 0 else -1)
    start = date.fromisoformat(metadata["start_date"]).weekday()
    return [f"{abs(offset)}%7={days}", *(_DAYS[(start + step * passed) % 7] for passed in range(days + 1))]


def _time_intervals(metadata: dict[str, Any]) -> list[str]:
    (h1, m1), (h2, m2) = (map(int, metadata[key].split(" ")[1].split(":")[:2]) for key in ("start_time", "end_time"))
    borrow = m2 < m1
    minutes, hours = m2 - m1 + 60 * borrow, h2 - borrow - h1
    return [f"{m2 + 60 * borrow}-{m1}={minutes}", f"{h2 - borrow}-{h1}={hours}"]


def _base_conversion(metadata: dict[str, Any]) -> list[str]:
    source, target, steps = metadata["source_base"], metadata["target_base"], []
    if source != 10:  # noqa: PLR2004  (base ten needs no conversion to itself)
        digits = [int(digit, 36) for digit in metadata["source_repr"]]
        total = digits[0]
        for digit in digits[1:]:
            steps += [f"{total}*{source}={total * source}", f"{total * source}+{digit}={total * source + digit}"]
            total = total * source + digit
    number, digits_so_far = metadata["decimal_value"], ""
    if target != 10:  # noqa: PLR2004
        while number:
            digits_so_far = _DIGITS[number % target] + digits_so_far
            steps.append(f"{number}/{target}={number // target} r{number % target} {digits_so_far}")
            number //= target
    return steps or [str(number)]


def _simple_geometry(metadata: dict[str, Any]) -> list[str]:
    inner = metadata["n_sides"] - 2
    angles = [-int(angle) for angle in metadata["known_angles"]]
    return [f"{inner}*180={inner * 180}", *_running_sum(inner * 180, angles)]


def _rotate_matrix(metadata: dict[str, Any]) -> list[str]:
    turns = metadata["num_rotations"]
    matrix = metadata["matrix"]
    steps = [f"{turns * 90}/90={turns} {turns}%4={turns % 4}"]
    for _ in range(turns % 4):
        matrix = [list(row) for row in zip(*matrix[::-1], strict=True)]
        steps.append("/".join("".join(map(str, row)) for row in matrix))
    return steps


_STEPS: dict[str, Steps] = {
    "chain_sum": _chain_sum,
    "basic_arithmetic": _basic_arithmetic,
    "products": _products,
    "gcd": lambda metadata: _euclid(*metadata["numbers"])[0],
    "prime_factorization": _prime_factorization,
    "fraction_simplification": _fraction_simplification,
    "simple_equations": _simple_equations,
    "complex_arithmetic": _complex_arithmetic,
    "spell_backward": lambda metadata: [" ".join(metadata["word"])],
    "word_sequence_reversal": _word_sequence_reversal,
    "number_filtering": _number_filtering,
    "letter_counting": _letter_counting,
    "count_bits": _count_bits,
    "leg_counting": _leg_counting,
    "calendar_arithmetic": _calendar_arithmetic,
    "time_intervals": _time_intervals,
    "base_conversion": _base_conversion,
    "simple_geometry": _simple_geometry,
    "rotate_matrix": _rotate_matrix,
}
