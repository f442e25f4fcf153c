from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapir.data.neighbours import Neighbour, Neighbours, words
from tapir.domain.instruction import normalised
from tapir.errors import MissingExtra

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

# Few different words, so that random texts are often alike.
texts = st.lists(
    st.sampled_from(["write", "a", "short", "poem", "about", "the", "old", "sea", "cat"]), max_size=14
).map(" ".join)
collections = st.lists(texts, max_size=12)
thresholds = st.sampled_from((0.0, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0)) | st.floats(0, 1)
often = settings(deadline=None, max_examples=300)


def known(found: Sequence[str], rouge: float = 0.7, minhash: float = 0.7) -> Neighbours:
    neighbours = Neighbours(rouge=rouge, minhash=minhash)
    for number, text in enumerate(found):
        neighbours.add(f"{number:04}", text)
    return neighbours


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the longest common subsequence, from its definition."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, its in enumerate(other):
            row.append(before[place] + 1 if word == its else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(one) + len(other)) if one and other else 0.0


def brute_force(text: str, found: Sequence[str], threshold: float) -> tuple[str, float] | None:
    every = [(rouge_l(words(text), words(other)), f"{number:04}") for number, other in enumerate(found)]
    above = [(-alike, name) for alike, name in every if alike > threshold]
    return (min(above)[1], -min(above)[0]) if above else None


@often
@given(texts, collections, thresholds)
@example("a a a b", ["a a a a a a", "b a", "a b c d e"], 0.5)
def test_the_nearest_by_rouge_l_is_the_one_of_brute_force(text: str, found: list[str], threshold: float) -> None:
    found = [other for other in found if normalised(other) != normalised(text)]
    nearest = known(found, rouge=threshold, minhash=1.0).nearest(text)
    expected = brute_force(text, found, threshold)
    assert (nearest and (nearest.name, nearest.similarity)) == expected


@settings(deadline=None, max_examples=100)
@given(st.lists(texts, max_size=8, unique=True), texts, st.randoms(use_true_random=False))
def test_the_order_of_additions_makes_no_difference(found: list[str], text: str, random: Any) -> None:
    named = [(f"name {number}", other) for number, other in enumerate(found)]
    answers = []
    for _ in range(2):
        neighbours = Neighbours(rouge=0.5, minhash=0.5)
        for name, other in named:
            neighbours.add(name, other)
        answers.append(neighbours.nearest(text))
        random.shuffle(named)
    assert answers[0] == answers[1]


@settings(deadline=None)
@given(texts, collections)
def test_a_text_is_not_known_before_it_is_added(text: str, found: list[str]) -> None:
    neighbours = known(found)
    seen_before = normalised(text) in {normalised(other) for other in found}
    before = neighbours.nearest(text)
    assert (before is not None and before.measure == "exact") == seen_before
    neighbours.add("new", text)
    after = neighbours.nearest(text)
    assert after is not None
    assert (after.similarity, after.measure) == (1.0, "exact")


@pytest.mark.parametrize("same", ["Write a poem.", "write  a POEM. ", "\twrite a\npoem."])
def test_case_and_white_space_make_no_new_text(same: str) -> None:
    assert known(["Write a poem."]).nearest(same) == Neighbour("0000", 1.0, "exact")


def test_punctuation_makes_no_new_text() -> None:
    assert known(["Write a poem about love!"]).nearest("write, a poem about love") == Neighbour("0000", 1.0, "rouge-l")


def test_near_means_strictly_above_the_threshold() -> None:
    ten = "one two three four five six seven eight nine ten"
    seven = "one two three four five six seven a b c"
    assert known([ten], rouge=0.7).nearest(seven) is None
    assert known([ten], rouge=0.69).nearest(seven) == Neighbour("0000", 0.7, "rouge-l")


def test_the_most_similar_one_is_named() -> None:
    found = [
        "Describe the life of a small fish in a deep lake",
        "Describe the life of a small bird in a deep wood",
        "Describe the life of a small bird in a dark cave",
    ]
    nearest = known(found).nearest("Describe the life of a small bird in a deep cave")
    assert nearest is not None
    assert nearest == Neighbour("0001", 20 / 22, "rouge-l")


