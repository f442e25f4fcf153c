"""Tokens of the requests of a run: the real prompts are built and counted, the replies are assumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from typing import TypeAlias, TypeVar

from tapir.config import annotators
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Pair
from tapir.domain.roles import Comparison, ExpandRequest, RefineRequest
from tapir.domain.task import Taxonomy
from tapir.models.api.protocol import Request
from tapir.models.judge import LlmJudge
from tapir.models.prompts import PromptSet
from tapir.models.taggers.llm import LlmTagger
from tapir.models.teacher import LlmTeacher

LabelConfig: TypeAlias = annotators.LlmTaggerConfig | annotators.AnyTrainedTagger
KeyT = TypeVar("KeyT")
Answer: TypeAlias = Callable[[Pair], str]
"""The text that is shown beside a pair's response."""

ANSWER = 150
"""Tokens of an answer or a rewritten answer. GPT-4 on 999 Alpaca prompts: mean 113.9 words, 156 by `tokens`."""

VERDICT = 145
"""Tokens of a verdict: rationale and scores. 2,400 pairwise verdicts of Qwen2.5-7B on MT-Bench: mean 89.8 words, 130
by `tokens`; single grades of GPT-4 there: 177, of GPT-4o mini: 256. The form of our replies adds about 15."""

SCORES = 16
"""Tokens of a verdict without a rationale. Qwen2.5-Coder-1.5B on 40 pairs of PandaLM, both orders: mean 15.6."""

LABEL = 8
"""Tokens of one label in the form asked for."""

NEW_INSTRUCTION = 40
"""Tokens of one new instruction with its tags. An Alpaca instruction with its input has mean 14 words, 17 by
`tokens`; stronger models write longer ones."""

UNREADABLE = 0.01
"""Share of verdicts that cannot be read and are requested once more."""

_PER_MESSAGE = 4  # as OpenAI's cookbook counts them: role and two marks, and the mark that opens the reply
_PER_REQUEST = 3

# A line break; a Latin word in pieces of eight letters, other alphabets in pieces of three; three digits; two marks;
# everything else, such as a Chinese character, alone.
_PIECE = re.compile(r"\n+|[A-Za-z\u00c0-\u024f]{1,8}|[\u0370-\u1fff]{1,3}|\d{1,3}|[!-/:-@\[-`{-~]{1,2}|\S")


@lru_cache(maxsize=1024)
def tokens(text: str) -> int:
    """Return about how many tokens a model's tokenizer makes of a text.

    English comes out as byte-pair vocabularies of 32,000 to 100,000 entries have it, within about 10 %: between the
    1.46 tokens a word published for Alpaca's answers with LLaMA's tokenizer and the 1.2 of the largest ones.
    """
    return sum(1 for _ in _PIECE.finditer(text))


def filler(count: int) -> str:
    """Return a text of `count` tokens, in place of one that is not written yet."""
    return "word " * count


