"""Duplicates and near-duplicates: ROUGE-L by brute force, MinHash, unspaced scripts, the order of additions."""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.paths import SHARED
from tapir.data.duplicates import Duplicate, DuplicateIndex, NearDuplicates, words
from tapir.domain.errors import MissingExtra
from tapir.domain.instruction import normalised

POEM = "Write a short poem about the old sea and the moon above it."
NEARLY = "Write a short poem about the old sea and the sun above it."
OTHER = "Explain how a refrigerator keeps food cold in summer."

# Few different words, so that random texts are often alike.
texts = st.lists(
    st.sampled_from(["write", "A", "short", "poem", "about", "the", "old", "sea", "cat"]), max_size=14
).map(" ".join)
thresholds = st.sampled_from((0.0, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0)) | st.floats(0, 1)


def index(result: Sequence[str], rouge: float = 0.7, minhash: float = 0.7) -> DuplicateIndex:
    known = DuplicateIndex(NearDuplicates(rouge=rouge, minhash=minhash))
    known.learn_all((f"{number:04}", text) for number, text in enumerate(result))
    return known


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the longest common subsequence, from its definition."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, its in enumerate(other):
            row.append(before[place] + 1 if word == its else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(one) + len(other)) if one and other else 0.0


def brute_force(text: str, result: Sequence[str], threshold: float) -> tuple[str, float] | None:
    every = [(rouge_l(words(text), words(other)), f"{number:04}") for number, other in enumerate(result)]
    above = [(-alike, name) for alike, name in every if alike > threshold]
    return (min(above)[1], -min(above)[0]) if above else None


@given(texts, st.lists(texts, max_size=12), thresholds)
@example("a a a b", ["a a a a a a", "b a", "a b c d e"], 0.5)
def test_the_nearest_by_rouge_l_is_the_one_of_brute_force(text: str, result: list[str], threshold: float) -> None:
    distinct = {normalised(other): other for other in reversed(result) if normalised(other) != normalised(text)}
    others = [*distinct.values()]
    nearest = index(others, rouge=threshold, minhash=1.0).find(text)
    assert (nearest and (nearest.name, nearest.similarity)) == brute_force(text, others, threshold)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=12, max_size=40).map(" ".join), max_size=12), thresholds)
def test_so_it_is_for_longer_texts(result: list[str], threshold: float) -> None:
    others = [*dict.fromkeys(result[1:])]
    for text in result[:1]:
        if text not in others:
            nearest = index(others, rouge=threshold, minhash=1.0).find(text)
            assert (nearest and (nearest.name, nearest.similarity)) == brute_force(text, others, threshold)


def test_a_long_text_is_compared_with_few_others_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def candidates(near: NearDuplicates, text: tuple[int, ...]) -> list[tuple[int, float]]:
        found = looked_up(near, text)
        compared.append(len(found))
        return found

    looked_up = NearDuplicates._candidates
    monkeypatch.setattr(NearDuplicates, "_candidates", candidates)
    rng, known = random.Random(1), index([], minhash=1.0)
    usual = [number**-0.5 for number in range(1, 301)]
    for number in range(300):
        text = " ".join(f"w{word}" for word in rng.choices(range(300), usual, k=200))
        assert known.find(text) is None
        known.learn(str(number), text)
    assert sum(compared) < 1_000  # 23,405 where no more words are looked up than have to be


@given(st.lists(texts, max_size=8, unique_by=normalised), texts, st.randoms(use_true_random=False))
def test_the_order_of_additions_makes_no_difference(result: list[str], text: str, random: Any) -> None:
    named = [(f"name {number}", other) for number, other in enumerate(result)]
    answers = []
    for _ in range(2):
        known = DuplicateIndex(NearDuplicates(rouge=0.5, minhash=0.5))
        known.learn_all(named)
        answers.append([known.find(one) for one in (text, *result, "")])
        random.shuffle(named)
    assert answers[0] == answers[1]
    assert answers[0][1:-1] == [Duplicate(f"name {number}") for number in range(len(result))]


@pytest.mark.parametrize("near", [None, NearDuplicates()])
def test_case_and_white_space_make_no_new_text(near: NearDuplicates | None) -> None:
    known = DuplicateIndex(near)
    known.learn_all([("first", POEM), ("second", POEM.lower())])
    for text in (POEM, POEM.upper(), f"  {POEM}\n", POEM.replace(" ", " \t\u00a0 ")):
        duplicate = known.find(text)
        assert duplicate == Duplicate("first", 1.0, "exact")
        assert duplicate.near == ""


def test_a_near_duplicate_is_named_with_its_measure_where_such_are_looked_for() -> None:
    near, equal = index([OTHER, POEM]), DuplicateIndex()
    equal.learn("poem", POEM)
    result = near.find(NEARLY)
    assert result is not None
    assert (result.name, result.near) == ("0001", "rouge-l 0.92")
    assert equal.find(NEARLY) is None
    assert near.find("Name three planets that are larger than the Earth.") is None
    assert DuplicateIndex().find(POEM) is DuplicateIndex(NearDuplicates()).find(POEM) is None
    assert index([POEM], rouge=0.95, minhash=0.95).find(NEARLY) is None


