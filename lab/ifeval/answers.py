"""Answers to the IFEval prompts, made to follow or to break every kind of instruction, just so and by a hair."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Arguments: TypeAlias = Mapping[str, Any]
Change: TypeAlias = Callable[[str, Arguments, random.Random], list[str]]

PROSE = (
    "The old harbour wakes before the town does. Mr. Lind counts the boats, e.g. the two red ones, and writes 3.5 in "
    "his book. Nobody hurries! What would be the point? At noon the U.S. ship arrives with 1,200 crates of tea. "
    '"Good tea," says Dr. Okafor, who ought to know. It\'s raining again... By evening the lamps are lit, and the '
    "gulls sleep on the roof of St. Anne's."
)
SPOKEN: Mapping[str, str] = json.loads(Path(__file__).with_name("spoken.json").read_text("utf-8"))
_CAPITALS = ("NASA", "DON'T", "I'M", "A/B", "RE-USE", "U.S.A.", "(WHO)", "HELLO,WORLD", "AT&T", "3D", "CANNOT", "'EM")


def recorded(data: Path) -> list[str]:
    """What models answered to the prompts of AlpacaEval and MT-Bench: real prose, lists, code, tables, letters."""
    found: list[str] = []
    for path in sorted((data / "alpaca_eval" / "model_outputs").glob("*.json.gz")):
        found += [row["output"] for row in json.loads(gzip.decompress(path.read_bytes()))]
    for line in gzip.decompress((data / "mt_bench" / "six_models_answers.jsonl.gz").read_bytes()).splitlines():
        found += json.loads(line)["choices"][0]["turns"]
    return found


def built(kinds: Sequence[str], arguments: Sequence[Arguments], seed: int) -> Iterator[str]:
    """Answers to one prompt: each of its instructions followed, missed, or nearly so, upon the others' answers."""
    dice = random.Random(seed)
    every = PROSE
    for kind, asked in zip(kinds, arguments, strict=True):
        variants = CHANGES[kind](every, asked, dice)
        yield from variants
        yield from CHANGES[kind](PROSE, asked, dice)
        every = variants[0]
    yield from _dressed(every)


def _dressed(text: str) -> Iterator[str]:
    """What the loose rule is for: a line before, a line after, both, bold type; and what it does not help."""
    yield f"Sure, here it is:\n\n{text}"
    yield f"{text}\n\nI hope that this helps, Sir!"
    yield f"Sure, HERE it is:\n{text}\nI hope that this helps."
    yield f"**{text}**"
    yield f"*Sure*\n*{text}*\n*Bye*"
    yield f"  \n{text}\n "
    yield text.upper()
    yield text.lower()
    yield text.replace("\n", "\r\n")
    yield " "


def _around(n: int, make: Callable[[int], str]) -> list[str]:
    return [make(max(0, n + more)) for more in (0, 1, -1, 5, -5)]


def _repeated(separator: str) -> Callable[[str, int], str]:
    return lambda word, times: separator.join([word] * times)


def _number(key: str, piece: Callable[[int], str], separator: str = "\n") -> Change:
    """So many pieces as asked for, one more, one fewer, and far off, after the text."""

    def change(text: str, asked: Arguments, _: random.Random) -> list[str]:
        return _around(
            int(asked[key]), lambda n: f"{text}{separator}{separator.join(piece(place) for place in range(n))}"
        )

    return change


def _language(text: str, asked: Arguments, dice: random.Random) -> list[str]:
    own, other = SPOKEN[asked["language"]], SPOKEN[dice.choice(sorted(SPOKEN))]
    return [own, text, other, f"{own} {other}", f"{text}\n{own}", f"{own}\n{PROSE}", "12 34 56", f"{own} (OK, thanks)"]


def _sentence_count(text: str, asked: Arguments, dice: random.Random) -> list[str]:
    stock = PROSE.replace("? ", "?|").replace(". ", ".|").replace("! ", "!|").split("|")

    def make(n: int) -> str:
        return " ".join(dice.choice(stock) for _ in range(n)) or "no"

    return [*_around(asked["num_sentences"], make), text, "- one\n- two\n- three\n\n1. four\n2. five. Six"]


def _word_count(text: str, asked: Arguments, dice: random.Random) -> list[str]:
    stock = text.split() or PROSE.split()
    return _around(asked["num_words"], lambda n: " ".join(dice.choice(stock) for _ in range(n)) or "no")


def _paragraphs(text: str, asked: Arguments, _: random.Random) -> list[str]:
    found = _around(asked["num_paragraphs"], lambda n: "\n***\n".join([text] * n))
    n = int(asked["num_paragraphs"])
    return [*found, "***\n" + found[0], found[0] + "\n***", " *** *** ".join([text] * n), "******".join([text] * n)]