def cut(text: str, limit: int) -> str:
    """Return a text, or a filler where it is longer than the limit in tokens."""
    return text if tokens(text) <= limit else filler(limit)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A quantity as it is expected, and the most it can be."""

    expected: float = 0.0
    most: float = 0.0

    @classmethod
    def sure(cls, value: float) -> Bounds:
        """Return a quantity that is known."""
        return cls(value, value)

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.expected + other.expected, self.most + other.most)

    def __mul__(self, other: Bounds | float) -> Bounds:
        expected, most = (other.expected, other.most) if isinstance(other, Bounds) else (other, other)
        return Bounds(self.expected * expected, self.most * most)


NOTHING = Bounds()


@dataclass(frozen=True, slots=True)
class Size:
    """Calls and tokens of one request to a model; more than one call where an unreadable reply is requested again."""

    calls: Bounds
    read: Bounds
    written: Bounds


@dataclass(slots=True)
class Recorder:
    """Stand-in for a server: keeps every request and, if it has a reply, always gives that one."""

    schemas: Mapping[str, bool]
    reply: str = ""
    requests: list[Request] = field(default_factory=list)

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Look it up for all these endpoints."""
        return all(self.schemas[name] for name in endpoints)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Keep every request."""
        del endpoints
        for key, request in requests:
            self.requests.append(request)
            if self.reply:
                yield key, Completion(self.reply, "stop", Usage(), "")


@dataclass(frozen=True, slots=True)
class TokenEstimator:
    """Builds the prompts of the roles for a sample of the corpus, and counts them."""

    prompts: PromptSet
    schemas: Mapping[str, bool]  # for every endpoint, whether it takes a JSON schema
    sample: Sequence[Pair]  # and `longer`, as in `CorpusStats`
    longer: float
    target: Taxonomy  # the tasks of what is trained on

    def verdict(self, section: annotators.LlmJudgeConfig, shown: Answer, most: int) -> Size:
        """Return the size of a verdict on a pair's response and the answer `shown`, which has `most` tokens at most."""
        written = min(verdict_tokens(section), section.max_tokens)
        recorder = Recorder(self.schemas, filler(written))
        judge = LlmJudge(recorder, self.prompts, section, "")
        tasks = cycle(self.target.labels)  # for the rubrics: each is shown as often as any other
        comparisons = (
            Comparison(pair.instruction, pair.response.text, shown(pair), task)
            for pair, task in zip(self.sample, tasks, strict=False)
        )
        list(judge.judge(comparisons))
        half = len(recorder.requests) // 2  # no filler can be read as a verdict, so that each is requested twice
        first, again = _mean(recorder.requests[:half]), _mean(recorder.requests[half:])
        answers = sum(tokens(shown(pair)) for pair in self.sample) / max(1, len(self.sample))
        longer = 0.0 if not half else (most - answers + self.longer) / (2 if section.mode == "single" else 1)
        return Size(
            Bounds(1 + UNREADABLE, 2),
            Bounds(first + UNREADABLE * again, first + again + 2 * longer + section.max_tokens - written),
            Bounds((1 + UNREADABLE) * written, 2 * section.max_tokens),
        )

    def answer(self, section: annotators.LlmTeacherConfig) -> Size:
        """Return the size of one answer of the teacher."""
        server = Recorder(self.schemas)
        list(LlmTeacher(server, self.prompts, section, "").answer(pair.instruction for pair in self.sample))
        return _one_call(server, ANSWER, section.max_tokens)

    def refinement(self, section: annotators.LlmTeacherConfig) -> Size:
        """Return the size of one refined answer; the sample's pairs stand for the tasks in their target shares."""
        server, counts = Recorder(self.schemas), self.target.target.counts(len(self.sample))
        tasks = [task for task, count in counts.items() for _ in range(count)]
        list(LlmTeacher(server, self.prompts, section, "").refine(map(RefineRequest, self.sample, tasks)))
        return _one_call(server, ANSWER, section.max_tokens, self.longer)

    def expansion(self, section: annotators.LlmTeacherConfig) -> Size:
        """Return the size of one call for new instructions."""
        server, shown, number = Recorder(self.schemas), section.seeds_per_call, section.new_per_call
        groups = [self.sample[start : start + shown] for start in range(0, len(self.sample), shown)]
        tasks = zip(self.target.labels, groups, strict=False)
        requests = [ExpandRequest(task, seeds, number, 0) for task, seeds in tasks]
        list(LlmTeacher(server, self.prompts, section, "").expand(requests))
        return _one_call(server, NEW_INSTRUCTION * number, section.max_tokens)

    def label(self, section: LabelConfig) -> Size:
        """Return the size of one label."""
        server = Recorder(self.schemas)
        list(LlmTagger(server, self.prompts, section, self.target).tag(pair.instruction for pair in self.sample))
        return _one_call(server, LABEL, section.max_tokens)


def verdict_tokens(judge: annotators.LlmJudgeConfig) -> int:
    """Return the tokens that a verdict is assumed to have."""
    return VERDICT if judge.rationale else SCORES


def _one_call(server: Recorder, written: int, most: int, longer: float = 0.0) -> Size:
    read = _mean(server.requests)
    return Size(Bounds.sure(1), Bounds(read, read + longer), Bounds(min(written, most), most))


def _mean(requests: Sequence[Request]) -> float:
    """Return about how many tokens the messages of a request have, as a mean."""
    read = sum(tokens(message["content"]) + _PER_MESSAGE for request in requests for message in request.messages)
    return (read + _PER_REQUEST * len(requests)) / max(1, len(requests))
