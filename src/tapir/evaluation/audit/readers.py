"""Readers of judged pairs: files in the project's own and two other formats, reviews of people, and runs.

The project's own format is one JSON object a line, one judgement of two answers each; docs/audit.md describes it.
A verdict that cannot be read is kept as unreadable.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

from tapir.data.readers import records
from tapir.data.records import Record
from tapir.data.run.reviews import ReviewFile
from tapir.data.run.store import is_run
from tapir.domain.errors import DataError
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE
from tapir.domain.roles import Rejected
from tapir.evaluation.audit.panel import Panel, join, rename_raters
from tapir.evaluation.audit.records import (
    STUDENT,
    TEACHER,
    AnswerPair,
    Choice,
    Oracle,
    Order,
    Recording,
    Vote,
    digest,
    number,
    read_run,
    score_vote,
    side,
    text_pair,
)
from tapir.evaluation.held_out import Fields, text

OWN = "pairs"
UNNAMED = "judge"  # a judge without a name in the rows
_TEXT_KEYS = "id prompt_id instruction answer_a answer_b length_a length_b model_a model_b constant"
_VERDICT_KEYS = "judge human verdict score_a score_b order unreadable price seconds label scale"
KEYS = frozenset(f"{_TEXT_KEYS} {_VERDICT_KEYS}".split())
_LABEL = "label"
_MARKS = (0, -1)  # what stands for "no score" where scores begin with 1
_BINARY = 2  # scores that go no further are no grades from 1 to 10
_CHOICES: Mapping[str, Choice] = {"a": "a", "b": "b", "tie": "tie"}
_ORDERS: Mapping[str, Order] = {"": "", "ab": "ab", "ba": "ba"}


def read_pair(row: Fields, into: Recording, place: str = "") -> None:
    """Add one line of the own format."""
    pair = _pair(row, place)
    rater, order = str(row.get("judge") or UNNAMED), _ORDERS.get(str(row.get("order") or "").casefold())
    if order is None:
        raise DataError(f'{place}: "order" is {row["order"]!r}', remedy='It is "ab" or "ba": which was shown first.')
    judged = bool({"score_a", "score_b", "verdict"} & row.keys() or row.get("unreadable"))
    labels = _labels(row.get("label"))
    if not judged and not labels:
        raise DataError(
            f"{place}: there is no verdict, no pair of scores and no label",
            remedy='A line needs "verdict" ("a", "b", "tie"), "score_a" and "score_b", or "label". See docs/audit.md.',
        )
    if judged:
        scored = "score_a" in row or "score_b" in row
        into.add(pair, _scored(row, pair.id, rater, order) if scored else _verdict(row, pair.id, rater, order))
        into.add_cost(rater, number(row.get("price")), number(row.get("seconds")))
        if row.get("scale"):
            into.scaled.add(rater)
        if row.get("human") is True:
            into.humans.add(rater)
    for name, value in labels.items():
        into.add_label(pair, _verdict({"verdict": value}, pair.id, str(name), ""))


def _pair(row: Fields, place: str) -> AnswerPair:
    prompt = row.get("prompt_id", row.get("instruction"))
    known = isinstance(row.get("answer_a"), str) and isinstance(row.get("answer_b"), str)
    first, second = (str(row[key]) if known else "" for key in ("answer_a", "answer_b"))
    models = str(row.get("model_a") or ""), str(row.get("model_b") or "")
    if row.get("id") is not None:
        name = str(row["id"])
    elif prompt is None:
        raise DataError(
            f"{place}: nothing says what was judged",
            remedy='Give every line an "id", a "prompt_id" or the "instruction". See docs/audit.md.',
        )
    elif known and "instruction" in row:
        name = text_pair(str(row["instruction"]), first, second).id
    else:
        name = "/".join((str(prompt) if "prompt_id" in row else digest(str(prompt)), *filter(None, sorted(models))))
    lengths = [number(row.get("length_a")), number(row.get("length_b"))]
    length_a, length_b = (
        int(length) if length is not None else len(text) if known else None
        for length, text in zip(lengths, (first, second), strict=True)
    )
    constant: Any = row.get("constant") or ""
    if constant not in {"", "a", "b"}:
        raise DataError(f'{place}: "constant" is {constant!r}', remedy='It names the constant answer: "a" or "b".')
    return AnswerPair(
        name,
        str(name if prompt is None else prompt),
        digest(first) if known else "",
        digest(second) if known else "",
        *models,
        length_a=length_a,
        length_b=length_b,
        constant=constant,
    )


def _scored(row: Fields, pair: str, rater: str, order: Order) -> Vote:
    first, second = number(row.get("score_a")), number(row.get("score_b"))
    if first is not None and second is not None:
        low, high = row.get("scale") or (-math.inf, math.inf)
        return _in_range(score_vote(pair, rater, (first, second), order), low, high)
    missing = any(row.get(name) in (None, "") for name in ("score_a", "score_b"))
    why = row.get("unreadable") or ("a score is missing" if missing else "a score is not a finite number")
    return Vote(pair, rater, None, order=order, unreadable=str(why))


def _in_range(vote: Vote, low: float, high: float) -> Vote:
    """Return the vote, unreadable where one of its scores is not on the scale."""
    outside = next((score for score in vote.scores or () if not low <= score <= high), None)
    if outside is None:
        return vote
    why = f"score {outside:g} is not between {low:g} and {high:g}"
    return Vote(vote.pair, vote.rater, None, order=vote.order, unreadable=why)


def _without_marks(votes: Sequence[Vote], scaled: set[str]) -> list[Vote]:
    """Make the 0 and -1 that stand for "no score" on a scale from 1 to 10 unreadable.

    A rater's scores are on that scale if they go beyond 2 but not beyond 10, and whatever lies below 1 is 0 or -1;
    one whose lines name a `scale` is left as it is.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        scores[vote.rater] += vote.scores or ()
    graded = {
        rater
        for rater, given in scores.items()
        if rater not in scaled and given and _BINARY < max(given) <= HIGHEST_SCORE
        if all(score >= LOWEST_SCORE or score in _MARKS for score in given)
    }
    return [_in_range(vote, LOWEST_SCORE, HIGHEST_SCORE) if vote.rater in graded else vote for vote in votes]


