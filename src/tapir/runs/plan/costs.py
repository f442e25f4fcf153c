"""Costs of requests to models: calls, tokens, money, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tapir.config.annotators import LlmJudgeConfig, LlmTeacherConfig
from tapir.config.endpoints import EndpointConfig
from tapir.config.recipe import Recipe
from tapir.domain.task import Taxonomy
from tapir.models.api.protocol import ROOM_FOR_THOUGHT
from tapir.models.prompts import PromptSet
from tapir.runs.plan.assumptions import CONCURRENCY, FIRST_TOKEN, THOUGHT, TOKENS_PER_SECOND, Measurements
from tapir.runs.plan.corpus import CorpusStats
from tapir.runs.plan.steps import Kind, Requests, Step
from tapir.runs.plan.tokens import ANSWER, NOTHING, Bounds, LabelConfig, Size, TokenEstimator, cut, filler, tokens
from tapir.stages.judge import NULL_ANSWER

_SAME_STYLE = {"estimate": "judge", "compare pass-rate": "judge"}  # stages whose replies are verdicts, too


@dataclass(frozen=True, slots=True)
class CallCost:
    """What calls take; money in the currency of the recipe's prices, seconds of waiting for servers."""

    calls: Bounds = NOTHING
    read: Bounds = NOTHING
    written: Bounds = NOTHING
    money: Bounds = NOTHING
    seconds: Bounds = NOTHING

    def __add__(self, other: CallCost) -> CallCost:
        return CallCost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def request_sizes(recipe: Recipe, corpus: CorpusStats, labels: Taxonomy) -> dict[Kind, Size]:
    """Return the size of one request of every kind that the recipe makes."""
    prompts = PromptSet.of({name: Path(path).expanduser() for name, path in recipe.prompts.items()}, labels.labels)
    schemas = {name: endpoint.json_schema is True for name, endpoint in recipe.endpoints.items()}
    estimator = TokenEstimator(prompts, schemas, corpus.sample, corpus.longer, labels)
    sizes: dict[Kind, Size] = {}
    teacher, judge, tagger = recipe.teacher, recipe.judge, recipe.tagger
    if isinstance(teacher, LlmTeacherConfig):
        sizes["answer"], sizes["refinement"] = estimator.answer(teacher), estimator.refinement(teacher)
        sizes["expansion"] = estimator.expansion(teacher)
    if isinstance(judge, LlmJudgeConfig):
        answer = recipe.student.max_new_tokens
        refined = teacher.max_tokens if isinstance(teacher, LlmTeacherConfig) else ANSWER
        sizes["verdict"] = estimator.verdict(judge, lambda pair: cut(pair.response.text, answer), answer)
        sizes["canary"] = estimator.verdict(judge, lambda _: NULL_ANSWER, tokens(NULL_ANSWER))
        sizes["preference"] = estimator.verdict(judge, lambda _: filler(min(ANSWER, refined)), refined)
    if isinstance(tagger, LabelConfig) and tagger.endpoints:
        sizes["label"] = estimator.label(tagger)
    return sizes


def call_cost(recipe: Recipe, step: Step, sizes: Mapping[Kind, Size], known: Measurements) -> CallCost:
    """Return what the calls of a stage take; reply lengths as earlier runs measured them where they did."""
    counted = (requests for requests in step.requests if requests.kind in sizes)  # none of a custom class
    return sum((_cost(recipe, step.stage, each, sizes[each.kind], known) for each in counted), start=CallCost())


def _cost(recipe: Recipe, stage: str, requests: Requests, size: Size, known: Measurements) -> CallCost:
    endpoints = [recipe.endpoints[name] for name in recipe.users()[requests.role]]  # they share the calls evenly
    thought = max(endpoint.thinking_tokens for endpoint in endpoints)
    calls, read = requests.number * size.calls, requests.number * size.read
    written = requests.number * size.written + calls * Bounds(THOUGHT * thought, thought)
    if replies := known.replies.get(stage) or known.replies.get(_SAME_STYLE.get(stage, "")):
        limit = thought + size.written.most / size.calls.most
        again = replies.cut(limit)  # asked for once more, with room for a thought
        tokens_written = calls.expected * (replies.mean + again * limit)
        most = written.most + calls.most * (limit + ROOM_FOR_THOUGHT) * bool(again)
        written = Bounds(tokens_written, max(tokens_written, most))
        calls, read = (each * Bounds(1 + again, 1 + bool(again)) for each in (calls, read))
    cost = CallCost(calls, read, written)
    read, written, cached = cost.read, cost.written, cost.read.expected * (known.cached or 0.0)
    expected = sum(each.price(read.expected, cached, written.expected, batched=each.batch) for each in endpoints)
    most = sum(each.price(read.most, 0.0, written.most, batched=each.batch) for each in endpoints)
    money = Bounds(expected / len(endpoints), most / len(endpoints))
    return replace(cost, money=money, seconds=_seconds(endpoints, cost))


def _seconds(endpoints: Sequence[EndpointConfig], cost: CallCost) -> Bounds:
    """Return the time by the tightest limit: calls at once, calls per minute, tokens per minute."""
    if any(endpoint.batch for endpoint in endpoints):
        return Bounds()  # the provider decides
    at_once = sum(endpoint.concurrency or CONCURRENCY for endpoint in endpoints)
    per_call, per_token = FIRST_TOKEN / at_once, 1 / TOKENS_PER_SECOND / at_once
    limits = [cost.calls * per_call + cost.written * per_token]
    request_rates = [endpoint.requests_per_minute for endpoint in endpoints]
    token_rates = [endpoint.tokens_per_minute for endpoint in endpoints]
    for work, rates in ((cost.calls, request_rates), (cost.read + cost.written, token_rates)):
        limits += [work * (60 / sum(rates))] if all(rates) else []
    return Bounds(max(limit.expected for limit in limits), max(limit.most for limit in limits))
