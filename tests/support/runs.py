"""A small, complete run directory: the algorithm, carried out once by roles that need no model, and copied."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from support.fakes import ORDERS, completion
from support.trainings import PARAMETERS, STEPS, TRAINABLE, curve
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.files import write_json
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure, Spending
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.progress import Progress
from tapir.domain.roles import Comparison, Estimate, Estimator, ExpandRequest, RefineRequest, Rejected, Reply, Roles
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.domain.training import TaggerReport, TrainJob, TrainReport
from tapir.runs import session
from tapir.stages.judge import NULL_ANSWER

TASKS = ("Math", "Reasoning", "Code Generation", "Writing", "History", 'Q & A <i>"mixed"</i>')
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script><img src=x onerror=alert(3)>",
    "<!-- <script> ]]> {{ 7 * 7 }} {% raw %} ${alert(4)} \\u003c &lt;b&gt;",
    "Größe 漢字 العربية \u202eabc\u202c 👩‍🔬 \u2028 line \u2029 paragraph \x00 \x1b[31m",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 8,
    "\"'`><svg onload=alert(5)> javascript:alert(6) https://example.org/x.png",
)
MARK = "<script>alert(1)</script>"
UNSCORED, WITHHELD, UNTAGGED, UNANSWERED = 7, 11, 13, 17  # places in the corpus
BENCHMARKS = ("held out", "harder")
REPEATING = 20  # place in the corpus of a near-duplicate of the instruction before it
SILENT = "What is the teacher silent about?"
SAMPLES = 4  # of the pass rate
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


def measure(kind: str, gap: float) -> float:
    """Return what an estimator makes of an instruction whose MFD is `gap`; NaN stays unscored."""
    match kind:
        case "ifd":
            return round(0.55 + gap / 20, 4)
        case "pass-rate":
            return gap if math.isnan(gap) else round(SAMPLES * min(9.0, max(0.0, gap)) / 9) / SAMPLES
        case _:
            return gap if math.isnan(gap) else float(round(40 + 30 * max(0.0, gap)))


@dataclass
class World:
    """The texts of a run and everything that its roles know about them.

    Attributes:
        task_of: task by text.
        gap: MFD by text; NaN where the judge cannot be read.
    """

    tasks: Sequence[str]
    api: bool
    size: int
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    texts: list[str] = field(default_factory=list)
    task_of: dict[str, str] = field(default_factory=dict)
    gap: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place in range(self.size):
            rank = int(len(self.tasks) * self.rng.random() ** 2.5)  # the first tasks are common, the last rare
            near = self.texts[-1] + " now" if self.api and place == REPEATING else ""
            text = HOSTILE[place] if place < len(HOSTILE) else near or self.text(self.tasks[rank], place)
            self.texts.append(text)
            self.task_of[text] = self.tasks[rank]
            self.gap[text] = self._gap(place, rank)

    def text(self, task: str, number: int) -> str:
        """Return an instruction of a task that resembles no other."""
        return f"{task}, question {number}: {' '.join(f'{self.rng.getrandbits(40):x}' for _ in range(6))}"

    def _gap(self, place: int, rank: int) -> float:
        if place in {UNSCORED, UNANSWERED}:
            return math.nan
        hard = 0.6 + 4.5 * rank / len(self.tasks)  # the later the task, the harder
        return -1.5 if place == WITHHELD else max(0.0, min(9.0, round(2 * self.rng.gauss(hard, 2.2)) / 2))

    def corpus(self) -> list[Pair | Rejected]:
        """Return D, a repetition, an empty text, and what only a run over an API has."""
        answer = "the teacher's answer {}{}"
        pairs: list[Pair | Rejected] = [
            Pair(
                Instruction.of(text, Origin("corpus", source=f"file:{place}")),
                Response(
                    "" if self.api and place == REPEATING else answer.format(place, "</script><b>" * (place == 1)),
                    "the-teacher",
                ),
            )
            for place, text in enumerate(self.texts)
        ]
        for place, text in ((998, self.texts[0]), (999, "")):
            pairs.append(Pair(Instruction.of(text, Origin("corpus", source=f"file:{place}")), Response("x", "x")))
        if self.api:
            silent = Instruction.of(SILENT, Origin("corpus", source="file:997"))
            pairs += [Pair(silent, Response("", "")), Rejected("corpus.jsonl:17", "not JSON", HOSTILE[1])]
        return pairs


@dataclass
class _Teacher:
    world: World
    name: str = "the-teacher"
    written: int = 0

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for each in instructions:
            silent = each.text == SILENT
            yield (
                each.id,
                Failure("timeout", "no reply after 300 s") if silent else completion("written by the teacher"),
            )

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        """Write what was asked for, every second text one that has to be dropped, each for another reason."""
        for request in requests:
            for turn in range(request.wanted):
                self.written += 1
                text = self.world.text(request.task, 1_000 + self.written)
                self.world.task_of[text] = request.task
                if turn % 2 == 0:
                    text = self._bad(request, self.written // 2)
                seeds = tuple(seed.instruction.id for seed in request.seeds[:2])
                yield request.task, Instruction.of(text, Origin("expansion", parents=seeds, source="expand"))

    def _bad(self, request: ExpandRequest, turn: int) -> str:
        hostile = f"{HOSTILE[turn % len(HOSTILE)]} {self.written}"
        match turn % 4:
            case 0:
                return request.seeds[0].instruction.text
            case 1:
                return f"{BENCHMARKS[0]} {self.world.tasks[0]} {turn % 30}"
            case 2:
                self.world.task_of[hostile] = next(task for task in self.world.tasks if task != request.task)
        return hostile

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        for place, request in enumerate(requests):
            name = request.pair.instruction.id
            failure = Failure("timeout", "no reply after 60 s")
            yield name, completion(f"First this, then that. #### {name[:4]}") if place else failure


@dataclass
class _Student:
    world: World

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        places = {text: place for place, text in enumerate(self.world.texts)}
        for each in instructions:
            place = places.get(each.text)
            if each.text.startswith(BENCHMARKS):
                yield each.id, completion("42" if self._solves(checkpoint.round, each.text) else "41")
            elif place == UNANSWERED:
                yield each.id, Failure("length", "no end after 112 tokens")
            else:
                yield each.id, completion(f"the student's answer {place} {MARK if place == 0 else ''}")

    def _solves(self, number: int, text: str) -> bool:
        """Success grows from round to round, less so for the later tasks."""
        benchmark = next(name for name in BENCHMARKS if text.startswith(name))
        rank = next(place for place, task in enumerate(self.world.tasks) if task in text) / len(self.world.tasks)
        chance = 0.62 - 0.5 * rank - 0.15 * BENCHMARKS.index(benchmark) + 0.11 * number * (1 - 0.4 * rank)
        return random.Random(f"{text} {number}").random() < chance


@dataclass
class _Judge:
    world: World
    name: str

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for place, each in enumerate(comparisons):
            yield each.instruction.id, self._verdict(each, place)

    def _verdict(self, each: Comparison, place: int) -> Verdict:
        if each.student.startswith("First this"):  # a rewritten answer: the first is worse, the second unreadable
            if place == 1:
                return Unscored("reply was cut off", "so far")
            scores = 5.0 if place == 0 else 8.0, 8.0
        elif each.student == NULL_ANSWER:
            scores = 1.0 + place % 2, 8.0
        else:
            gap = self.world.gap.get(each.instruction.text, 3.0)
            if math.isnan(gap):
                return Unscored("two replies without scores", "I like </script>")
            student = max(1.0, 8.0 - gap)
            scores = student, min(10.0, student + gap)
        return tuple(Judgement(*scores, order, f"because {MARK}", self.name) for order in ORDERS)


class _Estimator(Estimator):
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        del checkpoint, tasks
        for pair in pairs:
            value = measure(self.name, self.world.gap.get(pair.instruction.text, 3.0))
            unscored = Unscored("the answer is too short", "1 tokens")
            yield pair.instruction.id, unscored if math.isnan(value) else Estimate(value, "as it was measured")


@dataclass
class _Tagger:
    world: World

    @property
    def taxonomy(self) -> Taxonomy:
        """Every task the same share, the last twice that."""
        weights = dict.fromkeys(self.world.tasks, 1.0) | {self.world.tasks[-1]: 2.0}
        return Taxonomy("synthetic", "1", TaskDistribution.of(weights))

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        del instructions, seed
        return []

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        return self.tag(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport:
        """Return its quality; over an API one task has no label held out."""
        del labelled
        tasks = self.world.tasks
        if not self.world.api:
            return TaggerReport(90, 30, 0.9333, {})
        f1 = {task: 1 - 0.08 * place for place, task in enumerate(tasks)}
        recall = {task: 1 - 0.05 * place for place, task in enumerate(tasks[:-1])}
        return TaggerReport(90, 30, 0.9333, recall, f1, 0.0412, 2)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        untagged = self.world.texts[UNTAGGED : UNTAGGED + 1]
        for each in instructions:
            task = self.world.task_of.get(each.text)
            known = task is not None and each.text not in untagged
            yield each.id, TaskTag(task, 0.9) if known and task else Failure("no-label", "the tagger gave none")


@dataclass
class _Trainer:
    api: bool

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Leave an empty checkpoint; over an API the student is an adapter."""
        del progress
        job.out.mkdir(parents=True)
        report = TrainReport(
            STEPS, [(int(step), loss) for step, loss in curve(job.number)], 123_456 + job.number, 20_000
        )
        if not self.api:
            return report
        preferred = [(step, 0.7 - 0.004 * step) for step in range(1, 31)] if job.preferences else []
        content: dict[str, Any] = {"parameters": PARAMETERS, "trainable": TRAINABLE, "seconds": 185.2 + job.number}
        too_long = [example.id for example in job.examples[:1]] if job.number else []
        kept: dict[str, Any] = {name: getattr(report, name) for name in ("steps", "loss", "tokens", "answer_tokens")}
        return TrainReport(**kept, **content, too_long=too_long, tokens_per_second=1_234.56, preference_loss=preferred)


