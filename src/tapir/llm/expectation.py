"""The expected score: what the judge would give on average, from the log-probabilities of the score it wrote."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tapir.domain.completion import Token
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE
from tapir.llm.verdict import Scores

_WHOLE = re.compile(r"\s*(0|[1-9][0-9]{0,3})\s*")
_SEVERAL_DIGITS = re.compile(r"\s*[0-9]{2,}\s*")


def expected(
    scores: Scores, text: str, tokens: Sequence[Token], *, low: float = LOWEST_SCORE, high: float = HIGHEST_SCORE
) -> Scores:
    """Each score replaced by its expectation, sum of p_i times i over the whole numbers i the judge weighed up.

    These are the alternatives, from `low` to `high`, of the token that holds the score; their probabilities are
    renormalised. The written score stays where it is a half, where it stands in several tokens, where the
    tokens do not spell the text, and where it is itself not among the alternatives.

    A tokenizer that splits numbers into digits writes 10 as 1 and 0, so that its token "1" may begin a 10. Unless some
    token or alternative of the reply has several digits, a number that begins a longer one of the scale is left out.

    Args:
        scores: as read from `text` by `read_scores`.
        text: the reply.
        tokens: the reply token by token; natural logarithms.
        low: lowest score of the scale.
        high: highest score of the scale.
    """
    if "".join(token.text for token in tokens) != text:
        return scores
    scale = range(math.ceil(low), math.floor(high) + 1)
    whole = _writes_numbers_whole(tokens)
    usable = {number for number in scale if whole or not _begins_another(number, scale)}
    starts = [0, *accumulate(len(token.text) for token in tokens)]
    values = []
    for value, (start, end) in zip(scores.values, scores.spans, strict=True):
        token = tokens[bisect_right(starts, start) - 1]
        weighed = _weights(token, usable) if token.text.strip() == text[start:end] else {}
        values.append(_mean(weighed) if value in weighed else value)
    return Scores(tuple(values), scores.rationale, scores.spans)


def _weights(token: Token, usable: set[int]) -> dict[int, float]:
    """Probability of each usable number; a number with and without a space before it is one."""
    weights: dict[int, float] = {}
    for written, logarithm in token.alternatives:
        found = _WHOLE.fullmatch(written)
        if found and int(found[1]) in usable:
            weights[int(found[1])] = weights.get(int(found[1]), 0.0) + math.exp(logarithm)
    return {number: weight for number, weight in weights.items() if weight > 0.0}


def _mean(weights: dict[int, float]) -> float:
    mean = math.fsum(number * weight for number, weight in weights.items()) / math.fsum(weights.values())
    # Rounding must not carry a certain 10 beyond the scale.
    return min(max(mean, min(weights)), max(weights))


def _writes_numbers_whole(tokens: Sequence[Token]) -> bool:
    return any(
        _SEVERAL_DIGITS.fullmatch(written)
        for token in tokens
        for written in (token.text, *(alternative for alternative, _ in token.alternatives))
    )


def _begins_another(number: int, scale: range) -> bool:
    return any(other != number and str(other).startswith(str(number)) for other in scale)
