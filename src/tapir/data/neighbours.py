"""Near-duplicates: what is too like a text that is known already (METHOD 4.9).

Two measures, each with its threshold. ROUGE-L is exact: no near-duplicate is missed. MinHash finds texts made of the
same passages in another order, and may miss one close to its threshold.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir.domain.instruction import normalised
from tapir.errors import MissingExtra

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
class Neighbour:
    """The known text most like another.

    Attributes:
        name: as it was added.
        similarity: 0 to 1; what is measured depends on `measure`.
        measure: "rouge-l": F1 of the longest common subsequence of words; "minhash": shared share (Jaccard) of all
            runs of three words, among candidates that MinHash proposes; "exact": equal but for case and white space.
    """

    name: str
    similarity: float
    measure: Literal["rouge-l", "minhash", "exact"]


class Neighbours:
    """A growing collection of known texts; the order in which they are added makes no difference."""

    def __init__(self, *, rouge: float = 0.7, minhash: float = 0.7) -> None:
        """Start with nothing known.

        Args:
            rouge: a text is a near-duplicate above this ROUGE-L, 0 to 1; 1 leaves equal texts only.
            minhash: the same for the share of common three-word runs.

        Raises:
            ValueError: a threshold is outside 0 to 1.
            MissingExtra: rapidfuzz or datasketch is not installed.
        """
        for threshold in (rouge, minhash):
            if not 0 <= threshold <= 1:
                raise ValueError(f"a threshold of {threshold} is outside 0 to 1")
        self._equal: dict[str, str] = {}
        self._names: list[str] = []
        self._vocabulary: dict[str, int] = {}
        self._texts: list[tuple[int, ...]] = []
        self._sequences = _Sequences(self._texts, rouge)
        self._passages = _Passages(self._texts, minhash)

    def add(self, name: str, text: str) -> None:
        """From now on this text is known."""
        key = normalised(text)
        self._equal[key] = min(name, self._equal.get(key, name))
        split = words(text)
        number = len(self._names)
        self._names.append(name)
        self._texts.append(tuple(self._vocabulary.setdefault(word, len(self._vocabulary)) for word in split))
        self._sequences.add(number)
        self._passages.add(number, split)

    def nearest(self, text: str) -> Neighbour | None:
        """The most similar near-duplicate, or None where there is none.

        Of equally similar ones it is the one whose name comes first in the alphabet.
        """
        equal = self._equal.get(normalised(text))
        if equal is not None:
            return Neighbour(equal, 1.0, "exact")
        split = words(text)
        coded = self._coded(split)
        found = [Neighbour(self._names[number], alike, "rouge-l") for number, alike in self._sequences.near(coded)]
        found += [
            Neighbour(self._names[number], alike, "minhash") for number, alike in self._passages.near(coded, split)
        ]
        return min(found, key=lambda one: (-one.similarity, one.measure != "rouge-l", one.name), default=None)

    def _coded(self, split: Sequence[str]) -> tuple[int, ...]:
        """Words as numbers; those never seen get numbers of their own for this one text."""
        unseen: dict[str, int] = {}
        first = len(self._vocabulary)
        return tuple(
            number
            if (number := self._vocabulary.get(word)) is not None
            else unseen.setdefault(word, first + len(unseen))
            for word in split
        )


class _Sequences:
    """Known texts by their words: 2·LCS / (m + n) for texts of m and n words."""

    def __init__(self, texts: list[tuple[int, ...]], threshold: float) -> None:
        self._texts = texts
        self._threshold = threshold
        self._lengths = array("I")
        self._holders: list[array[int]] = []  # by word: the texts that have it
        try:
            from rapidfuzz.distance import LCSseq
        except ImportError as error:
            raise _missing("rapidfuzz") from error
        self._common = LCSseq.similarity

    def add(self, number: int) -> None:
        """Keep the known text `number`."""
        text = self._texts[number]
        self._lengths.append(len(text))
        for word in set(text):
            while word >= len(self._holders):
                self._holders.append(array("I"))
            self._holders[word].append(number)

    def near(self, text: tuple[int, ...]) -> Iterator[tuple[int, float]]:
        """Numbers and similarities of the texts above the threshold that may be the most similar."""
        best = self._threshold
        for number, most in self._candidates(text):
            if most < best:
                return
            both = len(text) + len(self._texts[number])
            shared = self._common(text, self._texts[number], score_cutoff=int(best * both / 2))
            alike = 2 * shared / both
            if alike > self._threshold and alike >= best:
                best = alike
                yield number, alike

    def _candidates(self, text: tuple[int, ...]) -> list[tuple[int, float]]:
        """Every text that can be above the threshold, with the most its similarity can be, in falling order.

        A common subsequence of l words gives 2l / (m + l) at most, so a near-duplicate shares at least `needed`
        of the m words, and so at least one of any m - needed + 1 of them. The rarest are looked up.
        """
        m = len(text)
        needed = self._fewest_shared(m)
        rare = sorted(text, key=lambda word: (self._held(word), word))[: m - needed + 1]
        holders = [np.frombuffer(self._holders[word], np.uint32) for word in rare if self._held(word)]
        if not holders or needed > m:
            return []
        numbers, counts = np.unique(np.concatenate(holders), return_counts=True)
        n = np.frombuffer(self._lengths, np.uint32)[numbers].astype(np.int64)
        shared = np.minimum(np.minimum(m, n), counts + (m - len(rare)))
        most: NDArray[np.float64] = 2 * shared / (m + n)
        order = np.argsort(-most, kind="stable")
        order = order[most[order] > self._threshold]
        return list(zip(numbers[order].tolist(), most[order].tolist(), strict=True))

    def _held(self, word: int) -> int:
        """How many known texts have this word."""
        return len(self._holders[word]) if word < len(self._holders) else 0

    def _fewest_shared(self, m: int) -> int:
        """The least l with 2l / (m + l) above the threshold; m + 1 where there is none."""
        fewest = max(1, int(self._threshold * m / (2 - self._threshold)) - 1)
        while fewest <= m and 2 * fewest / (m + fewest) <= self._threshold:
            fewest += 1
        return fewest


class _Passages:
    """Known texts by their runs of three words, found through MinHash."""

    def __init__(self, texts: list[tuple[int, ...]], threshold: float) -> None:
        self._texts = texts
        self._threshold = threshold
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise _missing("datasketch") from error
        self._blank = MinHash(num_perm=PERMUTATIONS, seed=MINHASH_SEED)
        self._index: Any = None  # nothing is above a threshold of 1
        if threshold < 1:
            self._index = MinHashLSH(
                threshold=threshold, num_perm=PERMUTATIONS, weights=_MISSES_WEIGH, storage_config=_STORAGE
            )

    def add(self, number: int, split: Sequence[str]) -> None:
        """Keep the known text `number`, which has these words."""
        if split and self._index is not None:
            self._index.insert(number, self._signature(split), check_duplication=False)

    def near(self, text: tuple[int, ...], split: Sequence[str]) -> Iterator[tuple[int, float]]:
        """Numbers and similarities of the texts above the threshold."""
        if not split or self._index is None:
            return
        own = _runs(text)
        for number in self._index.query(self._signature(split)):
            other = _runs(self._texts[number])
            alike = len(own & other) / len(own | other)
            if alike > self._threshold:
                yield number, alike

    def _signature(self, split: Sequence[str]) -> object:
        signature = self._blank.copy()
        signature.update_batch([" ".join(run).encode() for run in _runs(tuple(split))])
        return signature


def _runs(text: tuple[Word, ...]) -> set[tuple[Word, ...]]:
    """All runs of three words; a shorter text is one run."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _missing(library: str) -> MissingExtra:
    return MissingExtra(f"the library {library} is not installed", remedy="pip install 'tapir-distill[api]'")


def words(text: str) -> list[str]:
    """What two texts are compared by: their words in lower case, without punctuation, as Self-Instruct does it.

    Han and kana, which are written without spaces, count character by character; other such scripts (Thai, Khmer)
    phrase by phrase. In a text of fewer than four words the symbols count, too: "2 + 2" is not "2 - 2".
    """
    text = unicodedata.normalize("NFC", text.lower())
    word = _word()
    found = word.findall(text)
    if len(found) >= FEW_WORDS:
        return found
    return [part for part in re.findall(f"{word.pattern}|[^\\w\\s]", text) if word.match(part) or _is_symbol(part)]


@cache
def _word() -> re.Pattern[str]:
    """Letters and digits with their marks (accents, vowel signs), which a plain word character leaves out."""
    marks = "".join(mark for mark in map(chr, range(0x300, 0x3100)) if unicodedata.category(mark).startswith("M"))
    return re.compile(f"[{_UNSPACED}]|(?:(?![_{_UNSPACED}])[\\w{marks}])+")


def _is_symbol(character: str) -> bool:
    return character in _SYMBOLS or unicodedata.category(character).startswith("S")
