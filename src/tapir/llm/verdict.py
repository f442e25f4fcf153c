"""Reading what a judge wrote: well-formed scores, or the reason why there are none. Nothing is ever guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE, Unscored
from tapir.llm.quotation import Span, own_words

ReplyStyle: TypeAlias = Literal["tagged", "json", "mt-bench", "prometheus"]
Preference: TypeAlias = Literal["A", "B", "tie"]

_NUMBER = re.compile(r"\s*(?P<number>-?(?:0|[1-9][0-9]*)(?:\.(?P<fraction>[0-9]+))?)(?:\s*/\s*(?P<of>[0-9]{1,4}))?\s*")
# Not behind a name, a call or an index (`rows[[1]]` is code), and no numbered link (`[[1]](https://...)`).
_BRACKETS = re.compile(r"(?<![A-Za-z0-9_)\]])\[\[(?P<written>[^\[\]\n]*)\]\](?!\((?:https?:|www\.|[#/]))")
_UNFINISHED_BRACKETS = re.compile(r"\[\[\s*-?[0-9]+(?:\.[0-9]*)?\s*\]?\Z")
_RESULT = re.compile(r"\[RESULT\]\s*(?P<written>[^\n]*)", re.IGNORECASE)
_BARE_RESULT = re.compile(r"[\s*_]*\(?(?P<bare>[^()\s*_](?:[^()*_]*[^()\s*_.])?)\)?[\s*_.]*")
_LABEL = re.compile(r"[\[\s\"*_#]*(?:(?:overall|final)\s)?(?:rating|score|verdict):[\s*_\"]*\Z", re.IGNORECASE)
_OBJECT_OPENS = re.compile(r"\s*(?P<fence>```[A-Za-z]*\s*)?\{\s*")
_COLON, _COMMA = re.compile(r"\s*:\s*"), re.compile(r"\s*,\s*")
_OBJECT_CLOSES = re.compile(r"\s*\}\s*(?P<fence>```)?\s*")
# Judges put real line breaks into strings; these make nothing ambiguous. Numbers are read from their place in the text.
_JSON = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)
_PREFERENCES: dict[str, Preference] = {"A": "A", "B": "B", "C": "tie"}


@dataclass(frozen=True, slots=True)
class Scores:
    """What one reply of a judge says.

    Attributes:
        values: one score for each name asked for, in the order of the names; whole or half numbers as written.
        rationale: what the judge wrote before (or beside) its scores, stripped.
        spans: where in the reply each number stands (start, end), for its log-probabilities; the last
            place where a score was given more than once.
    """

    values: tuple[float, ...]
    rationale: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class _Mark:
    """A marked place: `written` is where its content stands, `whole` takes in the marker."""

    written: Span
    whole: Span


class _UnreadableError(Exception):
    """Its message is the reason: short and without the value, so that the report can count by it."""


def read_scores(
    text: str, names: Sequence[str], style: ReplyStyle, *, low: float = LOWEST_SCORE, high: float = HIGHEST_SCORE
) -> Scores | Unscored:
    """The score for each name, or why the reply gives none.

    A score is a whole or half number from `low` to `high` within the marker of the style; `7/10` is read as 7 where
    `high` is 10. Nothing is clamped, defaulted or taken from prose. What the judge quotes does not count (see
    `tapir.llm.quotation.own_words`), the same score twice is one score, two different ones are none.

    Args:
        text: the reply, whole and unchanged.
        names: `("score_a", "score_b")` or `("score",)`: the tags of "tagged" and the keys of "json".
            "mt-bench" and "prometheus" have a marker of their own and give exactly one score.
        style: how the judge was asked to write.
        low: lowest score of the scale.
        high: highest score of the scale.

    Raises:
        ValueError: no name, or several for a style that gives one score.
    """
    if not names or (style in {"mt-bench", "prometheus"} and len(names) > 1):
        raise ValueError(f"{style} cannot give scores for {tuple(names)}")
    if not text.strip():
        return Unscored("reply is empty", raw=text)
    try:
        if style == "json":
            rationale, marks = _members(text, names)
        else:
            marks = _marks(own_words(text), text, names, style)
            rationale = _beside(text, [mark for several in marks for mark in several])
        _check_complete(marks)
        scores = [_settled(text, several, low, high) for several in marks]
    except _UnreadableError as reason:
        return Unscored(str(reason), raw=text)
    return Scores(tuple(value for value, _ in scores), rationale, tuple(span for _, span in scores))


def read_preference(text: str) -> Preference | Unscored:
    """The verdict of an MT-bench comparison: `[[A]]`, `[[B]]`, or `[[C]]` for a tie; quotations do not count."""
    if not text.strip():
        return Unscored("reply is empty", raw=text)
    found = _letters(own_words(text))
    if not found:
        return Unscored("preference only in a quotation" if _letters(text) else "no preference found", raw=text)
    if len(found) > 1:
        return Unscored("two different preferences", raw=text)
    return found.pop()


def _letters(text: str) -> set[Preference]:
    written = {found["written"].strip() for found in _BRACKETS.finditer(text)}
    return {preference for letter, preference in _PREFERENCES.items() if letter in written}


def _marks(own: str, text: str, names: Sequence[str], style: ReplyStyle) -> list[list[_Mark]]:
    """The marks for each name among the judge's own words."""
    marks = [list(_marks_of(own, name, style)) for name in names]
    if not any(marks) and any(_any_mark(text, name, style) for name in names):
        raise _UnreadableError("score only in a quotation")
    return marks


