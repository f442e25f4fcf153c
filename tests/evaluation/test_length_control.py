"""The length-controlled rate on annotations whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapir.errors import DataError
from tapir.evaluation.annotations import Annotation
from tapir.evaluation.length_control import Given, LengthControlled, NotComputed, length_controlled
from tapir.evaluation.length_files import read_given
from tapir.evaluation.length_fit import logistic

PROMPTS = 400


def made(ability: float, lengths: float, effect: float, seed: int, model: str = "m") -> list[Annotation]:
    """Annotations drawn from the model itself: answers longer than the baseline's by `lengths` on average."""
    dice = np.random.default_rng(seed)
    difference = np.round(dice.normal(lengths, 300, PROMPTS))
    gamma = np.random.default_rng(99).normal(0, 1, PROMPTS)
    chances = logistic(ability + effect * np.tanh(difference / difference.std(ddof=1)) + gamma)
    return [
        Annotation(model, "b", "", place, "", float(chance), int(2000 + more), 2000)
        for place, (chance, more) in enumerate(zip(chances, difference, strict=True))
    ]


def truth(ability: float) -> float:
    return float(logistic(ability + np.random.default_rng(99).normal(0, 1, PROMPTS)).mean())


def difficulties(folder: Path) -> Path:
    gamma = np.random.default_rng(99).normal(0, 1, PROMPTS)
    path = folder / "instruction_difficulty.csv"
    path.write_text(
        ",instruction_difficulty\n" + "".join(f"{place},{one}\n" for place, one in enumerate(gamma)), encoding="utf-8"
    )
    return path


def rate(found: LengthControlled | NotComputed) -> float:
    assert isinstance(found, LengthControlled), found
    return found.rate.value


@pytest.mark.slow
def test_what_length_alone_won_is_taken_out_with_difficulties_from_a_file(tmp_path: Path) -> None:
    given = read_given(difficulties(tmp_path), None)
    rows = made(-0.5, 250, 2.0, seed=1)
    raw = np.mean([one.preference for one in rows])
    found = length_controlled({"m": rows}, given, seed=0)["m"]
    assert rate(found) == pytest.approx(truth(-0.5), abs=0.01)
    assert raw > truth(-0.5) + 0.1
    assert isinstance(found, LengthControlled)
    assert found.how == "difficulty file"
    assert found.length_effect == pytest.approx(2.0, abs=0.1)
    assert found.rate.low < found.rate.value < found.rate.high


@pytest.mark.slow
def test_with_several_models_the_difficulty_is_estimated_from_all_of_them() -> None:
    abilities = {"a": -1.5, "b": -0.5, "c": 0.5}
    models = {name: made(one, 200, 1.5, seed=turn, model=name) for turn, (name, one) in enumerate(abilities.items())}
    found = length_controlled(models, Given(), seed=0)
    for name, ability in abilities.items():
        assert rate(found[name]) == pytest.approx(truth(ability), abs=0.02)


def test_a_single_model_without_difficulties_says_that_only_length_was_taken_out() -> None:
    found = length_controlled({"m": made(-0.5, 100, 2.0, seed=1)}, Given(), seed=0)["m"]
    assert isinstance(found, LengthControlled)
    assert found.how == "length only"


def test_a_single_model_whose_answers_are_all_short_gets_no_number() -> None:
    found = length_controlled({"m": made(-0.5, -1500, 2.0, seed=1)}, Given(), seed=0)["m"]
    assert isinstance(found, NotComputed)
    assert found.reason.startswith("0.0 % of its answers are longer than the baseline's and 100.0 % shorter")


@pytest.mark.parametrize(
    ("preference", "count", "said"),
    [(0.5, 100, "ties"), (0.0, 100, "wins nowhere"), (1.0, 100, "wins everywhere"), (0.3, 1, "too few")],
)
def test_what_has_no_finite_answer_is_not_computed_and_says_why(preference: float, count: int, said: str) -> None:
    rows = [Annotation("m", "b", "", place, "", preference, 10 + place % 7, 12) for place in range(count)]
    found = length_controlled({"m": rows}, Given(), seed=0)["m"]
    assert isinstance(found, NotComputed)
    assert said in found.reason


def test_answers_that_win_exactly_where_they_are_longer_give_a_finite_rate_or_none() -> None:
    rows = [
        Annotation("m", "b", "", place, "", float(place % 2), 100 + (50 if place % 2 else -50), 100)
        for place in range(60)
    ]
    found = length_controlled({"m": rows}, Given(), seed=0)["m"]
    assert isinstance(found, NotComputed) or np.isfinite(found.rate.value)


def test_a_difficulty_file_without_a_prompt_is_refused_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "instruction_difficulty.csv"
    path.write_text(",instruction_difficulty\n0,0.5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no value for 399 prompts; the first is at place 1"):
        length_controlled({"m": made(0, 0, 1, seed=1)}, read_given(path, None), seed=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no rows"), (",instruction_difficulty\n0,nan\n", "is 'nan' in a row"), ("index\n0\n", "no column")],
)
def test_a_difficulty_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_given(path, None)


def test_the_gamed_file_brings_difficulties_and_its_lengths_are_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "df_gamed.csv"
    path.write_text(
        "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
        "concise,0.2,0,1.0,-0.5,False\nverbose,0.7,0,-1.0,-0.5,False\nconcise,,1,0.5,0.25,False\n",
        encoding="utf-8",
    )
    given = read_given(None, path)
    assert given.difficulty == {0: -0.5, 1: 0.25}
    assert given.gamed is not None
    assert given.gamed.length.tolist() == pytest.approx([-np.tanh(1), np.tanh(1)])
    assert given.gamed.preference.tolist() == [0.2, 0.7]
