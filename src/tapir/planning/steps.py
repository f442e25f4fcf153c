"""Which stages a run goes through, with the items and the questions to models in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from tapir.curriculum import PassRate
from tapir.learning import EncoderTagger
from tapir.llm.estimate import Bounds
from tapir.planning.material import Material
from tapir.planning.rounds import Round
from tapir.recipe import Recipe
from tapir.sections import GymJudge, JudgedEvaluation, LlmJudge, LlmTagger, LlmTeacher, NoJudge, TfidfTagger

Role: TypeAlias = Literal["teacher", "judge", "tagger"]
Kind: TypeAlias = Literal["answer", "refinement", "expansion", "label", "verdict", "canary", "preference"]

_JUDGED = {"mfd", "pass-rate"}  # kinds of difficulty that show the judge the teacher's answers


@dataclass(frozen=True, slots=True)
class Question:
    """So many questions of one kind to the model of a role."""

    role: Role
    kind: Kind
    number: Bounds


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of one round.

    Attributes:
        who: does it.
        answered: items the student answers.
        trained: examples the student is trained on, times epochs.
        read: examples whose loss the student tells, with the instruction and without it.
    """

    round: int
    stage: str
    who: str
    items: Bounds
    questions: Sequence[Question] = ()
    answered: Bounds = field(default_factory=Bounds)
    trained: Bounds = field(default_factory=Bounds)
    read: Bounds = field(default_factory=Bounds)


def steps(recipe: Recipe, found: Material, rounds: Sequence[Round]) -> Iterator[Step]:
    """Every stage in the order of the run (METHOD section 3)."""
    yield from _first_look(recipe, found)
    for one in rounds:
        if recipe.curriculum.rescoring == "every-round" and one.number > 1:
            yield from _scoring(recipe, one.number, one.known, one.added)
        if recipe.curriculum.expand:
            yield _expansion(recipe, one)
        if recipe.curriculum.refine:
            yield from _refinement(recipe, one)
        epochs = Bounds.sure(recipe.training.epochs)
        yield Step(one.number, "train", "trainer", one.trained, trained=one.trained * epochs)
        yield _evaluation(recipe, found, one.number)


def _first_look(recipe: Recipe, found: Material) -> Iterator[Step]:
    """Round 0: everything before the first curriculum."""
    size = Bounds.sure(found.size)
    if found.unanswered:
        owed = Bounds.sure(found.unanswered)
        yield Step(0, "respond", "teacher", owed, [Question("teacher", "answer", owed)])
    if epochs := recipe.curriculum.warmup_epochs:
        yield Step(0, "train", "trainer", size, trained=size * Bounds.sure(epochs))
    tagger = recipe.tagger
    if isinstance(tagger, TfidfTagger | EncoderTagger) and tagger.labelled:
        labelled = Bounds.sure(min(tagger.labelled, found.size))
        who = "tagger's model" if tagger.endpoints else "teacher"
        yield Step(0, "label", who, labelled, [Question("tagger", "label", labelled)] if tagger.endpoints else ())
    tagged = Bounds.sure(found.size + found.untagged)
    asked = [Question("tagger", "label", tagged)] if isinstance(tagger, LlmTagger) else ()
    yield Step(0, "tag", "tagger", tagged, asked)
    yield from _scoring(recipe, 0, size, size)
    for kind in recipe.curriculum.compare:
        seen = recipe.curriculum.difficulty.kind in _JUDGED
        yield from _measured(recipe, kind, Step(0, f"compare {kind}", "", size), Bounds() if seen else size)
    if isinstance(recipe.judge, LlmJudge) and (count := min(recipe.judge.null_answers, found.size)):
        items = Bounds.sure(count)
        new = Bounds() if _references_are_judged(recipe) else items
        yield Step(0, "canary", "judge", items, _verdicts(recipe.judge, "canary", items, new))
    yield _evaluation(recipe, found, 0)


def _scoring(recipe: Recipe, number: int, items: Bounds, new: Bounds) -> Iterator[Step]:
    """The student answers and the judge compares, or another estimator measures.

    `new` are those whose reference was never judged.
    """
    kind = recipe.curriculum.difficulty.kind
    if kind == "mfd":
        yield Step(number, "answer", "student", items, answered=items)
        yield Step(number, "judge", "judge", items, _verdicts(recipe.judge, "verdict", items, new))
    else:
        yield from _measured(recipe, kind, Step(number, "estimate", "", items), new)


def _measured(recipe: Recipe, kind: str, step: Step, new: Bounds) -> Iterator[Step]:
    """What an estimator takes: nothing where there is none, the student's losses, or its samples and their verdicts."""
    match kind:
        case "ifd":
            yield replace(step, who="student", read=step.items)
        case "pass-rate":
            drawn = step.items * Bounds.sure(_samples(recipe))
            asked = _verdicts(recipe.judge, "verdict", drawn, new)
            yield replace(step, who="student, judge", questions=asked, answered=drawn)
        case "length":
            yield replace(step, who="nobody")


def _samples(recipe: Recipe) -> int:
    """Answers drawn for each instruction; as a comparison besides, the section's own default."""
    chosen = recipe.curriculum.difficulty
    return (chosen if isinstance(chosen, PassRate) else PassRate(kind="pass-rate")).samples


def _references_are_judged(recipe: Recipe) -> bool:
    """Whether the corpus's answers have been shown to the judge once the corpus is scored."""
    plan = recipe.curriculum
    return plan.difficulty.kind in _JUDGED or bool(_JUDGED & {*plan.compare})


def _verdicts(judge: GymJudge | LlmJudge | NoJudge, kind: Kind, items: Bounds, new: Bounds) -> list[Question]:
    """Both orders, or each answer alone; a reference judged alone before is found in the ledger."""
    if not isinstance(judge, LlmJudge):
        return []
    shown = items + new if judge.mode == "single" else items * Bounds.sure(2)
    return [Question("judge", kind, shown * Bounds.sure(judge.samples))]


def _expansion(recipe: Recipe, one: Round) -> Step:
    if not isinstance(recipe.teacher, LlmTeacher):
        return Step(one.number, "expand", "teacher", one.written)
    questions = [Question("teacher", "expansion", one.requests), Question("teacher", "answer", one.answered)]
    if isinstance(recipe.tagger, LlmTagger):
        questions.append(Question("tagger", "label", one.written))
    return Step(one.number, "expand", "teacher", one.written, questions)


def _refinement(recipe: Recipe, one: Round) -> Iterator[Step]:
    paid = isinstance(recipe.teacher, LlmTeacher)
    questions = [Question("teacher", "refinement", one.refined)] if paid else ()
    yield Step(one.number, "refine", "teacher", one.refined, questions)
    if recipe.curriculum.refine_keep == "judge":
        known = _references_are_judged(recipe)  # but for what the teacher added
        unknown = Bounds(0, one.refined.most) if known else one.refined
        yield Step(
            one.number, "prefer", "judge", one.refined, _verdicts(recipe.judge, "preference", one.refined, unknown)
        )


def _evaluation(recipe: Recipe, found: Material, number: int) -> Step:
    items = Bounds.sure(found.prompts)
    step = Step(number, "evaluate", "student", items, answered=items)
    if not isinstance(recipe.evaluation, JudgedEvaluation):
        return step
    questions = _verdicts(recipe.judge, "verdict", items, Bounds() if number else items)
    if found.unreferenced and not number:
        questions = [Question("teacher", "answer", Bounds.sure(found.unreferenced)), *questions]
    return replace(step, who="student, judge", questions=questions)
