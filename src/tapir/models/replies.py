"""Replies of language models: JSON, tags, labels, scores and preferences, read or refused.

One rule for all: what was asked for counts where the model says it in its own words, or where it alone makes up the
end of the reply, with whatever marks around it (`quotations.final_passages`); marks that differ are no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from tapir.domain.instruction import normalised
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE, Unscored
from tapir.models.api.protocol import encodable, json_or_none
from tapir.models.api.session import Caller
from tapir.models.prompts import restored
from tapir.models.quotations import Span, final_fence, final_object, final_passages, own_words, sole_marks, standing

ReplyStyle: TypeAlias = Literal["tagged", "json"]

NO_SCORE = "no score found"

_NUMBER = re.compile(
    r"(?:[\s\"'`*_\[($]|\\boxed\{)*(?P<number>-?(?:0|[1-9][0-9]*)(?:\.(?P<fraction>[0-9]+))?)[\s\"'`*_]*"
    r"(?:(?:/|out\s+of|of)\s*(?P<of>[0-9]{1,4}))?[\s\"'`*_\])}$]*",
    re.IGNORECASE,
)
# Not behind a name, a call or an index (`rows[[A]]` is code), and no link (`[[A]](https://...)`).
_LETTER = re.compile(r"(?<![A-Za-z0-9_)\]])\[\[\s*(?P<letter>[ABC])\s*\]\](?!\((?:https?:|www\.|[#/]))")
_LABELLED = re.compile(r"[\[\s\"*_#]*(?:(?:overall|final)\s)?(?:rating|score|verdict):[\s*_\"]*\Z", re.IGNORECASE)
_OPENING = re.compile(r"\n[\s\"'`*_#\u201c-]*\Z")
_TASK_LABEL = re.compile(r"<label>(?P<label>[^<>]*)</label>", re.IGNORECASE)
_LABEL_MARK = re.compile(r"</?label\s*/?>|\\(?:boxed|text)\{", re.IGNORECASE)
_LABEL_NAME = re.compile(r"(?<![\s<#*_\"'`-])[\s<#*_\"'`-]*+label[\s\"'`*_]*+[:=]", re.IGNORECASE)  # in linear time
_LINE = (
    r"^[ \t*_`\"'\u201c#-]*(?:(?:overall|final) )?NAME[ \t*_`]*[:=\uff1a][ \t*_`\"']*"
    r"(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:\s*(?:/|out\s+of|of)\s*[0-9]+)?)[ \t*_`\"'\u201d.,;]*$"
)
_AROUND_A_LABEL = " \t\r\n<>/\"'`*_.()[]}$\u201c\u201d\u2018\u2019-"
_WITHIN_A_LABEL = re.compile(r"[\s_\-\u2010-\u2015]+")
_AS_SHOWN = re.compile(r"\A\s*<example>|</example>\s*\Z")  # around a new instruction: the tags of the examples, or one
_NEW_INSTRUCTION = re.compile(r"(?is)<new_instruction>((?:(?!</?new_instruction>).)*+)</new_instruction>")
_OBJECT = re.compile(
    r"(?s)\s*(?:(?P<ticks>`{0,2}|\*\*)(?P<object>\{.*\})(?P=ticks)|```[A-Za-z]*\s*(?P<fenced>\{.*\})\s*```)\s*"
)
# JSON as models write it: with comments, a comma behind the last member, single quotes, LaTeX in texts.
_GAP = r"(?:\s|//[^\n]*+)*+"
_STRING = r'"(?:[^"\\]|\\.)*+"'
_SINGLE = r"'[^'\"\\\n]*+'"
_MEMBER = re.compile(
    rf"(?s){_GAP}(?:{_STRING}|{_SINGLE}){_GAP}:{_GAP}(?P<value>{_STRING}|{_SINGLE}|[^\s,{{}}\[\]\"'/]++){_GAP}[,}}]"
)
_SLIP = re.compile(rf"(?P<string>{_STRING})|(?P<single>{_SINGLE})|//[^\n]*+|,(?={_GAP}[}}\]])", re.DOTALL)
_ESCAPE = re.compile(r'\\(?:(?P<known>["\\/nrt]|u[0-9A-Fa-f]{4})|)')  # \f and \b begin \frac and \beta


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


class _UnreadableError(Exception):
    """Its message is the reason: short and without the value, so that the report can count by it."""


def reply_style(caller: Caller, endpoints: tuple[str, ...]) -> ReplyStyle:
    """Return how a reply is asked for: as JSON where every endpoint takes a schema, else between tags."""
    return "json" if caller.json_schema(endpoints) else "tagged"


def read_scores(text: str, names: Sequence[str], style: ReplyStyle) -> Scores | Unscored:
    """Read the score for each name (of a tag, of a key in JSON, or of a last line), or say why the reply gives none.

    A score is a whole or half number from 1 to 10 between its tags, under its key, or in a last line behind its name
    and a colon; "7 out of 10" is 7. Nothing is clamped, defaulted or taken from a sentence. What the judge quotes does
    not count unless it is the end of the reply; the same score twice is one score, two different ones are none.
    `style` is the form asked for; another of these forms is read as well.
    """
    if not text.strip():
        return Unscored("reply is empty", raw=text)
    try:
        rationale, marks = _object_scores(text, names) or _written_scores(text, names, style)
        if not all(marks):
            return Unscored("score for only one answer" if any(marks) else NO_SCORE, raw=text)
        scores = [_agreed_score(text, several) for several in marks]
    except _UnreadableError as reason:
        return Unscored(str(reason), raw=text)
    return Scores(tuple(value for value, _ in scores), rationale, tuple(span for _, span in scores))


def more_scores_follow(text: str, scores: Scores, names: Sequence[str]) -> bool:
    """Return whether more scores stand, quoted, behind those read, which may be the quoted ones then."""
    end = max(end for _, end in scores.spans)
    return any(_whole_tag(name).search(text, end) for name in names)


def read_preference(text: str) -> re.Match[str] | Unscored:
    """Read the verdict of a comparison: `[[A]]`, `[[B]]`, or `[[C]]` for a tie; quotations do not count.

    Returned is the last of its marks, with the group "letter".
    The last line's only mark is a verdict in quotation marks too. A conclusion ("Overall, ...", a mark alone on its
    line) makes marks before it that are none ("Accuracy: [[A]]") partial; else marks that differ are no verdict.
    """
    if not text.strip():
        return Unscored("reply is empty", raw=text)
    found = {match.start(): (standing(text, match.span()), match) for match in _LETTER.finditer(own_words(text))}
    for match in _final_letters(text, first_line=not found):
        found[match.start()] = max(1, standing(text, match.span())), match
    if not found:
        return Unscored("preference only in a quotation" if _LETTER.search(text) else "no preference found", raw=text)
    highest = max(weight for weight, _ in found.values())
    place = min(at for at, (weight, _) in found.items() if weight == highest)
    counted = [match for at, (_, match) in sorted(found.items()) if at >= place]
    if len({match["letter"] for match in counted}) > 1:
        return Unscored("two different preferences", raw=text)
    return counted[-1]


def _final_letters(text: str, *, first_line: bool) -> Iterator[re.Match[str]]:
    """Yield the marks that alone make up the end of a reply, its first line, or a member where it is a JSON object."""
    content, passages = final_passages(text)
    start = len(text) - len(text.lstrip())
    if first_line and (end := content.find("\n", start)) > 0:
        passages.append((start, end))
    for passage in passages:
        yield from sole_marks(content, passage, [_LETTER]) or ()
    for _, (start, end) in _members(text) or ():
        if text[start] == '"':
            yield from sole_marks(text, (start + 1, end - 1), [_LETTER]) or ()


def read_labels(text: str, known: Collection[str]) -> set[str]:
    """Read the labels that a reply names between tags or in JSON, or the one that it is.

    It is a known one where both are the same without marks around it, case, white space and hyphens; any other comes
    back as it stands.
    """
    tags = list(_TASK_LABEL.finditer(own_words(text)))
    content, passages = final_passages(text)
    for passage in passages:
        tags += sole_marks(content, passage, [_TASK_LABEL]) or ()
    members = {member for member in _json_members(text, "label") if isinstance(member, str)}
    if named := members.union(text[slice(*tag.span("label"))] for tag in tags):
        return {_known_label(name, known) for name in named}
    last = [content[slice(*passage)] for passage in passages if len(_LABEL_NAME.findall(content)) == 1]
    whole = (
        _LABEL_MARK.sub("", words).lstrip(_AROUND_A_LABEL + "#")
        for words in (content, *filter(_LABEL_NAME.match, last))
    )
    return {_known_label(_LABEL_NAME.sub("", words, count=1), known) for words in whole} & {*known}


def _known_label(name: str, known: Collection[str]) -> str:
    """Return the known label that a name is, exactly before roughly; the name where that is none or several."""
    exact, rough = _by_form((*known,))
    alike = exact.get(normalised(name)) or rough.get(_squeezed(name.strip(_AROUND_A_LABEL)), [])
    return alike[0] if len(alike) == 1 else normalised(name)


@lru_cache(maxsize=1)  # of the run's taxonomy
def _by_form(known: tuple[str, ...]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    exact, rough = dict[str, list[str]](), dict[str, list[str]]()
    for label in known:
        exact.setdefault(normalised(label), []).append(label)
        rough.setdefault(_squeezed(label.strip(_AROUND_A_LABEL)), []).append(label)
    return exact, rough


def _squeezed(name: str) -> str:
    return _WITHIN_A_LABEL.sub("", name).casefold()


def read_instructions(text: str) -> list[str]:
    """Read the new instructions of a reply, each once."""
    lists = (member for member in _json_members(text, "instructions") if isinstance(member, list))
    texts = _NEW_INSTRUCTION.findall(text) or [item for items in lists for item in items if isinstance(item, str)]
    return list(dict.fromkeys(encodable(restored(_AS_SHOWN.sub("", text).strip())) for text in texts))


def _object(text: str) -> Span | None:
    """Return where the JSON object stands that a reply is, or that its final code fence or its last lines are."""
    last = final_object(text)
    match = _OBJECT.fullmatch(text) or (_OBJECT.fullmatch(text, *last) if last else None)
    return match.span("object" if match["object"] else "fenced") if match else None


def _loaded(text: str, span: Span | None, **how: Any) -> Any:
    """Return what JSON as models write it says; None where it is not valid. They put line breaks into strings."""
    return json_or_none(_SLIP.sub(_mended, text[slice(*span)]), strict=False, **how) if span else None


def _mended(slip: re.Match[str]) -> str:
    if slip["single"]:
        return f'"{slip[0][1:-1]}"'
    return _ESCAPE.sub(lambda met: met[0] if met["known"] else r"\\", slip["string"] or "")


def _json_members(text: str, key: str) -> list[Any]:
    """Return the members of that name of a reply that is one JSON object; in them objects are tuples of pairs."""
    content = _loaded(text, _object(text), object_pairs_hook=tuple) or ()
    return [value for name, value in content if _squeezed(name) == key]


def _members(text: str) -> list[tuple[str, Span]] | None:
    """Return the squeezed keys of a flat JSON object, and where their values stand; a key may come twice."""
    span = _object(text)
    pairs = _loaded(text, span, object_pairs_hook=list, parse_int=str, parse_float=str)
    if span is None or pairs is None or any(isinstance(value, list) for _, value in pairs):
        return None
    found, place = [], span[0] + 1
    for key, _ in pairs:
        if not (match := _MEMBER.match(text, place)):
            return None
        found.append((_squeezed(key), match.span("value")))
        place = match.end()
    return found


def _object_scores(text: str, names: Sequence[str]) -> tuple[str, list[list[Span]]] | None:
    """Return the rationale, and where numbers stand for each name, in a flat JSON object; None where there is none."""
    members = _members(text)
    if members is None:
        return None
    given = {name: [place for key, place in members if key == _squeezed(name)] for name in names}
    own = "" if _OBJECT.fullmatch(text) else own_words(text)  # other scores may stand before an object at the end
    if own and not any(given.values()):
        return None
    marks = [[*(tag.span("number") for tag in _score_tags(own, name)), *places] for name, places in given.items()]
    rationales = (_loaded(text, place) for key, place in members if key == "rationale")
    return "\n".join(value.strip() for value in rationales if isinstance(value, str)), marks


def _written_scores(text: str, names: Sequence[str], style: ReplyStyle) -> tuple[str, list[list[Span]]]:
    """Return the same from the judge's own words and from what alone makes up the end of the reply."""
    own, last = own_words(text), _final_scores(text, names)
    found = [[*_score_tags(own, name), *last.get(name, ())] for name in names]
    if not any(found):
        quoted = any(_whole_tag(name).search(text) for name in names)
        other = "reply is not one flat JSON object" if style == "json" else NO_SCORE
        raise _UnreadableError("score only in a quotation" if quoted else other)
    outer = [mark.span() for several in found for mark in several]
    if last and (fence := final_fence(text)):
        (start, end), (first, after) = fence
        outer += [(start, first), (after, end)]
    return _beside(text, outer), [[mark.span("number") for mark in several] for several in found]


