"""What several tests of the review share: a browser, a person, and a review of three pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browser
from tests.review.keyboard import Person
from tests.review.reviewing import Reviewing, reviewable, reviewing


@pytest.fixture(scope="package")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def person(tab: Browser) -> Iterator[Person]:
    tab.requested.clear()
    tab.complaints.clear()
    yield Person(tab)
    tab.call("Page.navigate", url="about:blank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return reviewable(tmp_path / "run").folder


@pytest.fixture(scope="package")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewing]:
    """A review of three pairs that several tests share: it knows nothing but what is in its file."""
    folder = reviewable(tmp_path_factory.mktemp("shared") / "run").folder
    with reviewing(folder, "--n", "3", "--rater", "anna") as found:
        yield found


@pytest.fixture
def fresh(three: Reviewing) -> Reviewing:
    (three.folder / "reviews.jsonl").unlink(missing_ok=True)
    return three
