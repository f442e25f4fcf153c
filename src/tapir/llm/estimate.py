"""What calls will take, before any is made: the real prompts are built and counted, the replies are assumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from typing import TypeAlias, TypeVar

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.task import Taxonomy
from tapir.llm.book import Book
from tapir.llm.judge import JudgeSettings, LlmJudge
from tapir.llm.tagger import LlmTagger, TaggerSettings
from tapir.llm.teacher import LlmTeacher, TeacherSettings
from tapir.llm.wire import Request
from tapir.roles import Comparison, ExpandRequest, RefineRequest

KeyT = TypeVar("KeyT")
Answer: TypeAlias = Callable[[Pair], str]
"""The text that is shown beside a pair's response."""

ANSWER = 150
"""Tokens of an answer or a rewritten answer. GPT-4 on 999 Alpaca prompts: mean 113.9 words, 156 by `tokens`."""

VERDICT = 145
"""Tokens of a verdict: rationale and scores. 2,400 pairwise verdicts of Qwen2.5-7B on MT-Bench: mean 89.8 words, 130
by `tokens`; single grades of GPT-4 there: 177, of GPT-4o mini: 256. The form of our replies adds about 15."""

LABEL = 8
"""Tokens of one label in the form asked for."""

NEW_INSTRUCTION = 40
"""Tokens of one new instruction with its tags. An Alpaca instruction with its input has mean 14 words, 17 by
`tokens`; stronger models write longer ones."""

UNREADABLE = 0.01
"""Share of verdicts that cannot be read and are asked for once more."""

_PER_MESSAGE = 4  # as OpenAI's cookbook counts them: role and two marks, and the mark that opens the reply
_PER_REQUEST = 3

# A line break; a Latin word in pieces of eight letters, other alphabets in pieces of three; three digits; two marks;
# everything else, such as a Chinese character, alone.
_PIECE = re.compile(r"\n+|[A-Za-z\u00c0-\u024f]{1,8}|[\u0370-\u1fff]{1,3}|\d{1,3}|[!-/:-@\[-`{-~]{1,2}|\S")
_WORD = "word "


@lru_cache(maxsize=1024)
def tokens(text: str) -> int:
    """About how many tokens a model's tokenizer makes of a text.

    English comes out as byte-pair vocabularies of 32,000 to 100,000 entries have it, within about 10 %: between the
    1.46 tokens a word published for Alpaca's answers with LLaMA's tokenizer and the 1.2 of the largest ones.
    """
    return sum(1 for _ in _PIECE.finditer(text))


def prompt_tokens(request: Request) -> int:
    """About how many tokens a request's messages have."""
    return sum(tokens(one["content"]) + _PER_MESSAGE for one in request.messages) + _PER_REQUEST


def filler(count: int) -> str:
    """A text of so many tokens, in place of one nobody has written yet."""
    return _WORD * count


@dataclass(frozen=True, slots=True)
class Bounds:
    """A quantity as it is expected, and the most it can be."""

    expected: float = 0.0
    most: float = 0.0

    @classmethod
    def sure(cls, value: float) -> Bounds:
        """A quantity that is known."""
        return cls(value, value)

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.expected + other.expected, self.most + other.most)

    def __mul__(self, other: Bounds) -> Bounds:
        return Bounds(self.expected * other.expected, self.most * other.most)


@dataclass(frozen=True, slots=True)
class Size:
    """What one question to a model takes.

    Attributes:
        calls: one, and more where an unreadable reply is asked for again.
        read: tokens of the prompts.
        written: tokens of the replies.
    """

    calls: Bounds
    read: Bounds
    written: Bounds


