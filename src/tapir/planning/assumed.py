"""What a plan has to assume, and what it knows instead where earlier runs tell."""

from __future__ import annotations

from collections.abc import Iterator

from tapir.curriculum import CompetenceSchedule
from tapir.domain.task import Taxonomy
from tapir.llm.estimate import ANSWER, LABEL, NEW_INSTRUCTION, UNREADABLE, VERDICT
from tapir.planning.costs import CONCURRENCY, FIRST_TOKEN, TOKENS_PER_SECOND
from tapir.planning.earlier import Earlier
from tapir.planning.material import Material
from tapir.planning.rounds import Guess
from tapir.recipe import Recipe
from tapir.sections import GymCorpus, LlmJudge, LlmTeacher, NoTagger

HARD = 0.3
"""Share of a corpus that is hard for a student."""

KEPT = 0.7
"""Share of the new instructions that pass every check."""

READING = 2 / 3
"""Time to read an example with its instruction and without it, by that of training on it: two passes of three."""


def guess(recipe: Recipe, known: Earlier, found: Material, labels: Taxonomy) -> Guess:
    """Measured figures where there are some."""
    tasks, _ = _tasks(recipe, known, found, labels)
    return Guess(
        hard=_hard(recipe, known, found)[0],
        tasks=tasks,
        kept=KEPT if known.kept is None else known.kept,
    )


def _hard(recipe: Recipe, known: Earlier, found: Material) -> tuple[float, str]:
    """Share of the corpus that is hard, and who says so."""
    threshold = recipe.curriculum.threshold
    if recipe.curriculum.difficulty.kind == "none":
        return 1.0, "difficulty is not measured: there is one pool, and all of the corpus may be drawn"
    if known.hard is not None:
        share, why = known.hard, _measured(known.hard)
    elif threshold.rule == "delta":
        share, why = HARD, ""
    else:
        share = threshold.value if threshold.rule == "quantile" else min(1.0, threshold.value / max(1, found.size))
        why = " (curriculum.threshold; ties at the cut are not, nor is what cannot be measured)"
    return share, f"{share:.0%} of the corpus is hard for the student{why}"


def _tasks(recipe: Recipe, known: Earlier, found: Material, labels: Taxonomy) -> tuple[dict[str, float], str]:
    """Share of each task in the corpus, and who says so."""
    if isinstance(recipe.tagger, NoTagger):
        return {recipe.tagger.label: 1.0}, f"all instructions are of one task, {recipe.tagger.label}"
    sources = {"as they were in the earlier run": known.tasks, "as its category column says": found.tasks}
    for said, tasks in sources.items():
        usable = {label: share for label in labels.labels if (share := tasks.get(label, 0.0)) > 0}
        if usable:
            return usable, f"tasks are as common in the corpus {said}"
    return dict.fromkeys(labels.labels, 1 / len(labels.labels)), "all tasks are equally common in the corpus"


def assumed(recipe: Recipe, found: Material, known: Earlier, labels: Taxonomy) -> Iterator[str]:
    """One line for everything that the figures rest on."""
    guessed = guess(recipe, known, found, labels)
    yield _hard(recipe, known, found)[1]
    yield _tasks(recipe, known, found, labels)[1]
    yield from _of_the_method(recipe)
    if recipe.curriculum.expand:
        yield f"{guessed.kept:.0%} of the new instructions pass every check{_measured(known.kept)}"
    if recipe.endpoints:
        yield from _of_texts(recipe, known)
        yield from _of_servers(recipe, known)
    if not isinstance(recipe.corpus, GymCorpus):
        yield "no row is set aside as a near-duplicate (equal rows and empty ones are)"


def _of_the_method(recipe: Recipe) -> Iterator[str]:
    """What the rounds will find out about the student and a plan cannot know."""
    plan = recipe.curriculum
    if plan.difficulty.kind != "none" and plan.threshold.most:
        yield f"nothing is beyond curriculum.threshold.most = {plan.threshold.most:g} and set aside"
    if plan.variant == "multi-round" and isinstance(plan.schedule, CompetenceSchedule):
        start, end = plan.schedule.start, plan.schedule.end
        yield f"the hard share stays at its start, {start:.0%}: it will move towards {end:.0%} as the student learns"
    if plan.target.shares in {"room", "competence"}:
        yield "the shares of the tasks stay the taxonomy's: they will lean to where the student has room to grow"
    if "ifd" in {plan.difficulty.kind, *plan.compare}:
        yield "IFD reads an example twice, which takes two thirds of the time of training on it"
    if isinstance(recipe.judge, LlmJudge) and "pass-rate" in {plan.difficulty.kind, *plan.compare}:
        yield "the sampled answers to an instruction all differ (equal ones are judged, and paid for, once)"


def _of_texts(recipe: Recipe, known: Earlier) -> Iterator[str]:
    if known.replies:
        listed = (f"{stage} {one.mean:.0f} ({one.calls:,} calls)" for stage, one in known.replies.items())
        yield f"tokens of a reply, measured on earlier calls: {', '.join(listed)}"
    parts = [f"a label has {LABEL}"] if "tagger" in recipe.users() else []
    if isinstance(recipe.teacher, LlmTeacher):
        parts = [f"an answer or a rewritten one has {ANSWER} tokens", f"a new instruction {NEW_INSTRUCTION}", *parts]
    if isinstance(recipe.judge, LlmJudge):
        parts.append(f"a verdict has {VERDICT}")
        yield "the student answers differently in every round (a comparison that was paid for is not paid again)"
        yield (
            "the student's answer is as long as the answer it is compared with;"
            f" at most its {recipe.student.max_new_tokens} tokens"
        )
        yield f"{UNREADABLE:.0%} of the verdicts cannot be read and are asked for again; at most all"
    yield f"{', '.join(parts)}{' in other stages' if known.replies else ''}; at most max_tokens"
    yield "tokens of prompts are counted by a rule, not by the model's tokenizer: within about 10 % for English"


def _of_servers(recipe: Recipe, known: Earlier) -> Iterator[str]:
    endpoints = recipe.endpoints.values()
    if any(one.costs for one in endpoints):
        share = f"{known.cached:.0%}" if known.cached else "none"
        yield f"{share} of the prompts' tokens are billed as cached{_measured(known.cached or None)}"
    yield f"a call takes {FIRST_TOKEN:g} s and 1 s more for every {TOKENS_PER_SECOND:g} tokens of its reply"
    if not all(one.concurrency for one in endpoints):
        yield f"{CONCURRENCY} calls at once where concurrency is not set"
    if any(one.batch for one in endpoints):
        yield "the time of batches is not counted: a provider may take a day for each stage"


def _measured(figure: float | None) -> str:
    return "" if figure is None else " (measured in the earlier run)"
