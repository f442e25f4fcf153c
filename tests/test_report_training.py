"""What the report tells of training and of the tagger, and only what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.errors import StoreError
from tapir.recipe_file import parse
from tapir.report import page
from tapir.report.charts import losses, thinned
from tapir.report.checks import Check, checks
from tapir.report.summary import Summary, summarise
from tapir.report.tagger import TaskFigures, read_tagger
from tapir.report.training import Training, read_trainings, recorded, written
from tapir.store.files import write_json
from tapir.store.run import RunStore
from tests.browser import Browser, binary, browser
from tests.runs import TASKS, build_run
from tests.trainings import PARAMETERS, STEPS, TRAINABLE, adapter, older

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

SFT: dict[str, Any] = {"training": {"kind": "sft", "too_long": "drop"}}
PROGRAM: dict[str, Any] = {"training": {"kind": "command"}}
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


class Cells(HTMLParser):
    """The texts of a page's table cells and of everything else, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data.strip()


def rendered(store: RunStore) -> str:
    return page.render(store, summarise(store))


def section(text: str, name: str) -> str:
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("run"), api=True)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("run"), done=2)


@pytest.fixture(scope="module")
def summary(store: RunStore) -> Summary:
    return summarise(store)


# What is read ----------------------------------------------------------------------------------------


def test_every_training_is_read_with_the_warm_up_first(summary: Summary) -> None:
    assert [one.name for one in summary.trainings] == ["warm-up", "round 1", "round 2", "round 3"]
    one = summary.trainings[2]
    assert (one.examples, one.epochs, one.steps, one.tokens) == (60, 2.0, STEPS, 123_458)
    assert (one.seconds, one.tokens_per_second) == (187.2, 1_234.56)
    assert (one.parameters, one.trainable) == (PARAMETERS, TRAINABLE)
    assert (one.too_long, one.preferences, one.not_numbers) == (1, 30, 0)
    assert len(one.preference_loss) == 30
    assert one.loss[-1][0] == STEPS


def test_a_round_without_preference_optimisation_has_no_number_of_pairs(summary: Summary) -> None:
    assert summary.trainings[0].preferences is None
    assert summary.trainings[0].preference_loss == ()


def test_preference_optimisation_that_found_no_pair_is_told_as_none(store: RunStore) -> None:
    path = store.round(3) / "training.json"
    before = path.read_text("utf-8")
    try:
        write_json(path, adapter(3))
        assert read_trainings(store, SFT)[3].preferences == 0
    finally:
        path.write_text(before, "utf-8")


def test_a_run_of_an_older_version_says_less_and_is_read(old: RunStore) -> None:
    found = read_trainings(old, SFT)
    assert [one.number for one in found] == [1, 2]
    assert recorded(found) == {
        *("number", "loss", "examples", "epochs", "steps", "tokens"),
        *("too_long", "not_numbers"),
    }


def test_the_very_first_version_said_even_less(tmp_path: Path) -> None:
    one = read_trainings(run_of(tmp_path, {"steps": 4}), {})[0]
    assert one == Training(1, loss=(), steps=4)


def test_a_program_that_tells_nothing_is_not_shown_as_zeros(tmp_path: Path) -> None:
    told = {"seconds": 12.5, "tokens_per_second": 0.0, "examples": 60, "epochs": 2.0}
    one = read_trainings(run_of(tmp_path, SILENT | told), PROGRAM)[0]
    assert one == Training(1, loss=(), seconds=12.5, examples=60, epochs=2.0)


def test_cut_examples_are_told_where_the_recipe_cuts(tmp_path: Path) -> None:
    store = run_of(tmp_path, older(1) | {"cut": ["0" * 16]}, older(2) | {"cut": []})
    cutting = {"training": {"too_long": "cut"}}
    assert [one.cut for one in read_trainings(store, cutting)] == [1, 0]
    assert [one.cut for one in read_trainings(store, SFT)] == [1, None]


def test_a_run_without_rounds_has_no_trainings(tmp_path: Path) -> None:
    assert read_trainings(RunStore(tmp_path), SFT) == []
    assert recorded([]) == frozenset()


