"""Judged pairs and ratings from a file: which format it is in is seen from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from tapir.audit import foreign_pairs, foreign_ratings
from tapir.audit.gathering import Gathering
from tapir.audit.own import KEYS, own
from tapir.audit.pairs import Source
from tapir.data.formats import records
from tapir.data.row import BadRow, Record
from tapir.errors import DataError

Reader: TypeAlias = Callable[[dict[str, Any], Gathering], None]

OWN = "own"
UNNAMED = "judge"
_LOOKED_AT = 20  # rows that decide the format
_BROKEN = (KeyError, TypeError, AttributeError, ValueError)


@dataclass(frozen=True, slots=True)
class Layout:
    """A format of others: the columns that show it (all of one of the sets), and how a row is read."""

    signs: tuple[frozenset[str], ...]
    read: Reader


def _signs(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(one.split()) for one in sets)


LAYOUTS: Mapping[str, Layout] = {
    "pandalm": Layout(
        _signs("idx response1 response2 annotator1", "idx response1 response2 cmp_key"), foreign_pairs.pandalm
    ),
    "llmbar": Layout(_signs("input output_1 output_2 label"), foreign_pairs.llmbar),
    "tulu": Layout(_signs("completion_a completion_b preference"), foreign_pairs.tulu),
    "mt-bench-pairs": Layout(
        _signs(
            "question_id model_a model_b winner_ab winner_ba",
            "question_id model_1 model_2 g1_winner g2_winner",
            "question_id model_a model_b winner judge",
        ),
        foreign_pairs.mt_bench_pairs,
    ),
    "mt-bench-grades": Layout(
        _signs("question_id model_id score_turn1 score_turn2", "question_id model judge score"),
        foreign_ratings.mt_bench_grades,
    ),
    "alpaca-eval": Layout(_signs("instruction output_1 output_2 preference"), foreign_pairs.alpaca_eval),
    "prometheus": Layout(_signs("idx gpt4_score"), foreign_ratings.prometheus),
    "ranked": Layout(_signs("chosen rejected"), foreign_pairs.ranked),
}
FORMATS = (*LAYOUTS, OWN)


def read_file(path: Path, layout: str = "auto", judge: str = "") -> Source:
    """Everything a file says about who is better or how good; rows that cannot be read are counted and named.

    Args:
        path: JSON, JSON Lines, CSV or Parquet, plain or gzipped.
        layout: a name of FORMATS, or "auto".
        judge: what the judge is called where the rows do not say.

    Raises:
        DataError: the file is missing, empty, in no format known here, or no row can be used.
    """
    if not path.is_file():
        why = "is neither a file nor the folder of a run" if path.exists() else "is not there"
        raise DataError(f"{path} {why}", remedy="Name a file of judged pairs, or the folder of a run.")
    stream = records(path)
    head = list(islice(stream, _LOOKED_AT))
    if not head:
        raise DataError(
            f"{path} is empty: there is nothing to audit", remedy="Name a file with at least one judged pair."
        )
    chosen = _detected(path, head) if layout == "auto" else _known(layout)
    into, bad = Gathering(), Counter[str]()
    first_bad = ""
    unread: Counter[str] = Counter()
    for row in chain(head, stream):
        why, place = _taken(row, chosen, into, unread)
        if why:
            bad[why] += 1
            first_bad = first_bad or f"{place}: {why}"
    if not into.votes and not into.ratings:
        raise DataError(
            f"{path}: none of its {bad.total()} rows can be read as {chosen} (first: {first_bad})",
            remedy=f"Force another format with --format: {', '.join(FORMATS)}.",
        )
    if bad:
        into.notes.append(f"{bad.total()} rows of {path.name} cannot be used (first: {first_bad}).")
    if unread:
        names = ", ".join(f'"{name}"' for name in sorted(unread))
        into.notes.append(f"Keys of {path.name} that the plain format does not know, and that were not read: {names}.")
    return _called(into.source(path.name, chosen), judge)


def _called(source: Source, judge: str) -> Source:
    """Give the judge that has no name in the file one."""
    if not judge:
        return source
    names = {UNNAMED: judge}
    return replace(
        source,
        votes=[replace(one, rater=names.get(one.rater, one.rater)) for one in source.votes],
        ratings=[replace(one, rater=names.get(one.rater, one.rater)) for one in source.ratings],
        costs={names.get(name, name): cost for name, cost in source.costs.items()},
    )


def _taken(row: Record | BadRow, layout: str, into: Gathering, unread: Counter[str]) -> tuple[str, str]:
    """Take one row; returns why it was not taken, and where it stands."""
    if isinstance(row, BadRow):
        return row.reason, row.place
    try:
        if layout == OWN:
            unread.update(key for key in row.fields if key not in KEYS)
            own(row.fields, into, row.place)
        else:
            LAYOUTS[layout].read(row.fields, into)
    except _BROKEN as error:
        return f"{'lacks ' if isinstance(error, KeyError) else ''}{error}", row.place
    return "", row.place


def _known(layout: str) -> str:
    if layout not in FORMATS:
        raise DataError(f"there is no format '{layout}'", remedy=f"One of: {', '.join(FORMATS)}.")
    return layout


def _detected(path: Path, head: list[Record | BadRow]) -> str:
    """The format whose columns are all there in the first row that can be read."""
    fields = next((set(row.fields) for row in head if isinstance(row, Record)), set())
    for name, layout in LAYOUTS.items():
        if any(sign <= fields for sign in layout.signs):
            return name
    if fields & {"verdict", "score_a", "label", "unreadable"}:
        return OWN
    if not fields:
        bad = next(row for row in head if isinstance(row, BadRow))
        raise DataError(f"{path} cannot be read: {bad.place}: {bad.reason}", remedy="Name a file of judged pairs.")
    raise DataError(
        f"{path} is in no format known here; its columns: {', '.join(sorted(fields)[:20])}",
        remedy=f"Force one with --format ({', '.join(FORMATS)}), or write the plain format of docs/audit.md.",
    )
