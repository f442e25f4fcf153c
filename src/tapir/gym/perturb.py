"""Perturbed instructions of the gym: typos, paraphrases, an irrelevant sentence, another case.

Only words of a skill's template change, never the content of an item (its numbers, names, the word to be spelled),
so the exact answer stays the same. Templates are found in the skill's own items.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from importlib import resources
from itertools import islice
from typing import Literal, TypeAlias, get_args

from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Benchmark
from tapir.gym.world import from_address, stream

_TEXTS = tomllib.loads((resources.files("tapir.gym") / "phrases.toml").read_text("utf-8"))
TOKEN = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+|\S")
"""A word, a number or a sign."""
WRAPS: Sequence[tuple[str, str]] = [(before, after) for before, after in _TEXTS["wraps"]]
ASIDES: Sequence[str] = _TEXTS["asides"]
PHRASES: Mapping[tuple[str, ...], Sequence[str]] = {
    tuple(TOKEN.findall(phrase)): others for phrase, others in _TEXTS["phrases"].items()
}
"""Phrases of the templates as tokens, and their paraphrases."""

Kind: TypeAlias = Literal["typos", "paraphrase", "irrelevant", "case"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TYPO_SHARE = 0.25  # of the template words that are long enough
_NUMBERS = {"three"}  # "there" misspelt so would be a number that the task does not have
_LONG = 4  # letters a word must have to be misspelt: the first and the last stay
_SAMPLE = 150  # items a template is found in
_FEW = 3  # with fewer words than this in common, a skill has several wordings
_GROUP = 5  # items of one wording


def perturb(text: str, address: str, kind: Kind, rng: random.Random) -> str | None:
    """Return a perturbed instruction of the gym, of the item `gym:SKILL:LEVEL:INDEX`; None where there is no way to."""
    tokens = tokens_of(text, address)
    result = _PERTURBATIONS[kind](tokens, rng)
    return None if result == text else result


class PerturbedBenchmark:
    """The perturbed prompts of another benchmark, graded by that benchmark.

    Its name is that of the inner benchmark, a plus, and the kind.
    """

    def __init__(self, inner: Benchmark, kind: Kind, seed: int) -> None:
        self.name = f"{inner.name}+{kind}"
        self._inner, self._seed = inner, seed
        self._kind: Kind = kind

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts that can be perturbed; the item's address stays in the origin."""
        return [new for new, _ in self._pairs.values()]

    @property
    def twins(self) -> Mapping[str, str]:
        """Id of the unperturbed instruction by the id of the perturbed one."""
        return {name: old.instruction.id for name, (_, old) in self._pairs.items()}

    @property
    def left_out(self) -> Sequence[Prompt]:
        """Prompts of the inner benchmark that cannot be perturbed in this way."""
        kept = set(self.twins.values())
        return [prompt for prompt in self._inner.prompts() if prompt.instruction.id not in kept]

    @cached_property
    def _pairs(self) -> dict[str, tuple[Prompt, Prompt]]:
        pairs: dict[str, tuple[Prompt, Prompt]] = {}  # of perturbed and unperturbed, by the id of the perturbed
        for old in self._inner.prompts():
            rng = random.Random(seed_for(self._seed, "perturb", self._kind, old.instruction.id))
            text = perturb(old.instruction.text, old.instruction.origin.source, self._kind, rng)
            if text is not None:
                new = Instruction.of(text, old.instruction.origin)
                pairs.setdefault(new.id, (Prompt(new, old.task, old.expected), old))
        return pairs

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield the inner benchmark's grade of the answer to the unperturbed prompt."""
        names = {old: new for new, old in self.twins.items()}
        for name, grade in self._inner.grade([(self._pairs[new.instruction.id][1], answer) for new, answer in answers]):
            yield names[name], grade


def _join(tokens: Sequence[TemplateToken]) -> str:
    return "".join(token.before + token.text for token in tokens)


def _typos(tokens: Sequence[TemplateToken], rng: random.Random) -> str | None:
    """Misspell a quarter of the longer template words, at least one."""
    places = [place for place, token in enumerate(tokens) if token.free and len(token.text) >= _LONG]
    if not places:
        return None
    chosen = sorted(rng.sample(places, max(1, round(_TYPO_SHARE * len(places)))))
    slips = {place: replace(tokens[place], text=_misspell(tokens[place].text, rng)) for place in chosen}
    return _join([slips.get(place, token) for place, token in enumerate(tokens)])


def _misspell(word: str, rng: random.Random) -> str:
    """Exchange two inner letters, leave one out, or double one."""
    spots = [spot for spot in range(1, len(word) - 2) if word[spot] != word[spot + 1]]
    spot = rng.randrange(1, len(word) - 1)
    slips = [word[:spot] + word[spot + 1 :], word[: spot + 1] + word[spot:]]
    if spots:
        swap = rng.choice(spots)
        slips.append(word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :])
    return rng.choice([slip for slip in slips if slip not in _NUMBERS])


def _case(tokens: Sequence[TemplateToken], rng: random.Random) -> str | None:
    """Write template words in small letters, in capitals, or each with a capital; one that changes something."""
    text = _join(tokens)
    ways: tuple[Callable[[str], str], ...] = (str.lower, str.upper, str.capitalize)
    changed = {"".join(t.before + (way(t.text) if t.free else t.text) for t in tokens) for way in ways} - {text}
    return rng.choice(sorted(changed)) if changed else None


