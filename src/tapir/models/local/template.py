"""Chat templates: what every call is given, how thoughts stand in what is rendered, and what a student cannot read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from tapir.config.student import StudentSection
from tapir.domain.completion import THOUGHTS, Completion, Failure, part_thought
from tapir.domain.errors import RoleError
from tapir.domain.instruction import messages

_SWITCHES = ("enable_thinking", "thinking")  # what templates call the argument that turns thinking on and off
_QUESTION, _ANSWER = "How many legs have 3 cats?", "They have 12 legs."
_MARKS = {*THOUGHTS, *THOUGHTS.values(), "<|channel|>"}
_SAMPLE = [{"role": "user", "content": "?"}]
TEMPLATE = "chat_template"  # the argument of `apply_chat_template` that takes the place of the tokenizer's own
_EMPTY = re.compile(
    "|".join(rf"\s*(?:{re.escape(opening)}\s*)?{re.escape(closing)}[\r\n]*" for opening, closing in THOUGHTS.items())
)
_CLOCK = "strftime_now"  # what templates call with a format
_DIRECTIVES = [f"%{hyphen}{letter}" for letter in "aAbBcdDeFGHIjklmMpPrRsSTuUVwWxXyYzZ" for hyphen in ("-", "")]


def template_arguments(template: str, given: Mapping[str, Any], *, thinks: bool, date: str) -> dict[str, Any]:
    """Return the arguments of every call: the recipe's, the switch for thinking, a template that is dated."""
    switches = {name: thinks for name in _SWITCHES if re.search(rf"\b{name}\b", template)}
    fixed = {TEMPLATE: now} if (now := dated(template, date)) != template else {}
    return {**switches, **fixed, **given}


def dated(template: str, date: str) -> str:
    """Return a template whose clock stands still at a date; for an empty date the template itself."""
    if not date or _CLOCK not in template:
        return template
    day = datetime.fromisoformat(date)
    filled = "".join(f" | replace({each!r}, {day.strftime(each)!r})" for each in _DIRECTIVES)
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{filled} }}}}{{% endmacro %}}\n{template}"


