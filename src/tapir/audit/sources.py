"""The sources a command names, opened and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

from tapir.audit.pairs import Source
from tapir.audit.panel import Panel, gather
from tapir.audit.readers import read_file
from tapir.audit.runs import is_reviews, is_run, read_reviews, read_run, reviews_of, round_of
from tapir.errors import DataError, MissingExtra


@dataclass(frozen=True, slots=True)
class Reading:
    """How sources are read.

    Attributes:
        layout: a format of `tapir.audit.readers`, or "auto".
        judge: what a judge without a name is called; "" leaves it as it is.
        round: of a run; None for the first that was judged.
    """

    layout: str
    judge: str
    round: int | None


def open_all(sources: Sequence[Path], labels: Sequence[Path], reading: Reading, reference: str) -> Panel:
    """Read everything; the reviews in a run's folder serve as labels where none are named.

    Raises:
        DataError: a source cannot be read, or sources and labels have nothing in common.
        MissingExtra: the libraries for statistics are not installed.
    """
    if not (find_spec("scipy") and find_spec("sklearn")):
        raise MissingExtra("an audit needs scipy and scikit-learn", remedy="pip install 'tapir-distill[eval]'")
    chosen = list(labels)
    if reading.round is None:
        rounds = {number for one in chosen if (number := round_of(one)) is not None}
        reading = replace(reading, round=rounds.pop()) if len(rounds) == 1 else reading
    if not chosen:
        reviews = [reviews_of(one, reading.round) for one in sources if is_run(one)]
        chosen = [one for one in reviews if one.is_file()]
    plain = Reading("auto", "", None)
    found = [read_source(one, reading) for one in sources]
    _see_that_answers_agree([one for one, path in zip(found, sources, strict=True) if is_run(path)])
    return gather(found, [read_source(one, plain) for one in chosen], reference)


def _see_that_answers_agree(runs: Sequence[Source]) -> None:
    """Judges of several runs can be compared where these had the same answers judged; lengths tell.

    Raises:
        DataError: the students of two runs have answers of different lengths to an instruction.
    """
    for first, second in combinations(runs, 2):
        shared = [name for name in first.items.keys() & second.items.keys() if not first.items[name].constant]
        other = [name for name in shared if first.items[name].length_a != second.items[name].length_a]
        if other:
            raise DataError(
                f"{first.name} and {second.name} had different answers judged to {len(other):,} of {len(shared):,}"
                " instructions: these judges cannot be compared",
                remedy="Audit one run at a time.",
            )


def read_source(path: Path, reading: Reading) -> Source:
    """A run, reviews, or a file of judged pairs or ratings."""
    if path.is_dir():
        return read_run(path, reading.round)
    if reading.layout == "auto" and is_reviews(path):
        return read_reviews(path)
    return read_file(path, reading.layout, reading.judge)
