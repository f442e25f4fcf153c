"""The reviews on disk: whole lines, the last word of each rater, and no line that was never finished."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT
from tapir.data.run.reviews import Review, ReviewFile
from tapir.domain.errors import DataError

WRITER = """
import sys
from pathlib import Path
from tapir.data.run.reviews import Review, ReviewFile
book = ReviewFile(Path(sys.argv[1]))
for place in range(100):
    book.append(Review(id=f"{place:016x}", rater=sys.argv[2], preference="tie", difficulty=3, task=None, left="student",
                       seconds=1.0, time="2026-01-01T00:00:00+00:00"))
"""


def said(name: str = "a" * 16, rater: str = "anna", **changed: Any) -> Review:
    facts: dict[str, Any] = {"preference": "tie", "difficulty": 3, "task": None, "left": "student", "seconds": 1.5}
    return Review(id=name, rater=rater, time="2026-01-01T00:00:00+00:00", **(facts | changed))


@pytest.fixture
def book(tmp_path: Path) -> ReviewFile:
    return ReviewFile(tmp_path / "reviews.jsonl")


def test_what_is_written_is_read_back_in_order(book: ReviewFile) -> None:
    reviews = [said("a" * 16), said("b" * 16, task='Größe "漢字" \u2028', preference=None), said(rater="Björn\u00a0B.")]
    assert all(book.append(one) for one in reviews)
    assert list(book.read()) == reviews
    assert book.path.read_bytes().count(b"\n") == 3


def test_the_later_line_of_a_rater_wins_and_others_are_untouched(book: ReviewFile) -> None:
    for one in (said(difficulty=1), said(rater="bo", difficulty=2), said(difficulty=5)):
        book.append(one)
    assert book.latest("anna") == {"a" * 16: said(difficulty=5)}
    assert book.latest("bo") == {"a" * 16: said(rater="bo", difficulty=2)}


def test_saying_the_same_again_writes_nothing(book: ReviewFile) -> None:
    assert book.append(said())
    assert not book.append(said(seconds=9.0))
    assert book.append(said(difficulty=4))
    assert book.append(said())
    assert len(list(book.read())) == 3


def test_a_line_cut_by_a_kill_is_not_counted_and_goes_with_the_next(book: ReviewFile) -> None:
    book.append(said("a" * 16))
    whole = book.path.read_bytes()
    book.append(said("b" * 16))
    for length in range(len(whole), len(book.path.read_bytes())):
        book.path.write_bytes((whole + whole.replace(b"a" * 16, b"b" * 16))[:length])
        assert set(book.latest("anna")) == {"a" * 16}
    book.append(said("c" * 16))
    assert [one.id[0] for one in book.read()] == ["a", "c"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: "not JSON\n" + text, "line 1 is no review: Invalid JSON"),
        (lambda text: text + text.replace('"tie"', '"left"'), "line 2 is no review: preference"),
        (lambda text: text + text.replace('"difficulty":3', '"difficulty":6'), "line 2 is no review: difficulty"),
        (lambda text: text + text.replace('"seconds":1.5', '"seconds":NaN'), "line 2 is no review: "),
        (lambda text: text + "\n", "line 2 is no review"),
        (lambda text: text.replace('"rater":"anna"', '"rater":""'), "line 1 is no review: rater"),
    ],
)
def test_a_line_that_is_no_review_is_named(book: ReviewFile, spoil: Callable[[str], str], why: str) -> None:
    book.append(said())
    book.path.write_text(spoil(book.path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=why):
        list(book.read())


def test_two_processes_at_once_leave_only_whole_lines(book: ReviewFile) -> None:
    command = [sys.executable, "-c", WRITER, str(book.path)]
    writers = [subprocess.Popen([*command, rater]) for rater in ("anna", "bo")]
    assert [one.wait(timeout=60) for one in writers] == [0, 0]
    assert len(list(book.read())) == 200
    assert len(book.latest("anna")) == len(book.latest("bo")) == 100


def test_a_full_disk_leaves_the_file_as_it_was(book: ReviewFile) -> None:
    book.append(said())
    before = book.path.read_bytes()
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom unit.data.test_reviews import said\n"
        "from tapir.domain.errors import StoreFull\nfrom tapir.data.run.reviews import ReviewFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 20}, resource.RLIM_INFINITY))\n"
        "try: ReviewFile(Path(sys.argv[1])).append(said('b' * 16))\n"
        "except StoreFull as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(book.path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "no space left" in result.stdout, result.stderr
    assert book.path.read_bytes() == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
