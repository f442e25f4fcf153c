"""A person rates pairs in a real browser: with the keyboard alone, through a reload, a kill and second thoughts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.keyboard import ALT, CONTROL, Person
from support.reviewing import Reviewing, lines, reviewing

pytestmark = pytest.mark.chromium

SIDE = {"1": "a", "2": "tie", "3": "b"}
SHORT, FULL = "Short. ", "Full. "


def whose(person: Person, key: str) -> str:
    """What preferring a side should be recorded as."""
    if SIDE[key] == "tie":
        return "tie"
    return "student" if person.reads(SIDE[key]) == SHORT else "reference"


RATINGS = (("1", "4", "rot", "rotate_matrix"), ("2", "1", "chain", "chain_sum"), ("3", "5", "sum", "chain_sum"))
OPTIONS = ("--n", "5", "--rater", "anna")


def test_a_whole_session_by_keyboard_through_a_reload_and_a_kill(person: Person, folder: Path) -> None:
    with reviewing(folder, *OPTIONS) as served:
        ids = [pair["id"] for pair in served.pairs()]
        person.open(served.address)
        expected = [rate(person, place, *RATINGS[place - 1]) for place in (1, 2, 3)]
        assert [said(line) for line in lines(folder)] == list(zip(ids, expected, strict=False))
        changed = go_back_two_and_prefer_the_other(person)
        assert said(lines(folder)[3]) == (ids[1], (changed, 1, "chain_sum"))
        person.tab.call("Page.reload")
        person.waits_for("Pair 4 of 5")
        assert person.reads("pace").startswith("3 done")
        kill_before_the_fourth_is_saved(person, served.process, folder)
    with (folder / "reviews.jsonl").open("ab") as file:
        file.write(b'{"id": "half a li')  # as if killed while writing

    with reviewing(folder, *OPTIONS) as served:
        assert "rater anna: 3 of 5 seen before" in served.said
        person.open(served.address)
        rate_the_rest(person, folder)
        status, ending = served.end()
    assert status == 0
    assert "5 of 5 pairs rated by anna" in ending
    assert [line["id"] for line in lines(folder)] == [*ids[:3], ids[1], ids[3], ids[4], ids[4]]
    assert said(lines(folder)[5]) == (ids[4], (None, None, None))
    assert said(lines(folder)[6]) == (ids[4], ("tie", 3, None))


def said(line: dict[str, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
    return line["id"], (line["preference"], line["difficulty"], line["task"])


def rate(person: Person, place: int, side: str, hard: str, typed: str, task: str) -> tuple[str, int, str]:
    """Answer the three questions of one pair; what should be on disk then."""
    person.waits_for(f"Pair {place} of 5")
    assert person.at() == "ask-preference"
    preference = whose(person, side)
    person.press(side)
    assert person.at() == "ask-difficulty"
    person.press(hard)
    assert person.at() == "ask-task"
    person.press(*typed, "Enter")
    person.waits_for(f"Pair {place + 1} of 5")
    return preference, int(hard), task


def go_back_two_and_prefer_the_other(person: Person) -> str:
    person.press("b", "b")
    person.waits_for("Pair 2 of 5")
    assert (person.chosen("preference"), person.chosen("difficulty")) == ("tie", "1")
    assert person.asks("document.getElementById('task').value") == "chain_sum"
    changed = whose(person, "3")
    person.press("3", "Enter", "Enter")
    person.waits_for("Pair 4 of 5")
    return changed


def kill_before_the_fourth_is_saved(person: Person, process: subprocess.Popen[str], folder: Path) -> None:
    person.press("2")
    process.kill()
    process.wait(timeout=30)
    person.press("2", "Enter")
    person.tab.wait("!document.getElementById('trouble').hidden")
    assert "not saved" in person.reads("trouble")
    assert f"tapir review {folder} --n 5 --rater anna" in person.reads("trouble")
    assert len(lines(folder)) == 4


def rate_the_rest(person: Person, folder: Path) -> None:
    """The fourth at once, the fifth only when it comes again after it was skipped."""
    person.waits_for("Pair 4 of 5")
    assert person.chosen("preference") == ""
    person.press("1", "2", "Enter")
    person.waits_for("Pair 5 of 5")
    person.press("s")
    person.tab.wait("!document.getElementById('end').hidden")
    assert person.reads("end-head") == "Every pair has been seen"
    assert "4 of 5 pairs rated by anna, 1 skipped" in person.reads("end-text")
    assert person.reads("after") == f"tapir audit {folder} --labels {folder}/reviews.jsonl"
    person.press("s")
    person.waits_for("Pair 5 of 5")
    person.press("2", "3", "Enter")
    person.tab.wait("document.getElementById('end-head').textContent === 'Every pair is rated'")


def test_backspace_undoes_step_by_step_and_saves_nothing(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    person.press("2", "3", "Enter")
    person.waits_for("Pair 2 of 3")
    person.press("1", "5", "x", "Backspace")
    assert person.at() == "ask-task"
    person.press("Backspace")
    assert person.at() == "ask-difficulty"
    person.press("2")  # another mind
    person.press("Escape", "Backspace", "3", "Backspace")
    assert (person.chosen("preference"), person.chosen("difficulty"), person.at()) == ("b", "2", "ask-preference")
    person.press("Backspace")
    person.waits_for("Pair 1 of 3")
    person.press("Backspace")
    person.waits_for("Pair 1 of 3")
    assert len(lines(fresh.folder)) == 1


def test_a_question_may_be_left_open_and_the_button_says_so(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    assert person.asks("document.getElementById('save').disabled")
    person.press("Enter", "Enter", "Enter")
    assert person.reads("said") == "Nothing is answered yet."
    assert person.reads("count") == "Pair 1 of 3"
    person.press("Escape", "4")
    assert person.reads("save-text") == "Save without preference and task"
    person.press("Enter")
    person.waits_for("Pair 2 of 3")
    person.press("1")
    person.press("Enter", held=CONTROL)
    person.waits_for("Pair 3 of 3")
    first, second = lines(fresh.folder)
    assert (first["preference"], first["difficulty"], first["task"]) == (None, 4, None)
    assert second["preference"] in {"student", "reference"}
    assert (second["difficulty"], second["task"]) == (None, None)


def test_a_task_is_found_by_the_beginning_of_its_words_and_only_a_known_one_is_taken(
    person: Person, fresh: Reviewing
) -> None:
    options = "[...document.querySelectorAll('[role=option]')].map((item) => item.textContent)"
    tasks = fresh.get(f"{fresh.path}state").json["tasks"]
    person.open(fresh.address)
    person.press("2", "3")
    assert person.asks(options) == tasks
    person.press(*"seq")
    found = [task for task in tasks if any(word.startswith("seq") for word in task.split("_"))]
    assert len(found) > 1
    assert person.asks(options) == found
    assert person.asks("document.querySelector('[aria-selected=true]').id") == person.asks(
        "document.getElementById('task').getAttribute('aria-activedescendant')"
    )
    person.press("ArrowDown", "Enter")
    person.waits_for("Pair 2 of 3")
    person.press("2", "3", *"qqq", "Enter")
    assert 'no task "qqq"' in person.reads("trouble")
    assert person.at() == "ask-task"
    person.press("Escape", "3", "Enter")
    person.waits_for("Pair 3 of 3")
    assert not person.sees("trouble")
    person.press("2", "3", "s")  # in the field a letter is a letter
    assert person.asks("document.getElementById('task').value") == "s"
    person.press("s", held=ALT)
    person.tab.wait("!document.getElementById('end').hidden")
    assert [line["task"] for line in lines(fresh.folder)] == [found[1], None, None]


def test_a_mouse_and_a_finger_do_as_well(person: Person, fresh: Reviewing) -> None:
    for width, height in ((1280, 860), (390, 844)):
        person.open(fresh.address, width=width, height=height)
        person.click("#form input[name=preference][value=tie]")
        person.click("#form input[name=difficulty][value='5']")
        person.click("#task")
        person.click("[role=option]:nth-child(2)")
        assert person.reads("save-text") == "Save"
        count = len(lines(fresh.folder)) if (fresh.folder / "reviews.jsonl").exists() else 0
        person.click("#save")
        person.tab.wait(f"document.getElementById('progress').value === {count + 1}")
    person.click("#skip")
    person.tab.wait("!document.getElementById('end').hidden")
    person.click("#end-back")
    person.waits_for("Pair 3 of 3")
    tasks = fresh.get(f"{fresh.path}state").json["tasks"]
    assert [(line["preference"], line["difficulty"], line["task"]) for line in lines(fresh.folder)] == [
        ("tie", 5, tasks[1]),
        ("tie", 5, tasks[1]),
        (None, None, None),
    ]


def test_keys_pressed_faster_than_the_disk_rate_one_pair_once(person: Person, fresh: Reviewing) -> None:
    person.open(fresh.address)
    person.asks(
        "(() => { const real = fetch; window.fetch = async (...all) => {"
        " await new Promise((done) => setTimeout(done, 400)); return real(...all); }; })()"
    )
    person.press("1", "3", "Enter", "Enter", "Enter", "s", "2")
    person.waits_for("Pair 2 of 3")
    assert person.chosen("preference") == ""
    assert len(lines(fresh.folder)) == 1
