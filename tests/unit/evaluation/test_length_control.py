"""The length-controlled rate on annotations whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from tapir.domain.errors import DataError
from tapir.evaluation.annotations import Annotation
from tapir.evaluation.length_control import (
    LengthControlFiles,
    LengthControlled,
    length_controlled,
    length_controlled_together,
    read_files,
)

PROMPTS = 400


def made(ability: float, lengths: float, effect: float, seed: int, model: str = "m") -> list[Annotation]:
    """Annotations drawn from the model itself: answers longer than the baseline's by `lengths` on average."""
    rng = np.random.default_rng(seed)
    difference = np.round(rng.normal(lengths, 300, PROMPTS))
    gamma = np.random.default_rng(99).normal(0, 1, PROMPTS)
    chances = expit(ability + effect * np.tanh(difference / difference.std(ddof=1)) + gamma)
    return [
        Annotation(model, "b", "", place, "", float(chance), int(2000 + more), 2000)
        for place, (chance, more) in enumerate(zip(chances, difference, strict=True))
    ]


def truth(ability: float) -> float:
    return float(expit(ability + np.random.default_rng(99).normal(0, 1, PROMPTS)).mean())


def difficulties(folder: Path) -> Path:
    gamma = np.random.default_rng(99).normal(0, 1, PROMPTS)
    path = folder / "instruction_difficulty.csv"
    path.write_text(
        ",instruction_difficulty\n" + "".join(f"{place},{one}\n" for place, one in enumerate(gamma)), encoding="utf-8"
    )
    return path


def several(count: int, seed: int) -> tuple[dict[str, list[Annotation]], dict[str, float]]:
    """Models whose answers win or lose, most of them shorter than the baseline's, and their true rates."""
    rng = np.random.default_rng(seed)
    difficulty, models, truth = rng.normal(size=PROMPTS), {}, {}
    for name in map("m{}".format, range(count)):
        ability, more = rng.normal(-1.5, 1), np.round(rng.normal(rng.uniform(-900, 300), 600, PROMPTS))
        chances = expit(ability + rng.normal(1.2, 0.4) * np.tanh(more / more.std(ddof=1)) + 1.5 * difficulty)
        models[name] = [
            Annotation(name, "b", "", place, "", float(rng.uniform() < chance), int(2000 + length), 2000)
            for place, (chance, length) in enumerate(zip(chances, more, strict=True))
        ]
        truth[name] = float(expit(ability + 1.5 * np.random.default_rng(0).normal(size=20_000)).mean())
    return models, truth


def rate(found: LengthControlled | str) -> float:
    assert isinstance(found, LengthControlled), found
    return found.rate.value


def test_what_length_alone_won_is_taken_out_with_difficulties_from_a_file(tmp_path: Path) -> None:
    given = read_files(difficulties(tmp_path), None)
    rows = made(-0.5, 250, 2.0, seed=1)
    raw = np.mean([one.preference for one in rows])
    found = length_controlled(rows, given)
    assert rate(found) == pytest.approx(truth(-0.5), abs=0.01)
    assert raw > truth(-0.5) + 0.1
    assert isinstance(found, LengthControlled)
    assert found.how == "difficulty file"
    assert found.length_effect == pytest.approx(2.0, abs=0.1)
    assert found.rate.low < found.rate.value < found.rate.high


def test_intervals_of_models_together_hold_the_truth_as_often_as_they_say() -> None:
    held = []
    for seed in range(6):
        models, truth = several(5, seed)
        for model, found in length_controlled_together(models, LengthControlFiles()).items():
            assert isinstance(found, LengthControlled)
            assert found.how == "joint difficulty"
            assert found.rate.low < found.rate.value < found.rate.high
            held.append(found.rate.low <= truth[model] <= found.rate.high)
    assert np.mean(held) >= 0.9


def test_fewer_models_than_five_have_a_regression_each() -> None:
    models = {name: rows[:60] for name, rows in several(5, seed=0)[0].items()}
    models["m4"] = [replace(row, preference=0.5) for row in models["m4"]]  # nothing but ties cannot be compared
    together = length_controlled_together(models, LengthControlFiles())
    assert together == {model: length_controlled(rows, LengthControlFiles()) for model, rows in models.items()}


def test_a_model_that_lacks_prompts_or_a_verdict_on_equal_lengths_does_not_disturb_the_others() -> None:
    models, truth = several(6, seed=1)
    models["m0"] = models["m0"][::2]
    models["m1"] = [replace(row, preference=0.0) for row in models["m1"]]
    found = length_controlled_together(models, LengthControlFiles())
    assert list(found) == list(models)
    assert isinstance(found["m1"], str)
    assert [rate(found[name]) for name in ("m0", "m2")] == pytest.approx([truth["m0"], truth["m2"]], abs=0.08)
    assert isinstance(found["m0"], LengthControlled)
    assert found["m0"].rate.n == PROMPTS / 2


def test_a_single_model_without_difficulties_says_that_only_length_was_taken_out() -> None:
    found = length_controlled(made(-0.5, 100, 2.0, seed=1), LengthControlFiles())
    assert isinstance(found, LengthControlled)
    assert found.how == "length only"


def test_a_single_model_whose_answers_are_all_short_gets_no_number() -> None:
    found = length_controlled(made(-0.5, -1500, 2.0, seed=1), LengthControlFiles())
    assert isinstance(found, str)
    assert found.startswith("0.0 % of its answers are longer than the baseline's and 100.0 % shorter")


@pytest.mark.parametrize(
    ("preference", "count", "said"),
    [(0.5, 100, "ties"), (0.0, 100, "wins nowhere"), (1.0, 100, "wins everywhere"), (0.3, 1, "too few")],
)
def test_what_has_no_finite_answer_is_not_computed_and_says_why(preference: float, count: int, said: str) -> None:
    rows = [Annotation("m", "b", "", place, "", preference, 10 + place % 7, 12) for place in range(count)]
    found = length_controlled(rows, LengthControlFiles())
    assert isinstance(found, str)
    assert said in found


def test_answers_that_win_exactly_where_they_are_longer_give_a_finite_rate_or_none() -> None:
    rows = [
        Annotation("m", "b", "", place, "", float(place % 2), 100 + (50 if place % 2 else -50), 100)
        for place in range(60)
    ]
    found = length_controlled(rows, LengthControlFiles())
    assert isinstance(found, str) or np.isfinite(found.rate.value)


def test_a_difficulty_file_without_a_prompt_is_refused_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "instruction_difficulty.csv"
    path.write_text(",instruction_difficulty\n0,0.5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no value for 399 prompts; the first is at place 1"):
        length_controlled(made(0, 0, 1, seed=1), read_files(path, None))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        (",instruction_difficulty\n0,nan\n", ": instruction_difficulty is 'nan'"),
        ("index\n0\n", "no '"),
    ],
)
def test_a_difficulty_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_files(path, None)


def test_the_gamed_file_brings_difficulties_and_its_lengths_are_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "df_gamed.csv"
    path.write_text(
        "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
        "concise,0.2,0,1.0,-0.5,False\nverbose,0.7,0,-1.0,-0.5,False\nconcise,,1,0.5,0.25,False\n",
        encoding="utf-8",
    )
    given = read_files(None, path)
    assert given.difficulty == {0: -0.5, 1: 0.25}
    assert given.gamed is not None
    assert given.gamed[:, 0].tolist() == pytest.approx([-np.tanh(1), np.tanh(1)])
    assert given.gamed[:, 2].tolist() == [0.2, 0.7]
