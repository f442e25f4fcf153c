"""The gym's tasks said differently: what may change, what never does."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import islice

import pytest

from tapir.domain.errors import GymError
from tapir.domain.evaluation import Prompt
from tapir.domain.instruction import Instruction, Origin
from tapir.gym import world
from tapir.gym.perturb import ASIDES, KINDS, PHRASES, TOKEN, WRAPS, Kind, PerturbedBenchmark, perturb, tokens_of
from tapir.gym.roles import GymBenchmark
from tapir.gym.skills import HARDER_LEVEL, SKILLS, TRAIN_LEVELS

LEVELS = (*TRAIN_LEVELS, HARDER_LEVEL)
# No words of a template to misspell or to write in another case: "5, 5, 10, 15, ?".
WORDLESS = {"typos": {"number_sequence"}, "case": {"number_sequence"}, "paraphrase": set(), "irrelevant": set()}
# Words that look like a template because they are few, and yet say what is asked.
TELLING = {
    "complex_arithmetic": r"Add|Subtract|Multiply|Divide",
    "syllogism": r"\b(?:All|Some|No|not|Yes)\b",
    "aiw": r"(?<=\d )(?:sisters|brothers)|[A-Z][a-z]+(?='s)",
    "number_filtering": r"Keep|Remove|larger|smaller",
    "calendar_arithmetic": r"forward|backward|ago|before|after|jump|will|was|(?:Mon|Tues|Wednes|Thurs|Fri|Sun)day,",
    "base_conversion": r"base-\d+|binary",
    "coin_flip": r"exactly|at least|at most",
}
# What stands in quotation marks, and what follows the last colon of a skill that is about the words after it.
QUOTED = re.compile(r'"[^"]*"|\'-?\d+\'')
ABOUT_ITS_END = {"spell_backward", "word_sequence_reversal", "sentence_reordering"}


def items(skill: str, level: int, count: int = 40) -> list[world.GymItem]:
    return list(islice(world.stream(skill, level, key="perturbing", reserved=True), count))


def said(item: world.GymItem, kind: Kind, seed: int = 0) -> str | None:
    return perturb(item.question, item.address, kind, random.Random(f"{seed}/{item.address}"))


def content(skill: str, text: str) -> Sequence[str]:
    """What an instruction is about, read off without the code under test."""
    found = [*re.findall(r"\d+(?:\.\d+)?", text), *QUOTED.findall(text)]
    return found + re.findall(TELLING[skill], text) if skill in TELLING else found


def bare(text: str) -> str:
    """Without what was put around it."""
    for before, after in [*WRAPS, *((f"{aside} ", f" {aside}") for aside in ASIDES)]:
        text = text.removeprefix(before).removesuffix(after)
    return text


@cache
def frequent(skill: str) -> frozenset[str]:
    """Words of many items of a skill; every other word is content."""
    counts = Counter(
        word for level in LEVELS for item in items(skill, level, 100) for word in set(TOKEN.findall(item.question))
    )
    return frozenset(word for word, count in counts.items() if count >= 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skill", SKILLS)
def test_what_an_instruction_is_about_survives(skill: str, kind: Kind) -> None:
    for level in LEVELS:
        for item in items(skill, level):
            text = said(item, kind)
            if text is None:
                assert skill in WORDLESS[kind]
                continue
            assert text != item.question
            assert content(skill, bare(text)) == content(skill, item.question)
            words = iter(TOKEN.findall(text))
            assert all(word in words for word in TOKEN.findall(item.question) if word not in frequent(skill))
            if skill in ABOUT_ITS_END:
                assert text.endswith(item.question.rsplit(": ", 1)[1])
            if skill in {"family_relationships", "aiw"}:
                names = re.findall(r"(?:^|called |does |friend of |What is |How is )([A-Z][a-z]+)", item.question)
                assert names
                assert all(text.count(name) == item.question.count(name) for name in names)


@pytest.mark.parametrize("kind", ["typos", "case"])
def test_a_typo_or_another_case_keeps_the_number_of_words_and_their_spaces(kind: Kind) -> None:
    for skill in set(SKILLS) - WORDLESS[kind]:
        for item in items(skill, 1, 20):
            text = said(item, kind)
            assert text is not None
            assert re.findall(r"\s+", text) == re.findall(r"\s+", item.question)
            changed = [(a, b) for a, b in zip(TOKEN.findall(item.question), TOKEN.findall(text), strict=True) if a != b]
            assert changed
            if kind == "case":
                assert text.casefold() == item.question.casefold()
            else:
                assert all(a[0] == b[0] and a[-1] == b[-1] and abs(len(a) - len(b)) < 2 for a, b in changed)


def test_examples_forms_of_the_answer_and_words_of_the_content_stay_as_they_are() -> None:
    for skill, kept in {
        "prime_factorization": "(Example: for 12 the answer would be: 2 × 2 × 3)",
        "spell_backward": "(example: sun -> nus)",
        "syllogism": "(Answer Yes or No)",
        "time_intervals": "HH:MM",
        "gcd": "(GCD)",
    }.items():
        for item in items(skill, 2):
            assert all(kept in (said(item, kind) or "") for kind in KINDS)
    text = 'How many times does the letter "e" appear in the text: "the letter in the text"?'
    for seed in range(50):
        for kind in KINDS:
            found = perturb(text, "gym:letter_counting:3:0", kind, random.Random(seed))
            assert found is not None
            assert '"the letter in the text"?' in found


def test_an_irrelevant_sentence_stands_beside_the_unchanged_instruction_but_never_hides_its_end() -> None:
    places = Counter(
        (said(item, "irrelevant") or "").startswith(item.question) for skill in SKILLS for item in items(skill, 2)
    )
    assert min(places.values()) > 100
    assert all(bare(said(item, "irrelevant") or "") == item.question for skill in SKILLS for item in items(skill, 2))
    for skill in ("chain_sum", "spell_backward", "rotate_matrix", "base_conversion", "simple_equations", "lcm"):
        for item in items(skill, 3):
            end = item.question[-3:]
            assert all((said(item, kind) or end).endswith(end) for kind in ("irrelevant", "paraphrase"))


@pytest.mark.parametrize("skill", sorted(set(SKILLS) - {"number_sequence"}))
def test_every_skill_has_phrases_of_its_own_to_put_in_other_words(skill: str) -> None:
    unchanged = sum(bare(said(item, "paraphrase") or "") == item.question for item in items(skill, 2))
    assert unchanged < 20  # of 40: other wordings of a skill may have none


def test_every_phrase_is_found_in_the_library_and_nothing_said_instead_is() -> None:
    texts = [TOKEN.findall(item.question) for skill in SKILLS for level in LEVELS for item in items(skill, level)]
    joined = "\n".join(" ".join(text) for text in texts)
    for phrase, others in PHRASES.items():
        assert " ".join(phrase) in joined
        for other in others:
            assert len(TOKEN.findall(other)) < 3 or " ".join(TOKEN.findall(other)) not in joined
    for aside in ASIDES:
        assert not re.search(r"\d", aside)
        assert aside.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_prompts_and_another_seed_others(kind: Kind) -> None:
    inner = GymBenchmark("plain", ("gcd", "aiw", "leg_counting"), TRAIN_LEVELS, 12)
    first, again, other = (
        [one.instruction.text for one in PerturbedBenchmark(inner, kind, seed).prompts()] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_how_a_prompt_is_changed_does_not_depend_on_the_prompts_beside_it() -> None:
    few, many = (GymBenchmark("plain", ("gcd",), TRAIN_LEVELS, count) for count in (6, 30))
    for kind in KINDS:
        texts = {one.instruction.text for one in PerturbedBenchmark(many, kind, 3).prompts()}
        assert {one.instruction.text for one in PerturbedBenchmark(few, kind, 3).prompts()} <= texts


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_answer_still_scores_one_and_another_does_not(kind: Kind) -> None:
    benchmark = PerturbedBenchmark(GymBenchmark("plain", tuple(SKILLS), TRAIN_LEVELS, 9), kind, 0)
    right = dict(benchmark.grade([(one, one.expected) for one in benchmark.prompts()]))
    wrong = dict(benchmark.grade([(one, f"{one.expected} #### rubbish") for one in benchmark.prompts()]))
    assert right.keys() == wrong.keys() == {one.instruction.id for one in benchmark.prompts()}
    assert all(getattr(grade, "success", False) for grade in right.values())
    assert not any(getattr(grade, "success", True) for grade in wrong.values())


def test_every_prompt_is_perturbed_once_or_counted_as_left_out() -> None:
    inner = GymBenchmark("plain", ("number_sequence", "gcd"), TRAIN_LEVELS, 9)
    for kind in KINDS:
        benchmark = PerturbedBenchmark(inner, kind, 0)
        assert benchmark.name == f"plain+{kind}"
        plain = {one.instruction.id for one in inner.prompts()}
        left_out = {one.instruction.id for one in benchmark.left_out}
        assert set(benchmark.twins.values()) | left_out == plain
        assert len(benchmark.twins) + len(left_out) == len(plain)
        assert {one.task for one in benchmark.left_out} == WORDLESS[kind]
        assert not set(benchmark.twins) & plain


def test_two_prompts_that_become_one_text_are_kept_once() -> None:
    class Twice:
        name = "twice"

        def prompts(self) -> list[Prompt]:
            texts = ("Calculate 1 + 1.", "calculate 1 + 1.", "CALCULATE 1 + 1.", "cAlculate 1 + 1.")
            return [Prompt(Instruction.of(one, origin), "basic_arithmetic", "2") for one in texts]

        grade = GymBenchmark("plain", (), (), 0).grade

    origin = Origin("evaluation", source="gym:basic_arithmetic:1:0")
    benchmark = PerturbedBenchmark(Twice(), "typos", 0)
    texts = [one.instruction.text for one in benchmark.prompts()]
    assert len(texts) == len(set(texts)) == 1  # only the first is a wording of the template
    assert len(benchmark.left_out) == 3


def test_the_pieces_of_an_instruction_join_to_it_again_and_one_from_elsewhere_is_refused() -> None:
    for skill in SKILLS:
        for item in items(skill, 4, 20):
            assert "".join(one.before + one.text for one in tokens_of(item.question, item.address)) == item.question
    assert tokens_of("", "gym:gcd:1:0") == []
    with pytest.raises(GymError, match="not an address"):
        perturb("Name three colours.", "corpus.json:4", "typos", random.Random(0))
