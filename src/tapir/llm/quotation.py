"""Which words of a reply are its author's own: quoted text is blanked out, so that no verdict is read from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]

_FILLER = "\0"
_DECORATION = " \t\r\n*_#."

# Between these our prompts, and those of MT-bench, show the judge what it is to judge, and models think aloud.
_QUOTED_TAGS = ("answer_a", "answer_b", "answer", "instruction", "think")
_DELIMITERS = (
    *(re.compile(rf"<(?P<close>/)?{tag}>", re.IGNORECASE) for tag in _QUOTED_TAGS),
    re.compile(r"(?:\[|<\|)The (?:Start|(?P<close>End)) of [^\]|\n]{1,80}(?:\]|\|>)", re.IGNORECASE),
)
_FENCE = re.compile(r"^[ \t]*(?P<bar>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_LABEL = re.compile(r"[ \t*_#]*(?:(?:(?:overall|final)\s)?(?:rating|score|verdict):[ \t*_]*)?", re.IGNORECASE)
_BLOCKQUOTE = re.compile(r"^ {0,3}>[^\n]*", re.MULTILINE)
# An apostrophe within or behind a word opens nothing. The bound on the length keeps the search linear.
_IN_MARKS = re.compile(
    r'"[^"\n]{0,500}"'
    r"|`[^`\n]{1,500}`"
    r"|\u201c[^\u201c\u201d\n]{0,500}\u201d"
    r"|\u2018[^\u2018\u2019\n]{0,500}\u2019"
    r"|(?<!\w)'[^'\n]{0,500}'(?!\w)"
)


def own_words(text: str) -> str:
    r"""The reply with everything quoted in it replaced by NUL, character for character, line breaks kept.

    Quoted is: an echoed answer or instruction between its tags, a code fence, a blockquote, and what stands in
    quotation marks or backticks within a line. Exception: a last line that is nothing but one pair of quotation marks,
    or a label ("Rating:") and such a pair, is a verdict given with the marks of the format asked for, provided that
    something was written before it.

    A tag that is opened and never closed hides the rest of the reply if it begins a line (an echo that was cut off),
    and the rest of its line if it does not (more likely a mention). After a second closing tag, as in an answer
    that closes its own quotation, everything up to the last one is quoted. The time is linear in the length.
    """
    for delimiter in _DELIMITERS:
        text = _blanked(text, _between(text, delimiter))
    text = _blanked(text, _fences(text))
    text = _blanked(text, (found.span() for found in _BLOCKQUOTE.finditer(text)))
    return _blanked(text, _mentions(text))


def _blanked(text: str, spans: Iterable[Span]) -> str:
    pieces, done = [], 0
    for start, end in spans:
        lines = text[start:end].split("\n")
        pieces += [text[done:start], "\n".join(_FILLER * len(line) for line in lines)]
        done = end
    return "".join((*pieces, text[done:]))


def _between(text: str, delimiter: re.Pattern[str]) -> Iterator[Span]:
    opened: list[int] = []
    closed = 0
    for found in delimiter.finditer(text):
        if found["close"]:
            closed = found.end() if opened else 0
        elif closed:
            yield opened[0], closed
            opened, closed = [found.start()], 0
        else:
            opened.append(found.start())
    if closed:
        yield opened[0], closed
        return
    done = 0
    for start in opened:
        if start >= done:
            done = _end_of_unclosed(text, start)
            yield start, done


def _end_of_unclosed(text: str, start: int) -> int:
    line_end = text.find("\n", start)
    begins_its_line = not text[text.rfind("\n", 0, start) + 1 : start].strip()
    return len(text) if begins_its_line or line_end < 0 else line_end


def _fences(text: str) -> Iterator[Span]:
    start, bar = 0, ""
    for found in _FENCE.finditer(text):
        if not bar:
            if not (found["bar"].startswith("`") and "`" in found["info"]):
                start, bar = found.start(), found["bar"]
        elif found["bar"].startswith(bar) and not found["info"].strip():
            yield start, found.end()
            bar = ""
    if bar:
        yield start, len(text)


def _mentions(text: str) -> Iterator[Span]:
    end = len(text.rstrip(_DECORATION))
    line = text.rfind("\n", 0, end) + 1
    label = _LABEL.match(text, line)  # it may be empty
    start = label.end() if label else line
    something_before = any(letter.isalnum() for letter in text[:line])
    for found in _IN_MARKS.finditer(text):
        if not (something_before and found.span() == (start, end)):
            yield found.span()
