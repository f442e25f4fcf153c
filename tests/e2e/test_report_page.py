"""The report in a real browser: every chart is drawn, hostile texts do nothing, and any window is wide enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.browser import Browser
from support.pages import WINDOWS, data_of
from support.runs import HOSTILE, build_run
from support.trainings import older
from tapir.data.files import write_json
from tapir.data.run.store import RunStore
from tapir.domain.instruction import instruction_id
from tapir.report import page
from tapir.report.summary import summarise

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

ROOT = "document.documentElement.dataset"
LABELS = "[...document.querySelectorAll('.role-axis-label text')].map((text) => text.getAttribute('fill'))[0]"
RUNS: dict[str, tuple[dict[str, object], int]] = {  # how a run is made, and its charts
    "finished": ({}, 5),
    "over an API": ({"api": True}, 6),
    "first look": ({"done": 0}, 2),
    "pass rate": ({"curriculum": {"difficulty": {"kind": "pass-rate", "samples": 4}, "threshold": {"value": 0.4}}}, 5),
    "no difficulty": ({"curriculum": {"difficulty": "none", "compare": ["ifd", "length"]}}, 4),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(build_run(tmp_path_factory.mktemp("run"), **RUNS[name][0])) for name in RUNS}  # type: ignore[arg-type]


def write(store: RunStore) -> Path:
    path = page.write_report(store, summarise(store))
    assert path is not None
    return path


def see(tab: Browser, path: Path, window: str = "desktop", *, dark: bool = False) -> None:
    width, height = WINDOWS[window]
    tab.open(path, width=width, height=height, dark=dark)


def assert_whole(tab: Browser, path: Path, charts: int) -> None:
    """See that every chart is drawn, nothing is loaded, nothing complains, and nothing is too wide."""
    tab.ask("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    assert tab.ask(f"{ROOT}.ready") == str(charts)
    assert tab.ask("document.querySelectorAll('[data-chart] svg').length") == charts
    assert tab.ask(f"{ROOT}.errors") == "[]"
    assert tab.ask("document.scrollingElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert tab.ask("[...document.querySelectorAll('.chart')].every((box) => box.scrollWidth <= box.clientWidth + 1)")
    assert tab.requested == [path.as_uri()]
    assert tab.complaints == []


def test_a_report_is_drawn_by_a_browser(tab: Browser, tmp_path: Path) -> None:
    path = write(build_run(tmp_path / "run"))
    see(tab, path)
    assert_whole(tab, path, 5)


@pytest.mark.chromium
@pytest.mark.parametrize(
    ("name", "window", "dark"),
    [*((name, "phone", True) for name in RUNS), ("finished", "tablet", False), ("finished", "desktop", True)],
)
def test_every_chart_is_drawn_without_an_error(
    tab: Browser, pages: dict[str, Path], name: str, window: str, *, dark: bool
) -> None:
    see(tab, pages[name], window, dark=dark)
    assert_whole(tab, pages[name], RUNS[name][1])
    labels = "document.querySelectorAll('[data-chart=difficulty] .role-axis-label text')"
    ticks = tab.ask(f"[...{labels}].map((one) => one.textContent)")
    assert not any("e" in tick for tick in ticks)  # 120, not 1.2e+2


@pytest.mark.chromium
def test_charts_follow_the_colour_scheme(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"])
    light = tab.ask(LABELS)
    tab.prefer("dark")
    tab.wait(f"{LABELS} !== '{light}'")
    tab.prefer("light")
    tab.wait(f"{LABELS} === '{light}'")
    assert tab.ask(f"{ROOT}.errors") == "[]"


@pytest.mark.chromium
def test_a_search_finds_a_hostile_text_and_shows_it_as_it_is(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"])
    tab.ask("query.value = 'ALERT(2)'; query.dispatchEvent(new Event('input', { bubbles: true })); 0")
    assert HOSTILE[1] in tab.ask("[...items.querySelectorAll('.text')].map((one) => one.textContent)")
    tab.ask("items.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.wait("items.querySelectorAll('.body').length === items.children.length")
    assert tab.ask('items.textContent.includes("the teacher\'s answer 1</script><b>")')
    assert tab.ask("document.querySelectorAll('main b, main img, main i, main script').length") == 0
    assert instruction_id(HOSTILE[1]) in tab.ask("items.textContent")
    assert tab.complaints == []


@pytest.mark.chromium
def test_filters_narrow_the_sample_and_a_title_sorts_its_table(tab: Browser, pages: dict[str, Path]) -> None:
    see(tab, pages["finished"], "phone")
    sample = data_of(pages["finished"].read_text("utf-8"))["sample"]
    tab.ask("fate.value = 'withheld'; fate.dispatchEvent(new Event('input', { bubbles: true })); 0")
    assert tab.ask("items.children.length") == 1
    tab.ask("fate.value = ''; task.value = 'History'; task.dispatchEvent(new Event('input', { bubbles: true })); 0")
    while not tab.ask("more.hidden"):
        tab.ask("more.click()")
    assert tab.ask("items.children.length") == sum(item["task"] == "History" for item in sample)
    tab.ask("query.value = 'no such words'; query.dispatchEvent(new Event('input', { bubbles: true })); 0")
    assert tab.ask("found.textContent") == "No instruction of the sample matches."
    head = "document.querySelector('.sortable thead th:nth-child(2)')"
    rows = "[...document.querySelector('.sortable').tBodies[0].rows]"
    column = f"{rows}.map((row) => Number(row.cells[1].dataset.value))"
    tab.ask(f"{head}.firstChild.click()")
    falling = tab.ask(column)
    assert falling == sorted(falling, reverse=True)
    tab.ask(f"{head}.firstChild.click()")
    assert tab.ask(column) == sorted(falling)


@pytest.mark.chromium
def test_odd_losses_are_drawn_without_an_error(tab: Browser, tmp_path: Path) -> None:
    store = build_run(tmp_path)
    odd = [[0, float("nan")], [1, 3.0], [2, float("inf")], [3, 2.0]], [[1, 5.0]], [[step, 1e9] for step in range(5_000)]
    for number, loss in enumerate(odd, 1):
        write_json(store.round(number) / "training.json", older(number) | {"loss": loss})
    path = write(store)
    see(tab, path, "phone")
    assert_whole(tab, path, 5)
    assert "Round 1: 2 logged losses are not a number" in tab.ask("document.getElementById('training').innerText")
    assert path.stat().st_size < 5_000_000  # a loss at every step does not fill the page


@pytest.mark.chromium
def test_these_tests_notice_a_broken_page(tab: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text, path = pages["finished"].read_text("utf-8"), tmp_path / "broken.html"
    path.write_text(text.replace('"type":"rect"', '"type":"nonsense"', 1), encoding="utf-8")
    see(tab, path)
    tab.wait(f"{ROOT}.errors !== '[]'")
    assert tab.ask(f"{ROOT}.ready") is None
    path.write_text(text.replace("<main>", '<main><div style="width: 3000px">wide</div>', 1), encoding="utf-8")
    see(tab, path, "phone")
    assert int(tab.ask(f"{ROOT}.overflow")) > 0
    inserted = "<script>alert(1)</script><img src='https://example.org/x.png'>"
    path.write_text(text.replace("<main>", f"<main>{inserted}", 1), encoding="utf-8")
    see(tab, path, "phone")
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    assert not any("dialog" in complaint for complaint in tab.complaints)
    assert json.loads(tab.ask(f"JSON.stringify({ROOT}.errors)")) == "[]"