def _verdict(row: Fields, pair: str, rater: str, order: Order) -> Vote:
    value = row.get("verdict")
    choice = _CHOICES.get(str(value).strip().casefold())
    why = "" if choice else str(row.get("unreadable") or _unreadable(value))
    return Vote(pair, rater, choice, order=order, unreadable=why)


def _unreadable(value: object) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "no verdict"
    return f"'{str(value)[:40]}' is no verdict"


def _labels(value: object) -> Mapping[str, object]:
    """Return names and verdicts of one label, of a list of them, or of a name for each."""
    if isinstance(value, list):
        return {f"{_LABEL} {place}": label for place, label in enumerate(value, 1)}
    return value if isinstance(value, Mapping) else {} if value is None else {_LABEL: value}


def read_ranked(row: Fields, into: Recording) -> None:
    """Add a preference pair (`chosen`, `rejected`) as used for training: one verdict of a judge without a name.

    The better answer stands in the same column of every row; which is `a` is decided by the texts, so that a verdict
    carries information.
    """
    prompt = f"{row.get('instruction', row.get('prompt', ''))}\n{row.get('input') or ''}"
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    first, second = sorted((chosen, rejected), key=digest)
    pair = text_pair(prompt, first, second)
    choice: Choice = "tie" if chosen == rejected else "a" if first == chosen else "b"
    into.add(pair, Vote(pair.id, str(row.get("judge") or UNNAMED), choice))


