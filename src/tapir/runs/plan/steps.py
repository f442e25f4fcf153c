"""Stages of a run, with the items and the requests to models in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tapir.config import annotators
from tapir.config.evaluation import AlpacaEvalConfig
from tapir.config.recipe import Recipe
from tapir.domain.difficulty import EstimateCost
from tapir.models.estimators import cost_of
from tapir.runs.plan.corpus import CorpusStats
from tapir.runs.plan.rounds import Round
from tapir.runs.plan.tokens import NOTHING, Bounds

Role: TypeAlias = Literal["teacher", "judge", "tagger"]
Kind: TypeAlias = Literal["answer", "refinement", "expansion", "label", "verdict", "canary", "preference"]


@dataclass(frozen=True, slots=True)
class Requests:
    """A number of requests of one kind to the model of a role."""

    role: Role
    kind: Kind
    number: Bounds


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of one round: who does it, and what the student answers, trains on and computes the loss of."""

    round: int
    stage: str
    who: str
    items: Bounds
    requests: Sequence[Requests] = ()
    answered: Bounds = NOTHING
    trained: Bounds = NOTHING
    read: Bounds = NOTHING


def steps(recipe: Recipe, corpus: CorpusStats, rounds: Iterable[Round]) -> Iterator[Step]:
    """Yield every stage in the order of the run (METHOD section 3); only a role behind a server is sent requests."""
    servers, counted = recipe.users(), corpus.prompts is not None
    for step in _stages(recipe, corpus, rounds):
        if counted or step.stage != "evaluate":
            yield replace(step, requests=[requests for requests in step.requests if requests.role in servers])


def _stages(recipe: Recipe, corpus: CorpusStats, rounds: Iterable[Round]) -> Iterator[Step]:
    yield from _round_zero(recipe, corpus)
    for planned in rounds:
        if recipe.curriculum.rescoring == "every-round" and planned.number > 1:
            yield from _scoring(recipe, planned.number, planned.known, planned.added)
        if recipe.curriculum.expand:
            yield _expansion(recipe, planned)
        if recipe.curriculum.refine:
            yield from _refinement(recipe, planned)
        passes = planned.trained * recipe.training.epochs
        yield Step(planned.number, "train", "trainer", planned.trained, trained=passes)
        yield _evaluation(recipe, corpus, planned.number)


def _round_zero(recipe: Recipe, corpus: CorpusStats) -> Iterator[Step]:
    size = Bounds.sure(corpus.size)
    if corpus.unanswered:
        pending = Bounds.sure(corpus.unanswered)
        yield Step(0, "respond", "teacher", pending, [Requests("teacher", "answer", pending)])
    if epochs := recipe.curriculum.warmup_epochs:
        yield Step(0, "train", "trainer", size, trained=size * epochs)
    tagger = recipe.tagger
    if isinstance(tagger, annotators.AnyTrainedTagger) and tagger.labelled:
        labelled = Bounds.sure(min(tagger.labelled, corpus.size))
        who = "tagger's model" if tagger.endpoints else "teacher"
        yield Step(0, "label", who, labelled, [Requests("tagger", "label", labelled)])
    tagged = Bounds.sure(corpus.size + corpus.untagged)
    requests = [Requests("tagger", "label", tagged)] if isinstance(tagger, annotators.LlmTaggerConfig) else ()
    yield Step(0, "tag", "tagger", tagged, requests)
    yield from _scoring(recipe, 0, size, size)
    seen = cost_of(recipe.curriculum.difficulty).verdicts > 0
    for section in recipe.curriculum.compared():
        step = Step(0, f"compare {section.kind}", "", size)
        yield _estimation(recipe, cost_of(section), step, NOTHING if seen else size)
    if isinstance(recipe.judge, annotators.LlmJudgeConfig) and (count := min(recipe.judge.null_answers, corpus.size)):
        items = Bounds.sure(count)
        new = NOTHING if _references_are_judged(recipe) else items
        yield Step(0, "canary", "judge", items, _verdicts(recipe.judge, "canary", items, new))
    yield _evaluation(recipe, corpus, 0)


def _scoring(recipe: Recipe, number: int, items: Bounds, new: Bounds) -> Iterator[Step]:
    """Yield the stages of the scoring; `new` are the items whose reference was never judged."""
    difficulty = recipe.curriculum.difficulty
    if difficulty.measured_by == "judge":
        yield Step(number, "answer", "student", items, answered=items)
        yield Step(number, "judge", "judge", items, _verdicts(recipe.judge, "verdict", items, new))
    elif difficulty.measured_by == "estimator":
        yield _estimation(recipe, cost_of(difficulty), Step(number, "estimate", "", items), new)


def _estimation(recipe: Recipe, cost: EstimateCost, step: Step, new: Bounds) -> Step:
    workers = {"student": cost.answers + cost.passes, "judge": cost.verdicts}
    return replace(
        step,
        who=", ".join(role for role, count in workers.items() if count) or "nobody",
        requests=_verdicts(recipe.judge, "verdict", step.items * cost.verdicts, new) if cost.verdicts else (),
        answered=step.items * cost.answers,
        read=step.items * (cost.passes / 2),
    )


def _references_are_judged(recipe: Recipe) -> bool:
    plan = recipe.curriculum
    return any(cost_of(section).verdicts for section in (plan.difficulty, *plan.compared()))


def _verdicts(judge: annotators.AnyJudge, kind: Kind, items: Bounds, new: Bounds) -> list[Requests]:
    """Request both orders, or each answer alone; a reference judged alone before is found in the ledger."""
    if not isinstance(judge, annotators.LlmJudgeConfig):
        return []
    shown = items + new if judge.mode == "single" else items * 2
    return [Requests("judge", kind, shown * judge.samples)]


def _expansion(recipe: Recipe, planned: Round) -> Step:
    requests = [Requests("teacher", "expansion", planned.requests), Requests("teacher", "answer", planned.answered)]
    if isinstance(recipe.tagger, annotators.LlmTaggerConfig):
        requests.append(Requests("tagger", "label", planned.written))
    return Step(planned.number, "expand", "teacher", planned.written, requests)


def _refinement(recipe: Recipe, planned: Round) -> Iterator[Step]:
    items = planned.refined
    yield Step(planned.number, "refine", "teacher", items, [Requests("teacher", "refinement", items)])
    if recipe.curriculum.refine_keep == "judge":
        # what was judged before is known, but for what the teacher added
        new = Bounds(0, items.most) if _references_are_judged(recipe) else items
        yield Step(planned.number, "prefer", "judge", items, _verdicts(recipe.judge, "preference", items, new))


def _evaluation(recipe: Recipe, corpus: CorpusStats, number: int) -> Step:
    items, judge = Bounds.sure(corpus.prompts or 0), recipe.judge
    requests: list[Requests] = []
    if isinstance(recipe.evaluation, AlpacaEvalConfig) and isinstance(judge, annotators.LlmJudgeConfig):
        requests = [Requests("judge", "preference", items * (2 * judge.samples))]  # both orders
    elif recipe.evaluation.needs_judge:
        if corpus.unreferenced and not number:
            requests = [Requests("teacher", "answer", Bounds.sure(corpus.unreferenced))]
        requests += _verdicts(judge, "verdict", items, NOTHING if number else items)
    who = "student, judge" if recipe.evaluation.needs_judge else "student"
    return Step(number, "evaluate", who, items, requests, answered=items)
