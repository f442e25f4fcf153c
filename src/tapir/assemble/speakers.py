"""Roles filled by language models, or by the embedded world."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from functools import partial

from tapir.cluster.connection import RayCluster
from tapir.cluster.judge import OwnServers, RayJudge
from tapir.cluster.tagger import RayTagger
from tapir.domain.task import Taxonomy
from tapir.endpoints import Endpoint as EndpointSection
from tapir.errors import RecipeError
from tapir.evaluation.nobody import NobodyJudges, NobodyTeaches, OneTask
from tapir.gym.judge import GymJudge
from tapir.gym.teacher import GymTeacher
from tapir.learning import EncoderTagger as EncoderTaggerSection
from tapir.llm.book import Book
from tapir.llm.endpoint import Endpoint, Price
from tapir.llm.judge import WAVE, JudgeSettings, LlmJudge
from tapir.llm.switchboard import Switchboard
from tapir.llm.tagger import LlmTagger, TaggerSettings
from tapir.llm.teacher import LlmTeacher, TeacherSettings
from tapir.recipe import Recipe
from tapir.roles import Judge, Tagger, Teacher
from tapir.sections import LlmJudge as LlmJudgeSection
from tapir.sections import LlmTagger as LlmTaggerSection
from tapir.sections import LlmTeacher as LlmTeacherSection
from tapir.sections import NoJudge as NoJudgeSection
from tapir.sections import NoTagger as NoTaggerSection
from tapir.sections import NoTeacher as NoTeacherSection
from tapir.tagging.encoder import EncoderSettings, EncoderTagger
from tapir.tagging.tfidf import TfidfTagger


def endpoint(name: str, one: EndpointSection) -> Endpoint:
    """An endpoint as the calls know it."""
    cached = one.price_input if one.price_cached is None else one.price_cached
    return Endpoint(
        name=name,
        base_url=one.base_url,
        model=one.model,
        key_name=one.key,
        json_schema=one.json_schema,
        max_tokens_field=one.max_tokens_field,
        extra=one.extra,
        concurrency=one.concurrency,
        requests_per_minute=one.requests_per_minute,
        tokens_per_minute=one.tokens_per_minute,
        timeout=one.timeout,
        price=Price(one.price_input, cached, one.price_output),
        batch=one.batch,
        batch_price=one.batch_price,
    )


def teacher(recipe: Recipe, calls: Switchboard, book: Book) -> Teacher:
    """T."""
    one = recipe.teacher
    if isinstance(one, NoTeacherSection):
        return NobodyTeaches()
    if not isinstance(one, LlmTeacherSection):
        return GymTeacher()
    settings = TeacherSettings(
        endpoints=one.endpoints,
        temperature=one.temperature,
        max_tokens=one.max_tokens,
        expand_temperature=one.expand_temperature,
        seeds_per_call=one.seeds_per_call,
        new_per_call=one.new_per_call,
    )
    return LlmTeacher(calls, book, settings, _models(recipe, one.endpoints))


def judge(recipe: Recipe, calls: Switchboard, book: Book, labels: Taxonomy, workers: RayCluster | None) -> Judge:
    """J.

    Raises:
        RecipeError: a rubric is for a label that the taxonomy does not have.
    """
    one = recipe.judge
    if isinstance(one, NoJudgeSection):
        return NobodyJudges()
    if not isinstance(one, LlmJudgeSection):
        return GymJudge()
    for label in sorted(one.rubrics.keys() - {*labels.labels}):
        near = difflib.get_close_matches(label, labels.labels, n=1, cutoff=0)
        raise RecipeError(
            f"judge.rubrics: the taxonomy {labels.name} has no label {label!r}; did you mean {near[0]!r}?",
            remedy="Mend the label in the recipe, or remove it.",
        )
    settings = JudgeSettings(
        endpoints=one.endpoints,
        single=one.mode == "single",
        samples=one.samples,
        temperature=one.temperature,
        max_tokens=one.max_tokens,
        expected_score=one.expected_score,
        rubrics=one.rubrics,
        wave=sys.maxsize if any(recipe.endpoints[name].batch for name in one.endpoints) else WAVE,
    )
    models = _models(recipe, one.endpoints)
    called = {name: calls.endpoints[name] for name in one.endpoints}
    if workers and not any(recipe.endpoints[name].costs or recipe.endpoints[name].batch for name in called):
        make = partial(LlmJudge, book=book, settings=settings, name=models)
        return RayJudge(workers, OwnServers(called, recipe.calls.attempts), make, models, recipe.chunk)
    return LlmJudge(calls, book, settings, models)


def tagger(
    recipe: Recipe, calls: Switchboard, book: Book, labels: Taxonomy, teacher: Teacher, workers: RayCluster | None
) -> Tagger:
    """Who gives every instruction its task.

    Raises:
        RecipeError: the one label that all are to get is not in the taxonomy.
    """
    one = recipe.tagger
    if isinstance(one, NoTaggerSection):
        if one.label not in labels.labels:
            raise RecipeError(
                f"tagger.label = {one.label!r} is no label of the taxonomy {labels.name}",
                remedy=f"Use one of {', '.join(labels.labels)}.",
            )
        return OneTask(labels, one.label)
    asked = LlmTagger(calls, book, TaggerSettings(one.endpoints, one.max_tokens), labels)
    if isinstance(one, LlmTaggerSection):
        return asked
    label = teacher.label if isinstance(teacher, GymTeacher) and not one.endpoints else asked.tag
    found: Tagger
    if isinstance(one, EncoderTaggerSection):
        found = EncoderTagger(labels, label, _encoder(one, recipe.chunk), recipe.seed)
    else:
        found = TfidfTagger(labels, label, labelled=one.labelled, held_out=one.held_out)
    return RayTagger(workers, found, recipe.chunk) if workers else found


def _encoder(one: EncoderTaggerSection, chunk: int) -> EncoderSettings:
    return EncoderSettings(
        model=one.model,
        revision=one.revision,
        labelled=one.labelled,
        held_out=one.held_out,
        epochs=one.epochs,
        learning_rate=one.learning_rate,
        batch_size=one.batch_size,
        max_length=one.max_length,
        abstain_below=one.abstain_below,
        chunk=chunk,
    )


def _models(recipe: Recipe, names: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(recipe.endpoints[name].model for name in names))
