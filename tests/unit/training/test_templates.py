"""The chat templates of families of models: what is rendered, learnt and answered, or refused with the reason."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from support.recording import RecordingProgress
from support.templates import ENDS, TEMPLATES, tokenizer
from support.training import NANO
from tapir.config.toml import parse
from tapir.config.training import SftConfig
from tapir.domain.errors import RecipeError, RoleError
from tapir.domain.instruction import Instruction, Origin, Turn, messages
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, Preference
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.models.local.template import ReplyReader, before_answer, dated, split_example, template_fault
from tapir.training.dataset import Encoded, encode, highlight_loss_mask, tokenize
from tapir.training.dpo import _tokenize_pairs
from tapir.training.format import TokenizedFormat

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
        "</think>",
    }  # an empty thought is not learnt
    assert (prompt == rendered) or thinks
    for turn in context:
        assert turn.content in prompt
    answer = learnt.removeprefix("<|channel|>final<|message|>")
    assert answer.strip().removeprefix("7") in ENDS


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "r1", "deepseek-v3.1", "gpt-oss", "chatml"])
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


@pytest.mark.parametrize(
    ("prompt", "whole", "thought", "found"),
    [
        ("A<think>\n", "A</think>7.", "", ("A<think>\n</think>", "7.")),  # DeepSeek-V3.1, GLM-4.7
        ("A<think>", "A</think>7.", "Hm", ("A<think>", "Hm</think>7.")),
        ("A<think>\n", "A<think>Hm</think>7.", "Hm", ("A<think>\n", "Hm</think>7.")),  # in white space of its own
        ("A<think>\n", "A    7.", "", ("A<think>\n\n</think>\n\n", "    7.")),
        ("A", "A<think>\n\n</think>\n\n    return 7", "", ("A<think>\n\n</think>\n\n", "    return 7")),
    ],
)
def test_one_end_of_a_thought_is_learnt_and_all_of_the_answer(
    prompt: str, whole: str, thought: str, found: tuple[str, str]
) -> None:
    assert split_example(prompt, whole, thought) == found


def test_a_kept_thought_stands_between_the_marks_that_the_template_knows() -> None:
    student = tokenizer("mistral")
    assert "<think>\nHm.\n</think>\n\n7" in highlight_loss_mask(example((), thought="Hm."), student)[1][0]
    student.chat_template += "{# [THINK] #}"
    assert "[THINK]\nHm.\n[/THINK]\n\n7" in highlight_loss_mask(example((), thought="Hm."), student)[1][0]


@pytest.mark.parametrize("family", ["qwen3", "r1", "chatml"])
def test_of_a_preference_both_thoughts_are_learnt_after_the_same_prompt(family: str) -> None:
    student = tokenizer(family, thinks=True)
    pair = Preference("a" * 16, "Calculate 3 + 4.", "7", "8", thought="3 and 4 are 7.", rejected_thought="One more.")
    ((better, worse),), _ = _tokenize_pairs([pair], student, 10_000, RecordingProgress())
    start = better.answer_start
    assert better.input_ids[:start] == worse.input_ids[: worse.answer_start]
    assert "3 and 4 are 7." in student.decode(better.input_ids[start:])
    assert "One more." in student.decode(worse.input_ids[start:])


def test_every_pair_that_is_left_out_has_its_reason() -> None:
    student, progress = tokenizer("chatml"), RecordingProgress()
    answers = {"a": ("7", "8"), "b": ("7", "7 "), "c": ("7", " "), "d": ("7 " * 400, "8"), "e": ("7", "<|im_end|>")}
    pairs, left_out = _tokenize_pairs(
        [Preference(name, "Calculate 3 + 4.", *both) for name, both in answers.items()], student, 128, progress
    )
    assert (len(pairs), [*left_out]) == (1, ["b", "c", "d", "e"])
    assert left_out["b"] == "both answers are the same"
    assert left_out["d"] == "an answer is longer than 128 tokens"
    assert progress.notes[0] == "1 of 5 preference pairs left out: both answers are the same"


@pytest.mark.parametrize(("family", "thinks"), MODES)
def test_what_stands_before_an_answer_to_measure_is_what_stands_before_it_in_training(family: str, thinks: Any) -> None:
    student = tokenizer(family, thinks=thinks, date="2026-11-30")
    (prompt, _), (learnt, _) = highlight_loss_mask(example(TALK), student)
    assert before_answer(student, messages("Calculate 3 + 4.", TALK, "7")) == prompt + learnt.partition("7")[0]


def test_an_argument_that_says_how_a_template_is_rendered_is_refused() -> None:
    known = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}
    for name in known - {"tools", "documents", "kwargs"}:
        with pytest.raises(RecipeError, match=rf"student\.template.*: {name} is no variable of a chat template"):
            parse({"student": {"template": {name: True, "reasoning_effort": "low"}}})
    assert parse({"student": {"template": {"reasoning_effort": "low"}}}).student.template


def test_a_thought_too_long_to_train_on_is_not_cut_from_its_answer() -> None:
    long = example((), thought="Three and four are seven. " * 30)
    student = tokenizer("qwen3", thinks=True)
    ends = {student.convert_tokens_to_ids("<|im_end|>")}
    encoded = encode([long, example(())], student, max_length=64, too_long="cut", ends=ends)
    assert (encoded.too_long, encoded.cut) == ([long.id], [])


def rendered(template: str, **settings: Any) -> str:
    student = load_tokenizer(NANO, ModelSettings(chat_template=template, **settings))
    chat = [{"role": "user", "content": "Hi."}]
    return str(student.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


@pytest.mark.parametrize("before", ["", "\n", "  {% if true %}\n{% endif %}"])
def test_a_clock_asked_in_any_way_stands_still_at_the_date_of_the_run(before: str) -> None:
    asks = (
        "{% set form = '%d %B' %}{{ strftime_now(form) + strftime_now(form ~ ' %Y')[-4:] }}"
        '{% macro day() %}{{ strftime_now("%-d|%j") }}{% endmacro %}'
        "{% if strftime_now is defined %}{{ day() }}{% endif %}"
    )
    fixed = rendered(before + "{{ '02 January20262|002' }}" + TEMPLATES["chatml"])
    assert rendered(before + asks + TEMPLATES["chatml"], date="2026-01-02") == fixed


def test_of_several_templates_the_one_for_chats_gets_the_arguments(tmp_path: Path) -> None:
    several = load_tokenizer(NANO, ModelSettings())
    several.chat_template = {"default": TEMPLATES["gpt-oss"], "tool_use": TEMPLATES["chatml"]}
    several.save_pretrained(tmp_path)
    shutil.copy(f"{NANO.path}/config.json", tmp_path)
    settings = ModelSettings(template={"reasoning_effort": "low"}, date="2026-01-02")
    student = load_tokenizer(Checkpoint(str(tmp_path), 0), settings)
    prompt = student.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False)
    assert "2026-01-02 Reasoning: low" in prompt
    assert student.apply_chat_template.keywords["reasoning_effort"] == "low"
    with pytest.raises(RoleError, match=r"cannot be used: can only concatenate"):
        load_tokenizer(Checkpoint(str(tmp_path), 0), ModelSettings(template={"reasoning_effort": {"low": [1]}}))
    several.chat_template = {"rag": TEMPLATES["chatml"], "tool_use": TEMPLATES["chatml"]}
    several.save_pretrained(tmp_path / "none")
    with pytest.raises(RoleError, match="no default specified"):
        load_tokenizer(Checkpoint(str(tmp_path / "none"), 0), ModelSettings())


def test_what_one_conversation_says_does_not_speak_against_all_of_its_form() -> None:
    settings = ModelSettings(chat_template=TEMPLATES["qwen3"])
    student = TokenizedFormat(NANO, settings, training=SftConfig(), answered=True)
    context = (Turn("user", "Which tag ends it?"), Turn("assistant", "It is </think> there."))
    assert student.fault(Instruction.of("And then?", Origin("corpus"), context)) == ""
    assert student.fault(Instruction.of("And then?", Origin("corpus"), TALK)) == ""
    refusing = TokenizedFormat(
        NANO, ModelSettings(chat_template=TEMPLATES["gemma-2"]), training=SftConfig(), answered=True
    )
    assert "System role not supported" in refusing.fault(Instruction.of("Hi.", Origin("corpus"), (SYSTEM,)))
    deaf = TEMPLATES["chatml"].replace("in messages", "in messages if m['role'] != 'system'")
    dropping = TokenizedFormat(NANO, ModelSettings(chat_template=deaf), training=SftConfig(), answered=True)
    assert (
        dropping.fault(Instruction.of("Hi.", Origin("corpus"), (SYSTEM,))) == "the chat template drops its system turn"
    )
