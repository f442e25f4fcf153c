"""The chat templates of families of models: what is rendered, learnt and answered, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from support.templates import ENDS, TEMPLATES, tokenizer
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction, Origin, Turn
from tapir.domain.training import Example
from tapir.models.local.template import ReplyReader, dated, template_fault
from tapir.training.dataset import Encoded, highlight_loss_mask, tokenize

SYSTEM, TALK = Turn("system", "Answer in one word."), (Turn("user", "Calculate 1 + 1."), Turn("assistant", "2"))
KINDS: dict[str, tuple[Turn, ...]] = {
    "single": (),
    "system": (SYSTEM,),
    "talk": TALK,
    "system and talk": (SYSTEM, *TALK),
}
REFUSED = {("gemma-2", "system"), ("gemma-2", "system and talk")}
MODES = [(family, thinks) for family in TEMPLATES for thinks in (False, True) if (family, thinks) != ("r1", False)]


def example(context: tuple[Turn, ...], **more: Any) -> Example:
    return Example("a" * 16, "Calculate 3 + 4.", "7", context, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "thinks"), MODES)
def test_every_prompt_is_rendered_whole_and_only_its_answer_and_end_are_learnt(
    family: str, thinks: Any, kind: str
) -> None:
    student, context = tokenizer(family, thinks=thinks, date="2026-11-30"), KINDS[kind]
    asked = Instruction.of("Calculate 3 + 4.", Origin("corpus"), context)
    if (family, kind) in REFUSED:
        assert template_fault(student, asked.messages) == "the chat template refuses it: System role not supported"
        return
    assert template_fault(student, asked.messages) == ""
    (prompt, _), (learnt, _) = highlight_loss_mask(example(context), student)
    rendered = student.apply_chat_template(asked.messages, add_generation_prompt=True, tokenize=False)
    assert prompt.startswith(rendered)
    assert prompt[len(rendered) :] in {
        "",
        "<think>\n\n</think>\n\n",
        "\n</think>\n\n",
    }  # an empty thought is not learnt
    assert (prompt == rendered) or thinks
    for turn in context:
        assert turn.content in prompt
    answer = learnt.removeprefix("<|channel|>final<|message|>")
    assert answer.strip().removeprefix("7") in ENDS


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "r1", "gpt-oss", "chatml"])
def test_a_thought_that_is_kept_is_learnt_before_the_answer(family: str) -> None:
    student = tokenizer(family, thinks=True, date="2026-11-30")
    pieces = highlight_loss_mask(example((), thought="3 and 4 are 7."), student)
    learnt = "".join(piece for piece, carries in pieces if carries)
    assert learnt.index("3 and 4 are 7.") < learnt.index("7", learnt.index("7.") + 2)
    assert "3 and 4" not in "".join(piece for piece, carries in pieces if not carries)


@pytest.mark.parametrize("family", TEMPLATES)
def test_what_is_learnt_is_read_as_answer_and_thought_when_it_is_written(family: str) -> None:
    student = tokenizer(family, thinks=True, date="2026-11-30")
    for thought in ("", "3 and 4 are 7."):
        (encoded,) = tokenize([example((), thought=thought)], student)
        assert isinstance(encoded, Encoded)
        written = list(encoded.input_ids[encoded.answer_start :])
        ends = {student.convert_tokens_to_ids(end) for end in ENDS}
        while written[-1] in ends or not student.decode(written[-1:]).strip():
            written.pop()
        begun = ReplyReader(student).begun and not thought  # its end is part of the prompt then
        if not begun:
            assert ReplyReader(student).read(written) == ("7", thought)


def test_a_template_that_always_thinks_is_refused_where_the_student_is_not_to() -> None:
    with pytest.raises(RoleError, match=r"begins a thought \(<think>\) and has no switch"):
        tokenizer("r1")
    assert ReplyReader(tokenizer("r1", thinks=True)).begun == "<think>"


@pytest.mark.parametrize(("family", "day"), [("llama-3.2", "02 Jan 2026"), ("gpt-oss", "2026-01-02")])
def test_a_template_that_asks_for_the_time_gets_the_date_of_the_run(family: str, day: str) -> None:
    chat = [{"role": "user", "content": "Hi."}]
    student = tokenizer(family, date="2026-01-02")
    rendered = student.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert day in rendered
    served = tokenizer(family)
    assert (
        served.apply_chat_template(
            chat, chat_template=dated(TEMPLATES[family], "2026-01-02"), add_generation_prompt=True, tokenize=False
        )
        == rendered
    )


def test_arguments_of_the_recipe_are_passed_in_every_call_and_win_over_the_mode() -> None:
    chat = [{"role": "user", "content": "Hi."}]
    student = tokenizer("gpt-oss", date="2026-01-02", template={"reasoning_effort": "low"})
    assert "Reasoning: low" in student.apply_chat_template(chat, tokenize=False)
    assert "/think" in tokenizer("smollm3", template={"enable_thinking": True}).apply_chat_template(
        chat, tokenize=False
    )
