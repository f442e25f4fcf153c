"""A browser for the pages: of the report, and of a review with somebody who rates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import Browser, binary, browser
from support.keyboard import Person
from support.reviewing import Reviewing, reviewable, reviewing


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if binary() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def person(tab: Browser) -> Iterator[Person]:
    tab.requested.clear()
    tab.complaints.clear()
    yield Person(tab)
    tab.call("Page.navigate", url="about:blank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return reviewable(tmp_path / "run").folder


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewing]:
    """A review of three pairs that several tests share: it knows nothing but what is in its file."""
    folder = reviewable(tmp_path_factory.mktemp("shared") / "run").folder
    with reviewing(folder, "--n", "3", "--rater", "anna") as served:
        yield served


@pytest.fixture
def fresh(three: Reviewing) -> Reviewing:
    (three.folder / "reviews.jsonl").unlink(missing_ok=True)
    return three
