"""The skills of the embedded world: generators of the library reasoning-gym at four graded levels.

Levels 1 to 3 may be trained on. Level 4 is kept for the question "does it hold one level
harder?". The skills in `UNSEEN` are never trained on at any level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Config: TypeAlias = Mapping[str, object]

TRAIN_LEVELS = (1, 2, 3)
HARDER_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Skill:
    """One generator with its difficulty ladder; `levels[0]` is level 1."""

    name: str
    family: str
    levels: tuple[Config, Config, Config, Config]

    def config(self, level: int) -> Config:
        """The generator's settings at `level` (1 to 4)."""
        return self.levels[level - 1]


def _ladder(key: str, *values: object, **fixed: object) -> tuple[Config, Config, Config, Config]:
    one, two, three, four = ({**fixed, key: value} for value in values)
    return one, two, three, four


def _span(low: str, high: str, *spans: tuple[object, object], **fixed: object) -> tuple[Config, Config, Config, Config]:
    one, two, three, four = ({**fixed, low: a, high: b} for a, b in spans)
    return one, two, three, four


_SIGNED = {"operations": ("+", "-"), "operations_weights": [0.5, 0.5]}
_PLAIN = {"operators": ("+", "-", "*"), "allow_parentheses": False, "allow_negation": False}

TRAINED = (
    Skill(
        "chain_sum",
        "arithmetic",
        (
            {"min_terms": 2, "max_terms": 2, "max_digits": 2},
            {"min_terms": 3, "max_terms": 3, "max_digits": 2},
            {"min_terms": 4, "max_terms": 4, "max_digits": 2},
            {"min_terms": 5, "max_terms": 5, "max_digits": 2},
        ),
    ),
    Skill(
        "basic_arithmetic",
        "arithmetic",
        _span("min_terms", "max_terms", (2, 2), (3, 3), (4, 4), (5, 5), max_digits=1, **_PLAIN),
    ),
    Skill(
        "products",
        "arithmetic",
        (
            {"max_digits": 1},
            {"min_terms": 3, "max_terms": 3, "max_digits": 1},
            {"min_digits": 2, "max_digits": 2},
            {"min_digits": 3, "max_digits": 3},
        ),
    ),
    Skill("gcd", "number theory", _ladder("max_value", 20, 40, 80, 160, min_value=2)),
    Skill(
        "prime_factorization",
        "number theory",
        _span("min_value", "max_value", (2, 60), (61, 150), (151, 300), (301, 500)),
    ),
    Skill(
        "fraction_simplification",
        "number theory",
        _span("max_value", "max_factor", (9, 5), (12, 9), (20, 9), (40, 12), styles=("plain",), min_factor=2),
    ),
    Skill("simple_equations", "algebra", _ladder("max_value", 9, 20, 40, 99, max_terms=2)),
    Skill(
        "complex_arithmetic",
        "algebra",
        (
            {"min_real": 0, "max_real": 9, "min_imag": 0, "max_imag": 9, **_SIGNED},
            {"min_real": -9, "max_real": 9, "min_imag": -9, "max_imag": 9, **_SIGNED},
            {"min_real": -20, "max_real": 20, "min_imag": -20, "max_imag": 20, **_SIGNED},
            {"min_real": -60, "max_real": 60, "min_imag": -60, "max_imag": 60, **_SIGNED},
        ),
    ),
    Skill(
        "syllogism",
        "logic",
        (
            {"allow_some": False, "allow_some_not": False, "inversion_probability": 0.0},
            {"allow_some_not": False, "inversion_probability": 0.0},
            {"allow_some_not": False, "inversion_probability": 0.3},
            {"inversion_probability": 0.3},
        ),
    ),
    Skill(
        "aiw",
        "logic",
        (
            {"task_type_weights": [1.0, 0.0, 0.0], "max_entities": 5},
            {"task_type_weights": [0.0, 1.0, 0.0], "max_entities": 5},
            {"task_type_weights": [0.5, 0.5, 0.0], "max_entities": 9},
            {"task_type_weights": [0.5, 0.5, 0.0], "max_entities": 20},
        ),
    ),
    Skill("spell_backward", "strings", _span("min_word_len", "max_word_len", (3, 4), (5, 6), (7, 8), (9, 10))),
    Skill("word_sequence_reversal", "strings", _span("min_words", "max_words", (2, 2), (3, 3), (4, 4), (5, 5))),
    Skill(
        "number_filtering",
        "strings",
        _span("min_numbers", "max_numbers", (2, 2), (3, 3), (4, 5), (6, 7), max_decimals=0),
    ),
    Skill("letter_counting", "counting", _span("min_words", "max_words", (2, 3), (4, 5), (6, 7), (8, 10))),
    Skill("count_bits", "counting", _span("min_n", "max_n", (1, 63), (64, 255), (256, 1023), (1024, 4095))),
    Skill(
        "leg_counting",
        "counting",
        (
            {"min_animals": 1, "max_animals": 1, "max_instances": 9},
            {"min_animals": 2, "max_animals": 2, "max_instances": 5},
            {"min_animals": 3, "max_animals": 3, "max_instances": 5},
            {"min_animals": 4, "max_animals": 4, "max_instances": 5},
        ),
    ),
    Skill(
        "calendar_arithmetic",
        "calendar",
        (
            {"tasks": ["is_leap_year"]},
            {"tasks": ["weekday_offset"], "offset_upper_bound": 20},
            {"tasks": ["weekday_offset"], "offset_upper_bound": 60},
            {"tasks": ["weekday_offset"], "offset_upper_bound": 99},
        ),
    ),
    Skill(
        "time_intervals",
        "calendar",
        _ladder("max_time_difference_seconds", 1800, 5400, 14400, 43200, task_types=["time"]),
    ),
    Skill(
        "base_conversion",
        "conversion",
        (
            {"min_base": 2, "max_base": 5, "min_value": 2, "max_value": 20},
            {"min_base": 2, "max_base": 8, "min_value": 8, "max_value": 60},
            {"min_base": 2, "max_base": 10, "min_value": 20, "max_value": 200},
            {"min_base": 2, "max_base": 12, "min_value": 100, "max_value": 500},
        ),
    ),
    Skill(
        "family_relationships",
        "relations",
        _span("min_family_size", "max_family_size", (3, 3), (4, 4), (5, 5), (6, 7)),
    ),
    Skill(
        "number_sequence",
        "induction",
        (
            {"min_terms": 4, "max_terms": 5, "min_value": 0, "max_value": 9, "max_complexity": 1},
            {"min_terms": 4, "max_terms": 6, "min_value": -9, "max_value": 9, "max_complexity": 1},
            {"min_terms": 5, "max_terms": 6, "min_value": -9, "max_value": 9, "max_complexity": 2},
            {"min_terms": 5, "max_terms": 7, "min_value": -20, "max_value": 20, "max_complexity": 3},
        ),
    ),
    Skill("simple_geometry", "geometry", _span("min_sides", "max_sides", (3, 3), (4, 4), (5, 5), (6, 6))),
    Skill(
        "rotate_matrix",
        "geometry",
        (
            {"min_n": 2, "max_n": 2, "max_rotations": 3},
            {"min_n": 2, "max_n": 2, "max_rotations": 8},
            {"min_n": 3, "max_n": 3, "max_rotations": 3},
            {"min_n": 4, "max_n": 4, "max_rotations": 3},
        ),
    ),
)

UNSEEN = (
    Skill("lcm", "number theory", _ladder("max_value", 10, 20, 40, 80)),
    Skill(
        "decimal_chain_sum",
        "arithmetic",
        _ladder("max_terms", 2, 3, 4, 5, max_digits=1, max_decimal_places=1),
    ),
    Skill("coin_flip", "probability", _ladder("max_trials", 8, 12, 16, 20)),
    Skill(
        "sentence_reordering",
        "strings",
        _span("min_words_in_sentence", "max_words_in_sentence", (3, 3), (4, 4), (5, 5), (6, 6)),
    ),
)

SKILLS: Mapping[str, Skill] = {skill.name: skill for skill in (*TRAINED, *UNSEEN)}
