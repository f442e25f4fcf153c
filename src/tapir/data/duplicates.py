"""Duplicates and near-duplicates among texts (METHOD 4.9).

Two measures, each with its threshold. ROUGE-L is exact: no near-duplicate is missed. MinHash finds texts made of the
same passages in another order, and may miss one close to its threshold.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir.domain.errors import MissingExtra
from tapir.domain.instruction import normalised

Word = TypeVar("Word", int, str)

FEW_WORDS = 4
SHINGLE = 3
PERMUTATIONS = 64
MINHASH_SEED = 1

_MISSES_WEIGH = (0.01, 0.99)  # a false candidate costs a comparison, a missed one is a duplicate in the corpus
_STORAGE = {"type": "dict", "basename": b"known"}  # without a name it draws one from the shared random numbers
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # kana and Han
_SYMBOLS = frozenset("#%&*/@\\-")  # the marks of code and arithmetic that Unicode counts as punctuation


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A known text that another one repeats, with its similarity, 0 to 1.

    The measure "rouge-l" is F1 of the longest common subsequence of words; "minhash" is the shared share (Jaccard) of
    all runs of three words, among candidates that MinHash proposes; "exact" is equal but for case and white space.
    """

    name: str
    similarity: float = 1.0
    measure: Literal["rouge-l", "minhash", "exact"] = "exact"

    @property
    def near(self) -> str:
        """Measure and similarity, e.g. "rouge-l 0.83"; empty where the texts are equal."""
        return "" if self.measure == "exact" else f"{self.measure} {self.similarity:.2f}"


@dataclass(slots=True)
class DuplicateIndex:
    """A growing collection of known texts; equal ones but for case and white space are the same."""

    near: NearDuplicates | None = None  # None finds equal texts only
    _names: dict[str, str] = field(default_factory=dict)

    def learn(self, name: str, text: str) -> None:
        """Add a text, unless an equal one is known already."""
        key = normalised(text)
        if key not in self._names:
            self._names[key] = name
            if self.near:
                self.near.add(name, text)

    def learn_all(self, texts: Iterable[tuple[str, str]]) -> None:
        """Add texts, each as (name, text)."""
        for name, text in texts:
            self.learn(name, text)

    def find(self, text: str) -> Duplicate | None:
        """Return the known text that this one repeats: an equal one, else the most similar near-duplicate."""
        return self.equal(text) or (self.near.nearest(text) if self.near else None)

    def equal(self, text: str) -> Duplicate | None:
        """Return the known text that is equal to this one but for case and white space."""
        name = self._names.get(normalised(text))
        return None if name is None else Duplicate(name)


