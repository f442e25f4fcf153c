from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.instruction import Instruction, Origin, instruction_id

texts = st.text(max_size=200)
origins = st.builds(Origin, st.sampled_from(("corpus", "expansion", "evaluation")), st.integers(0, 5))


@given(texts, texts)
def test_equal_texts_and_only_equal_texts_have_equal_ids_of_sixteen_hexadecimal_digits(one: str, other: str) -> None:
    assert (instruction_id(one) == instruction_id(other)) == (one == other)
    name = instruction_id(one)
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")


def test_the_smallest_difference_is_another_id_and_no_other_process_has_another_one() -> None:
    variants = ["Add 1 and 2.", "add 1 and 2.", "Add 1 and 2. ", "Add 1 and 2", "Add 1 and 2.\n", ""]
    assert len({instruction_id(text) for text in variants}) == len(variants)
    assert instruction_id("Añade 1 y 2.") == "17d12d10a1ab85d5"


@given(texts, origins, origins)
def test_an_id_belongs_to_the_text_and_not_to_the_origin(text: str, one: Origin, other: Origin) -> None:
    assert Instruction.of(text, one).id == Instruction.of(text, other).id == instruction_id(text)