def _marks_of(text: str, name: str, style: ReplyStyle) -> Iterator[_Mark]:
    if style == "tagged":
        return _tags(text, name)
    return _brackets(text) if style == "mt-bench" else _results(text)


def _any_mark(text: str, name: str, style: ReplyStyle) -> bool:
    """Whether a mark stands anywhere, quoted or not; one that cannot be read is none."""
    try:
        return any(True for _ in _marks_of(text, name, style))
    except _UnreadableError:
        return False


def _tags(text: str, name: str) -> Iterator[_Mark]:
    tag = re.escape(name)
    for found in re.finditer(rf"<{tag}>(?P<written>[^<>]*)(?P<close></{tag}>)?", text, re.IGNORECASE):
        if found["close"]:
            yield _Mark(found.span("written"), found.span())
        elif re.match(r"\s*-?[0-9]", found["written"]):
            raise _UnreadableError("unfinished score")


def _brackets(text: str) -> Iterator[_Mark]:
    """Ratings in double brackets; other things stand in them too (links, lists), so only numbers are marks."""
    if _UNFINISHED_BRACKETS.search(text.rstrip()[-40:]):
        raise _UnreadableError("unfinished score")
    marks = [_Mark(found.span("written"), found.span()) for found in _BRACKETS.finditer(text)]
    numbers = [mark for mark in marks if _NUMBER.fullmatch(text, *mark.written)]
    yield from numbers or marks


def _results(text: str) -> Iterator[_Mark]:
    for found in _RESULT.finditer(text):
        if not found["written"].strip():
            raise _UnreadableError("unfinished score")
        bare = _BARE_RESULT.fullmatch(text, *found.span("written"))
        yield _Mark(bare.span("bare") if bare else found.span("written"), found.span())


def _members(text: str, names: Sequence[str]) -> tuple[str, list[list[_Mark]]]:
    """The rationale and the marks for each name, from a reply that is one flat JSON object and nothing else."""
    rationales: list[str] = []
    marks: dict[str, list[_Mark]] = {name: [] for name in names}
    try:
        for key, value, span in _flat_object(text):
            if key in marks:
                marks[key].append(_Mark(span, span))
            elif key == "rationale" and isinstance(value, str):
                rationales.append(value.strip())
    except ValueError as cause:
        raise _UnreadableError("reply is not one flat JSON object") from cause
    return "\n".join(rationales), list(marks.values())


def _flat_object(text: str) -> Iterator[tuple[str, object, Span]]:
    """Key, value and place of the value; a key that comes twice is given twice."""
    opening = _match(_OBJECT_OPENS, text, 0)
    at = opening.end()
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("a key was expected")
        key, at = _JSON.raw_decode(text, at)
        at = _match(_COLON, text, at).end()
        if text[at : at + 1] in {"{", "["}:
            raise ValueError("a string or a number was expected")
        value, end = _JSON.raw_decode(text, at)
        yield str(key), value, (at, end)
        comma = _COMMA.match(text, end)
        if comma is None:
            break
        at = comma.end()
    closing = _match(_OBJECT_CLOSES, text, end)
    if closing.end() != len(text) or bool(opening["fence"]) != bool(closing["fence"]):
        raise ValueError("nothing was expected around the object")


def _match(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"{pattern.pattern} was expected at {at}")
    return found


def _check_complete(marks: Sequence[Sequence[_Mark]]) -> None:
    if not any(marks):
        raise _UnreadableError("no score found")
    if not all(marks):
        raise _UnreadableError("score for only one answer")


def _settled(text: str, marks: Sequence[_Mark], low: float, high: float) -> tuple[float, Span]:
    """The one score that all marks for a name agree on, and where it was last written."""
    numbers = [_all_of(_NUMBER.fullmatch(text, *mark.written)) for mark in marks]
    if any(number["of"] and float(number["of"]) != high for number in numbers):
        raise _UnreadableError("score on another scale")
    if len({float(number["number"]) for number in numbers}) > 1:
        raise _UnreadableError("two different scores")
    last = numbers[-1]
    value = float(last["number"])
    if not low <= value <= high:
        raise _UnreadableError("score out of range")
    # The digits are looked at, since 7.50000000000000000001 is 7.5 as a float.
    if any((number["fraction"] or "").rstrip("0") not in {"", "5"} for number in numbers):
        raise _UnreadableError("not a whole or half number")
    return value, last.span("number")


def _all_of(number: re.Match[str] | None) -> re.Match[str]:
    if number is None:
        raise _UnreadableError("score is not a plain number")
    return number


def _beside(text: str, marks: Sequence[_Mark]) -> str:
    """The reply without its marks and the labels before them."""
    pieces, done = [], 0
    for start, end in [*sorted(mark.whole for mark in marks), (len(text), len(text))]:
        piece = text[done:start]
        label = _LABEL.search(piece[-40:])
        pieces.append(piece[: len(piece) - len(label[0])] if label and start < end else piece)
        done = end
    said = "\n".join(piece.strip() for piece in pieces if any(letter.isalnum() for letter in piece))
    return said.removeprefix("Feedback:").strip()