def _first_word(text: str, asked: Arguments, _: random.Random) -> list[str]:
    n, place, word = asked["num_paragraphs"], asked["nth_paragraph"], asked["first_word"]

    def make(count: int, opening: str, gap: str = "\n\n") -> str:
        return gap.join(f"{opening} {text}" if one == place else text for one in range(1, count + 1))

    openings = (
        word,
        word.capitalize(),
        f'"{word}"',
        f"'{word},",
        f"{word}s",
        f"**{word}**",
        f"The {word}",
        f"{word}'s",
    )
    found = [make(n, opening) for opening in openings]
    found += [make(n + 1, word), make(n - 1, word), make(n, word, "\n\n\n\n"), make(n, word, "\n")]
    return [*found, "\n\n" + found[0]]


def _relation(key: str, relation: str, piece: Callable[[Arguments, random.Random], str], separator: str) -> Change:
    def change(text: str, asked: Arguments, dice: random.Random) -> list[str]:
        def make(n: int) -> str:
            return f"{text}{separator}{separator.join(piece(asked, dice) for _ in range(n))}"

        return [*_around(asked[key], make), f"{text} {asked[relation]}", make(3 * asked[key])]

    return change


def _keyword(asked: Arguments, dice: random.Random) -> str:
    word = asked["keyword"]
    return dice.choice([word, word.upper(), word.capitalize(), f"{word}s", f"re{word}", f"*{word}*", f"{word},"])


def _existence(text: str, asked: Arguments, dice: random.Random) -> list[str]:
    words = list(asked["keywords"])
    some = words[1:] or ["none"]
    return [
        f"{text} {' '.join(words)}",
        f"{text} {' '.join(some)}",
        f"{text} {' '.join(word.upper() for word in words)}s",
        f"{' '.join(words)}\n{text}",
        f"{text} {' '.join(word[:2] + '*' + word[2:] for word in words)}",
        f"{text} {''.join(dice.sample(words, len(words)))}",
    ]


def _forbidden(text: str, asked: Arguments, dice: random.Random) -> list[str]:
    word = dice.choice(asked["forbidden_words"])
    return [text, f"{text} {word}", f"{text} {word.upper()}!", f"{text} {word}ing", f"{text} un{word}",
            f"{word}\n{text}",
            f"{text} {word}-like", f"{text} _{word}_", f"{text} {word[:1]}*{word[1:]}"]  # fmt: skip


def _postscript(text: str, asked: Arguments, _: random.Random) -> list[str]:
    marker = asked["postscript_marker"]
    forms = (marker, marker.lower(), "P. S.", "PS", "P.S", "P.P.S.", "P. P. S", "PPS", "p.p.s:", "P.S.:")
    return [f"{text}\n\n{form} Bring tea." for form in forms] + [f"{text} {marker}", f"{marker} {text}", text]


def _bullets(text: str, asked: Arguments, _: random.Random) -> list[str]:
    n = int(asked["num_bullets"])
    found = [f"{text}\n{body}" for body in _around(n, lambda count: "\n".join(["* A point."] * count))]
    shapes = (
        "- A point.",
        "  * A point.",
        "* **Bold** point.",
        "** Point",
        "*Point*",
        "\u2022 Point",
        "1. Point",
        "*",
        "---",
        "-",
    )
    return found + ["\n".join([shape] * n) for shape in shapes] + [text, "\n\n".join(["* A"] * n), "*\n" * n, "***"]


def _highlights(text: str, asked: Arguments, _: random.Random) -> list[str]:
    shapes = ("*part*", "**part**", "***part***", "**", "* *", "* point", "*two\nlines*", "__part__", "**a*", "*a**")
    n = int(asked["num_highlights"])
    return [f"{text}\n{' '.join([shape] * (n + more))}" for shape in shapes for more in (0, -1)] + [text]


def _sections(text: str, asked: Arguments, _: random.Random) -> list[str]:
    mark = asked["section_spliter"]

    def make(n: int, form: str) -> str:
        return "\n".join(f"{form.format(mark=mark, place=place)}\n{text}" for place in range(1, n + 1))

    n = int(asked["num_sections"])
    forms = (
        "{mark} {place}",
        "{mark}{place}:",
        "**{mark} {place}**",
        "{mark}  {place}",
        "{mark} X",
        "x{mark}\n{place}",
    )
    return [make(n + more, form) for form in forms for more in (0, -1)] + [make(n, forms[0]).lower(), text]


