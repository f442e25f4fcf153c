"""The page in a real browser: blind, harmless whatever the texts are, readable in any window and by anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.keyboard import Person
from support.reviewing import Reviewing, reviewable, reviewing
from support.runs import HOSTILE
from tapir.data.run.rows import AnswerRow, CorpusRow

pytestmark = pytest.mark.chromium

WINDOWS = {"phone": (390, 844), "tablet": (820, 1100), "desktop": (1280, 860), "wide": (1920, 1080)}
WINDOWS |= {"short": (900, 420)}
LONG = "A long paragraph that a person has to scroll through to compare it with the other one. " * 12


def test_nothing_on_the_page_or_on_its_way_says_whose_answer_is_whose(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    person.asks(
        "window.sent = [], (() => { const real = fetch; window.fetch = (path, options) => {"
        " if (options) window.sent.push(options.body); return real(path, options); }; })()"
    )
    for place in (2, 3):
        html = str(person.asks("document.documentElement.outerHTML")).lower()
        html = html.replace("preference", "").replace("the judge's", "")
        assert not [word for word in ("student", "reference", "teacher", "author", "judge", "gap") if word in html]
        person.press("1", "3", "Enter")
        person.waits_for(f"Pair {place} of 3")
    sent = [json.loads(one) for one in person.asks("window.sent")]
    assert [one["preference"] for one in sent] == ["a", "a"]
    assert {key for one in sent for key in one} == {"id", "preference", "difficulty", "task", "seconds"}
    assert all(address.startswith(fresh.address) for address in person.tab.requested if address != "about:blank")
    assert person.tab.complaints == []


def test_hostile_texts_are_shown_and_do_nothing(person: Person, tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run", answered=len(HOSTILE), hostile=True).folder
    seen: set[str] = set()
    with reviewing(folder, "--n", "10") as served:
        person.open(served.address)
        count = len(served.pairs())
        for place in range(1, count + 1):
            person.waits_for(f"Pair {place} of {count}")
            pair = served.pairs()[place - 1]
            assert (person.reads("instruction"), *person.answers()) == (pair["instruction"], pair["a"], pair["b"])
            assert person.asks("document.querySelectorAll('#pair .text *').length") == 0
            assert person.asks("document.scrollingElement.scrollWidth <= innerWidth")
            seen.add(pair["instruction"])
            person.press("s")
        person.tab.wait("!document.getElementById('end').hidden")
    assert seen == set(HOSTILE)
    assert "</title><b>run</b>" in person.reads("run")
    assert person.tab.complaints == []


def test_the_page_itself_cannot_run_what_is_put_in(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    for attempt in (
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))",
        "document.body.innerHTML += '<img src=x onerror=\"window.ran = 1\">'",
        "fetch('http://127.0.0.1:9/')",
    ):
        assert (
            person.asks(f"(async () => {{ try {{ await ({attempt}); return 'done' }} catch {{ return 'no' }} }})()")
            == "no"
        )
    assert person.asks("typeof window.ran") == "undefined"
    assert not any(":9/" in address for address in person.tab.requested)


def test_it_says_where_one_is_to_those_who_cannot_see(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    tree = person.tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
    names = {
        "group": ("Which answer is better?", "How hard is the instruction?", "Which task is it?"),
        "combobox": ("Which task is it?",),
        "radio": ("1 A", "3 B", "5 very hard"),
        "region": ("Instruction", "Answer A", "Answer B"),
        "progressbar": ("Pairs rated",),
    }
    assert named >= {(role, name) for role in names for name in names[role]}
    assert all(name for role, name in named if role in {"button", "radio", "combobox", "textbox"})
    assert person.asks("document.getElementById('said').getAttribute('aria-live')") == "polite"
    person.press("2", "3", "Enter")
    person.waits_for("Pair 2 of 3")
    assert person.reads("said") == "Saved. Pair 2 of 3."
    person.press("Tab")
    assert person.asks("document.activeElement.matches(':focus-visible')")
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert person.asks(outline) == "solid"


def test_every_text_can_be_told_from_its_ground(person: Person, fresh: Reviewing) -> None:
    """WCAG 2 asks for 4.5 to 1."""
    contrast = """(() => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
          .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element) => {
        for (; element; element = element.parentElement) {
          const colour = getComputedStyle(element).backgroundColor;
          if (!/, 0\\)$/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
      };
      const bad = [];
      for (const element of document.querySelectorAll('h1, h2, small, p, legend, span, .text, button, li, code')) {
        if (!element.checkVisibility() || !element.textContent.trim() || element.closest(':disabled')) continue;
        const [one, two] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
        if ((one + 0.05) / (two + 0.05) < 4.5) bad.push(element.outerHTML);
      }
      return bad;
    })()"""
    for dark in (False, True):
        person.open(fresh.address, dark=dark)
        assert person.asks(contrast) == []
        person.press("1", "3", "r")
        assert person.asks(contrast) == []


@pytest.fixture(scope="module")
def long_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a review whose answers fill several screens."""
    store = reviewable(tmp_path_factory.mktemp("long") / "run")
    corpus = store.read("corpus", CorpusRow)
    store.write("corpus", CorpusRow, [CorpusRow(row.id, row.text, LONG, row.author, row.source) for row in corpus])
    store.write("round-0/answers", AnswerRow, [AnswerRow(row.id, LONG * 2, "stop", 9, None) for row in corpus])
    with reviewing(store.folder, "--n", "2", "--rater", "anna") as served:
        yield served.address


@pytest.mark.parametrize(("name", "dark"), [(name, place % 2 == 0) for place, name in enumerate(WINDOWS)])
def test_long_answers_fit_any_window_and_the_questions_stay_in_reach(
    person: Person, long_answers: str, name: str, *, dark: bool
) -> None:
    width, height = WINDOWS[name]
    person.open(long_answers, width=width, height=height, dark=dark)
    assert person.asks("document.scrollingElement.scrollWidth <= innerWidth")
    beside = person.asks(
        "document.getElementById('a').getBoundingClientRect().right"
        " <= document.getElementById('b').getBoundingClientRect().left"
    )
    assert beside == (name != "phone")
    if name in {"tablet", "desktop", "wide"}:
        assert person.asks("document.getElementById('save').getBoundingClientRect().bottom <= innerHeight")
    person.press(" ")
    person.tab.wait("scrollY > 0")
    person.press("2", "4", "r")
    assert person.tab.complaints == []
