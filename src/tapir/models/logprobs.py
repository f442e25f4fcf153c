"""Log-probabilities of a reply: the expected score, and the share of two letters."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from tapir.domain.completion import Token
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE
from tapir.models.replies import Scores

_WHOLE = re.compile(r"\s*(0|[1-9][0-9]{0,3})\s*")
_SEVERAL_DIGITS = re.compile(r"\s*[0-9]{2,}\s*")
_TIE = 0.5


def expected(scores: Scores, text: str, tokens: Sequence[Token]) -> Scores:
    """Replace each score by its expectation, sum of p_i times i over the whole numbers i the judge weighed up.

    These are the alternatives, from 1 to 10, of the token that holds the score; their probabilities are
    renormalised. The written score stays where it is a half, where it stands in several tokens, where the tokens spell
    the text neither up to it nor from it on, and where it is itself not among the alternatives.

    A tokenizer that splits numbers into digits writes 10 as 1 and 0. Where a token or alternative of the reply has
    several digits, it does not. Else the probability of a 1 is shared between 1 and 10 by the token that follows it,
    and left out where the judge wrote another digit, because nothing says which it began.
    `scores` are those that `read_scores` has read from the reply.
    """
    said = (text for token in tokens for text in (token.text, *(other for other, _ in token.alternatives)))
    splits = not any(_SEVERAL_DIGITS.fullmatch(text) for text in said)
    values = []
    for value, (start, end) in zip(scores.values, scores.spans, strict=True):
        turn, _ = _token_at(text, start, tokens) or (len(tokens), 0)
        weights = _weights(tokens[turn:], text[start:end], splits=splits)
        values.append(_mean(weights) if value in weights else value)
    return replace(scores, values=tuple(values))


def share_of_first(text: str, at: int, tokens: Sequence[Token], letters: str) -> float | None:
    """Return the probability of the first letter among the letters, from the token of the verdict; a third is a tie.

    None where the tokens do not spell the text, or the verdict is not among the alternatives of its token. The letter
    of the verdict stands at `at`; `letters` are the first, the second, and the tie where there is one.
    """
    holder = _token_at(text, at, tokens)
    if holder is None:
        return None
    turn, place = holder
    token = tokens[turn]
    before, after = token.text[:place].lstrip(), token.text[place + 1 :].rstrip()
    weights = dict.fromkeys(letters, 0.0)
    for alternative, logarithm in token.alternatives:
        letter = alternative.strip().removeprefix(before).removesuffix(after)
        if letter in weights and alternative.strip() == f"{before}{letter}{after}":
            weights[letter] += math.exp(logarithm)
    if not weights.get(text[at]):
        return None
    first, _, *tie = weights.values()
    return min(1.0, math.fsum([first, *(_TIE * weight for weight in tie)]) / math.fsum(weights.values()))


def _token_at(text: str, at: int, tokens: Sequence[Token]) -> tuple[int, int] | None:
    """Return which token holds a character, and the character's place in it; None where they spell another text.

    Where the tokens spell what stands before it in another way (parts of an emoji as U+FFFD), they are counted from the
    end.
    """
    spelt = "".join(token.text for token in tokens)
    at = at if spelt.startswith(text[: at + 1]) else spelt.rfind(text[at:])
    if at < 0:
        return None
    starts = [0, *accumulate(len(token.text) for token in tokens)]
    turn = bisect_right(starts, at) - 1
    return turn, at - starts[turn]


def _weights(tokens: Sequence[Token], written: str, *, splits: bool) -> dict[int, float]:
    """Return the probability of each number that the first of these tokens may be, or begin where numbers are split.

    A number with and without a space before it is one. Nothing where the token is not the score as it is written.
    """
    first = tokens[0].text.strip() if tokens else ""
    if first != written and not (splits and (first, written) == ("1", "10")):
        return {}
    weights: dict[int, float] = {}
    for alternative, logarithm in tokens[0].alternatives:
        match = _WHOLE.fullmatch(alternative)
        if match and LOWEST_SCORE <= int(match[1]) <= HIGHEST_SCORE:
            weights[int(match[1])] = weights.get(int(match[1]), 0.0) + math.exp(logarithm)
    if splits:
        one = weights.pop(1, 0.0)
        if first == "1":
            following = tokens[1].alternatives if len(tokens) > 1 else ()
            zero = min(1.0, math.fsum(math.exp(logarithm) for text, logarithm in following if text.startswith("0")))
            weights |= {1: one * (1.0 - zero), 10: one * zero}
    return {number: weight for number, weight in weights.items() if weight > 0.0}


def _mean(weights: dict[int, float]) -> float:
    mean = math.fsum(number * weight for number, weight in weights.items()) / math.fsum(weights.values())
    # Rounding must not carry a certain 10 beyond the scale.
    return min(max(mean, min(weights)), max(weights))