class NearDuplicates:
    """Similar texts by two measures; the order in which they are added makes no difference."""

    def __init__(self, *, rouge: float = 0.7, minhash: float = 0.7) -> None:
        """Start with nothing known; a text is a near-duplicate above one of these similarities, and 1 finds none."""
        try:
            from datasketch import MinHash, MinHashLSH
            from rapidfuzz.distance import LCSseq
        except ImportError as error:
            message = f"the library {str(error.name).partition('.')[0]} is not installed"
            raise MissingExtra(message, remedy="pip install 'tapir-distill[api]'") from error
        self._rouge, self._minhash = rouge, minhash
        self._names: list[str] = []
        self._vocabulary: dict[str, int] = {}
        self._texts: list[tuple[int, ...]] = []
        self._lengths = array("I")
        self._holders: list[array[int]] = []  # by word: the texts that have it
        self._common = LCSseq.similarity
        self._blank = MinHash(num_perm=PERMUTATIONS, seed=MINHASH_SEED)
        self._signature = lru_cache(maxsize=8)(self._sign)  # a filter looks for a text and then adds it
        options = {"num_perm": PERMUTATIONS, "weights": _MISSES_WEIGH, "storage_config": _STORAGE}
        self._passages: Any = MinHashLSH(minhash, **options) if minhash < 1 else None  # nothing is above 1

    def add(self, name: str, text: str) -> None:
        """Add a text."""
        split, number = tuple(words(text)), len(self._names)
        coded = tuple(self._vocabulary.setdefault(word, len(self._vocabulary)) for word in split)
        self._names.append(name)
        self._texts.append(coded)
        self._lengths.append(len(coded))
        self._holders += [array("I") for _ in range(len(self._vocabulary) - len(self._holders))]
        for word in set(coded):
            self._holders[word].append(number)
        if split and self._passages is not None:
            self._passages.insert(number, self._signature(split), check_duplication=False)

    def nearest(self, text: str) -> Duplicate | None:
        """Return the most similar near-duplicate, of equally similar ones the first by name; None if there is none."""
        split = tuple(words(text))
        unseen = dict.fromkeys(word for word in split if word not in self._vocabulary)
        numbers = {word: number for number, word in enumerate(unseen, len(self._vocabulary))}  # for this one text
        coded = tuple(numbers[word] if word in numbers else self._vocabulary[word] for word in split)
        similar = [Duplicate(self._names[number], alike, "rouge-l") for number, alike in self._near_by_words(coded)]
        if split and self._passages is not None:
            near = self._near_by_runs(coded, self._signature(split))
            similar += [Duplicate(self._names[number], alike, "minhash") for number, alike in near]
        return min(similar, key=lambda known: (-known.similarity, known.measure != "rouge-l", known.name), default=None)

    def _near_by_words(self, text: tuple[int, ...]) -> Iterator[tuple[int, float]]:
        """Yield number and 2·LCS / (m + n) of the texts above the threshold that may be the most similar."""
        best = self._rouge
        for number, most in self._candidates(text):
            if most < best:
                return
            both = len(text) + len(self._texts[number])
            shared = self._common(text, self._texts[number], score_cutoff=int(best * both / 2))
            alike = 2 * shared / both
            if alike > self._rouge and alike >= best:
                best = alike
                yield number, alike

    def _candidates(self, text: tuple[int, ...]) -> list[tuple[int, float]]:
        """Return every text that can be above the threshold, with an upper bound of its similarity, in falling order.

        A common subsequence of l words gives 2l / (m + l) at most, so a near-duplicate shares at least `needed`
        of the m words, and so k of any m - needed + k of them. The rarest are looked up; a larger k leaves fewer texts.
        """
        m, held = len(text), {word: len(self._holders[word]) for word in text if word < len(self._holders)}
        needed = max(1, int(self._rouge * m / (2 - self._rouge)) - 1)
        while needed <= m and 2 * needed / (m + needed) <= self._rouge:
            needed += 1
        rare = sorted(text, key=lambda word: (held.get(word, 0), word))[: m - needed + 1 + needed // 4]
        holders = [np.frombuffer(self._holders[word], np.uint32) for word in rare if held.get(word)]
        if not holders or needed > m:
            return []
        counts = np.bincount(np.concatenate(holders))
        numbers = np.flatnonzero(counts >= len(rare) - (m - needed))
        n = np.frombuffer(self._lengths, np.uint32)[numbers].astype(np.int64)
        shared = np.minimum(np.minimum(m, n), counts[numbers] + (m - len(rare)))
        most: NDArray[np.float64] = 2 * shared / (m + n)
        order = np.argsort(-most, kind="stable")
        order = order[most[order] > self._rouge]
        return list(zip(numbers[order].tolist(), most[order].tolist(), strict=True))

    def _near_by_runs(self, text: tuple[int, ...], signature: object) -> Iterator[tuple[int, float]]:
        """Yield number and share of common runs of the texts above the threshold that MinHash proposes."""
        own = _runs(text)
        for number in self._passages.query(signature):
            other = _runs(self._texts[number])
            alike = len(own & other) / len(own | other)
            if alike > self._minhash:
                yield number, alike

    def _sign(self, split: tuple[str, ...]) -> object:
        signature = self._blank.copy()
        signature.update_batch([" ".join(run).encode() for run in _runs(split)])
        return signature


def _runs(text: tuple[Word, ...]) -> set[tuple[Word, ...]]:
    """Return all runs of three words; a shorter text is one run."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def words(text: str) -> list[str]:
    """Split a text into words in lower case, without punctuation, as Self-Instruct does it.

    Han and kana, which are written without spaces, count character by character; other such scripts (Thai, Khmer)
    phrase by phrase. In a text of fewer than four words the symbols count, too: "2 + 2" is not "2 - 2".
    """
    text = unicodedata.normalize("NFC", text.lower())
    word = _word()
    result = word.findall(text)
    if len(result) >= FEW_WORDS:
        return result
    parts = re.findall(f"{word.pattern}|[^\\w\\s]", text)
    return [part for part in parts if word.match(part) or part in _SYMBOLS or unicodedata.category(part)[0] == "S"]


@cache
def _word() -> re.Pattern[str]:
    """Return the pattern of a word: letters and digits with their marks (accents, vowel signs)."""
    marks = "".join(mark for mark in map(chr, range(0x300, 0x3100)) if unicodedata.category(mark).startswith("M"))
    return re.compile(f"[{_UNSPACED}]|(?:(?![_{_UNSPACED}])[\\w{marks}])+")
