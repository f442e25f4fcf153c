"""The same tasks in other words: typos, paraphrases, a sentence that has nothing to do with it, another case.

Only words of a skill's template change, never what an item is about: its numbers, names, the word to be spelled.
So the exact answer stays the exact answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored
from tapir.domain.randomness import seed_for
from tapir.gym.phrases import ASIDES, PHRASES, WRAPS
from tapir.gym.template import Token, tokens_of
from tapir.roles import Benchmark, Grade, Prompt

Kind: TypeAlias = Literal["typos", "paraphrase", "irrelevant", "case"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TYPO_SHARE = 0.25  # of the template words that are long enough
_NUMBERS = {"three"}  # "there" misspelt so would be a number that the task does not have
_LONG = 4  # letters a word must have to be misspelt: the first and the last stay


def perturbed(text: str, address: str, kind: Kind, dice: random.Random) -> str | None:
    """An instruction of the gym said differently; None where there is no way to.

    Args:
        text: the instruction.
        address: of the item, `gym:SKILL:LEVEL:INDEX`.
        kind: what is done to it.
        dice: the item's own randomness.
    """
    tokens = tokens_of(text, address)
    found = _WAYS[kind](tokens, dice)
    return None if found is None or found == text else found


class PerturbedBenchmark:
    """Another benchmark's prompts said differently, graded by that benchmark.

    Its name is that of the inner benchmark, a plus, and the kind.
    """

    def __init__(self, inner: Benchmark, kind: Kind, seed: int) -> None:
        """Perturb the prompts of a benchmark of the gym; the seed and the prompt fix how each is changed."""
        self.name = f"{inner.name}+{kind}"
        self._inner = inner
        self._kind: Kind = kind
        self._seed = seed

    def prompts(self) -> Sequence[Prompt]:
        """Those prompts that can be perturbed; the item's address stays in the origin."""
        return [new for new, _ in self._pairs]

    @property
    def twins(self) -> Mapping[str, str]:
        """The id of the unperturbed instruction for the id of every perturbed one."""
        return {new.instruction.id: old.instruction.id for new, old in self._pairs}

    @property
    def left_out(self) -> Sequence[Prompt]:
        """Prompts of the inner benchmark that cannot be perturbed in this way."""
        kept = set(self.twins.values())
        return [one for one in self._inner.prompts() if one.instruction.id not in kept]

    @cached_property
    def _pairs(self) -> list[tuple[Prompt, Prompt]]:
        found: dict[str, tuple[Prompt, Prompt]] = {}
        for old in self._inner.prompts():
            dice = random.Random(seed_for(self._seed, "perturb", self._kind, old.instruction.id))
            text = perturbed(old.instruction.text, old.instruction.origin.source, self._kind, dice)
            if text is not None and text not in found:
                found[text] = (Prompt(Instruction.of(text, old.instruction.origin), old.task, old.expected), old)
        return list(found.values())

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """The inner benchmark's grade for the answer to the unperturbed prompt."""
        old = {new.instruction.id: one for new, one in self._pairs}
        names = {old[new.instruction.id].instruction.id: new.instruction.id for new, _ in answers}
        for name, grade in self._inner.grade([(old[new.instruction.id], answer) for new, answer in answers]):
            yield names[name], grade


def _typos(tokens: Sequence[Token], dice: random.Random) -> str | None:
    """Misspell a quarter of the longer template words, at least one."""
    places = [place for place, one in enumerate(tokens) if one.free and len(one.text) >= _LONG]
    if not places:
        return None
    chosen = set(dice.sample(places, max(1, round(_TYPO_SHARE * len(places)))))
    return "".join(
        one.before + (_misspelt(one.text, dice) if place in chosen else one.text) for place, one in enumerate(tokens)
    )


def _misspelt(word: str, dice: random.Random) -> str:
    """Two inner letters exchanged, one left out, or one doubled."""
    spots = [spot for spot in range(1, len(word) - 2) if word[spot] != word[spot + 1]]
    spot = dice.randrange(1, len(word) - 1)
    slips = [word[:spot] + word[spot + 1 :], word[: spot + 1] + word[spot:]]
    if spots:
        swap = dice.choice(spots)
        slips.append(word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :])
    return dice.choice([one for one in slips if one not in _NUMBERS])


def _case(tokens: Sequence[Token], dice: random.Random) -> str | None:
    """Template words in small letters, in capitals, or each with a capital; a way that changes something."""
    text = "".join(one.before + one.text for one in tokens)
    ways: tuple[Callable[[str], str], ...] = (str.lower, str.upper, str.capitalize)
    found = {"".join(one.before + (way(one.text) if one.free else one.text) for one in tokens) for way in ways}
    return dice.choice(sorted(found - {text})) if found - {text} else None


def _irrelevant(tokens: Sequence[Token], dice: random.Random) -> str:
    """A sentence before the instruction; or after it where its end is not what it is about."""
    text = "".join(one.before + one.text for one in tokens)
    aside, after = dice.choice(ASIDES), dice.random() < 0.5  # noqa: PLR2004
    return f"{text} {aside}" if after and _ends(tokens) else f"{aside} {text}"


def _paraphrase(tokens: Sequence[Token], dice: random.Random) -> str:
    """A phrase of the template in other words where one is known, and mostly a way of asking around it."""
    places = [(start, phrase) for start in range(len(tokens)) for phrase in PHRASES if _stands(phrase, tokens, start)]
    text = "".join(one.before + one.text for one in tokens)
    if places:
        start, phrase = dice.choice(places)
        end = start + len(phrase)
        text = "".join(one.before + one.text for one in tokens[:start])
        text += tokens[start].before + dice.choice(PHRASES[phrase])
        text += "".join(one.before + one.text for one in tokens[end:])
    wraps = [one for one in WRAPS if not one[1] or _ends(tokens)] + ([("", "")] if places else [])
    before, after = dice.choice(wraps)
    return f"{before}{text}{after}"


def _stands(phrase: tuple[str, ...], tokens: Sequence[Token], start: int) -> bool:
    there = tokens[start : start + len(phrase)]
    return tuple(one.text for one in there) == phrase and all(one.template for one in there)


def _ends(tokens: Sequence[Token]) -> bool:
    """Whether the instruction ends like a sentence of its template."""
    return bool(tokens) and tokens[-1].template and tokens[-1].text in {".", "?", ")"}


_WAYS: Mapping[Kind, Callable[[Sequence[Token], random.Random], str | None]] = {
    "typos": _typos,
    "paraphrase": _paraphrase,
    "irrelevant": _irrelevant,
    "case": _case,
}
