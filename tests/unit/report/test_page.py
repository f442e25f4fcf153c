"""The report is one file, offline, and whatever the texts are they stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.pages import Elements, data_of, section, words
from support.runs import BENCHMARKS, HOSTILE, TASKS, UNANSWERED, UNSCORED, UNTAGGED, WITHHELD, build_run
from tapir.config.toml import load, parse
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import DifficultyRow, ExpansionRow
from tapir.data.run.store import RunStore
from tapir.report import charts, page
from tapir.report.sample import FATES, LONGEST, choose_sample
from tapir.report.summary import summarise
from tapir.runs.session import dated

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

CHARTS = {-1: 0, 0: 2, 1: 5, 3: 5}  # by the last finished round; -1 is nothing but the recipe


@pytest.fixture(scope="module")
def api_page(api_run: RunStore) -> str:
    return page.render(api_run, summarise(api_run))


@pytest.mark.parametrize("done", CHARTS)
def test_a_page_is_written_at_every_stage_of_a_run(tmp_path: Path, done: int) -> None:
    store = build_run(tmp_path, done=done)
    path = page.write_report(store, summarise(store))
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    assert len(data_of(text)["charts"]) == CHARTS[done]
    assert ("This run is unfinished" in text) is (done != 3)
    assert ("Nothing has been trained yet" in text) is (done < 1)


def test_a_folder_whose_name_is_not_utf_8_has_a_page(tmp_path: Path) -> None:
    store = build_run(tmp_path / os.fsdecode(b"caf\xe9"), done=-1)
    path = page.write_report(store, summarise(store))
    assert path
    assert "<code>caf\ufffd</code>" in path.read_text(encoding="utf-8")


def test_without_the_chart_library_there_is_no_report(gym_run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "vl_convert" else object())
    assert page.write_report(gym_run, summarise(gym_run)) is None


def test_nothing_is_loaded_from_anywhere_and_no_script_but_the_pages_own_may_run(api_page: str) -> None:
    for tag, attributes in Elements(api_page).found:
        assert not attributes.keys() & {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert "url(" not in (attributes.get("style") or "")
    style, script = page._file("style.css"), page._file("page.js")
    assert not any(word in style for word in ("url(", "@import"))
    for call in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert call not in script
    elements = Elements(api_page)
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    for script in elements.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_hostile_texts_stay_texts(api_page: str) -> None:
    elements = Elements(api_page)
    tags = elements.tags()
    assert len(elements.scripts) == tags["script"] == 3
    assert not tags.keys() & {"b", "i", "img", "svg", "iframe", "object"}
    assert tags["title"] == tags["body"] == 1
    assert {item["text"] for item in data_of(api_page)["sample"]}.issuperset(HOSTILE)


def test_the_page_shows_costs_the_judge_and_what_was_not_graded(api_page: str) -> None:
    costs = {tuple(row[:2]): row[2:] for row in Elements(section(api_page, "costs")).rows if len(row) > 5}
    assert costs["judge", "before 1"] == ["238", "136,000", "100,000", "35,000", "0.8500"]
    assert costs["Together", ""] == ["328", "180,000", "100,000", "59,300", "1.3000"]
    judge = words(api_page, "judge")
    assert judge.index("Held-out answers without a grade") < judge.index("Independence of the judge")
    assert "held-out answers without a grade" in api_page.partition("<nav")[0]
    rows = [row for row in Elements(section(api_page, "results")).rows if row[0] == "Not graded, not counted"]
    assert [row[1:5] for row in rows] == [["1", "1", "1", "1"], ["0", "30", "0", "0"]]


def test_what_trainings_recorded_is_shown_without_empty_columns(api_page: str, gym_run: RunStore) -> None:
    head, first, second, *_ = Elements(section(api_page, "training")).rows
    assert head == [
        *("Round", "Loss, start → end", "Examples", "Steps", "Tokens read", "Tokens/s", "Time"),
        *("Parameters trained", "Too long, left out"),
    ]
    assert first[2:] == ["120", "120", "123,456", "1,235", "3 min 5 s", "8.8\u202fM of 494\u202fM1.8\u202f%", "0"]
    assert (second[0], second[-1]) == ("1", "1")
    text = page.render(gym_run, summarise(gym_run))
    assert Elements(section(text, "training")).rows[0] == [*head[:5], "Too long, left out"]
    assert "0.041" in section(api_page, "tasks")
    assert [TASKS[-1], "0.600", "\N{EN DASH}", ""] in Elements(section(api_page, "tasks")).rows
    assert "calibration error" not in section(text, "tasks")


def test_every_instruction_is_in_one_state_and_a_small_sample_has_every_state_and_is_always_the_same(
    gym_run: RunStore,
) -> None:
    counts = choose_sample(RunReader(gym_run)).counts
    parts = Counter(row.part for row in gym_run.read("round-1/difficulty", DifficultyRow))
    for number in (1, 2, 3):
        rows = gym_run.read(f"round-{number}/expansions", ExpansionRow)
        parts.update("dropped" if row.reason else "kept" for row in rows)
    assert counts["unscored"] == parts["unscored"] == 2
    assert counts["withheld"] == parts["withheld"] == 1
    assert counts["expansion kept"] == parts["kept"] > 0
    assert counts["expansion dropped"] == parts["dropped"] > 0
    assert counts["dropped"] == 2
    scored = ("trained, hard", "trained, easy", "not drawn")
    assert sum(counts[fate] for fate in scored) == parts["hard"] + parts["easy"]
    few = choose_sample(RunReader(gym_run), limit=len(FATES)).items
    assert {item.fate for item in few} == FATES.keys() - {"hopeless", "trained", "waiting"}  # of other ways to measure
    assert few == choose_sample(RunReader(gym_run), limit=len(FATES)).items
    tasks = {item.task for item in choose_sample(RunReader(gym_run), limit=40).items if item.fate == "trained, easy"}
    assert len(tasks) >= len(TASKS) - 1


def test_an_instruction_of_an_unfinished_run_waits(tmp_path: Path) -> None:
    for done in (0, 1, 3):
        counts = choose_sample(RunReader(build_run(tmp_path / str(done), done=done))).counts
        assert (counts["waiting"] > 0, counts["not drawn"] > 0) == (done < 3, done == 3)


def luminance(colour: Sequence[float]) -> float:
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_cell_of_the_heat_map_can_be_read(api_run: RunStore) -> None:
    text = json.dumps(charts.success(summarise(api_run).benchmark(BENCHMARKS[0])))
    assert "luminance(scale('color', datum.value)) > 0.179" in text
    assert '"#000000"' in text
    assert '"#ffffff"' in text
    found = re.findall(r"--heat-\d: #(\w\w)(\w\w)(\w\w);", page._file("style.css"))
    steps = [[int(part, 16) / 255 for part in colour] for colour in found]
    assert len(steps) == 10
    for mode in (steps[:5], steps[5:]):
        for place in range(401):
            low, rest = min(3, place // 100), place / 100
            cell = luminance([a + (b - a) * (rest - low) for a, b in zip(mode[low], mode[low + 1], strict=True)])
            assert (((cell + 0.05) / 0.05) if cell > 0.179 else 1.05 / (cell + 0.05)) >= 4.5


def test_every_wide_table_scrolls(api_page: str) -> None:
    costs = section(api_page, "costs")
    assert '<div class="scroll"' in costs.partition("For each thing gained")[2].partition("<table")[0]


def test_the_sample_knows_why(gym_run: RunStore) -> None:
    items = choose_sample(RunReader(gym_run)).items
    corpus = {
        int(item.origin[13:-1]): item
        for item in items
        if item.origin.startswith("corpus (file:") and item.fate != "dropped"
    }
    assert (corpus[UNSCORED].fate, corpus[UNSCORED].gap) == ("unscored", None)
    assert "two replies without scores" in corpus[UNSCORED].reason
    assert "no answer" in (corpus[UNANSWERED].student or "")
    assert (corpus[WITHHELD].fate, corpus[WITHHELD].gap, corpus[WITHHELD].rounds) == ("withheld", -1.5, ())
    assert (corpus[UNTAGGED].fate, corpus[UNTAGGED].task) == ("not drawn", None)
    assert all(item.reason and not item.rounds for item in items if item.fate == "expansion dropped")
    trained = [item for item in items if item.fate.startswith("trained")]
    assert all(item.rounds and item.gap is not None for item in trained)
    assert any(item.refined for item in trained)


def test_a_very_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    store = build_run(tmp_path, done=0, tasks=(*TASKS[:2], "x" * 3_000), corpus=60)
    cut = [item for item in choose_sample(RunReader(store)).items if len(item.text) > LONGEST]
    assert cut
    assert all(item.text.endswith("more characters]") for item in cut)


def test_the_settings_are_a_recipe_that_runs_again() -> None:
    recipe = parse({"name": "mine", "seed": 3, "curriculum": {"size": 70, "target": {"shares": "room"}}})
    text, command = page.recipe_text(recipe)
    assert command == "tapir run recipe.toml"
    assert parse(tomllib.loads(text)) == recipe


def test_the_date_of_a_run_makes_a_shipped_recipe_no_other_recipe(tmp_path: Path) -> None:
    text, command = page.recipe_text(dated(load("smollm2"), tmp_path))
    assert command == "tapir run smollm2"
    assert "\ndate = " in text


@pytest.mark.parametrize(
    ("amount", "total", "text"),
    [(0.0, 0.0, "0.00"), (1234.567, 0.0, "1,234.57"), (0.0196, 0.0, "0.020"), (0.00000123, 0.0, "0.0000012"),
     (0.5, 0.8, "0.5000"), (0.5, 300.0, "0.50"), (0.00012, 0.0009, "0.000120")],
)  # fmt: skip
def test_money_has_as_many_digits_as_its_size_needs(amount: float, total: float, text: str) -> None:
    assert page.format_money(amount, total) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1_084_000, "1.08\u202fM"), (7_615_616_512, "7.62\u202fB"), (43_000, "43\u202fk"),
     (999_885_952, "1\u202fB"), (999_600_000_000, "1\u202fT")],
)  # fmt: skip
def test_numbers_of_parameters_are_short(number: int, text: str) -> None:
    assert page.format_count(number) == text
