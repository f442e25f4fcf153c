"""Assumptions of the cost estimate; replaced by measurements from earlier runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tapir.config.annotators import LlmJudgeConfig, LlmTeacherConfig, NoTaggerConfig
from tapir.config.base import CustomConfig
from tapir.config.corpus import GymCorpusConfig
from tapir.config.curriculum import CompetenceScheduleConfig
from tapir.config.recipe import Recipe
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.difficulty import split
from tapir.domain.task import Taxonomy
from tapir.models.api.ledger import Ledger
from tapir.models.api.session import LEDGER
from tapir.models.estimators import cost_of, scale_of
from tapir.runs.plan.corpus import CorpusStats
from tapir.runs.plan.rounds import Assumptions
from tapir.runs.plan.tokens import ANSWER, LABEL, NEW_INSTRUCTION, UNREADABLE, LabelConfig, verdict_tokens
from tapir.runs.session import stored_recipe

HARD = 0.3
"""Share of a corpus that is hard for a student."""

KEPT = 0.7
"""Share of the new instructions that pass every check."""

READING = 2 / 3
"""Time to read an example with its instruction and without it, by that of training on it: two passes of three."""

CONCURRENCY = 64
"""Calls at once where the recipe does not say; a server of one's own takes up to 512."""

FIRST_TOKEN = 1.0
"""Seconds until a reply begins."""

TOKENS_PER_SECOND = 50.0
"""Tokens of one reply in a second."""

THOUGHT = 0.5
"""Length of a thought, by `thinking_tokens`."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies in one stage of earlier runs; those that were all thought, and asked for once more, are left out.

    Attributes:
        mean: tokens of a reply, its thought included.
        thinking: tokens of each reply with a thought.
    """

    calls: int
    mean: float
    thinking: Sequence[int] = ()

    def cut(self, limit: float) -> float:
        """Return the share of the replies whose thought would not end within a limit in tokens."""
        return sum(tokens > limit for tokens in self.thinking) / self.calls


@dataclass(frozen=True, slots=True)
class Measurements:
    """Replies by stage, and shares, as earlier runs measured them; None or empty else.

    `hard` is that of the scored instructions beyond the new recipe's threshold; None where the earlier run measured
    difficulty otherwise, or where the threshold is a number of items.
    """

    replies: Mapping[str, Replies] = field(default_factory=dict)
    cached: float | None = None  # of the prompt tokens
    hard: float | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None  # of the new instructions


def read_measurements(recipe: Recipe, folder: Path | None) -> Measurements:
    """Read the recipe's shared ledger and the folder of an earlier run, as far as they are there."""
    shared = Path(recipe.calls.ledger).expanduser() if recipe.calls.ledger else None
    ledgers = [shared, folder / LEDGER if folder else None]
    replies, cached = _replies([ledger for ledger in ledgers if ledger and ledger.is_file()])
    if folder is None:
        return Measurements(replies, cached)
    before, run = stored_recipe(folder), RunReader(RunStore(folder))
    alike = before.curriculum.difficulty == recipe.curriculum.difficulty
    comparable = alike and recipe.curriculum.threshold.rule != "budget"
    gaps = {row.id: row.gap for row in run.difficulty(1) if row.gap is not None}  # a new run has the same student
    threshold = recipe.curriculum.difficulty_threshold(scale_of(recipe.curriculum.difficulty))
    hard = split([*gaps], np.array([*gaps.values()]), threshold).hard_share if gaps and comparable else None
    tasks = Counter(row.task for row in run.tags() if row.task is not None)
    kept = [row.reason is None for number in run.rounds("expansions") for row in run.expansions(number)]
    shares = {task: number / tasks.total() for task, number in tasks.items()}
    return Measurements(replies, cached, hard, shares, sum(kept) / len(kept) if kept else None)


def _replies(ledgers: Sequence[Path]) -> tuple[dict[str, Replies], float | None]:
    calls, written, thinking = Counter[str](), Counter[str](), defaultdict[str, list[int]](list)
    read = cached = 0
    for path in ledgers:
        with closing(Ledger(path)) as ledger:
            for spending in ledger.spent():
                calls[spending.purpose.stage] += spending.calls
                written[spending.purpose.stage] += spending.usage.completion_tokens
                read += spending.usage.prompt_tokens
                cached += spending.usage.cached_tokens
            for stage, reply in ledger.thoughts():
                if reply.all_thought:
                    calls[stage] -= 1
                    written[stage] -= reply.usage.completion_tokens
                else:
                    thinking[stage].append(reply.usage.completion_tokens)
    replies = {
        stage: Replies(number, written[stage] / number, thinking[stage]) for stage, number in calls.items() if number
    }
    return replies, cached / read if read else None


def assume(recipe: Recipe, known: Measurements, corpus: CorpusStats, labels: Taxonomy) -> tuple[Assumptions, list[str]]:
    """Return what the plan assumes, measured where earlier runs did, and one line for everything it rests on."""
    hard, why_hard = _hard(recipe, known, corpus)
    tasks, why_tasks = _tasks(recipe, known, corpus, labels)
    kept = KEPT if known.kept is None else known.kept
    lines = [why_hard, why_tasks, *_of_the_method(recipe)]
    if recipe.curriculum.expand:
        lines.append(f"{kept:.0%} of the new instructions pass every check{_source(known.kept)}")
    if own := [role for role in ("teacher", "judge", "tagger") if isinstance(getattr(recipe, role), CustomConfig)]:
        lines.append(f"the calls of classes of your own ({', '.join(own)}) are not counted")
    if recipe.endpoints:
        lines += [*_of_texts(recipe, known), *_of_servers(recipe, known)]
    if not isinstance(recipe.corpus, GymCorpusConfig):
        lines.append("no row is dropped as a near-duplicate (equal rows and empty ones are)")
    return Assumptions(hard, tasks, kept), lines


