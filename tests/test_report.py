"""The report: one file, offline, whatever the texts are, and drawn by a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tapir.domain.instruction import instruction_id
from tapir.recipe_file import parse
from tapir.report import page
from tapir.report.sample import FATES, LONGEST, select
from tapir.report.summary import summarise
from tapir.store.run import RunStore
from tests.browser import Browser, binary, browser
from tests.runs import (
    BENCHMARKS,
    HOSTILE,
    TASKS,
    UNANSWERED,
    UNSCORED,
    UNTAGGED,
    WITHHELD,
    build_run,
    fates,
)

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

STAGES = {"nothing yet": -1, "first look": 0, "one round of three": 1, "finished": 3}
CHARTS = {"nothing yet": 0, "first look": 2, "one round of three": 5, "finished": 5, "over an API": 7}
WINDOWS = {"phone": (390, 844), "tablet": (768, 1024), "desktop": (1280, 900)}
ROOT = "document.documentElement.dataset"
LABELS = "[...document.querySelectorAll('.role-axis-label text')].map((text) => text.getAttribute('fill'))[0]"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    def tags(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.found)


def written(store: RunStore) -> Path:
    path = page.write_report(store, summarise(store))
    assert path is not None
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunStore]:
    made = {name: build_run(tmp_path_factory.mktemp("run"), done=done) for name, done in STAGES.items()}
    return made | {"over an API": build_run(tmp_path_factory.mktemp("run"), api=True)}


@pytest.fixture(scope="module")
def pages(stores: dict[str, RunStore]) -> dict[str, Path]:
    return {name: written(store) for name, store in stores.items()}


@pytest.fixture(scope="module")
def text(pages: dict[str, Path]) -> str:
    return pages["finished"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if binary() is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def data_of(text: str) -> Any:
    return json.loads(Elements(text).scripts[0])


def see(tab: Browser, path: Path, window: str, *, dark: bool = False) -> None:
    width, height = WINDOWS[window]
    tab.open(path, width=width, height=height, dark=dark)


# The file --------------------------------------------------------------------------------------------


def test_the_report_is_written_into_the_run_directory_and_is_small(pages: dict[str, Path]) -> None:
    for path in pages.values():
        assert path.name == "report.html"
        assert path.stat().st_size < 5_000_000


def test_without_the_chart_library_there_is_no_report(
    stores: dict[str, RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "vl_convert" else object())
    store = stores["nothing yet"]
    assert page.write_report(store, summarise(store)) is None


@pytest.mark.parametrize("stage", CHARTS)
def test_nothing_is_loaded_from_anywhere(pages: dict[str, Path], stage: str) -> None:
    found = Elements(pages[stage].read_text(encoding="utf-8"))
    for tag, attributes in found.found:
        assert not attributes.keys() & {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert "url(" not in (attributes.get("style") or "")
    style = page._file("style.css")
    assert "url(" not in style
    assert "@import" not in style
    for call in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert call not in page._file("page.js")


def test_the_page_allows_its_own_scripts_and_no_other(text: str) -> None:
    found = Elements(text)
    policy = next(a["content"] for tag, a in found.found if tag == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    for script in found.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize("stage", ["finished", "over an API"])
def test_hostile_texts_stay_texts(pages: dict[str, Path], stage: str) -> None:
    text = pages[stage].read_text(encoding="utf-8")
    found = Elements(text)
    tags = found.tags()
    assert len(found.scripts) == tags["script"] == 3
    assert not tags.keys() & {"b", "i", "img", "svg", "iframe", "object"}
    assert tags["title"] == tags["body"] == 1
    sampled = {item["text"] for item in data_of(text)["sample"]}
    assert sampled.issuperset(HOSTILE)


def test_a_very_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    label = "x" * 3_000
    store = build_run(tmp_path, done=0, tasks=(*TASKS[:2], label), corpus=60)
    cut = [one for one in select(store).items if len(one.text) > LONGEST]
    assert cut
    assert all(one.text.endswith("more characters]") for one in cut)


# The sample ------------------------------------------------------------------------------------------


def test_every_instruction_is_in_exactly_one_state(stores: dict[str, RunStore]) -> None:
    counts = select(stores["finished"]).counts
    parts = fates(stores["finished"])
    assert counts["unscored"] == parts["unscored"] == 2
    assert counts["withheld"] == parts["withheld"] == 1
    assert counts["expansion kept"] == parts["kept"] > 0
    assert counts["expansion dropped"] == parts["dropped"] > 0
    assert counts["set aside"] == 2
    scored = ("trained, hard", "trained, easy", "not drawn")
    assert sum(counts[fate] for fate in scored) == parts["hard"] + parts["easy"]


def test_the_sample_knows_why(stores: dict[str, RunStore], text: str) -> None:
    chosen = select(stores["finished"]).items
    assert [one.id for one in chosen] == [item["id"] for item in data_of(text)["sample"]]
    corpus = {
        int(one.origin[13:-1]): one for one in chosen if one.origin.startswith("corpus (") and one.fate != "set aside"
    }
    assert (corpus[UNSCORED].fate, corpus[UNSCORED].gap) == ("unscored", None)
    assert "two replies without scores" in corpus[UNSCORED].reason
    assert "no answer" in (corpus[UNANSWERED].student or "")
    assert (corpus[WITHHELD].fate, corpus[WITHHELD].gap, corpus[WITHHELD].rounds) == ("withheld", -1.5, ())
    assert (corpus[UNTAGGED].fate, corpus[UNTAGGED].task) == ("not drawn", None)
    dropped = [one for one in chosen if one.fate == "expansion dropped"]
    assert all(one.reason and not one.rounds for one in dropped)
    trained = [one for one in chosen if one.fate.startswith("trained")]
    assert all(one.rounds and one.gap is not None for one in trained)
    assert any(one.refined for one in trained)


def test_a_small_sample_has_every_state_and_is_always_the_same(stores: dict[str, RunStore]) -> None:
    store = stores["finished"]
    few = select(store, limit=len(FATES)).items
    assert {one.fate for one in few} == FATES.keys() - {"hopeless", "trained"}  # of other ways to measure
    assert few == select(store, limit=len(FATES)).items
    tasks = {one.task for one in select(store, limit=40).items if one.fate == "trained, easy"}
    assert len(tasks) >= len(TASKS) - 1


# Settings --------------------------------------------------------------------------------------------


def test_the_settings_are_a_recipe_that_runs_again() -> None:
    recipe = parse({"name": "mine", "seed": 3, "curriculum": {"size": 70, "target": {"shares": "room"}}})
    settings = page._settings(recipe.resolved())
    assert settings.command == "tapir run recipe.toml"
    assert parse(tomllib.loads(settings.text)) == recipe


def test_a_recipe_of_another_version_is_shown_as_it_is() -> None:
    settings = page._settings({"name": "mine", "telepathy": True})
    assert settings.command == ""
    assert json.loads(settings.text) == {"name": "mine", "telepathy": True}


# In a browser ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stage", ["finished", "over an API"])
def test_every_chart_is_drawn_without_an_error(
    tab: Browser, pages: dict[str, Path], stage: str, window: str, *, dark: bool
) -> None:
    see(tab, pages[stage], window, dark=dark)
    tab.ask("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    charts = tab.ask("document.querySelectorAll('[data-chart]').length")
    assert charts == CHARTS[stage]
    assert tab.ask(f"{ROOT}.ready") == str(charts)
    assert tab.ask("document.querySelectorAll('[data-chart] svg').length") == charts
    assert tab.ask(f"{ROOT}.errors") == "[]"
    assert tab.ask("document.scrollingElement.scrollWidth - document.documentElement.clientWidth") <= 0
    widths = "[...document.querySelectorAll('.chart')].every((box) => box.scrollWidth <= box.clientWidth + 1)"
    assert tab.ask(widths)
    assert tab.requested == [pages[stage].as_uri()]
    assert tab.complaints == []


@pytest.mark.parametrize("stage", STAGES)
def test_an_unfinished_run_has_a_page_too(tab: Browser, pages: dict[str, Path], stage: str) -> None:
    see(tab, pages[stage], "phone")
    assert tab.ask(f"{ROOT}.ready") == str(CHARTS[stage])
    assert tab.ask(f"{ROOT}.errors") == "[]"
    assert int(tab.ask(f"{ROOT}.overflow")) <= 0
    assert tab.complaints == []
    assert tab.ask("document.body.textContent.includes('This run is unfinished')") is (stage != "finished")


def cells(tab: Browser, table: str) -> list[list[str]]:
    rows = f"[...document.querySelectorAll({json.dumps(table + ' tr')})]"
    found = tab.ask(f"{rows}.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))")
    assert isinstance(found, list)
    return found


def test_the_page_says_what_the_calls_cost(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["over an API"], "desktop")
    assert tab.ask("document.querySelector('#costs .value').textContent") == "1.30"
    table = "#costs .scroll table"
    by_stage = {tuple(row[:2]): row[2:] for row in cells(tab, f"{table} > tbody >")[:6]}
    assert by_stage["judge", "before 1"] == ["238", "136,000", "100,000", "35,000", "0.8500"]
    assert by_stage["refine", "1"] == ["40", "24,000", "0", "16,000", "0.3000"]
    assert cells(tab, f"{table} > tfoot >")[0][2:] == ["328", "180,000", "100,000", "59,300", "1.3000"]
    see(tab, pages["finished"], "desktop")
    assert tab.ask("document.getElementById('costs').textContent.includes('nothing was paid')")


def test_the_page_shows_the_judge_and_where_to_look(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["over an API"], "desktop")
    names = tab.ask("[...document.querySelectorAll('#judge .claim')].map((one) => one.firstChild.textContent.trim())")
    assert {"Independence of the judge", "Unscored items", "A constant answer's score"} <= set(names)
    assert tab.ask("document.querySelectorAll('#judge .fails').length") == 1
    assert names[0] == "Held-out answers without a grade"  # what is beyond its limit comes first
    assert tab.ask("document.querySelector('header .note').textContent.includes('held-out answers without a grade')")
    see(tab, pages["finished"], "desktop")
    assert tab.ask("document.querySelector('header .note')") is None


def test_what_was_not_graded_stands_below_its_table(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["over an API"], "desktop")
    first, harder = "#figures > .scroll", "#figures details .scroll"
    tab.ask("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    assert cells(tab, f"{first} tfoot")[1][:5] == ["Not graded, not counted", "1", "1", "1", "1"]
    assert cells(tab, f"{harder} tfoot")[1][:5] == ["Not graded, not counted", "0", "30", "0", "0"]
    last = next(row for row in cells(tab, f"{harder} tbody") if row[0] == TASKS[-1])
    assert [cell.startswith("\N{EN DASH}") for cell in last[1:5]] == [False, True, False, False]
    assert last[5:] == [last[5], "30"]
    assert BENCHMARKS[1] in tab.ask("document.querySelector('#figures details summary').textContent")


def test_charts_follow_the_colour_scheme(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"], "desktop")
    light = tab.ask(LABELS)
    tab.prefer("dark")
    tab.wait(f"{LABELS} !== '{light}'")
    tab.prefer("light")
    tab.wait(f"{LABELS} === '{light}'")
    assert tab.ask(f"{ROOT}.errors") == "[]"


def test_a_search_finds_a_hostile_text_and_shows_it_as_it_is(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"], "desktop")
    tab.ask(
        "query.value = 'ALERT(2)'; query.dispatchEvent(new Event('input', { bubbles: true })); items.children.length"
    )
    entries = tab.ask("[...items.querySelectorAll('.text')].map((one) => one.textContent)")
    assert HOSTILE[1] in entries
    tab.ask("items.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.wait("items.querySelectorAll('.body').length === items.children.length")
    assert tab.ask('items.textContent.includes("the teacher\'s answer 1 </script><b>")')
    assert tab.ask("document.querySelectorAll('main b, main img, main i, main script').length") == 0
    assert instruction_id(HOSTILE[1]) in tab.ask("items.textContent")
    assert tab.complaints == []
    assert tab.ask(f"{ROOT}.errors") == "[]"


def test_filters_narrow_the_sample(tab: Browser, pages: dict[str, Path], text: str) -> None:
    see(tab, pages["finished"], "phone")
    sample = data_of(text)["sample"]
    tab.ask("fate.value = 'withheld'; fate.dispatchEvent(new Event('input', { bubbles: true })); 0")
    assert tab.ask("items.children.length") == 1
    tab.ask("fate.value = ''; task.value = 'History'; task.dispatchEvent(new Event('input', { bubbles: true })); 0")
    while not tab.ask("more.hidden"):
        tab.ask("more.click()")
    assert tab.ask("items.children.length") == sum(item["task"] == "History" for item in sample)
    tab.ask("query.value = 'no such words'; query.dispatchEvent(new Event('input', { bubbles: true })); 0")
    assert tab.ask("found.textContent") == "No instruction of the sample matches."


def test_a_column_title_sorts_its_table(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"], "desktop")
    head = "document.querySelector('.sortable thead th:nth-child(2)')"
    rows = "[...document.querySelector('.sortable').tBodies[0].rows]"
    column = f"{rows}.map((row) => Number(row.cells[1].dataset.value))"
    tab.ask(f"{head}.firstChild.click()")
    falling = tab.ask(column)
    assert falling == sorted(falling, reverse=True)
    assert tab.ask(f"{head}.getAttribute('aria-sort')") == "descending"
    tab.ask(f"{head}.firstChild.click()")
    assert tab.ask(column) == sorted(falling)


# The browser tests can fail --------------------------------------------------------------------------


def broken(folder: Path, text: str, before: str, after: str) -> Path:
    assert before in text
    path = folder / "broken.html"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    return path


def test_a_chart_that_cannot_be_drawn_is_noticed(tab: Browser, text: str, tmp_path: Path) -> None:
    see(tab, broken(tmp_path, text, '"type":"rect"', '"type":"nonsense"'), "desktop")
    tab.wait(f"{ROOT}.errors !== '[]'")
    assert tab.ask(f"{ROOT}.ready") is None


def test_a_page_that_is_too_wide_is_noticed(tab: Browser, text: str, tmp_path: Path) -> None:
    see(tab, broken(tmp_path, text, "<main>", '<main><div style="width: 3000px">wide</div>'), "phone")
    assert int(tab.ask(f"{ROOT}.overflow")) > 0


def test_a_script_that_got_in_is_refused_and_noticed(tab: Browser, text: str, tmp_path: Path) -> None:
    see(
        tab,
        broken(tmp_path, text, "<main>", "<main><script>alert(1)</script><img src='https://example.org/x.png'>"),
        "phone",
    )
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    assert not any("dialog" in complaint for complaint in tab.complaints)