def _json(text: str, _: Arguments, __: random.Random) -> list[str]:
    good = json.dumps({"answer": text, "n": [1, 2.5, None]}, indent=1)
    fence = "```"
    return [good, f"{fence}json\n{good}\n{fence}", f"{fence}JSON\n{good}{fence}", f"{fence}\n{good}\n{fence}\n", text,
            good[:-1], f"Here:\n{fence}json\n{good}\n{fence}", f"{fence}json5\n{good}\n{fence}",
            json.dumps(text), "NaN",
            good.replace('"', "'"), f"{good}\n{good}", "[" * 50 + "]" * 50, "12", f"{fence}{fence}"]  # fmt: skip


def _title(text: str, _: Arguments, __: random.Random) -> list[str]:
    good = "<<The Harbour>>"
    titles = (
        good,
        "<The Harbour>",
        "<<>>",
        "<< >>",
        "<<The\nHarbour>>",
        "<<<The Harbour>>>",
        "<<>>>",
        "<<a>",
    )
    return [f"{title}\n{text}" for title in titles] + [f"{text} {good}", f"*{good}*\n{text}", text]


def _two(text: str, _: Arguments, __: random.Random) -> list[str]:
    bars = ("\n******\n", "******", "\n*******\n", "\n***\n", "\n*** ***\n", "\n******\n******\n")
    found = [f"{text}{bar}Another one." for bar in bars] + [f"{text}{bars[0]}{text}", f"{text}{bars[0]}{text} "]
    return [*found, bars[0] + found[0], found[0] + bars[0], found[0] + bars[0] + "A third.", text, "******"]


def _repeat(text: str, asked: Arguments, _: random.Random) -> list[str]:
    words = asked["prompt_to_repeat"]
    return [f"{words}\n\n{text}", f"{words.upper()} {text}", f'"{words}" {text}', f"Sure:\n{words}\n{text}", text,
            f"{words[:-1]} {text}", words, f"  {words.strip()}", f"*{words}*\n{text}", f"{words} "]  # fmt: skip


def _end(text: str, asked: Arguments, _: random.Random) -> list[str]:
    phrase = asked["end_phrase"]
    return [f"{text}\n{phrase}", f'"{text} {phrase}"', f"{text} {phrase.lower()}  ", f"{text} {phrase}!",
            f"{phrase}\n{text}",
            f"{text} {phrase}\nBye.", f"{text} *{phrase}*", phrase[:-1], f"{text} {phrase[1:]}"]  # fmt: skip


def _quotation(text: str, _: Arguments, __: random.Random) -> list[str]:
    found = [f'"{text}"', f' "{text}" \n', f"\u201c{text}\u201d", f'"{text}', f"'{text}'", text]
    return [*found, '"', '""', f'*"{text}"*', f'"{text}"!']


def _case(change: Callable[[str], str]) -> Change:
    def made(text: str, _: Arguments, __: random.Random) -> list[str]:
        right = change(text)
        return [right, text, right[:-1] + change(right[-1:].swapcase()), f"{right} \u00e9", change(SPOKEN["fr"]),
                "12, 34",
                change(SPOKEN["ru"]), f"{right} {text[:9].swapcase()}", change("ok"), SPOKEN["ja"]]  # fmt: skip

    return made


def _no_comma(text: str, _: Arguments, __: random.Random) -> list[str]:
    without = text.replace(",", "")
    return [
        without,
        text,
        f"{without}, so",
        f"Well, now\n{without}",
        f"{without}\u060c",
        f"{without}\uff0c",
        f"{without};",
    ]


def _constrained(text: str, _: Arguments, dice: random.Random) -> list[str]:
    answer = f"My answer is {dice.choice(['yes', 'no', 'maybe'])}."
    return [
        answer,
        f"{text} {answer}",
        answer.upper(),
        answer[:-1],
        f"*{answer}*",
        text,
        "My answer is perhaps.",
        "Yes.",
    ]


CHANGES: Mapping[str, Change] = {
    "keywords:existence": _existence,
    "keywords:frequency": _relation("frequency", "relation", _keyword, " "),
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _relation("let_frequency", "let_relation", lambda asked, _: asked["letter"], " "),
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _word_count,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _number("num_placeholders", lambda n: f"[name {n}]", " "),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _relation(
        "capital_frequency", "capital_relation", lambda _, dice: dice.choice(_CAPITALS), " "
    ),
    "change_case:english_capital": _case(str.upper),
    "change_case:english_lowercase": _case(str.lower),
    "punctuation:no_comma": _no_comma,
}