def _hard(recipe: Recipe, known: Measurements, corpus: CorpusStats) -> tuple[float, str]:
    threshold = recipe.curriculum.threshold
    if recipe.curriculum.difficulty.measured_by == "nobody":
        return 1.0, "difficulty is not measured: there is one pool, and all of the corpus may be drawn"
    if known.hard is not None:
        share, why = known.hard, _source(known.hard)
    elif threshold.rule == "delta":
        share, why = HARD, ""
    else:
        share = threshold.value if threshold.rule == "quantile" else min(1.0, threshold.value / max(1, corpus.size))
        why = " (curriculum.threshold; ties at the cut are not, nor is what cannot be measured)"
    return share, f"{share:.0%} of the corpus is hard for the student{why}"


def _tasks(recipe: Recipe, known: Measurements, corpus: CorpusStats, labels: Taxonomy) -> tuple[dict[str, float], str]:
    if isinstance(recipe.tagger, NoTaggerConfig):
        return {recipe.tagger.label: 1.0}, f"all instructions are of one task, {recipe.tagger.label}"
    sources = {"as they were in the earlier run": known.tasks, "as its category column says": corpus.tasks}
    for source, tasks in sources.items():
        usable = {label: share for label in labels.labels if (share := tasks.get(label, 0.0)) > 0}
        if usable:
            return usable, f"tasks are as common in the corpus {source}"
    return dict.fromkeys(labels.labels, 1 / len(labels.labels)), "all tasks are equally common in the corpus"


def _of_the_method(recipe: Recipe) -> Iterator[str]:
    plan = recipe.curriculum
    if plan.difficulty.measured_by != "nobody" and plan.threshold.most:
        yield f"nothing is beyond curriculum.threshold.most = {plan.threshold.most:g} and skipped"
    if plan.variant == "multi-round" and isinstance(plan.schedule, CompetenceScheduleConfig):
        start, end = plan.schedule.start, plan.schedule.end
        yield f"the hard share stays at its start, {start:.0%}: it will move towards {end:.0%} as the student learns"
    if plan.target.shares in {"room", "competence"}:
        yield "the shares of the tasks stay the taxonomy's: they will lean to where the student has room to grow"
    costs = [cost_of(section) for section in (plan.difficulty, *plan.compared())]
    if passes := max(cost.passes for cost in costs):
        yield f"an estimator reads an example {passes} times, each a third of the time of training on it"
    if recipe.preferred_gap() is not None:
        yield "the time leaves out training.dpo: how many answers it prefers is not known before they are judged"
    if isinstance(recipe.judge, LlmJudgeConfig) and any(cost.answers > 1 for cost in costs):
        yield "the sampled answers to an instruction all differ (equal ones are judged, and paid for, once)"


def _of_texts(recipe: Recipe, known: Measurements) -> Iterator[str]:
    if known.replies:
        listed = (f"{stage} {each.mean:.0f} ({each.calls:,} calls)" for stage, each in known.replies.items())
        yield f"tokens of a reply, measured on earlier calls: {', '.join(listed)}"
    parts = [f"a label has {LABEL}"] if isinstance(recipe.tagger, LabelConfig) and recipe.tagger.endpoints else []
    if isinstance(recipe.teacher, LlmTeacherConfig):
        parts = [f"an answer or a rewritten one has {ANSWER} tokens", f"a new instruction {NEW_INSTRUCTION}", *parts]
    if isinstance(recipe.judge, LlmJudgeConfig):
        parts.append(f"a verdict has {verdict_tokens(recipe.judge)}")
        yield "the student answers differently in every round (a comparison that was paid for is not paid again)"
        most = recipe.student.max_new_tokens
        yield f"the student's answer is as long as the answer it is compared with; at most its {most} tokens"
        yield f"{UNREADABLE:.0%} of the verdicts cannot be read and are requested again; at most all"
    if parts:
        yield f"{', '.join(parts)}{' in other stages' if known.replies else ''}; at most max_tokens"
    yield "tokens of prompts are counted by a rule, not by the model's tokenizer: within about 10 % for English"


def _of_servers(recipe: Recipe, known: Measurements) -> Iterator[str]:
    endpoints = recipe.endpoints.values()
    if any(endpoint.costs for endpoint in endpoints):
        share = f"{known.cached:.0%}" if known.cached else "none"
        yield f"{share} of the prompts' tokens are billed as cached{_source(known.cached or None)}"
    yield f"a call takes {FIRST_TOKEN:g} s and 1 s more for every {TOKENS_PER_SECOND:g} tokens of its reply"
    if any(endpoint.thinking_tokens for endpoint in endpoints):
        yield f"a thought takes {THOUGHT:.0%} of thinking_tokens where no earlier call of its stage was measured"
    if not all(endpoint.concurrency for endpoint in endpoints):
        yield f"{CONCURRENCY} calls at once where concurrency is not set"
    if any(endpoint.batch for endpoint in endpoints):
        yield "the time of batches is not counted: a provider may take a day for each stage"


def _source(measured: float | None) -> str:
    return "" if measured is None else " (measured in the earlier run)"
