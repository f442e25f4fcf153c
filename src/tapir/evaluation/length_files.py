"""The two files that AlpacaEval's own length-controlled rate reads: instruction_difficulty.csv and df_gamed.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tapir.errors import DataError
from tapir.evaluation.length_control import Gamed, Given

_DIFFICULTY = "instruction_difficulty"
_GAMED = ("preference", "index", "std_delta_len", _DIFFICULTY, "not_gamed_baseline")


def read_given(difficulty: Path | None, gamed: Path | None) -> Given:
    """What the user has of the two files; df_gamed.csv holds the difficulties too.

    Raises:
        DataError: a file cannot be read, lacks a column, or holds something that is no number.
    """
    rows = None if gamed is None else _rows(gamed)
    if gamed is not None and rows is not None:
        _need(rows, _GAMED, gamed)
    known: dict[int, float] | None = None
    if difficulty is not None:
        known = _difficulties(difficulty)
    elif gamed is not None and rows is not None:
        known = {int(_number(one, "index", gamed)): _number(one, _DIFFICULTY, gamed) for one in reversed(rows)}
    return Given(known, None if gamed is None or rows is None else _gamed(rows, gamed))


def _difficulties(path: Path) -> dict[int, float]:
    """Place of a prompt and its difficulty: the first column, and the one of that name or else the second."""
    rows = _rows(path)
    names = list(rows[0])
    value = _DIFFICULTY if _DIFFICULTY in names else names[1] if len(names) > 1 else ""
    place = "index" if "index" in names else names[0]
    if not value or value == place:
        raise DataError(f"{path} has no column {_DIFFICULTY}", remedy="It needs a place and a difficulty in each row.")
    return {int(_number(one, place, path)): _number(one, value, path) for one in rows}


def _gamed(rows: Sequence[Mapping[str, str]], path: Path) -> Gamed:
    """The rows of the gamed baseline; the file counts lengths as baseline less model."""
    used = [one for one in rows if one["preference"].strip() not in {"", "nan", "NaN"}]
    plain = [one for one in used if one["not_gamed_baseline"].strip().lower() not in {"false", "0", "0.0"}]
    if plain or not used:
        raise DataError(
            f"{path}: {len(plain):,} rows are of no gamed baseline (not_gamed_baseline is not False)",
            remedy="Give the df_gamed.csv of the official package.",
        )
    return Gamed(
        np.tanh(-np.array([_number(one, "std_delta_len", path) for one in used])),
        np.array([_number(one, _DIFFICULTY, path) for one in used]),
        np.array([_number(one, "preference", path, 0.0, 1.0) for one in used]),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Check the path; it must be a CSV file.") from error
    if not rows:
        raise DataError(f"{path} holds no rows", remedy="Give the file of the official package.")
    return rows


def _need(rows: Sequence[Mapping[str, str]], names: Sequence[str], path: Path) -> None:
    missing = [name for name in names if name not in rows[0]]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(rows[0])}",
            remedy="Give the df_gamed.csv of the official package.",
        )


def _number(row: Mapping[str, str], name: str, path: Path, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        raise DataError(f"{path}: {name} is {row[name]!r} in a row", remedy="Mend that row; it must be a number there.")
    return value
