"""The 25 kinds of verifiable instructions of IFEval (Zhou et al. 2023), each as a check of one text.

What a check accepts is what the reference implementation accepts (`lm_eval.tasks.ifeval`), with two differences: a
keyword is a word and no regular expression, and "letter" may be any character, where the reference draws a random
letter for "#" and "!". lab/ifeval/agreement.py measures how far both agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeAlias

from tapir.evaluation import ifeval_words
from tapir.evaluation.ifeval_words import language, sentences, words

Arguments: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[str, Arguments], bool]

RELATIONS = ("less than", "at least")
_ALLOWED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
_FENCE = "```"
_IN_LANGUAGES = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
_IN_SENTENCES = "length_constraints:number_sentences"


def followed(kind: str, text: str, arguments: Arguments) -> bool:
    """Whether a text follows an instruction as it stands (strict); an empty text follows none."""
    return bool(text.strip()) and CHECKS[kind](text, arguments)


def followed_loosely(kind: str, text: str, arguments: Arguments) -> bool:
    """Whether it does without its first line, its last, both, its asterisks, or any of these together (loose)."""
    lines = text.split("\n")
    shorter = (text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])))
    candidates = dict.fromkeys([*shorter, *(one.replace("*", "") for one in shorter)])
    return any(followed(kind, one, arguments) for one in candidates)


def ready(kinds: Container[str]) -> None:
    """See that what these kinds of instructions need is installed.

    Raises:
        MissingExtra: a library is not.
    """
    needed = {kind for kind in (*_IN_LANGUAGES, _IN_SENTENCES) if kind in kinds}
    ifeval_words.ready(sentences=_IN_SENTENCES in needed, languages=bool(needed - {_IN_SENTENCES}))


def _enough(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == RELATIONS[0] else count >= threshold


def _existence(text: str, asked: Arguments) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in asked["keywords"])


def _frequency(text: str, asked: Arguments) -> bool:
    count = len(re.findall(re.escape(asked["keyword"].strip()), text, re.IGNORECASE))
    return _enough(count, asked["relation"], asked["frequency"])


def _forbidden(text: str, asked: Arguments) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in asked["forbidden_words"])


def _letters(text: str, asked: Arguments) -> bool:
    count = text.lower().count(asked["letter"].strip().lower())
    return _enough(count, asked["let_relation"], asked["let_frequency"])


def _language(text: str, asked: Arguments) -> bool:
    return language(text) in {asked["language"], None}


def _sentences(text: str, asked: Arguments) -> bool:
    return _enough(sentences(text), asked["relation"], asked["num_sentences"])


def _paragraphs(text: str, asked: Arguments) -> bool:
    first, *rest = (bool(part.strip()) for part in text.split("***"))
    *middle, last = rest or [False]
    return all(middle) and first + len(middle) + last == asked["num_paragraphs"]


def _words(text: str, asked: Arguments) -> bool:
    return _enough(len(re.findall(r"\w+", text)), asked["relation"], asked["num_words"])


def _first_word(text: str, asked: Arguments) -> bool:
    parts = text.split("\n\n")
    n, wanted = sum(bool(part.strip()) for part in parts), asked["nth_paragraph"]
    if n != asked["num_paragraphs"] or not 1 <= wanted <= n or not parts[wanted - 1].strip():
        return False
    word = parts[wanted - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == str(asked["first_word"]).lower()


def _placeholders(text: str, asked: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= int(asked["num_placeholders"])


def _postscript(text: str, asked: Arguments) -> bool:
    marker = asked["postscript_marker"].strip()
    return re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, asked: Arguments) -> bool:
    count = sum(len(re.findall(shape, text, re.MULTILINE)) for shape in (r"^\s*\*[^*].*$", r"^\s*-.*$"))
    return count == int(asked["num_bullets"])


def _constrained(text: str, _: Arguments) -> bool:
    return any(answer in text for answer in _ALLOWED)


def _highlights(text: str, asked: Arguments) -> bool:
    marked = [part.strip("*") for part in re.findall(r"\*[^\n*]*\*", text)] + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(part.strip()) for part in marked) >= int(asked["num_highlights"])


def _sections(text: str, asked: Arguments) -> bool:
    return len(re.findall(re.escape(asked["section_spliter"].strip()) + r"\s?\d+", text)) >= int(asked["num_sections"])


def _json(text: str, _: Arguments) -> bool:
    text = text.strip()
    for start in (f"{_FENCE}json", f"{_FENCE}Json", f"{_FENCE}JSON", _FENCE):
        text = text.removeprefix(start)
    try:
        json.loads(text.removesuffix(_FENCE).strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, _: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _: Arguments) -> bool:
    first, *rest = (part.strip() for part in text.split("******"))
    *middle, last = rest or [""]
    given = [part for part in (first, *middle, last) if part]
    return all(middle) and len(given) == len(set(given)) == 2  # noqa: PLR2004


def _repeated(text: str, asked: Arguments) -> bool:
    return text.strip().lower().startswith(asked["prompt_to_repeat"].strip().lower())


def _end(text: str, asked: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(asked["end_phrase"].strip().lower())


def _capital_words(text: str, asked: Arguments) -> bool:
    count = sum(word.isupper() for word in words(text))
    return _enough(count, asked["capital_relation"], asked["capital_frequency"])


def _capital(text: str, _: Arguments) -> bool:
    return text.isupper() and language(text) in {"en", None}


def _lowercase(text: str, _: Arguments) -> bool:
    return text.islower() and language(text) in {"en", None}


def _no_comma(text: str, _: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, _: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeated,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
