"""What questions to models take: calls, tokens, money, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir.algorithm import NULL_ANSWER
from tapir.domain.instruction import Pair
from tapir.domain.task import Taxonomy
from tapir.endpoints import Endpoint
from tapir.llm.book import Book
from tapir.llm.estimate import ANSWER, Bounds, Estimator, Size, cut, filler
from tapir.llm.judge import JudgeSettings
from tapir.llm.tagger import TaggerSettings
from tapir.llm.teacher import TeacherSettings
from tapir.planning.earlier import Earlier
from tapir.planning.material import Material
from tapir.planning.steps import Kind, Question, Step
from tapir.recipe import Recipe
from tapir.sections import LlmJudge, LlmTeacher, NoTagger

CONCURRENCY = 64
"""Calls at once where the recipe does not say; an engine of its own finds up to 512."""

FIRST_TOKEN = 1.0
"""Seconds until a reply begins."""

TOKENS_PER_SECOND = 50.0
"""Tokens of one reply in a second."""

_MILLION = 1_000_000
_ALIKE = {"estimate": "judge", "compare pass-rate": "judge"}  # the judge replies in the same manner


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls take; money in the currency of the recipe's prices, seconds of waiting for servers."""

    calls: Bounds
    read: Bounds
    written: Bounds
    money: Bounds
    seconds: Bounds

    @classmethod
    def nothing(cls) -> Cost:
        """No calls."""
        return cls(Bounds(), Bounds(), Bounds(), Bounds(), Bounds())

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.read + other.read,
            self.written + other.written,
            self.money + other.money,
            self.seconds + other.seconds,
        )


def sizes(recipe: Recipe, found: Material, labels: Taxonomy) -> dict[Kind, Size]:
    """Tokens of one question of every kind that the recipe asks.

    Raises:
        RecipeError: a prompt cannot be used.
    """
    book = Book.of({name: Path(path).expanduser() for name, path in recipe.prompts.items()}, labels.labels)
    schemas = {name: one.json_schema for name, one in recipe.endpoints.items()}
    estimator = Estimator(book, schemas, found.sample, found.longest, labels)
    sized: dict[Kind, Size] = {}
    teacher, judge, tagger = recipe.teacher, recipe.judge, recipe.tagger
    if isinstance(teacher, LlmTeacher):
        asked = TeacherSettings(
            endpoints=teacher.endpoints,
            max_tokens=teacher.max_tokens,
            seeds_per_call=teacher.seeds_per_call,
            new_per_call=teacher.new_per_call,
        )
        sized |= {
            "answer": estimator.answer(asked),
            "refinement": estimator.refinement(asked),
            "expansion": estimator.expansion(asked),
        }
    if isinstance(judge, LlmJudge):
        sized |= _verdicts(recipe, judge, estimator)
    if not isinstance(tagger, NoTagger) and tagger.endpoints:
        sized["label"] = estimator.label(TaggerSettings(tagger.endpoints, tagger.max_tokens))
    return sized


def _verdicts(recipe: Recipe, judge: LlmJudge, estimator: Estimator) -> dict[Kind, Size]:
    settings = JudgeSettings(
        endpoints=judge.endpoints,
        single=judge.mode == "single",
        max_tokens=judge.max_tokens,
        rubrics=judge.rubrics,
    )
    student = recipe.student.max_new_tokens
    rewritten = recipe.teacher.max_tokens if isinstance(recipe.teacher, LlmTeacher) else ANSWER

    def null(pair: Pair) -> str:
        del pair
        return NULL_ANSWER

    return {
        "verdict": estimator.verdict(
            settings, lambda pair: cut(pair.response.text, student), lambda _: filler(student)
        ),
        "canary": estimator.verdict(settings, null, null),
        "preference": estimator.verdict(
            settings, lambda _: filler(min(ANSWER, rewritten)), lambda _: filler(rewritten)
        ),
    }


def cost(recipe: Recipe, step: Step, sized: Mapping[Kind, Size], known: Earlier) -> Cost:
    """What the calls of a stage take; reply lengths as measured where they were."""
    total = Cost.nothing()
    for question in step.questions:
        size, number = sized[question.kind], question.number
        calls, read, written = number * size.calls, number * size.read, number * size.written
        if replies := known.replies.get(step.stage) or known.replies.get(_ALIKE.get(step.stage, "")):
            expected = calls.expected * replies.mean
            written = Bounds(expected, max(expected, written.most))
        total += _of(_endpoints(recipe, question), Cost(calls, read, written, Bounds(), Bounds()), known.cached or 0.0)
    return total


def _endpoints(recipe: Recipe, question: Question) -> list[Endpoint]:
    return [recipe.endpoints[name] for name in recipe.users()[question.role]]


def _of(endpoints: Sequence[Endpoint], asked: Cost, cached: float) -> Cost:
    """The same with money and time, the endpoints sharing the calls evenly."""
    share = 1 / len(endpoints)
    money = Bounds(
        sum(share * _price(one, asked.read.expected, asked.written.expected, cached) for one in endpoints),
        sum(share * _price(one, asked.read.most, asked.written.most, 0.0) for one in endpoints),
    )
    seconds = Bounds(
        _seconds(endpoints, asked.calls.expected, asked.read.expected, asked.written.expected),
        _seconds(endpoints, asked.calls.most, asked.read.most, asked.written.most),
    )
    return Cost(asked.calls, asked.read, asked.written, money, seconds)


def _price(one: Endpoint, read: float, written: float, cached: float) -> float:
    reading = one.price_input
    if one.price_cached is not None:
        reading += cached * (one.price_cached - one.price_input)
    return (read * reading + written * one.price_output) / _MILLION * (one.batch_price if one.batch else 1)


def _seconds(endpoints: Sequence[Endpoint], calls: float, read: float, written: float) -> float:
    """The slowest of: so many calls at once, the calls and the tokens a minute that the servers allow."""
    if any(one.batch for one in endpoints):
        return 0.0  # the provider decides
    at_once = sum(one.concurrency or CONCURRENCY for one in endpoints)
    limits = [(calls * FIRST_TOKEN + written / TOKENS_PER_SECOND) / at_once]
    if all(one.requests_per_minute for one in endpoints):
        limits.append(60 * calls / sum(one.requests_per_minute for one in endpoints))
    if all(one.tokens_per_minute for one in endpoints):
        limits.append(60 * (read + written) / sum(one.tokens_per_minute for one in endpoints))
    return max(limits)