def test_what_is_learnt_every_round_takes_no_more_memory_each_time() -> None:
    near = NearDuplicates()
    known = DuplicateIndex(near)
    for _ in range(3):
        known.learn_all([("poem", POEM), ("nearly", NEARLY), ("other", OTHER)])
    assert near._names == ["poem", "nearly", "other"]


def test_the_most_similar_is_named_and_of_equally_similar_ones_the_first_in_the_alphabet() -> None:
    life = "Describe the life of a small {} in a {} {}".format
    result = [life("fish", "deep", "lake"), life("bird", "deep", "wood"), life("bird", "dark", "cave")]
    assert index(result).find(life("bird", "deep", "cave")) == Duplicate("0001", 20 / 22, "rouge-l")
    known = DuplicateIndex(NearDuplicates())
    known.learn_all([("b", "count all the red cars"), ("a", "count all the blue cars")])
    nearest = known.find("count all the cars")
    assert nearest is not None
    assert nearest.name == "a"


def test_passages_in_another_order_are_found_by_minhash_alone() -> None:
    first = "a farmer sells forty apples on monday and half as many on tuesday"
    second = "compute how much money he has made by the end of both days"
    swapped = f"{second} {first}"
    assert index([f"{first} {second}"], minhash=1.0).find(swapped) is None
    nearest = index([f"{first} {second}"]).find(swapped)
    assert nearest is not None
    assert nearest.measure == "minhash"
    assert 0.7 < nearest.similarity < 1


@pytest.mark.parametrize("text", ["", "..."])
def test_a_text_without_words_is_like_nothing_but_itself(text: str) -> None:
    known = index(["Write a poem.", "Name a city."])
    assert known.find(text) is None
    known.learn("empty", text)
    assert known.find(text) == Duplicate("empty")
    assert known.find("Write a song.") is None


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("2 + 2", "2 - 2", False),
        ("Define osmosis.", "Define gravity.", False),
        ("😀", "🚀", False),
        ("Write a poem about love!", "write, a poem about love", True),
        ("2+2", "2 + 2", True),
        ("写一首关于春天的诗", "写一首关于秋天的诗", True),
        ("春についての詩を書いてください", "秋についての詩を書いてください。", True),
        ("Écris un poème sur la mer", "E\u0301cris un poe\u0300me sur la mer !", True),
    ],
)
def test_short_and_unspaced_texts_are_compared_by_words_characters_and_symbols(
    one: str, other: str, *, alike: bool
) -> None:
    assert (index([one]).find(other) is not None) == alike


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World! It's snake_case here", ["hello", "world", "it", "s", "snake", "case", "here"]),
        ("x² + y² = z²?", ["x²", "+", "y²", "=", "z²"]),
        ("हिन्दी में लिखो यह वाक्य", ["हिन्दी", "में", "लिखो", "यह", "वाक्य"]),
        ("GPT是什么东西", ["gpt", "是", "什", "么", "东", "西"]),
    ],
)
def test_words_are_runs_of_letters_and_digits(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("library", ["datasketch", "rapidfuzz.distance"])
def test_a_missing_library_is_named_with_its_remedy(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=library.partition(".")[0]) as caught:
        NearDuplicates()
    assert "pip install" in caught.value.remedy


def libre_tasks(version: int) -> Iterator[dict[str, Any]]:
    file = SHARED / "seed" / "alpaca_libre_tasks.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    for line in gzip.decompress(file.read_bytes()).split(b"\n"):
        if line and (task := json.loads(line))["version"] == version:
            yield task


def test_what_others_marked_as_too_similar_is_what_we_find() -> None:
    """Their similarity is the highest ROUGE-L to any other instruction of the same generation (version 3 is one)."""
    tasks = list(libre_tasks(3))
    highest = [0.0] * len(tasks)
    for order in (range(len(tasks)), range(len(tasks) - 1, -1, -1)):
        known = NearDuplicates(minhash=1.0)
        for place in order:
            nearest = known.nearest(tasks[place]["instruction"])
            highest[place] = max(highest[place], nearest.similarity if nearest else 0.0)
            known.add(str(place), tasks[place]["instruction"])
    pairs = zip(tasks, highest, strict=True)
    judged = [(task, ours) for task, ours in pairs if task["status"] in {"ok", "too similar"}]
    assert len(judged) == 1138
    assert [ours > 0 for _, ours in judged] == [task["status"] == "too similar" for task, _ in judged]
    similar = [(task["other"]["similarity"], ours) for task, ours in judged if ours]
    assert len(similar) == 484
    assert [round(ours, 3) for _, ours in similar] == [theirs for theirs, _ in similar]
