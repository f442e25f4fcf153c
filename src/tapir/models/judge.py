"""The judge filled by a language model: both answers in one prompt, in both orders (METHOD 4.3), or one alone."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

from tapir.config.annotators import LlmJudgeConfig
from tapir.config.base import nearest
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RecipeError
from tapir.domain.judgement import Judgement, Order, Unscored, Verdict
from tapir.domain.roles import Comparison
from tapir.models.api.protocol import Message, Request, Sampling, Schema, encodable
from tapir.models.api.session import Caller
from tapir.models.context import BuildContext
from tapir.models.logprobs import expected
from tapir.models.prompts import PromptSet, quoted, quoted_conversation
from tapir.models.replies import NO_SCORE, ReplyStyle, Scores, more_scores_follow, read_scores, reply_style

ItemT = TypeVar("ItemT")
ReadT = TypeVar("ReadT")
PartT = TypeVar("PartT")
CallKey: TypeAlias = tuple[str, str, int]
"""Id of an item, which of its prompts, and which sample."""

ORDERS: tuple[Order, Order] = ("student-first", "reference-first")
_CUT = "reply was cut off"
_RATIONALES = {_CUT, NO_SCORE}  # of such a reply the rationale stands; only the verdict is asked for again
WAVE = 4096  # items whose unreadable replies are asked for again together


class JudgeClient(ABC, Generic[ItemT, ReadT]):
    """Calls to a judge: every prompt of an item, several samples of each, and one repair of an unreadable reply."""

    shown: Sequence[str]
    """Names of the prompts of an item, for example its two orders."""

    def __init__(
        self, caller: Caller, prompts: PromptSet, section: LlmJudgeConfig, name: str, *, wave: int = WAVE
    ) -> None:
        """Call the endpoints of `section`; unreadable replies of `wave` items are asked for again together."""
        self.name, self.caller, self.prompts, self.section, self.wave = name, caller, prompts, section, wave

    @classmethod
    def build(cls, section: LlmJudgeConfig, context: BuildContext) -> Self:
        """Make the calls of a run; where replies come hours later, all unreadable ones are asked for again together."""
        wave = sys.maxsize if any(context.recipe.endpoints[name].batch for name in section.endpoints) else WAVE
        return cls(context.session, context.prompts, section, context.models(section.endpoints), wave=wave)

    @cached_property
    @abstractmethod
    def form(self) -> tuple[str, Schema | None]:
        """The text that says how to reply, and the schema of a reply as JSON, None where it is prose."""

    @abstractmethod
    def messages(self, item: ItemT, shown: str) -> list[Message]:
        """Return the chat for an item and the name of a prompt."""

    @abstractmethod
    def read(self, reply: Completion, rationale: str = "") -> ReadT | Unscored:
        """Return what a complete reply says; before a verdict alone stood a rationale."""

    def end(self) -> tuple[str, Schema | None] | None:
        """Return the same for a verdict alone, after a rationale; None for a judge without one."""
        return None

    def chat(self, prompt: str, **texts: str) -> list[Message]:
        """Return a prompt with texts, which are quoted, and with the form of a reply."""
        values = {slot: quoted(text) for slot, text in texts.items()}
        return self.prompts[prompt].messages(reply=self.form[0], **values)

    def ask(
        self, items: Iterable[tuple[str, str, ItemT]]
    ) -> Iterator[tuple[str, Mapping[str, Sequence[ReadT | Unscored]] | Unscored]]:
        """Ask about items (id, task, content) with distinct ids; yield id and what the samples of each prompt say.

        `Unscored` where all samples of a prompt are, with the reason of the first, whichever reply came first.
        """
        source, size = iter(items), len(self.shown) * self.section.samples
        while wave := {name: (item, task) for name, task, item in islice(source, self.wave)}:
            readings: dict[str, dict[tuple[str, int], ReadT | Unscored]] = {name: {} for name in wave}
            for (name, prompt, sample), reading in self._readings(wave):
                readings[name][prompt, sample] = reading
                if len(readings[name]) == size:
                    yield name, self._outcome(readings.pop(name))

    def _readings(self, wave: Mapping[str, tuple[ItemT, str]]) -> Iterator[tuple[CallKey, ReadT | Unscored]]:
        samples = range(self.section.samples)
        keys = ((name, prompt, sample) for name in wave for prompt in self.shown for sample in samples)
        first = ((key, self._request(wave, key)) for key in keys)
        again: list[tuple[CallKey, Request]] = []
        rationales: dict[CallKey, str] = {}
        for key, reply in self.caller.stream(self.section.endpoints, first):
            reading = self._read(reply)
            if isinstance(reading, Unscored) and isinstance(reply, Completion):
                request = self._request(wave, key)
                form, schema = self.form
                wish = self.prompts["judge-repair"].fill(reason=reading.reason, reply=form)
                if reading.reason in _RATIONALES and reply.text.strip() and (end := self.end()):
                    form, schema = end
                    wish = self.prompts["judge-finish"].fill(reason=reading.reason, form=form)
                    rationales[key] = reply.text
                text = reply.text if reply.text.strip() else "(nothing)"  # some servers refuse a message without text
                chat = [Message(role="assistant", content=text), Message(role="user", content=wish)]
                again.append((key, replace(request, messages=[*request.messages, *chat], schema=schema)))
            else:
                yield key, reading
        for key, reply in self.caller.stream(self.section.endpoints, again):
            yield key, self._read(reply, rationales.get(key, ""))

    def _request(self, wave: Mapping[str, tuple[ItemT, str]], key: CallKey) -> Request:
        (name, prompt, sample), section = key, self.section
        item, task = wave[name]
        sampling = Sampling(section.temperature, section.max_tokens, section.expected_score)
        return Request(self.messages(item, prompt), sampling, self.form[1], sample=sample, task=task)

    def _read(self, reply: Completion | Failure, rationale: str = "") -> ReadT | Unscored:
        if isinstance(reply, Failure):
            return Unscored(f"call failed: {reply.kind}", reply.message)
        if reply.finish_reason == "length":
            return Unscored(_CUT, reply.text)
        return self.read(reply, rationale)

    def _outcome(
        self, readings: Mapping[tuple[str, int], ReadT | Unscored]
    ) -> Mapping[str, Sequence[ReadT | Unscored]] | Unscored:
        samples = range(self.section.samples)
        ordered = {prompt: [readings[prompt, sample] for sample in samples] for prompt in self.shown}
        for first, *others in ordered.values():
            if isinstance(first, Unscored) and all(isinstance(reading, Unscored) for reading in others):
                return first
        return ordered


class ScoreClient(JudgeClient[ItemT, Scores]):
    """Calls whose replies are scores: of one answer ("single"), or of two."""

    kind: Literal["single", "pairwise"] = "single"

    @property
    def names(self) -> Sequence[str]:
        """Names of the scores in a reply."""
        return ("score",) if self.kind == "single" else ("score_a", "score_b")

    @cached_property
    def style(self) -> ReplyStyle:
        """How a reply is asked for; found out with the first call where the recipe leaves it open."""
        return reply_style(self.caller, self.section.endpoints)

    @cached_property
    def form(self) -> tuple[str, Schema | None]:
        """The text that says how to reply, and the schema of a reply as JSON."""
        if not self.section.rationale:
            marks, schema = self.end()
            return self.prompts[f"reply-scores-{self.style}"].fill(form=marks), schema
        reply = self.prompts[f"reply-{self.kind}-{self.style}"].fill()
        return reply, self._schema(rationale={"type": "string"}) if self.style == "json" else None

    def _schema(self, **before: Any) -> Schema:
        return Schema.of("verdict", **before, **{name: {"type": "number"} for name in self.names})

    def end(self) -> tuple[str, Schema | None]:
        """Return the text of scores alone, and their schema as JSON."""
        if self.style == "json":
            marks = ", ".join(f'"{name}": N' for name in self.names)
            return f"{{{marks}}}", self._schema()
        return "\n".join(f"<{name}>N</{name}>" for name in self.names), None

    def read(self, reply: Completion, rationale: str = "") -> Scores | Unscored:
        """Return the scores of a complete reply, with the rationale before them."""
        scores = read_scores(reply.text, self.names, self.style)
        if isinstance(scores, Unscored):
            return scores
        if self.style == "tagged" and more_scores_follow(reply.text, scores, self.names):
            return Unscored("other scores follow", reply.text)
        scores = replace(scores, rationale=encodable(rationale or scores.rationale))
        return expected(scores, reply.text, reply.tokens) if self.section.expected_score else scores


class LlmJudge(ScoreClient[Comparison]):
    """Scores from 1 to 10; a reply that cannot be read is asked for once more and then counts as no score."""

    def __init__(
        self, caller: Caller, prompts: PromptSet, section: LlmJudgeConfig, name: str, *, wave: int = WAVE
    ) -> None:
        super().__init__(caller, prompts, section, name, wave=wave)
        self.kind = section.mode
        self.shown = ("student", "reference") if section.mode == "single" else ORDERS

    @classmethod
    def build(cls, section: LlmJudgeConfig, context: BuildContext) -> Self:
        """Make the judge of a run; a rubric for a label that the taxonomy does not have is an error."""
        taxonomy = context.taxonomy
        for label in sorted(section.rubrics.keys() - {*taxonomy.labels}):
            near = nearest(label, taxonomy.labels, cutoff=0)
            raise RecipeError(
                f"judge.rubrics: the taxonomy {taxonomy.name} has no label {label!r}; did you mean {near!r}?",
                remedy="Fix the label in the recipe, or remove it.",
            )
        return super().build(section, context)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """Yield instruction id and verdict for each comparison, as they come."""
        for name, outcome in self.ask((each.instruction.id, each.task, each) for each in comparisons):
            yield name, outcome if isinstance(outcome, Unscored) else self._verdict(outcome)

    def messages(self, comparison: Comparison, shown: str) -> list[Message]:
        """Return the chat that shows both answers in an order, or one of them."""
        instruction, rubric = quoted_conversation(comparison.instruction), self.section.rubrics.get(comparison.task, "")
        if self.kind == "single":
            answer = comparison.student if shown == "student" else comparison.reference
            return self.chat("judge-single", instruction=instruction, answer=answer, rubric=rubric)
        first, second = in_order(shown, comparison.student, comparison.reference)
        return self.chat("judge-pairwise", instruction=instruction, answer_a=first, answer_b=second, rubric=rubric)

    def _verdict(self, readings: Mapping[str, Sequence[Scores | Unscored]]) -> Verdict:
        """Return all judgements; of one answer without the other there is none."""
        if self.kind == "single":
            both = zip(readings["student"], readings["reference"], strict=True)
            return tuple(
                Judgement(student.values[0], reference.values[0], "alone", student.rationale, self.name)
                for student, reference in both
                if isinstance(student, Scores) and isinstance(reference, Scores)
            ) or Unscored("score for only one answer")
        readable = ((order, each) for order in ORDERS for each in readings[order] if isinstance(each, Scores))
        return tuple(
            Judgement(*in_order(order, *scores.values), order, scores.rationale, self.name)
            for order, scores in readable
        )


def in_order(order: str, student: PartT, reference: PartT) -> tuple[PartT, PartT]:
    """Return what belongs to the two answers as the order shows them; of what came in an order: student's first."""
    return (student, reference) if order == "student-first" else (reference, student)


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """An answer to a text, to be graded by a rubric; `id` comes back with the scores."""

    id: str
    instruction: str
    answer: str
    rubric: str
    task: str = ""


class LlmGrader(ScoreClient[GradedAnswer]):
    """Grades answers with the prompt "judge-single"; the mean counts where several samples are drawn."""

    shown = ("answer",)

    def grade(self, answers: Iterable[GradedAnswer]) -> Iterator[tuple[str, Scores | Unscored]]:
        """Yield id and scores (a mean over the samples that could be read), or why there are none, as they come."""
        for name, outcome in self.ask((answer.id, answer.task, answer) for answer in answers):
            if isinstance(outcome, Unscored):
                yield name, outcome
            else:
                scores = [reading for reading in outcome["answer"] if isinstance(reading, Scores)]
                mean = sum(reading.values[0] for reading in scores) / len(scores)
                yield name, replace(scores[0], values=(mean,))

    def messages(self, answer: GradedAnswer, shown: str) -> list[Message]:
        """Return the chat that shows an answer; there is one prompt."""
        del shown
        return self.chat("judge-single", instruction=answer.instruction, answer=answer.answer, rubric=answer.rubric)
