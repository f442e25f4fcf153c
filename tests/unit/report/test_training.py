"""What the report tells of training and of the tagger, and only what was recorded."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.runs import TASKS
from support.trainings import PARAMETERS, STEPS, TRAINABLE, adapter, older
from tapir.config.toml import parse
from tapir.config.training import ExternalTrainingConfig, SftConfig
from tapir.data.files import write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import ContrastRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import StoreError
from tapir.report.charts import losses, thin
from tapir.report.checks import Check, checks
from tapir.report.page import render
from tapir.report.summary import Summary
from tapir.report.training import Training, format_loss, read_tagger, read_trainings, recorded_fields

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

SFT = SftConfig()
PROGRAM = ExternalTrainingConfig(kind="command", command=("train",))
FALLS = "The loss falls in every training (mean of its first and last quarter)"
SILENT = {"steps": 0, "loss": [], "tokens": 0, "answer_tokens": 0, "too_long": [], "cut": [], "parameters": 0}
ODD = ("NaN", "Infinity", "-Infinity", "null", '"</script>"', "true")


def run_of(folder: Path, *contents: dict[str, Any], first: int = 1) -> RunStore:
    """A run directory that holds nothing but the training.json of its rounds."""
    store = RunStore(folder)
    for number, content in enumerate(contents, first):
        write_json(store.round(number) / "training.json", content)
    return store


def falling(number: int, *values: float) -> Training:
    return Training(number, list(enumerate(values, 1)))


def test_every_training_is_read_with_the_warm_up_first(api_summary: Summary) -> None:
    assert [each.name for each in api_summary.trainings] == ["warm-up", "round 1", "round 2", "round 3"]
    training = api_summary.trainings[2]
    assert (training.examples, training.epochs, training.steps, training.tokens) == (60, 2.0, STEPS, 123_458)
    assert (training.seconds, training.tokens_per_second) == (187.2, 1_234.56)
    assert (training.parameters, training.trainable) == (PARAMETERS, TRAINABLE)
    assert (training.too_long, training.preferences, training.not_numbers) == (1, None, 0)
    assert training.loss[-1][0] == STEPS


def test_preference_optimisation_without_a_pair_is_reported_as_none(tmp_path: Path) -> None:
    store = run_of(tmp_path, adapter(1), adapter(2, preferences=30))
    for number in (1, 2):
        store.write(f"round-{number}/contrasts", ContrastRow, [])
    trainings = read_trainings(RunReader(store), SFT)
    assert [each.preferences for each in trainings] == [0, 30]
    assert [len(each.preference_loss) for each in trainings] == [0, 30]


def test_a_run_of_an_older_version_says_less_and_is_read(tmp_path: Path) -> None:
    found = read_trainings(RunReader(run_of(tmp_path, older(1), older(2))), SFT)
    assert [one.number for one in found] == [1, 2]
    assert recorded_fields(found) == {
        *("number", "loss", "examples", "epochs", "steps", "tokens"),
        *("too_long", "not_numbers"),
    }


def test_a_program_that_tells_nothing_is_not_shown_as_zeros(tmp_path: Path) -> None:
    told = {"seconds": 12.5, "tokens_per_second": 0.0, "examples": 60, "epochs": 2.0}
    one = read_trainings(RunReader(run_of(tmp_path, SILENT | told)), PROGRAM)[0]
    assert one == Training(1, loss=(), seconds=12.5, examples=60, epochs=2.0)


def test_cut_examples_are_told_where_the_recipe_cuts(tmp_path: Path) -> None:
    store = run_of(tmp_path, older(1) | {"cut": ["0" * 16]}, older(2) | {"cut": []})
    cutting = SftConfig(too_long="cut")
    assert [one.cut for one in read_trainings(RunReader(store), cutting)] == [1, 0]
    assert [one.cut for one in read_trainings(RunReader(store), SFT)] == [1, None]


def test_a_loss_that_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    store = run_of(tmp_path, older(1))
    entries = ", ".join(f"[{step}, {loss}]" for step, loss in enumerate(("2.0", *ODD, "1.0")))
    (store.round(1) / "training.json").write_text(f'{{"loss": [{entries}], "seconds": NaN}}', "utf-8")
    one = read_trainings(RunReader(store), SFT)[0]
    assert one.loss == ((0, 2.0), (7, 1.0))
    assert one.not_numbers == len(ODD)
    assert one.seconds is None


@pytest.mark.parametrize(
    "damage", ['{"loss": 3}', '{"loss": [[1]]}', '{"too_long": 4}', "[1, 2]", '{"loss": [[NaN, 1]]}']
)
def test_a_damaged_training_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    store = run_of(tmp_path, older(1))
    (store.round(1) / "training.json").write_text(damage, "utf-8")
    with pytest.raises(StoreError, match=r"round-1/training\.json is damaged") as error:
        read_trainings(RunReader(store), SFT)
    assert "trains the round again" in str(error.value.remedy)


def test_start_and_end_are_means_of_a_quarter() -> None:
    assert falling(1, 4.0, 2.0, 9.0, 9.0, 9.0, 9.0, 1.0, 2.0).ends == (3.0, 1.5)
    assert falling(1, 3.0, 1.0).ends == (3.0, 1.0)
    assert falling(1, 3.0).ends is None
    assert falling(1).ends is None


@pytest.mark.parametrize(("loss", "text"), [(2.0, "2.000"), (0.0878, "0.088"), (0.00123, "0.0012"), (0.0, "0.000")])
def test_a_loss_is_written_with_digits_that_say_something(loss: float, text: str) -> None:
    assert format_loss(loss) == text


def learns(*trainings: Training) -> list[Check]:
    return checks(parse({}).curriculum, [], [], {}, trainings)


def test_the_loss_falls_where_it_falls_in_every_training_and_too_few_log_points_are_not_judged() -> None:
    found = learns(falling(0, *range(9, 1, -1)), falling(1, *range(8, 0, -1)))
    assert found == [Check(FALLS, holds=True, figures="8.500 -> 2.500, 7.500 -> 1.500")]
    down, up, flat = falling(1, *range(8, 0, -1)), falling(2, *range(8)), falling(3, *[1.0] * 8)
    assert [one.holds for one in (*learns(down, up), *learns(down, flat))] == [False, False]
    assert learns(down, up)[0].figures.endswith("0.500 -> 6.500")
    assert learns(falling(1, *range(8, 0, -1)), falling(2, *range(7, 0, -1))) == []
    assert learns() == []


curves = st.lists(st.floats(-1e6, 1e6), max_size=60).map(lambda values: list(enumerate(values)))


@given(curves, st.integers(1, 20).map(lambda half: 2 * half))
def test_a_long_curve_is_thinned_without_losing_its_peaks(curve: list[tuple[int, float]], most: int) -> None:
    found = thin(curve, most)
    assert len(found) <= max(most, 0)
    assert set(found) <= set(curve)
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    for extreme in (min, max):
        values = [loss for _, loss in curve]
        assert not values or extreme(loss for _, loss in found) == extreme(values)


def test_every_training_is_drawn_in_its_own_place() -> None:
    spec = losses({"warm-up": [(5, 3.0)], "round 1": [(10, 2.0), (900, 1.0)]}, "Loss.", height=200)
    rows = spec["data"]["values"] if "values" in spec["data"] else spec["datasets"][spec["data"]["name"]]
    assert [int(row["at"]) for row in rows] == [0, 1, 1]
    assert [row["seen"] for row in rows] == [1, 0, 0]  # one point alone makes no line
    assert spec["usermeta"]["palette"] == ["before", "after"]


def test_the_tagger_is_shown_with_its_worst_task_first(api_run: RunStore, api_summary: Summary) -> None:
    tagger = api_summary.tagger
    assert tagger is not None
    assert (tagger.trained_on, tagger.n, tagger.accuracy) == (90, 30, 0.9333)
    assert (tagger.calibration_error, tagger.abstained) == (0.0412, 2)
    table = render(api_run, api_summary).partition("Every task, the worst first")[2].partition("</table>")[0]
    shown = re.findall(r'<th scope="row">(.*?)</th>(<td.*?</td>)(<td.*?</td>)', table)
    assert [unescape(task) for task, _, _ in shown] == list(reversed(TASKS))
    assert [str(round(tagger.f1[unescape(task)], 3)) in f1 for task, f1, _ in shown] == [True] * len(TASKS)
    assert not re.search(r"\d", shown[0][2])  # it was guessed, and never true: it has no recall


@pytest.mark.parametrize("damage", ['{"n": 3}', "[1]", '{"n": 3, "trained_on": 1, "accuracy": 1.0, "by_task": 7}'])
def test_a_damaged_tagger_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "round-0" / "tagger.json"
    write_json(path, {})
    path.write_text(damage, "utf-8")
    with pytest.raises(StoreError, match=r"tagger\.json is damaged"):
        read_tagger(RunReader(RunStore(tmp_path)))