def read_alpaca_eval(row: Fields, into: Recording) -> None:
    """Add an annotation of AlpacaEval: 1 for the first output to 2 for the second, whole or weighted by probability.

    The order shown is random and is read off the judge's first token, where it was recorded: `m` stands for the
    output shown first, `M` for the one shown second.
    """
    models = str(row.get("generator_1") or ""), str(row.get("generator_2") or "")
    pair = text_pair(text(row, "instruction"), text(row, "output_1"), text(row, "output_2"), models)
    rater = str(row.get("annotator") or UNNAMED)
    if rater in {"humans", "human"} or "annotator_index" in row:
        rater = f"human {row['annotator_index']}" if "annotator_index" in row else rater
        into.humans.add(rater)
    value = number(row.get("preference"))
    if value == 0:
        value = 1.5  # how earlier versions wrote a draw
    if value is None or not 1 <= value <= 2:  # noqa: PLR2004
        into.add(pair, Vote(pair.id, rater, None, unreadable=_unreadable(row.get("preference"))))
    else:
        lead = 3 - 2 * value
        into.add(pair, Vote(pair.id, rater, side(lead), lead, _order_shown(row.get("raw_completion"), lead)))
    into.add_cost(rater, number(row.get("price_per_example")), number(row.get("time_per_example")))


def _order_shown(raw: Any, lead: float) -> Order:
    """Return the order shown, from the more probable of the two tokens and from the winner it made."""
    try:
        tokens = raw["logprobs"]["content"][0]["top_logprobs"]
        token = next(entry["token"] for entry in tokens if entry["token"] in {"m", "M"})
    except (TypeError, KeyError, IndexError, StopIteration):
        return ""
    return "" if lead == 0 else "ab" if (token == "m") == (lead > 0) else "ba"  # noqa: S105


FOREIGN: Mapping[str, tuple[frozenset[str], Callable[[Fields, Recording], None]]] = {
    "alpaca-eval": (frozenset(("instruction", "output_1", "output_2", "preference")), read_alpaca_eval),
    "ranked": (frozenset(("chosen", "rejected")), read_ranked),
}
"""Formats of others: the columns that identify each, and the reader of a row."""

_HEAD = 20  # rows that decide the format
_CONVERT = "Convert it to the pairs of docs/audit.md; lab/audit/convert.py does so for some benchmarks."


def open_all(
    sources: Sequence[Path], labels: Sequence[Path], *, reference: str = "", judge: str = "", number: int | None = None
) -> Panel:
    """Read everything; the reviews in a run's folder serve as labels where none are named."""
    rounds = {int(match[1]) for path in labels if (match := _OF_ROUND.fullmatch(path.name))}
    if number is None and len(rounds) == 1:
        number = rounds.pop()
    name = f"reviews-round-{number}.jsonl" if number else "reviews.jsonl"
    chosen = labels or [path / name for path in sources if is_run(path) and (path / name).is_file()]
    recordings = [read_source(path, judge, number) for path in sources]
    _check_same_answers([recording for recording, path in zip(recordings, sources, strict=True) if is_run(path)])
    return join(recordings, [read_source(path) for path in chosen], reference)


def _check_same_answers(runs: Sequence[Recording]) -> None:
    """Check that several runs had the same answers judged, by their lengths: else their judges cannot be compared."""
    for first, second in combinations(runs, 2):
        shared = [name for name in first.pairs.keys() & second.pairs.keys() if not first.pairs[name].constant]
        other = [name for name in shared if first.pairs[name].length_a != second.pairs[name].length_a]
        if other:
            raise DataError(
                f"{first.name} and {second.name} had different answers judged to {len(other):,} of {len(shared):,}"
                " instructions: these judges cannot be compared",
                remedy="Audit one run at a time.",
            )


def read_source(path: Path, judge: str = "", number: int | None = None) -> Recording:
    """Read a run, reviews, or a file of judged pairs."""
    if path.is_dir():
        return read_run(path, number)
    return read_reviews(path) if is_reviews(path) else read_file(path, judge)