def _irrelevant(tokens: Sequence[TemplateToken], rng: random.Random) -> str:
    """Put a sentence before the instruction; or after it where it ends with its template."""
    text = _join(tokens)
    aside, after = rng.choice(ASIDES), rng.random() < 0.5  # noqa: PLR2004
    return f"{text} {aside}" if after and _ends(tokens) else f"{aside} {text}"


def _paraphrase(tokens: Sequence[TemplateToken], rng: random.Random) -> str:
    """Paraphrase a phrase of the template where one is known, and mostly put words before or after it."""
    places = [(start, phrase) for start in range(len(tokens)) for phrase in PHRASES if _is_at(phrase, tokens, start)]
    text = _join(tokens)
    if places:
        start, phrase = rng.choice(places)
        paraphrase = tokens[start].before + rng.choice(PHRASES[phrase])
        text = _join(tokens[:start]) + paraphrase + _join(tokens[start + len(phrase) :])
    wraps = [wrap for wrap in WRAPS if not wrap[1] or _ends(tokens)] + ([("", "")] if places else [])
    before, after = rng.choice(wraps)
    return f"{before}{text}{after}"


def _is_at(phrase: tuple[str, ...], tokens: Sequence[TemplateToken], start: int) -> bool:
    part = tokens[start : start + len(phrase)]
    return tuple(token.text for token in part) == phrase and all(token.template for token in part)


def _ends(tokens: Sequence[TemplateToken]) -> bool:
    """Return whether the instruction ends like a sentence of its template."""
    return bool(tokens) and tokens[-1].template and tokens[-1].text in {".", "?", ")"}


@dataclass(frozen=True, slots=True)
class TemplateToken:
    """A word, a number or a sign, and the white space before it.

    Attributes:
        template: whether it is in every item of the skill.
        free: whether it is a word that may be written differently.
    """

    before: str
    text: str
    template: bool
    free: bool


@dataclass(frozen=True, slots=True)
class _Template:
    """Tokens that all items of a skill and level have in common, or those with the same first word; their answers."""

    common: tuple[str, ...]
    by_opening: Mapping[str, tuple[str, ...]]
    answers: frozenset[str]


def tokens_of(text: str, address: str) -> list[TemplateToken]:
    """Split an instruction into tokens; `address` says of which skill and level it is.

    A token belongs to the template only if there is no other way to find the template in the text, so a word of the
    content that also is a word of the template is never taken for it.
    """
    item = from_address(address)
    template = _template(item.skill, item.level)
    pieces = list(TOKEN.finditer(text))
    words = [piece.group() for piece in pieces]
    known = template.by_opening.get(words[0], template.common) if words else ()
    signless = [word for word in known if len(word) > 1 and word[0].isalpha()]  # a rare item lacks a common sign
    places = _places(words, known) or _places(words, signless)
    ends = [0, *(piece.end() for piece in pieces)]
    brackets = _bracketed(words)
    return [
        TemplateToken(
            text[end : piece.start()],
            piece.group(),
            place in places,
            place in places and place not in brackets and _free(piece.group(), template.answers),
        )
        for place, (end, piece) in enumerate(zip(ends, pieces, strict=False))
    ]


def _free(word: str, answers: frozenset[str]) -> bool:
    """Return whether a word is no sign, letter, abbreviation (GCD, HH) or answer (Yes)."""
    return word[0].isalpha() and len(word) > 1 and not word.isupper() and word not in answers


def _bracketed(words: Sequence[str]) -> set[int]:
    """Return the places between brackets: examples and forms of the answer."""
    places, depth = set(), 0
    for place, word in enumerate(words):
        depth += word == "("
        if depth:
            places.add(place)
        depth -= word == ")" and depth > 0
    return places


@cache
def _template(skill: str, level: int) -> _Template:
    items = list(islice(stream(skill, level, key="template", reserved=False), _SAMPLE))
    texts = [tuple(TOKEN.findall(item.question)) for item in items]
    answers = frozenset(item.answer for item in items)
    common = reduce(_subsequence, texts)
    if sum(_free(word, answers) for word in common) >= _FEW:
        return _Template(common, {}, answers)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for words in texts:
        groups.setdefault(words[0], []).append(words)
    wordings = {first: group for first, group in groups.items() if first.isalpha() and len(group) >= _GROUP}
    return _Template(common, {first: reduce(_subsequence, group) for first, group in wordings.items()}, answers)


def _subsequence(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    """Return the longest common subsequence, by dynamic programming (Wagner and Fischer 1974)."""
    longest: list[tuple[str, ...]] = [()] * (len(b) + 1)  # of the rest of a, by where the rest of b begins
    for word in reversed(a):
        below, longest = longest, [()] * (len(b) + 1)
        for j in reversed(range(len(b))):
            longest[j] = (word, *below[j + 1]) if word == b[j] else max(below[j], longest[j + 1], key=len)
    return longest[0]


def _places(words: Sequence[str], template: Sequence[str]) -> set[int]:
    """Return the places of the template's tokens on which the first and the last match agree."""
    first, last = _earliest(words, template), _earliest(words[::-1], template[::-1])
    if first is None or last is None:
        return set()
    backwards = [len(words) - 1 - place for place in reversed(last)]
    return {a for a, b in zip(first, backwards, strict=True) if a == b}


def _earliest(words: Sequence[str], template: Sequence[str]) -> list[int] | None:
    places, place = [], -1
    for token in template:
        if token not in words[place + 1 :]:
            return None
        place = words.index(token, place + 1)
        places.append(place)
    return places


_PERTURBATIONS: Mapping[Kind, Callable[[Sequence[TemplateToken], random.Random], str | None]] = {
    "typos": _typos,
    "paraphrase": _paraphrase,
    "irrelevant": _irrelevant,
    "case": _case,
}
