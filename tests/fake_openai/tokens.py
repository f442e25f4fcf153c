"""Tokens of the fake server: a plausible stand-in for a BPE, which is not "characters / 4"."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable
from functools import lru_cache

PER_MESSAGE = 4

# A run of up to six word characters: a word of 13 letters is three pieces, as ceil(13 / 6) says.
_PIECE = re.compile(r"\w{1,6}|[^\w\s]", re.ASCII)
_SPOKEN = re.compile(r"\s*[^\W\d]+|\s*\d{1,3}|\s*[^\w\s]|\s+")
_HIGHEST_SCORE = 10
_LEVELS = 16
_COMMON = ("the", "a", "of", "to", "and", "in", "is", "it", "that", "for", "on", "with", "as", "be", "at", "by", "or",
           "an", "was", "not", "but")  # fmt: skip


def _kind(code: int) -> int:
    character = chr(code)
    if re.match(r"\s", character, re.ASCII):
        return ord(" ")
    return ord("w") if re.match(r"\w", character, re.ASCII) else ord(".")


_KINDS = bytes(_kind(code) for code in range(256))


def count(text: str) -> int:
    """Tokens of a text: words in pieces of six characters; a mark, or a character outside ASCII, is one each."""
    # The same count as by `_PIECE`, which would take more time than all the rest of an answer: whole pieces become
    # "6", and what is left of each word (up to five characters) shrinks to one "w".
    kinds = text.encode("ascii", "replace").translate(_KINDS).replace(b"wwwwww", b"6")
    rests = kinds.replace(b"ww", b"w").replace(b"ww", b"w").replace(b"ww", b"w")
    return rests.count(b"6") + rests.count(b"w") + rests.count(b".")


# Thousands of requests share one system message.
_count_shared = lru_cache(maxsize=64)(count)


def count_prompt(turns: Iterable[tuple[str, str]]) -> int:
    """Tokens of a prompt whose turns are roles and texts."""
    return sum((_count_shared if role == "system" else count)(text) + PER_MESSAGE for role, text in turns)


def first(text: str, limit: int) -> str:
    """The part of a text that is at most `limit` tokens long."""
    for number, piece in enumerate(_PIECE.finditer(text)):
        if number == limit:
            return text[: piece.start()].rstrip(" \t\n\r\f\v")
    return text


def spoken(text: str) -> list[str]:
    """The tokens as log-probabilities show them: they hold their leading spaces and concatenate to the text."""
    return _SPOKEN.findall(text)


def logprobs(text: str, top: int, digest: bytes) -> str:
    """`choices[0].logprobs` as JSON: every token with its `top` likeliest alternatives, itself the first of them.

    A number from 1 to 10 has its neighbours as the likeliest others, so that an expected score can be computed. The
    probabilities of one place sum to at most 1.
    """
    rng = random.Random(digest)
    places = [_place(token, top, int(rng.random() * _LEVELS)) for token in spoken(text)]
    return f'{{"content": [{", ".join(places)}]}}'


@lru_cache(maxsize=20_000)
def _place(token: str, top: int, level: int) -> str:
    """One token and its alternatives as JSON; `level` says how sure the model is of it."""
    sure = 0.55 + 0.44 * level / _LEVELS
    others = _alternatives(token)[: max(0, top - 1)]
    left = [(1 - sure) / 2 ** (rank + 1) for rank in range(len(others))]
    shown = [
        {"token": one, "logprob": math.log(share)} for one, share in zip([token, *others], [sure, *left], strict=True)
    ]
    return json.dumps({"token": token, "logprob": math.log(sure), "top_logprobs": shown[:top]})


def _alternatives(token: str) -> list[str]:
    word = token.strip()
    lead = token[: len(token) - len(token.lstrip())]
    others: list[str] = [f"{lead}{other}" for one, other in ("AB", "BA") if one == word]
    if word.isdecimal() and 1 <= int(word) <= _HIGHEST_SCORE:
        near = sorted(range(1, _HIGHEST_SCORE + 1), key=lambda one: abs(one - int(word)))
        others = [f"{lead}{one}" for one in near if one != int(word)]
    return others + [f"{lead}{one}" for one in _COMMON if one != word]