def test_a_loss_that_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    store = run_of(tmp_path, older(1))
    entries = ", ".join(f"[{step}, {loss}]" for step, loss in enumerate(("2.0", *ODD, "1.0")))
    (store.round(1) / "training.json").write_text(f'{{"loss": [{entries}], "seconds": NaN}}', "utf-8")
    one = read_trainings(store, SFT)[0]
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
        read_trainings(store, SFT)
    assert "trains the round again" in str(error.value.remedy)


def test_start_and_end_are_means_of_a_quarter() -> None:
    assert falling(1, 4.0, 2.0, 9.0, 9.0, 9.0, 9.0, 1.0, 2.0).ends == (3.0, 1.5)
    assert falling(1, 3.0, 1.0).ends == (3.0, 1.0)
    assert falling(1, 3.0).ends is None
    assert falling(1).ends is None


@pytest.mark.parametrize(("loss", "text"), [(2.0, "2.000"), (0.0878, "0.088"), (0.00123, "0.0012"), (0.0, "0.000")])
def test_a_loss_is_written_with_digits_that_say_something(loss: float, text: str) -> None:
    assert written(loss) == text


# The check -------------------------------------------------------------------------------------------


def learns(*trainings: Training) -> list[Check]:
    return checks(parse({}).resolved(), [], [], {}, trainings)


def test_a_loss_that_falls_in_every_training_is_said_so() -> None:
    found = learns(falling(0, *range(9, 1, -1)), falling(1, *range(8, 0, -1)))
    assert found == [Check(FALLS, holds=True, figures="8.500 -> 2.500, 7.500 -> 1.500")]


def test_one_loss_that_rises_or_stays_is_enough_to_fail() -> None:
    down, up, flat = falling(1, *range(8, 0, -1)), falling(2, *range(8)), falling(3, *[1.0] * 8)
    assert [one.holds for one in (*learns(down, up), *learns(down, flat))] == [False, False]
    assert learns(down, up)[0].figures.endswith("0.500 -> 6.500")


def test_too_few_log_points_are_not_judged() -> None:
    assert learns(falling(1, *range(8, 0, -1)), falling(2, *range(7, 0, -1))) == []
    assert learns() == []


def test_the_summary_has_the_check(summary: Summary) -> None:
    assert next(one for one in summary.checks if one.claim == FALLS).holds


# The charts ------------------------------------------------------------------------------------------

curves = st.lists(st.floats(-1e6, 1e6), max_size=60).map(lambda values: list(enumerate(values)))


@given(curves, st.integers(1, 20).map(lambda half: 2 * half))
def test_a_long_curve_is_thinned_without_losing_its_peaks(curve: list[tuple[int, float]], most: int) -> None:
    found = thinned(curve, most)
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


# The tagger ------------------------------------------------------------------------------------------


def test_the_tagger_is_read_with_its_worst_task_first(summary: Summary) -> None:
    tagger = summary.tagger
    assert tagger is not None
    assert (tagger.trained_on, tagger.n, tagger.accuracy) == (90, 30, 0.9333)
    assert (tagger.calibration_error, tagger.abstained) == (0.0412, 2)
    assert [one.task for one in tagger.tasks] == list(reversed(TASKS))
    assert tagger.tasks[0].recall is None  # it was guessed, and never true
    assert tagger.macro_f1 == pytest.approx(0.8)


def test_an_older_tagger_has_recall_alone(tmp_path: Path) -> None:
    by_task = {"Math": 0.9, "History": 0.4}
    content = {"trained_on": 90, "n": 30, "accuracy": 0.9, "by_task": by_task}
    write_json(tmp_path / "round-0" / "tagger.json", content)
    found = read_tagger(RunStore(tmp_path))
    assert found is not None
    assert found.tasks == [TaskFigures("History", None, 0.4), TaskFigures("Math", None, 0.9)]
    assert (found.macro_f1, found.calibration_error, found.abstained) == (None, None, None)


def test_a_tagger_that_learnt_nothing_has_no_figures(tmp_path: Path) -> None:
    assert read_tagger(RunStore(tmp_path)) is None
    write_json(tmp_path / "round-0" / "tagger.json", {})
    assert read_tagger(RunStore(tmp_path)) is None


