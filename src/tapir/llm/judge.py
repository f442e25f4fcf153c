"""The judge filled by a language model: both answers in one prompt, in both orders (METHOD 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

from tapir.domain.completion import Completion, Failure
from tapir.domain.judgement import Judgement, Order, Unscored, Verdict
from tapir.llm.book import Book, quoted
from tapir.llm.expectation import expected
from tapir.llm.switchboard import Caller
from tapir.llm.verdict import ReplyStyle, Scores, read_scores
from tapir.llm.wire import Message, Request, Sampling, Schema, encodable
from tapir.roles import Comparison

WAVE = 4096  # comparisons whose unreadable replies are asked for again together

Part: TypeAlias = tuple[str, int]
"""What was shown ("student-first", "reference-first", "student" or "reference"), and which sample it is."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is asked.

    Attributes:
        single: each answer alone, in place of both in one prompt.
        samples: verdicts for each prompt.
        expected_score: the mean over the score's log-probabilities counts, not the score written.
        rubrics: for a task, what a good answer to it is judged by.
        wave: comparisons whose unreadable replies are asked for again together; all of them where replies come hours
            later, as from a batch.
    """

    endpoints: tuple[str, ...]
    single: bool = False
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 512
    expected_score: bool = False
    rubrics: Mapping[str, str] = field(default_factory=dict)
    wave: int = WAVE


@dataclass(slots=True)
class _Case:
    """One comparison under way: what is still out, and what has come."""

    comparison: Comparison
    owed: int
    scores: dict[Part, Scores] = field(default_factory=dict)
    unscored: dict[Part, Unscored] = field(default_factory=dict)


class LlmJudge:
    """Scores from 1 to 10; a reply that cannot be read is asked for once more and then counts as no score."""

    def __init__(self, caller: Caller, book: Book, settings: JudgeSettings, name: str) -> None:
        """Take the way to call, the prompts and the settings; `name` is recorded with every judgement."""
        self.name = name
        self._caller = caller
        self._settings = settings
        self._names = ("score",) if settings.single else ("score_a", "score_b")
        self._style: ReplyStyle = "json" if caller.json_schema(settings.endpoints) else "tagged"
        kind = "single" if settings.single else "pairwise"
        self._prompt = book[f"judge-{kind}"]
        self._reply = book[f"reply-{kind}-{self._style}"].fill()
        self._repair = book["judge-repair"]

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """Instruction id and verdict for each comparison, as they come."""
        source = iter(comparisons)
        while wave := list(islice(source, self._settings.wave)):
            yield from self._wave(wave)

    def _wave(self, wave: Sequence[Comparison]) -> Iterator[tuple[str, Verdict]]:
        parts = self._parts()
        cases = {one.instruction.id: _Case(one, len(parts)) for one in wave}
        first = (((one.instruction.id, part), self._request(one, part)) for one in wave for part in parts)
        again: list[tuple[tuple[str, Part], Request]] = []
        for (name, part), reply in self._caller.stream(self._settings.endpoints, first):
            case = cases[name]
            found = self._read(reply)
            if isinstance(found, Unscored) and isinstance(reply, Completion):
                again.append(((name, part), self._repaired(case.comparison, part, reply.text, found.reason)))
                continue
            self._settle(case, part, found)
            if not case.owed:
                yield name, self._verdict(cases.pop(name))
        for (name, part), reply in self._caller.stream(self._settings.endpoints, again):
            case = cases[name]
            self._settle(case, part, self._read(reply))
            if not case.owed:
                yield name, self._verdict(cases.pop(name))

    def _parts(self) -> list[Part]:
        shown = ("student", "reference") if self._settings.single else ("student-first", "reference-first")
        return [(what, sample) for what in shown for sample in range(self._settings.samples)]

    def _messages(self, one: Comparison, shown: str) -> list[Message]:
        rubric = quoted(self._settings.rubrics.get(one.task, ""))
        instruction, student, reference = map(quoted, (one.instruction.text, one.student, one.reference))
        if self._settings.single:
            answer = student if shown == "student" else reference
            return self._prompt.messages(instruction=instruction, answer=answer, rubric=rubric, reply=self._reply)
        first, second = (student, reference) if shown == "student-first" else (reference, student)
        return self._prompt.messages(
            instruction=instruction, answer_a=first, answer_b=second, rubric=rubric, reply=self._reply
        )

    def _request(self, one: Comparison, part: Part, *more: Message) -> Request:
        settings, (shown, sample) = self._settings, part
        sampling = Sampling(settings.temperature, settings.max_tokens, settings.expected_score)
        return Request(
            [*self._messages(one, shown), *more], sampling, schema(self._names), sample=sample, task=one.task
        )

    def _repaired(self, one: Comparison, part: Part, said: str, reason: str) -> Request:
        """The same prompt, the reply that could not be read, and a request to write it again."""
        repair = self._repair.fill(reason=reason, reply=self._reply)
        said = said if said.strip() else "(nothing)"  # some servers refuse a message without text
        return self._request(one, part, Message(role="assistant", content=said), Message(role="user", content=repair))

    def _read(self, reply: Completion | Failure) -> Scores | Unscored:
        if isinstance(reply, Failure):
            return Unscored(f"call failed: {reply.kind}", reply.message)
        if reply.finish_reason == "length":
            return Unscored("reply was cut off", reply.text)
        found = read_scores(reply.text, self._names, self._style)
        if isinstance(found, Unscored):
            return found
        if self._style == "tagged" and followed(reply.text, found, self._names):
            return Unscored("other scores follow", reply.text)
        found = replace(found, rationale=encodable(found.rationale))
        return expected(found, reply.text, reply.tokens) if self._settings.expected_score else found

    def _settle(self, case: _Case, part: Part, found: Scores | Unscored) -> None:
        case.owed -= 1
        if isinstance(found, Unscored):
            case.unscored[part] = found
        else:
            case.scores[part] = found

    def _verdict(self, case: _Case) -> Verdict:
        """All judgements; none if one order, or one of the two answers, has no score at all."""
        for shown in dict.fromkeys(shown for shown, _ in self._parts()):
            missing = [sample for what, sample in case.unscored if what == shown]
            if len(missing) == self._settings.samples:
                return case.unscored[shown, min(missing)]  # not that of the reply which happened to come first
        if not self._settings.single:
            return tuple(self._pair(*entry) for entry in sorted(case.scores.items(), key=_latest_name))
        both = [
            (case.scores.get(("student", sample)), case.scores.get(("reference", sample)))
            for sample in range(self._settings.samples)
        ]
        found = tuple(
            Judgement(student.values[0], reference.values[0], "alone", student.rationale, self.name)
            for student, reference in both
            if student and reference
        )
        return found or Unscored("score for only one answer")

    def _pair(self, part: Part, scores: Scores) -> Judgement:
        first, second = scores.values
        if part[0] == "student-first":
            return Judgement(first, second, "student-first", scores.rationale, self.name)
        return Judgement(second, first, "reference-first", scores.rationale, self.name)


def followed(text: str, found: Scores, names: Sequence[str]) -> bool:
    """Whether more scores stand, quoted, behind those read: then these may be the quoted ones and those the verdict."""
    end = max(end for _, end in found.spans)
    rest = text[text.index(">", end) :].lower()
    return any(f"</{name}>" in rest for name in names)


def _latest_name(entry: tuple[Part, Scores]) -> tuple[bool, int]:
    """Student first, then by sample: the order in which judgements are kept."""
    (shown, sample), _ = entry
    first: Order = "student-first"
    return shown != first, sample


def schema(names: Sequence[str]) -> Schema:
    """A rationale and a number for each name, in this order."""
    properties = {"rationale": {"type": "string"}} | {name: {"type": "number"} for name in names}
    content = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Schema("verdict", content)