@dataclass(slots=True)
class Recorder:
    """Takes the place of a server: keeps every request and, if it has a reply, always gives that one.

    Attributes:
        schemas: for every endpoint, whether it takes a JSON schema.
    """

    schemas: Mapping[str, bool]
    reply: str = ""
    requests: list[Request] = field(default_factory=list)

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""
        return all(self.schemas[name] for name in endpoints)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Every request is kept."""
        del endpoints
        for key, request in requests:
            self.requests.append(request)
            if self.reply:
                yield key, Completion(self.reply, "stop", Usage(), "")


@dataclass(frozen=True, slots=True)
class Estimator:
    """Builds the prompts of the roles for a sample of the corpus, and counts them.

    Attributes:
        book: the prompts.
        schemas: for every endpoint, whether it takes a JSON schema.
        sample: pairs as the corpus has them; a response nobody has written yet is a filler.
        longest: the same pairs with such fillers at their longest.
        target: the tasks of what is trained on.
    """

    book: Book
    schemas: Mapping[str, bool]
    sample: Sequence[Pair]
    longest: Sequence[Pair]
    target: Taxonomy

    def verdict(self, settings: JudgeSettings, expected: Answer, most: Answer) -> Size:
        """One question to the judge; the answers compared with a pair's response, as expected and at their longest."""
        written = min(VERDICT, settings.max_tokens)
        first, again = self._verdicts(settings, self.sample, expected, written)
        most_first, most_again = self._verdicts(settings, self.longest, most, settings.max_tokens)
        return Size(
            Bounds(1 + UNREADABLE, 2),
            Bounds(first + UNREADABLE * again, most_first + most_again),
            Bounds((1 + UNREADABLE) * written, 2 * settings.max_tokens),
        )

    def answer(self, settings: TeacherSettings) -> Size:
        """One answer of the teacher."""
        recorder = self._recorder()
        instructions: Iterator[Instruction] = (pair.instruction for pair in self.sample)
        _exhausted(self._teacher(recorder, settings).answer(instructions))
        return _one_call(_mean(recorder.requests), ANSWER, settings.max_tokens)

    def refinement(self, settings: TeacherSettings) -> Size:
        """One rewritten answer; the sample's pairs stand for the tasks in their target shares."""
        expected, most = (self._refinements(settings, pairs) for pairs in (self.sample, self.longest))
        written = _one_call(expected, ANSWER, settings.max_tokens).written
        return Size(Bounds.sure(1), Bounds(expected, most), written)

    def expansion(self, settings: TeacherSettings) -> Size:
        """One call for new instructions."""
        recorder = self._recorder()
        shown = settings.seeds_per_call
        requests = [
            ExpandRequest(task, self.sample[start : start + shown], settings.new_per_call, 0)
            for task, start in zip(self.target.labels, range(0, len(self.sample), shown), strict=False)
        ]
        _exhausted(self._teacher(recorder, settings).expand(requests))
        return _one_call(_mean(recorder.requests), NEW_INSTRUCTION * settings.new_per_call, settings.max_tokens)

    def label(self, settings: TaggerSettings) -> Size:
        """One label."""
        recorder = self._recorder()
        tagger = LlmTagger(recorder, self.book, settings, self.target)
        _exhausted(tagger.tag(pair.instruction for pair in self.sample))
        return _one_call(_mean(recorder.requests), LABEL, settings.max_tokens)

    def _recorder(self, reply: str = "") -> Recorder:
        return Recorder(self.schemas, reply)

    def _teacher(self, recorder: Recorder, settings: TeacherSettings) -> LlmTeacher:
        return LlmTeacher(recorder, self.book, settings, "")

    def _refinements(self, settings: TeacherSettings, pairs: Sequence[Pair]) -> float:
        recorder = self._recorder()
        counts = self.target.target.counts(len(pairs))
        tasks = [task for task, count in counts.items() for _ in range(count)]
        requests = [RefineRequest(pair, task) for pair, task in zip(pairs, tasks, strict=True)]
        _exhausted(self._teacher(recorder, settings).refine(requests))
        return _mean(recorder.requests)

    def _verdicts(
        self, settings: JudgeSettings, pairs: Sequence[Pair], shown: Answer, written: int
    ) -> tuple[float, float]:
        """Mean tokens of the prompt, and of the one that asks again after a reply of so many tokens."""
        recorder = self._recorder(filler(written))
        judge = LlmJudge(recorder, self.book, settings, "")
        tasks = cycle(self.target.labels)  # for the rubrics: each is shown as often as any other
        _exhausted(
            judge.judge(
                Comparison(pair.instruction, pair.response.text, shown(pair), task)
                for pair, task in zip(pairs, tasks, strict=False)
            )
        )
        half = len(recorder.requests) // 2  # no filler can be read as a verdict, so that each is asked for twice
        return _mean(recorder.requests[:half]), _mean(recorder.requests[half:])


def cut(text: str, limit: int) -> str:
    """A text, or a filler as long as it may be."""
    return text if tokens(text) <= limit else filler(limit)


def _one_call(read: float, written: int, most: int) -> Size:
    return Size(Bounds.sure(1), Bounds.sure(read), Bounds(min(written, most), most))


def _mean(requests: Sequence[Request]) -> float:
    return sum(map(prompt_tokens, requests)) / max(1, len(requests))


def _exhausted(replies: Iterable[object]) -> None:
    for _ in replies:
        pass