def read_file(path: Path, judge: str = "") -> Recording:
    """Read a file of judged pairs; rows that cannot be used are counted and the first is named.

    Args:
        path: JSON, JSON Lines, CSV or Parquet, plain or gzipped.
        judge: name for a judge that has none in the rows.
    """
    if not path.is_file():
        why = "is neither a file nor the folder of a run" if path.exists() else "is not there"
        raise DataError(f"{path} {why}", remedy="Name a file of judged pairs, or the folder of a run.")
    stream = records(path)
    head = list(islice(stream, _HEAD))
    if not head:
        raise DataError(f"{path} is empty", remedy="Name a file with at least one judged pair.")
    layout = _detect(path, head)
    into, unknown = Recording(path.name), set[str]()
    bad = [f"{row.place}: {why}" for row in chain(head, stream) if (why := _add(row, layout, into, unknown))]
    if not into.votes:
        raise DataError(f"{path}: none of {len(bad)} rows can be read as {layout} (first: {bad[0]})", remedy=_CONVERT)
    if bad:
        into.notes.append(f"{len(bad)} rows of {path.name} cannot be used (first: {bad[0]}).")
    if unknown:
        names = ", ".join(f'"{name}"' for name in sorted(unknown))
        into.notes.append(f"Unknown keys of {path.name} were not read: {names}.")
    into.votes = _without_marks(into.votes, into.scaled)
    into.mark_constant()
    return rename_raters(into, {UNNAMED: judge}) if judge else into


def _add(row: Record | Rejected, layout: str, into: Recording, unknown: set[str]) -> str:
    """Add one row; return why it cannot be used."""
    if isinstance(row, Rejected):
        return row.reason
    try:
        if layout == OWN:
            unknown |= row.fields.keys() - KEYS
            read_pair(row.fields, into, row.place)
        else:
            FOREIGN[layout][1](row.fields, into)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{'lacks ' if isinstance(error, KeyError) else ''}{error}"
    return ""


def _detect(path: Path, head: list[Record | Rejected]) -> str:
    """Return the format whose columns are all in the first row that can be read."""
    fields = next((set(row.fields) for row in head if isinstance(row, Record)), set())
    for name, (columns, _) in FOREIGN.items():
        if columns <= fields:
            return name
    if fields & {"verdict", "score_a", "label", "unreadable"}:
        return OWN
    if not fields:
        bad = next(row for row in head if isinstance(row, Rejected))
        raise DataError(f"{path} cannot be read: {bad.place}: {bad.reason}", remedy="Name a file of judged pairs.")
    present = ", ".join(sorted(fields)[:20])
    raise DataError(f"{path} is in no format known here; its columns: {present}", remedy=_CONVERT)


_OF_ROUND = re.compile(r"reviews-round-(\d+)\.jsonl")
_PREFERENCES: Mapping[str, Choice] = {"student": "a", "reference": "b", "tie": "tie"}
_SHOWN: Mapping[str, Order] = {"student": "ab", "reference": "ba"}


def is_reviews(path: Path) -> bool:
    """Return whether the first line of a file is a review."""
    first = next(iter(records(path)), None) if path.is_file() and path.suffix == ".jsonl" else None
    return isinstance(first, Record) and {"id", "rater", "preference", "left"} <= first.fields.keys()


def read_reviews(path: Path) -> Recording:
    """Read what people said with `tapir review`; the later line for the same instruction and person wins."""
    latest = {(review.id, review.rater): review for review in ReviewFile(path).read()}
    if not latest:
        raise DataError(f"{path} holds no review", remedy="Rate some pairs with `tapir review` first.")
    into = Recording(path.name, oracle=Oracle({}, {}, list(latest.values())))
    for review in latest.values():
        into.humans.add(review.rater)
        if review.preference:
            vote = Vote(review.id, review.rater, _PREFERENCES[review.preference], order=_SHOWN[review.left])
            into.add(AnswerPair(review.id, review.id, model_a=STUDENT, model_b=TEACHER), vote)
        into.add_cost(review.rater, None, review.seconds)
    into.notes.append("Reviews are of a sample spread evenly over the gap and the tasks, not of the corpus as it is.")
    return into
