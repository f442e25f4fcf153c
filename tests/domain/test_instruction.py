from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id
from tests.domain.strategies import properties

texts = st.text(max_size=200)
origins = st.builds(Origin, st.sampled_from(("corpus", "expansion", "evaluation")), st.integers(0, 5))


@properties
@given(texts)
def test_an_id_is_sixteen_hexadecimal_digits(text: str) -> None:
    name = instruction_id(text)
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")


@properties
@given(texts, texts)
def test_equal_texts_and_only_equal_texts_have_equal_ids(one: str, other: str) -> None:
    assert (instruction_id(one) == instruction_id(other)) == (one == other)


def test_the_smallest_difference_is_another_id() -> None:
    variants = ["Add 1 and 2.", "add 1 and 2.", "Add 1 and 2. ", "Add 1 and 2", "Add 1 and 2.\n", ""]
    assert len({instruction_id(text) for text in variants}) == len(variants)


def test_an_id_does_not_depend_on_the_process() -> None:
    script = "from tapir.domain.instruction import instruction_id; print(instruction_id('Añade 1 y 2.'))"
    found = subprocess.run([sys.executable, "-X", "utf8", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == instruction_id("Añade 1 y 2.")


@properties
@given(texts, origins, origins)
def test_an_id_belongs_to_the_text_and_not_to_the_origin(text: str, one: Origin, other: Origin) -> None:
    assert Instruction.of(text, one).id == Instruction.of(text, other).id == instruction_id(text)


@properties
@given(texts, origins)
def test_an_instruction_keeps_its_text_and_origin(text: str, origin: Origin) -> None:
    instruction = Instruction.of(text, origin)
    assert (instruction.text, instruction.origin) == (text, origin)


def test_the_corpus_is_round_zero_and_has_no_parents() -> None:
    origin = Origin("corpus")
    assert (origin.round, origin.parents, origin.source) == (0, (), "")


@properties
@given(texts, texts)
def test_values_are_equal_by_content_and_cannot_be_changed(text: str, answer: str) -> None:
    pair = Pair(Instruction.of(text, Origin("corpus")), Response(answer, "teacher"))
    assert pair == Pair(Instruction.of(text, Origin("corpus")), Response(answer, "teacher"))
    assert hash(pair) == hash(Pair(Instruction.of(text, Origin("corpus")), Response(answer, "teacher")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.response.text = "another answer"  # type: ignore[misc]