def test_equally_similar_ones_are_named_in_alphabetical_order() -> None:
    neighbours = Neighbours()
    neighbours.add("b", "count all the red cars")
    neighbours.add("a", "count all the blue cars")
    nearest = neighbours.nearest("count all the cars")
    assert nearest is not None
    assert nearest.name == "a"


def test_passages_in_another_order_are_found_by_minhash_alone() -> None:
    first = "a farmer sells forty apples on monday and half as many on tuesday"
    second = "compute how much money he has made by the end of both days"
    known_text, swapped = f"{first} {second}", f"{second} {first}"
    assert known([known_text], minhash=1.0).nearest(swapped) is None
    nearest = known([known_text]).nearest(swapped)
    assert nearest is not None
    assert nearest.measure == "minhash"
    assert 0.7 < nearest.similarity < 1


def test_a_text_with_other_words_has_no_neighbour() -> None:
    assert known(["Write a poem about the sea."]).nearest("Solve this equation for x, please.") is None


@pytest.mark.parametrize("text", ["", "   ", "...", "?!"])
def test_a_text_without_words_is_like_nothing_but_itself(text: str) -> None:
    neighbours = known(["Write a poem.", "Name a city."])
    assert neighbours.nearest(text) is None
    neighbours.add("empty", text)
    assert neighbours.nearest(text) == Neighbour("empty", 1.0, "exact")
    assert neighbours.nearest("Write a song.") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("2 + 2", "2 - 2"), ("Hello!", "Bye!"), ("a < b", "a > b"), ("Define osmosis.", "Define gravity."), ("😀", "🚀")],
)
def test_short_texts_that_differ_in_one_symbol_or_word_are_different(one: str, other: str) -> None:
    assert known([one]).nearest(other) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Explain photosynthesis.", "explain photosynthesis"),
        ("Explain quantum computing", "Explain quantum computing simply."),
        ("2+2", "2 + 2"),
        ("写一首关于春天的诗", "写一首关于秋天的诗"),
        ("春についての詩を書いてください", "秋についての詩を書いてください。"),
        ("Écris un poème sur la mer", "E\u0301cris un poe\u0300me sur la mer !"),
    ],
)
def test_short_and_unspaced_texts_that_are_alike_are_found(one: str, other: str) -> None:
    assert known([one]).nearest(other) is not None


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


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="outside 0 to 1"):
        Neighbours(rouge=threshold)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        Neighbours(minhash=threshold)


@pytest.mark.parametrize("library", ["datasketch", "rapidfuzz.distance"])
def test_a_missing_library_is_named_with_its_remedy(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=library.partition(".")[0]) as caught:
        Neighbours()
    assert "pip install" in caught.value.remedy


def test_importing_readers_and_neighbours_loads_nothing_heavy() -> None:
    heavy = ("pyarrow", "datasets", "rapidfuzz", "datasketch", "scipy")
    check = (
        "import sys, tapir.data.readers, tapir.data.neighbours; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]"


def libre_tasks(version: int) -> Iterator[dict[str, Any]]:
    file = DATA / "seed" / "alpaca_libre_tasks.jsonl.gz"
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
        neighbours = Neighbours(minhash=1.0)
        for place in order:
            nearest = neighbours.nearest(tasks[place]["instruction"])
            highest[place] = max(highest[place], nearest.similarity if nearest else 0.0)
            neighbours.add(str(place), tasks[place]["instruction"])
    judged = [
        (task, ours) for task, ours in zip(tasks, highest, strict=True) if task["status"] in {"ok", "too similar"}
    ]
    assert len(judged) == 1138
    assert [ours > 0 for _, ours in judged] == [task["status"] == "too similar" for task, _ in judged]
    similar = [(task["other"]["similarity"], ours) for task, ours in judged if ours]
    assert len(similar) == 484
    assert [round(ours, 3) for _, ours in similar] == [theirs for theirs, _ in similar]