def _final_scores(text: str, names: Sequence[str]) -> dict[str, list[re.Match[str]]]:
    """Return the mark of every name where these, as tags or as lines, alone make up the end of the reply."""
    lines = [
        re.compile(_LINE.replace("NAME", name.replace("_", "[ _-]?")), re.IGNORECASE | re.MULTILINE) for name in names
    ]
    content, passages = final_passages(text, len(names))
    for passage in passages:
        for forms in ([_whole_tag(name) for name in names], lines):
            if found := sole_marks(content, passage, forms):
                return {name: [mark] for name, mark in zip(names, found, strict=True)}
    return {}


def _whole_tag(name: str) -> re.Pattern[str]:
    tag = name.replace("_", "[ _-]?") + r"\s*"
    return re.compile(rf"<{tag}>(?P<number>[^<>]*)</{tag}>", re.IGNORECASE)


def _score_tags(text: str, name: str) -> Iterator[re.Match[str]]:
    yield from _whole_tag(name).finditer(text)
    if re.search(rf"<{name}>\s*-?[0-9][^<>]*(?!</{name}>)(?:[<>]|\Z)", text, re.IGNORECASE):
        raise _UnreadableError("unfinished score")


def _beside(text: str, marks: Iterable[Span]) -> str:
    """Return the reply without its marks and the labels before them."""
    pieces, done = [], 0
    for start, end in [*sorted(marks), (len(text), len(text))]:
        piece = text[done:start]
        label = _LABELLED.search(piece[-40:])
        pieces.append(piece[: len(piece) - len(label[0])] if label and start < end else _OPENING.sub("", piece))
        done = max(done, end)
    rationale = "\n".join(piece.strip() for piece in pieces if any(letter.isalnum() for letter in piece))
    return rationale.removeprefix("Feedback:").strip()


def _agreed_score(text: str, marks: Sequence[Span]) -> tuple[float, Span]:
    """Return the one score that all marks for a name agree on, and where it was last written."""
    numbers = [match for mark in marks if (match := _NUMBER.fullmatch(text, *mark))]
    if len(numbers) < len(marks):
        raise _UnreadableError("score is not a plain number")
    if any(number["of"] and float(number["of"]) != HIGHEST_SCORE for number in numbers):
        raise _UnreadableError("score on another scale")
    if len({float(number["number"]) for number in numbers}) > 1:
        raise _UnreadableError("two different scores")
    value = float(numbers[-1]["number"])
    if not LOWEST_SCORE <= value <= HIGHEST_SCORE:
        raise _UnreadableError("score out of range")
    # The digits are looked at, since 7.50000000000000000001 is 7.5 as a float.
    if any((number["fraction"] or "").rstrip("0") not in {"", "5"} for number in numbers):
        raise _UnreadableError("not a whole or half number")
    return value, numbers[-1].span("number")