def render(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return what the template makes of a chat without its answer and with it; raises jinja2.TemplateError."""
    alone = tokenizer.apply_chat_template(list(chat[:-1]), add_generation_prompt=True, tokenize=False)
    return alone, tokenizer.apply_chat_template(list(chat), tokenize=False)


def before_answer(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    """Return what stands before the answer of a chat where it is learnt: the prompt, an empty thought, a channel."""
    prompt, whole = render(tokenizer, chat)
    before, learnt = split_example(prompt, whole, "") or (prompt + end_of_thought(prompt), "")
    return before + learnt[: max(0, learnt.find(chat[-1]["content"].strip()))]


def template_fault(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    """Return why a template cannot hold a chat: it fails on it, or drops a turn; "" where it can."""
    try:
        prompt = tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        return f"the chat template refuses it: {error}"
    shown = "".join(prompt.split())
    dropped = next((turn["role"] for turn in chat if "".join(turn["content"].split()) not in shown), "")
    return f"the chat template drops its {dropped} turn" if dropped else ""


def prompt_tokens(tokenizer: Any, chats: Sequence[list[dict[str, str]]]) -> list[list[int] | Failure]:
    """Return the tokens of each chat as it is asked; a failure where the template cannot hold one."""
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    try:
        return list(tokenizer.apply_chat_template(list(chats), **options))
    except TemplateError as error:
        if len(chats) == 1:
            return [Failure("template", f"the chat template refuses it: {error}")]
        return [tokens for chat in chats for tokens in prompt_tokens(tokenizer, [chat])]


def begun_thought(prompt: str) -> str:
    """Return the mark of a thought with which a rendered prompt ends; empty for none."""
    return next((mark for mark in THOUGHTS if prompt.rstrip().endswith(mark)), "")


def end_of_thought(prompt: str) -> str:
    """Return what ends the thought that a prompt has begun, so that the answer can follow; empty where it has not."""
    mark = begun_thought(prompt)
    return f"\n{THOUGHTS[mark]}\n\n" if mark else ""


def check_template(tokenizer: Any, path: str, *, thinks: bool) -> None:
    """Raise `RoleError` unless both sides of a conversation come through the chat template."""
    remedy = 'Set student.chat_template to "alpaca" or to a file with a Jinja template that writes `messages`'
    if tokenizer.chat_template is None:
        raise RoleError(
            f"the tokenizer of {path} has no chat template: it belongs to a base model",
            remedy=f"{remedy}, or use an instruction-tuned student.",
        )
    try:
        prompt, whole = render(tokenizer, messages(_QUESTION, answer=_ANSWER))
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        wrong = f"the chat template of {path} cannot be used: {error}"
        raise RoleError(wrong, remedy=f"{remedy}, or correct its arguments in student.template.") from error
    for what, text, result in (("instruction", _QUESTION, prompt), ("answer", _ANSWER, whole)):
        if text not in result:
            problem = f"the chat template of {path} drops the {what}: {text!r} becomes {result!r}"
            raise RoleError(problem, remedy=f"{remedy}.")
    if not thinks and (mark := begun_thought(prompt)):
        raise RoleError(
            f"the chat template of {path} begins a thought ({mark}) and has no switch: the student always thinks",
            remedy='Set student.thinking to "on" (only answers are learnt) or "keep" (the teacher\'s thoughts too).',
        )


class ReplyReader:
    """Reads the replies that a tokenizer's template begins: the answer, and the thought before it.

    Attributes:
        begun: the mark of a thought with which every prompt ends; empty for none.
        marked: whether a mark of thoughts is a special token, which is not text to a decoder that skips those.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._encode, self._decode = tokenizer, tokenizer.decode
        self.begun = begun_thought(tokenizer.apply_chat_template(_SAMPLE, add_generation_prompt=True, tokenize=False))
        added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.marked = not {*tokenizer.all_special_tokens, *added}.isdisjoint(_MARKS)

    def read(self, tokens: Sequence[int]) -> tuple[str, str]:
        """Return the answer and the thought that the tokens of a reply spell."""
        text = self._decode(tokens, skip_special_tokens=not self.marked)
        thought, answer = part_thought(text, self.begun)
        if self.marked and (thought, answer) == ("", text):
            answer = self._decode(tokens, skip_special_tokens=True)
        return answer, thought

    def within(self, reply: Completion, section: StudentSection) -> Completion:
        """Return a reply of which the answer keeps to `max_new_tokens`; one after a thought could have more."""
        tokens = self._encode(reply.text, add_special_tokens=False)["input_ids"] if section.thinking != "off" else ()
        cut = len(tokens) > (most := section.max_new_tokens)
        return replace(reply, text=self._decode(tokens[:most]), finish_reason="length") if cut else reply


def split_example(prompt: str, whole: str, thought: str) -> tuple[str, str] | None:
    """Return an example's text without loss and with loss; None where the prompt does not stay as it is.

    Args:
        prompt: as the student is asked with it.
        whole: the prompt with its answer, as the template renders it.
        thought: to be learnt before the answer; without one an empty thought block carries no loss.
    """
    mark = begun_thought(prompt)
    core = prompt.rstrip().removesuffix(mark)
    if not whole.startswith(prompt) and mark and whole.startswith(core):
        rest = whole[len(core) :]
        if rest.lstrip().startswith(mark):  # it writes the block in other white space
            rest = rest.lstrip().removeprefix(mark).lstrip()
        else:  # it takes the thought off what is answered, and may leave its end
            rest = thought + ("" if rest.lstrip().startswith(THOUGHTS[mark]) else end_of_thought(prompt)) + rest
        whole = prompt + rest
    if not whole.startswith(prompt):
        return None
    empty = _EMPTY.match(whole, len(prompt)) if not thought else None
    start = empty.end() if empty else len(prompt)
    return whole[:start], whole[start:]


class SpecialTokens:
    """The special tokens of a tokenizer; one written out in a text would end an answer or begin a turn there."""

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        added = tokenizer.added_tokens_decoder
        ids = {*tokenizer.all_special_ids, *(id_ for id_, token in added.items() if token.special), *ends}
        self._tokenizer = tokenizer
        self._ids = {str(added[id_]): id_ for id_ in ids if id_ in added}
        self._any = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or r"(?!)")

    def find(self, text: str) -> str:
        """Return the first special token that is written out in a text, and that the tokenizer takes for it."""
        written = self._any.findall(text)
        found = self._tokenizer(text, add_special_tokens=False)["input_ids"] if written else ()
        return next((token for token in written if self._ids[token] in found), "")


def too_long(tokens: int, max_new_tokens: int, limit: int) -> Failure:
    """Return the failure of a prompt that leaves no room for its answer."""
    return Failure(
        "too long",
        f"the prompt has {tokens} tokens; with student.max_new_tokens = {max_new_tokens} that is more than the {limit} "
        "the student can read",
    )
