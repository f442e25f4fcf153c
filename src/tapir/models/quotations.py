"""Which words of a reply are the model's own: what it quotes, and the passage at its end that holds the verdict.

A judge repeats answers, and answers hold anything, so nothing that is quoted counts. The exception is the form of the
verdict itself: models put what was asked for into a code fence, backticks or quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]

_FILLER = "\0"
_DECORATION = " \t\r\n*_#."

# Between these our prompts, and those of MT-bench, show the judge what it is to judge, and models think aloud.
_QUOTED_TAGS = ("answer_a", "answer_b", "answer", "instruction", "think")
_DELIMITERS = (
    *(re.compile(rf"<(?P<close>/)?{tag}>", re.IGNORECASE) for tag in _QUOTED_TAGS),
    re.compile(r"(?:\[|<\|)The (?:Start|(?P<close>End)) of [^\]|\n]{1,80}(?:\]|\|>)", re.IGNORECASE),
)
_FENCE = re.compile(r"^[ \t]*(?P<bar>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_LAST_LINES = re.compile(r"^[ \t]*\{.*\Z", re.DOTALL | re.MULTILINE)
_BLOCKQUOTE = re.compile(r"^ {0,3}>[^\n]*", re.MULTILINE)
# An apostrophe within or behind a word opens nothing. The bound on the length keeps the search linear.
_IN_MARKS = re.compile(
    r'"[^"\n]{0,500}"'
    r"|`[^`\n]{1,500}`"
    r"|\u201c[^\u201c\u201d\n]{0,500}\u201d"
    r"|\u2018[^\u2018\u2019\n]{0,500}\u2019"
    r"|(?<!\w)'[^'\n]{0,500}'(?!\w)"
)

_CONCLUDING = r"final(?:ly)?|overall|verdict|conclu\w+|decision|judge?ment|therefore|thus|hence|ultimately"
_CHOOSING = r"output|choice|choose|prefer|winner|result|ratings?|scores?|rate|better|best|select|pick"
# What may stand around the marks of a verdict: punctuation, emphasis, and words such as "My final verdict is".
_NOTHING_ELSE = re.compile(
    r"(?i)(?:[\s*_#.,;:=|()\-\u2013\u2014\"'`\u201c\u201d\u2018\u2019]"
    r"|</?(?:scores|ratings?|verdict|result|evaluation|output)>"
    rf"|\b(?:my|the|is|and|{_CONCLUDING}|{_CHOOSING})\b)*"
)
_CONCLUDES = re.compile(rf"(?i)\b(?:{_CONCLUDING})\b")
_CHOOSES = re.compile(rf"(?i)\b(?:my|{_CHOOSING})\b")
_SPEECH = (
    r"sa(?:y|ys|id|ying)|claim(?:s|ed|ing)|contain\w*|wr(?:ite|ites|ote|itten|iting)|quot\w*|cit(?:e|es|ed|ing)|ends?|ending"
    r"|inject\w*|told|tells?|repeat\w*|echo\w*|mention\w*|insert\w*|orders|wants?|demands?"
)
_SPEAKS = re.compile(rf"(?i)\b(?:{_SPEECH})\b(?:[^.!?\n]*:|\s+(?:with|that|by)|)[\s*_]*\Z")
_REPORTS = re.compile(
    rf"(?i)\b(?:{_SPEECH}|format|example|e\.g|instruct\w*|suppos\w*|ignor\w*|asks?|asking|requests?)\b"
    rf"|(?:['\u2019]s|\b(?:its|their))\s+(?:\w+\s+)?(?:{_CONCLUDING}|{_CHOOSING})\b"
    r"|^\W*(?:(?:answer|assistant|response)\s\(?[AB]\)?|user|instruction|task|prompt|question|reference)\W*$"
)
_LEADS_IN = re.compile(rf"(?i)(?:[:=,\-\u2013\u2014>]|\b(?:is|be|as|with|for|to|it|{_CONCLUDING}|{_CHOOSING}))\W*\Z")
_TURNS_AWAY = re.compile(r"(?i)\b(?:not|never|neither|n['\u2019]t|or|if|like|whether)(?:\W+\w+){0,2}\W*\Z")
_SHORT_LABEL = re.compile(r"\W*\w+(?:[ -]\w+)?[\s*_]*:\W*")
_SENTENCE = re.compile(r"[.!?;]\W*\s|,\s+(?=so\b)")
_LONGEST_LEAD, _LONGEST_END, _MOST_QUOTATIONS = 300, 2_000, 20  # keep the search linear


def own_words(text: str) -> str:
    r"""Return the reply with everything quoted in it replaced by NUL, character for character, line breaks kept.

    Quoted is: an echoed answer or instruction between its tags, a code fence, a blockquote, and what stands in
    quotation marks or backticks within a line.

    A tag that is opened and never closed hides the rest of the reply if it begins a line (an echo that was cut off),
    and the rest of its line if it does not (more likely a mention). After a second closing tag, as in an answer
    that closes its own quotation, everything up to the last one is quoted. The time is linear in the length.
    """
    text = _without_blocks(_without_echo(text))
    return _blanked(text, (match.span() for match in _IN_MARKS.finditer(text)))


def final_fence(text: str) -> tuple[Span, Span] | None:
    """Return the code fence that ends a reply, and its content; None where none does, or an echo holds it."""
    *_, (outer, inner) = [((0, 0), None), *_fences(_without_echo(text))]
    return (outer, inner) if inner and not text[outer[1] :].strip(_DECORATION) else None


def final_object(text: str) -> Span | None:
    """Return the end of a reply in a code fence, or from the first line that begins with a brace; none if reported."""
    lines = _LAST_LINES.search(own_words(text)) if text.rstrip().endswith("}") else None
    outer, inner = final_fence(text) or ((lines.span(), lines.span()) if lines else ((0, 0), None))
    return None if _reported(text, outer[0]) else inner


def final_passages(text: str, lines: int = 1) -> tuple[str, list[Span]]:
    """Return where the passages at the end of a reply stand that are its verdict if they are just the marks asked for.

    These are the content of a final code fence, the last line, the last `lines` lines that hold anything, and a
    quotation in the last line that the words before it announce. Of a reply that is a fence as a whole its content
    counts as the reply. Echoed answers, blockquotes and other fences hold no verdict: they are NUL in the text that
    comes with the places, and everything around a final fence is blank.
    """
    echoless = _without_echo(text)
    fence = final_fence(text)
    if fence is None:
        return _at_the_end(_without_blocks(echoless), lines)
    (start, _), (first, last) = fence
    content = _without_blocks(re.sub(r"[^\n]", " ", echoless[:first]) + echoless[first:last])
    if not text[:start].strip():
        return content, [(first, last), *_at_the_end(content, lines)[1]]
    return content, [] if _reported(text, start) else [(first, last)]


def _at_the_end(text: str, lines: int) -> tuple[str, list[Span]]:
    end = start = len(text.rstrip(_DECORATION))
    spans: list[Span] = []
    for _ in range(lines):
        start = text.rfind("\n", 0, len(text[:start].rstrip())) + 1
        spans.append((start, end))
    last = max(spans[0][0], end - _LONGEST_END)
    quotations = [match.span() for match in _IN_MARKS.finditer(text, last, end)][-_MOST_QUOTATIONS:]
    spans += [span for span in quotations if _announced(text, last, span)]
    return text, [span for span in spans if not _reported(text, span[0])]


def _reported(text: str, at: int) -> bool:
    """Return whether the sentence before a passage says that somebody wrote it."""
    return bool(_SPEAKS.search(text[max(0, at - _LONGEST_LEAD) : at].rstrip()))


def _announced(text: str, line: int, span: Span) -> bool:
    """Return whether the words around a quotation say that it is the verdict, and do not report what others wrote."""
    *before, lead = _SENTENCE.split(text[max(line, span[0] - _LONGEST_LEAD) : span[0]])
    if not any(letter.isalnum() for letter in lead):
        rest = _SENTENCE.split(text[span[1] : span[1] + _LONGEST_LEAD].split("\n", 1)[0], maxsplit=1)[0]
        return bool(_standing(" ".join([*before[-1:], rest])))
    if _REPORTS.search(lead) or _TURNS_AWAY.search(lead):
        return False
    return bool(_SHORT_LABEL.fullmatch(lead) or (_standing(lead) and _LEADS_IN.search(lead)))


def standing(text: str, mark: Span) -> int:
    """Return the weight of a mark as a verdict: 2 alone on its line or in a conclusion, 1 in a choice, else 0."""
    before = text[max(0, mark[0] - _LONGEST_LEAD) : mark[0]].rpartition("\n")[2]
    behind = text[mark[1] : mark[1] + _LONGEST_LEAD].partition("\n")[0]
    if not (before + behind).strip(_DECORATION + "\"'`\u201c\u201d\u2018\u2019"):
        return 2
    return _standing(_SENTENCE.split(before)[-1].split("[[")[0])  # "[[A]] is better than [[B]]" chooses neither


def _standing(words: str) -> int:
    return 0 if _REPORTS.search(words) else 2 if _CONCLUDES.search(words) else 1 if _CHOOSES.search(words) else 0


def sole_marks(text: str, passage: Span, patterns: Sequence[re.Pattern[str]]) -> list[re.Match[str]] | None:
    """Return the match of each pattern where a passage holds each once and nothing else that means anything."""
    start, end = passage
    found = [list(pattern.finditer(text, start, end)) for pattern in patterns]
    if any(len(matches) != 1 for matches in found):
        return None
    marks = [match for (match,) in found]
    bounds = sorted(match.span() for match in marks)
    between = zip([start, *(last for _, last in bounds)], [*(first for first, _ in bounds), end], strict=True)
    return marks if all(_NOTHING_ELSE.fullmatch(text, first, last) for first, last in between) else None


def _without_echo(text: str) -> str:
    for delimiter in _DELIMITERS:
        text = _blanked(text, _between(text, delimiter))
    return text


def _without_blocks(text: str) -> str:
    text = _blanked(text, (outer for outer, _ in _fences(text)))
    return _blanked(text, (match.span() for match in _BLOCKQUOTE.finditer(text)))


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
    for match in delimiter.finditer(text):
        if match["close"]:
            closed = match.end() if opened else 0
        elif closed:
            yield opened[0], closed
            opened, closed = [match.start()], 0
        else:
            opened.append(match.start())
    if closed:
        yield opened[0], closed
        return
    done = 0
    for start in opened:
        if start >= done:
            line_end = text.find("\n", start)
            begins_its_line = not text[text.rfind("\n", 0, start) + 1 : start].strip()
            done = len(text) if begins_its_line or line_end < 0 else line_end
            yield start, done


def _fences(text: str) -> Iterator[tuple[Span, Span | None]]:
    """Yield each code fence and its content, which is None where the fence is never closed."""
    opened, bar = (0, 0), ""
    for match in _FENCE.finditer(text):
        if not bar:
            if not (match["bar"].startswith("`") and "`" in match["info"]):
                opened, bar = match.span(), match["bar"]
        elif match["bar"].startswith(bar) and not match["info"].strip():
            yield (opened[0], match.end()), (opened[1], match.start())
            bar = ""
    if bar:
        yield (opened[0], len(text)), None