@pytest.mark.parametrize("damage", ['{"n": 3}', "[1]", '{"n": 3, "trained_on": 1, "accuracy": 1.0, "by_task": 7}'])
def test_a_damaged_tagger_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "round-0" / "tagger.json"
    write_json(path, {})
    path.write_text(damage, "utf-8")
    with pytest.raises(StoreError, match=r"tagger\.json is damaged"):
        read_tagger(RunStore(tmp_path))


# The page --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def new_page(store: RunStore) -> str:
    return rendered(store)


@pytest.fixture(scope="module")
def old_page(old: RunStore) -> str:
    return rendered(old)


def test_the_table_shows_what_was_recorded(new_page: str) -> None:
    head, first, second, *_ = Cells(section(new_page, "training")).rows
    assert head == [
        *("Round", "Loss, start → end", "Examples", "Steps", "Tokens read", "Tokens/s", "Time"),
        *("Parameters trained", "Too long, left out", "Preference pairs"),
    ]
    assert first[2:] == [
        *("60", "120", "123,456", "1,235", "3 min 05 s", "8.8\u202fM of 494\u202fM1.8\u202f%", "0", "\N{EN DASH}"),
    ]
    assert (second[0], second[-2:]) == ("1", ["1", "30"])


def test_the_table_of_an_older_run_has_no_empty_columns(old_page: str) -> None:
    rows = Cells(section(old_page, "training")).rows
    assert rows[0] == ["Round", "Loss, start → end", "Examples", "Steps", "Tokens read", "Too long, left out"]
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    assert "session" not in section(old_page, "training")


def test_the_tagger_table_shows_f1_and_what_was_not_measured(new_page: str, old_page: str) -> None:
    text = section(new_page, "tasks")
    assert [TASKS[-1], "0.600", "\N{EN DASH}", ""] in Cells(text).rows
    assert "0.041" in text
    assert "calibration error" not in section(old_page, "tasks")
    assert "abstained" not in section(old_page, "tasks")


@pytest.mark.parametrize("done", [-1, 0])
def test_before_the_first_training_the_page_says_so(tmp_path: Path, done: int) -> None:
    assert "Nothing has been trained yet" in section(rendered(build_run(tmp_path, done=done)), "training")


def test_a_training_without_a_loss_is_shown_without_a_chart(tmp_path: Path) -> None:
    store = build_run(tmp_path, done=1)
    write_json(store.round(1) / "training.json", SILENT | {"examples": 60})
    text = section(rendered(store), "training")
    assert "No loss was recorded" in text
    assert "data-chart" not in text
    assert Cells(text).rows == [["Round", "Examples", "Too long, left out"], ["1", "60", "0"]]


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1_084_000, "1.08\u202fM"), (7_615_616_512, "7.62\u202fB"), (43_000, "43\u202fk")],
)
def test_parameters_are_named_as_people_do(number: int, text: str) -> None:
    assert page._many(number) == text


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if binary() is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_odd_losses_are_drawn_without_an_error(tab: Browser, tmp_path: Path) -> None:
    store = build_run(tmp_path, rounds=9, done=9)
    odd = [
        [[step, loss] for step, loss in enumerate((float("nan"), 3.0, float("inf"), 2.0))],
        [[1, 5.0]],
        [],
        [[step, 1e9] for step in range(5_000)],
        [[0, 1.0]],
        [[step, 1.0 - step] for step in range(9)],
    ]
    for number, loss in enumerate(odd, 1):
        write_json(store.round(number) / "training.json", older(number) | {"loss": loss})
    found = tmp_path / "odd.html"
    found.write_text(rendered(store), "utf-8")
    tab.open(found, width=390, height=844)
    assert tab.ask("document.documentElement.dataset.errors") == "[]"
    assert tab.complaints == []
    assert tab.ask("document.documentElement.dataset.overflow") == "0"
    assert tab.ask("document.querySelectorAll('[data-chart=loss] .mark-line path').length") == 8
    assert "Round 1: 2 logged losses are not a number" in tab.ask("document.getElementById('training').innerText")
    assert found.stat().st_size < 5_000_000  # a loss at every step does not fill the page
