"""A small, complete run directory without a model: every table the algorithm leaves behind."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from tapir.curriculum import CompetenceSchedule, Curriculum
from tapir.domain.difficulty import Split, split, undivided
from tapir.domain.instruction import instruction_id
from tapir.domain.mixture import Draw, Pool, mix, mix_as_found, resample, resample_as_found
from tapir.domain.round import Evaluation
from tapir.domain.schedule import following
from tapir.domain.spending import Spending
from tapir.domain.task import TaskDistribution
from tapir.evaluation.statistics import summarise
from tapir.recipe_file import parse
from tapir.stages.expand import draw_rows
from tapir.store.files import write_json
from tapir.store.rows import (
    CorpusRow,
    DifficultyRow,
    DrawRow,
    DropRow,
    EvaluationRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    NeighbourRow,
    RefinementRow,
    ResponseRow,
    TagRow,
)
from tapir.store.run import RunStore
from tests.scored import difficulties, leave_estimates, leave_judgements, measured
from tests.trainings import adapter, leave_tagger, leave_training

TASKS = ("Math", "Reasoning", "Code Generation", "Writing", "History", 'Q & A <i>"mixed"</i>')
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script><img src=x onerror=alert(3)>",
    "<!-- <script> ]]> {{ 7 * 7 }} {% raw %} ${alert(4)} \\u003c &lt;b&gt;",
    "Größe 漢字 العربية \u202eabc\u202c 👩‍🔬 \u2028 line \u2029 paragraph \x00 \x1b[31m",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 8,
    "\"'`><svg onload=alert(5)> javascript:alert(6) https://example.org/x.png",
)
UNSCORED, WITHHELD, UNTAGGED, UNANSWERED = 7, 11, 13, 17  # places in the corpus
SILENCE = {UNSCORED: "two replies without scores", UNANSWERED: "no student answer"}
BENCHMARKS = ("held out", "harder")
REPEATING = 20  # place in the corpus of an instruction that nearly repeats the one before it
SILENT = "What is the teacher silent about?"
DROPPED = {  # what an expansion that was dropped had met
    "near-duplicate": "0123456789abcdef rouge-l 0.83",
    "tagged as another task": "History",
    "in an evaluation set": "fedcba9876543210",
    "not tagged": "",
}
SPENDING = (
    Spending(0, "label", "", 30, 9_000, 0, 300, 0.02),
    Spending(0, "judge", "Math", 140, 80_000, 60_000, 21_000, 0.5),
    Spending(0, "judge", "History", 98, 56_000, 40_000, 14_000, 0.35),
    Spending(1, "expand", "History", 6, 3_000, 0, 2_500, 0.04),
    Spending(1, "refine", "Math", 40, 24_000, 0, 16_000, 0.3),
    Spending(2, "expand", "History", 4, 2_000, 0, 1_500, 0.02),
    Spending(3, "refine", "History", 10, 6_000, 0, 4_000, 0.07),
)
ENDPOINTS = {
    "large": {"base_url": "https://example.org/v1", "model": "a-large-model", "price_input": 2.0, "price_output": 8.0},
    "small": {"base_url": "https://example.org/v1", "model": "a-small-model", "price_input": 0.4, "price_output": 1.6},
}
OVER_API = {
    "corpus": {"kind": "file", "path": "corpus.jsonl", "answers": "missing"},
    "teacher": {"kind": "llm", "endpoints": ["large"]},
    "judge": {"kind": "llm", "endpoints": ["small"]},
    "tagger": {"endpoints": ["small"]},
    "evaluation": {"kind": "judged", "held_out": 30},
    "endpoints": ENDPOINTS,
}


@dataclass(slots=True)
class Maker:
    """The run in the making."""

    store: RunStore
    rounds: int
    size: int
    tasks: Sequence[str]
    plan: Curriculum
    api: bool = False
    gaps: dict[str, float] = field(default_factory=dict)
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    text: dict[str, str] = field(default_factory=dict)
    task_of: dict[str, str] = field(default_factory=dict)
    expanded: list[str] = field(default_factory=list)
    refined: set[str] = field(default_factory=set)
    seconds: float = 1_000.0

    def share(self, number: int) -> float:
        """α of a round; a schedule that follows competence finds a little more of it in every round."""
        schedule = self.plan.schedule
        if isinstance(schedule, CompetenceSchedule):
            return following(schedule.start, schedule.end, number / 10)
        return self.plan.alpha().share(number)

    @property
    def target(self) -> TaskDistribution:
        """Every task the same share, the last twice that; or the shares of the corpus."""
        if self.plan.target.shares == "pool":
            counts = Counter(self.task_of.values())
            return TaskDistribution.of({task: float(counts[task]) for task in self.tasks})
        return TaskDistribution.of(
            {task: 2.0 if place == len(self.tasks) - 1 else 1.0 for place, task in enumerate(self.tasks)}
        )

    @property
    def corpus(self) -> list[str]:
        """Ids of the corpus, in order."""
        return [name for name in self.text if name not in self.expanded]


def build_run(
    folder: Path,
    *,
    rounds: int = 3,
    done: int = 3,
    corpus: int = 120,
    tasks: Sequence[str] = TASKS,
    api: bool = False,
    curriculum: Mapping[str, object] | None = None,
) -> RunStore:
    """Write a run directory.

    Args:
        folder: where; made if it is not there.
        rounds: N of the recipe.
        done: the last finished round; 0 is the first look at the corpus, -1 is nothing but the recipe.
        corpus: instructions in it.
        tasks: labels.
        api: whether models behind servers teach and judge, which leaves more tables.
        curriculum: settings of the method, such as another estimator of difficulty.
    """
    store = RunStore(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = 60
    keep = {"refine_keep": "judge"} if api else {}
    world = OVER_API if api else {"corpus": {"size": corpus}}
    method = {"rounds": rounds, "size": size, **keep, **(curriculum or {})}
    recipe = parse({"name": "synthetic </title><b>run</b>", "curriculum": method} | world)
    write_json(folder / "recipe.json", recipe.resolved())
    packages = {"torch": "2.13.0", "transformers": "5.23.0"}
    write_json(folder / "manifest.json", {"schema": 1, "tapir": "0.1.0", "python": "3.11.7", "packages": packages})
    maker = Maker(store, rounds, size, tasks, recipe.curriculum, api)
    _event(maker, "session", 0.0)
    if done < 0:
        return store
    parts = _first_look(maker, corpus)
    _evaluated(maker, 0)
    for number in range(1, done + 1):
        _taught(maker, number, parts)
        _evaluated(maker, number)
    if api:
        spent = [asdict(one) for one in SPENDING if one.round <= done]
        write_json(folder / "spending.json", spent)
    return store


def _event(maker: Maker, kind: str, seconds: float) -> None:
    maker.seconds += seconds
    with (maker.store.folder / "events.jsonl").open("a", encoding="utf-8") as events:
        events.write(json.dumps({"time": maker.seconds, "event": kind}) + "\n")


def _first_look(maker: Maker, size: int) -> Split:
    """Corpus, drops, tags, answers, judgements, difficulty."""
    rows = list(_corpus(maker, size))
    ids = maker.corpus
    gaps = [_gap(maker, place) for place in range(len(ids))]
    if maker.api:
        rows.append(CorpusRow(instruction_id(SILENT), SILENT, "", "", "file:998"))
        _intake_over_api(maker, ids)
        write_json(maker.store.round(0) / "training.json", adapter(0))
    maker.store.once("corpus", CorpusRow, lambda: rows)
    drops = [
        DropRow(ids[0], "corpus", "duplicate", "file:0", rows[0].text),
        DropRow(instruction_id(""), "corpus", "empty instruction", "file:999", ""),
    ]
    if maker.api:
        drops.append(DropRow(instruction_id(HOSTILE[1]), "corpus", "not JSON", "corpus.jsonl:17", HOSTILE[1]))
    maker.store.once("drops", DropRow, lambda: drops)
    tags = [_tag(maker, name, place) for place, name in enumerate(ids)]
    maker.store.once("round-0/tags", TagRow, lambda: tags)
    kind = maker.plan.difficulty.kind
    maker.gaps = {name: measured(kind, gap) for name, gap in zip(ids, gaps, strict=True)}
    if kind == "mfd":
        why = {name: text for place, text in SILENCE.items() for name in ids[place : place + 1]}
        leave_judgements(maker.store, maker.gaps, why)
    elif kind != "none":
        leave_estimates(maker.store, "estimates", kind, maker.gaps)
    for other in maker.plan.compare:
        found = {name: measured(other, gap) for name, gap in zip(ids, gaps, strict=True)}
        leave_estimates(maker.store, f"compared-{other}", other, found)
    leave_tagger(maker.store, maker.tasks, api=maker.api)
    _event(maker, "finished", 65.0)
    if kind == "none":
        return undivided(ids)
    return split(ids, np.array([maker.gaps[name] for name in ids], dtype=np.float64), maker.plan.delta())


def _intake_over_api(maker: Maker, ids: Sequence[str]) -> None:
    """Near-duplicates, answers the teacher wrote first, and the canary."""
    near = [
        NeighbourRow(ids[REPEATING], ids[REPEATING - 1], 0.91, "rouge-l"),
        NeighbourRow(ids[1], ids[0], 0.75, "minhash"),
    ]
    maker.store.once("neighbours", NeighbourRow, lambda: near)
    responses = [
        ResponseRow(ids[REPEATING], "written by the teacher first", "a-large-model", None),
        ResponseRow(instruction_id(SILENT), None, "a-large-model", "timeout: no reply after 300 s"),
    ]
    maker.store.once("round-0/responses", ResponseRow, lambda: responses)
    canary = [
        JudgementRow(name, order, 1.0 + place % 2, 8.0, "it says nothing", "a-small-model", None, None)
        for place, name in enumerate(ids[:20])
        for order in ("student-first", "reference-first")
    ]
    maker.store.once("round-0/canary", JudgementRow, lambda: canary)


def _corpus(maker: Maker, size: int) -> Iterator[CorpusRow]:
    for place in range(size):
        rank = int(len(maker.tasks) * maker.dice.random() ** 2.5)  # the first tasks are common, the last rare
        task = maker.tasks[rank]
        text = HOSTILE[place] if place < len(HOSTILE) else f"{task}, question {place}: what follows from {place * 17}?"
        name = instruction_id(text)
        maker.text[name] = text
        if place != UNTAGGED:
            maker.task_of[name] = task
        answer = f"the teacher's answer {place}{' </script><b>' if place == 1 else ''}"
        yield CorpusRow(name, text, answer, "the-teacher", f"file:{place}")


def _gap(maker: Maker, place: int) -> float:
    """NaN is unscored; the later the task, the harder."""
    if place in {UNSCORED, UNANSWERED}:
        return float("nan")
    if place == WITHHELD:
        return -1.5
    name = maker.corpus[place]
    rank = maker.tasks.index(maker.task_of.get(name, maker.tasks[0]))
    return max(0.0, min(9.0, round(2 * maker.dice.gauss(0.6 + 4.5 * rank / len(maker.tasks), 2.2)) / 2))


def _tag(maker: Maker, name: str, place: int) -> TagRow:
    if name not in maker.task_of:
        return TagRow(name, None, 0.0, "no-label: the tagger gave none")
    return TagRow(name, maker.task_of[name], 0.5 + place % 50 / 100, None)


def _taught(maker: Maker, number: int, parts: Split) -> None:
    """Difficulty, draws, expansions, refinements and the mixture of a round."""
    if maker.plan.difficulty.kind != "none":
        rows = difficulties(maker.corpus, maker.gaps, parts)
        maker.store.once(f"round-{number}/difficulty", DifficultyRow, lambda: rows)
    share = maker.share(number)
    hard = [*parts.hard, *maker.expanded]
    labels = tuple(maker.tasks)
    easy = Pool.of([name for name in parts.easy if name not in parts.withheld], maker.task_of, labels)
    found = maker.plan.target.shares == "pool"
    pool = Pool.of(hard, maker.task_of, labels)
    if found:
        need = resample_as_found(pool, easy, maker.size, share, seed=number)
    else:
        need = resample(pool, easy, maker.size, share, maker.target, seed=number)
    written = list(_written(maker, number, need, parts.hard))
    maker.store.once(f"round-{number}/expansions", ExpansionRow, lambda: written)
    maker.store.once(f"round-{number}/draws", DrawRow, lambda: draw_rows(need, maker.target.shares, written))
    pools = (Pool.of([*parts.hard, *maker.expanded], maker.task_of, labels), easy)
    if found:
        mixed = mix_as_found(*pools, maker.size, share, seed=number)
    else:
        mixed = mix(*pools, maker.size, share, maker.target, seed=number)
    fresh = [name for name in (*mixed.hard, *mixed.easy) if name not in maker.refined]
    refined = [
        RefinementRow(name, maker.task_of[name], f"First this, then that. #### {name[:4]}", "the-teacher", None)
        if place
        else RefinementRow(name, maker.task_of[name], None, "the-teacher", "timeout: no reply after 60 s")
        for place, name in enumerate(fresh)
    ]
    maker.store.once(f"round-{number}/refinements", RefinementRow, lambda: refined)
    rewritten = [row.id for row in refined if row.text is not None]
    maker.refined |= set(_preferred(maker, number, rewritten) if maker.api else rewritten)
    hard_pool = "any" if maker.plan.difficulty.kind == "none" else "hard"
    drawn = sorted([*((name, hard_pool) for name in mixed.hard), *((name, "easy") for name in mixed.easy)])
    examples = [_example(maker, name, from_pool) for name, from_pool in drawn]
    maker.store.once(f"round-{number}/mixture", MixtureRow, lambda: examples)
    leave_training(maker.store, number, [row.id for row in examples], api=maker.api)
    _event(maker, "finished", 130.0)


def _preferred(maker: Maker, number: int, written: Sequence[str]) -> Sequence[str]:
    """The judge prefers the original of the first, cannot compare the second, and likes all others."""
    rows = [
        JudgementRow(name, "student-first", 5.0 if place == 0 else 8.0, 8.0, "", "a-small-model", None, None)
        if place != 1
        else JudgementRow(name, "alone", None, None, "", "a-small-model", "reply was cut off", "so far")
        for place, name in enumerate(written)
    ]
    maker.store.once(f"round-{number}/preferences", JudgementRow, lambda: rows)
    return written[2:]


def _written(maker: Maker, number: int, need: Draw, seeds: Sequence[str]) -> Iterator[ExpansionRow]:
    """What was short is written, and every second text dropped, each time for another reason."""
    reasons = list(DROPPED)
    turn = 0
    for task, count in need.shortfall.items():
        for place in range(count):
            reason = reasons[(turn // 2 + number) % len(reasons)] if turn % 2 == 0 else None
            turn += 1
            hostile = HOSTILE[turn % len(HOSTILE)]
            text = f"{task}, new in round {number}: case {place} {hostile if reason else ''}"
            name = instruction_id(text)
            if reason is None:
                maker.text[name], maker.task_of[name] = text, task
                maker.expanded.append(name)
            tag = None if reason == "not tagged" else task
            yield ExpansionRow(
                name,
                text,
                "new answer",
                "the-teacher",
                "expand",
                tuple(seeds[:2]),
                task,
                tag,
                reason,
                DROPPED[reason] if reason else "",
            )


def _example(maker: Maker, name: str, pool: str) -> MixtureRow:
    origin = "expansion" if name in maker.expanded else "corpus"
    refined = name in maker.refined
    answer = "refined answer" if refined else "original answer"
    return MixtureRow(name, maker.text[name], answer, maker.task_of[name], pool, origin, refined)


def _evaluated(maker: Maker, number: int) -> None:
    """Success grows from round to round, less so for the later tasks."""
    rows = [row for benchmark in BENCHMARKS for row in _answers(maker, number, benchmark)]
    maker.store.once(f"round-{number}/evaluation", EvaluationRow, lambda: rows)
    found: list[Evaluation] = [
        summarise(
            name,
            number,
            [(row.task, row.success) for row in rows if row.benchmark == name and row.score is not None],
        )
        for name in BENCHMARKS
    ]
    write_json(maker.store.round(number) / "metrics.json", [asdict(one) for one in found])
    _event(maker, "finished", 20.0)


def _answers(maker: Maker, number: int, benchmark: str) -> Iterator[EvaluationRow]:
    for rank, task in enumerate(maker.tasks):
        base = 0.62 - 0.5 * rank / len(maker.tasks) - 0.15 * BENCHMARKS.index(benchmark)
        chance = base + 0.11 * number * (1 - 0.4 * rank / len(maker.tasks))
        for place in range(30):
            right = maker.dice.random() < chance
            name = instruction_id(f"{benchmark} {task} {place}")
            row = EvaluationRow(benchmark, name, task, "?", "42", "42", float(right), right, None)
            if _unreadable(maker, number, benchmark, rank, place):
                row = replace(row, score=None, success=False, failure="unscored: reply was cut off")
            yield row


def _unreadable(maker: Maker, number: int, benchmark: str, rank: int, place: int) -> bool:
    """The judge cannot be read on one answer a round, and in round 1 on all of the last task's harder ones."""
    if benchmark == BENCHMARKS[0]:
        return maker.api and rank == place == 0
    return maker.api and number == 1 and rank == len(maker.tasks) - 1


def fates(store: RunStore) -> Counter[str]:
    """Parts of the corpus and fates of the expansions, counted straight from the tables."""
    counts = Counter(row.part for row in store.read("round-1/difficulty", DifficultyRow))
    number = 1
    while store.has(f"round-{number}/expansions"):
        for row in store.read(f"round-{number}/expansions", ExpansionRow):
            counts["dropped" if row.reason else "kept"] += 1
        number += 1
    return counts
