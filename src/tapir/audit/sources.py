"""The sources a command names, opened and put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tapir.audit.pairs import Source
from tapir.audit.panel import Panel, gather
from tapir.audit.readers import read_file
from tapir.audit.runs import REVIEWS, is_reviews, is_run, read_reviews, read_run


def open_all(sources: Sequence[Path], labels: Sequence[Path], layout: str, reference: str, number: int | None) -> Panel:
    """Read everything; the reviews in a run's folder serve as labels where none are named.

    Raises:
        DataError: a source cannot be read, or sources and labels have nothing in common.
    """
    chosen = list(labels)
    if not chosen:
        chosen = [one / REVIEWS for one in sources if is_run(one) and (one / REVIEWS).is_file()]
    return gather(
        [read_source(one, layout, number) for one in sources],
        [read_source(one, "auto", None) for one in chosen],
        reference,
    )


def read_source(path: Path, layout: str, number: int | None) -> Source:
    """A run, reviews, or a file of judged pairs or ratings."""
    if path.is_dir():
        return read_run(path, number)
    if layout == "auto" and is_reviews(path):
        return read_reviews(path)
    return read_file(path, layout)