@dataclass
class _Benchmark:
    world: World
    name: str
    graded: int = 0

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(Instruction.of(f"{self.name} {task} {place}", Origin("evaluation")), task, "42")
            for task in self.world.tasks
            for place in range(30)
        ]

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Grade; over an API one answer cannot be read, and in round 1 none of the last task's harder ones."""
        self.graded += 1
        for prompt, answer in answers:
            right = answer == prompt.expected
            if self.world.api and self._unreadable(prompt):
                yield prompt.instruction.id, Unscored("reply was cut off", "")
            else:
                yield prompt.instruction.id, Grade(float(right), right)

    def _unreadable(self, prompt: Prompt) -> bool:
        if self.name == BENCHMARKS[0]:
            return prompt.instruction.text == f"{self.name} {self.world.tasks[0]} 0"
        return self.graded == 2 and prompt.task == self.world.tasks[-1]


_TEMPLATES = ExitStack()


@cache
def _template(options: str) -> Path:
    """Carry out a run of these options (JSON), once in a session."""
    wanted = json.loads(options)
    folder = Path(_TEMPLATES.enter_context(TemporaryDirectory(prefix="tapir-run-"))) / "run"
    world = World(wanted["tasks"], wanted["api"], wanted["corpus"])
    recipe = _recipe(wanted)
    plan, judge = recipe.curriculum, "a-small-model" if world.api else "the-judge"
    roles = Roles(
        teacher=_Teacher(world, "a-large-model" if world.api else "the-teacher"),
        student=_Student(world),
        judge=_Judge(world, judge),
        tagger=_Tagger(world),
        trainer=_Trainer(world.api),
        benchmarks=[_Benchmark(world, name) for name in BENCHMARKS],
        base=Checkpoint("base", 0),
        corpus=world.corpus,
        estimator=None if plan.difficulty.kind in {"mfd", "none"} else _Estimator(world, plan.difficulty.kind),
        compared=[_Estimator(world, kind) for kind in plan.compare],
    )
    with patch("tapir.report.page.write_report", lambda *_: None):
        session.run(recipe, folder, roles=roles)
    return folder


def _recipe(wanted: Mapping[str, object]) -> Recipe:
    api = bool(wanted["api"])
    method = {"rounds": wanted["rounds"], "size": 60, **({"refine_keep": "judge", "warmup_epochs": 1.0} if api else {})}
    sections = OVER_API if api else {"corpus": {"size": wanted["corpus"]}}
    method |= dict(wanted["curriculum"] or {})  # type: ignore[call-overload]
    return parse({"name": "synthetic </title><b>run</b>", "chunk": 1_000, "curriculum": method} | sections)


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
    options = {"rounds": rounds, "corpus": corpus, "tasks": tasks, "api": api, "curriculum": curriculum}
    shutil.copytree(_template(json.dumps(options)), folder, dirs_exist_ok=True)
    for path in folder.glob("round-*"):
        if int(path.name.removeprefix("round-")) > done:
            shutil.rmtree(path)
    if done < 0:
        for path in (*folder.glob("*.parquet"), folder / "checksums.sha256"):
            path.unlink()
    if api:
        write_json(folder / "spending.json", [asdict(entry) for entry in SPENDING if entry.round <= done])
    return RunStore(folder)
