"""Protocols of the roles: teacher, student, judge, tagger, trainer, estimator and benchmark.

A role takes requests and yields one reply for each, in any order. An error with one item is a value in the same
stream (`Failure`, `Unscored`); an error with all of them (a bad key, a missing model) is raised at once as a
`RoleError`. Any class with these methods can fill a role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

from tapir.domain.completion import Completion, Failure, Spending, always_fit, still_thinking
from tapir.domain.difficulty import EstimateCost, Scale
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.progress import Progress
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskTag, Taxonomy
from tapir.domain.training import TaggerReport, TrainJob, TrainReport

Reply: TypeAlias = tuple[str, Completion | Failure]
"""Instruction id and its reply."""
Labeller: TypeAlias = Callable[[Iterable[Instruction]], Iterable[tuple[str, TaskTag | Failure]]]
"""Where labels come from."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One item for the judge: x, the teacher's y and the student's ỹ; `task` is empty where unknown."""

    instruction: Instruction
    reference: str
    student: str
    task: str = ""


@dataclass(frozen=True, slots=True)
class ExpandRequest:
    """A request for `wanted` new instructions of one task from hard pairs, in the order they serve as examples."""

    task: str
    seeds: Sequence[Pair]
    wanted: int
    seed: int


@dataclass(frozen=True, slots=True)
class RefineRequest:
    """A request to rewrite the response of a pair in the style of its task."""

    pair: Pair
    task: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of a corpus that could not be used: its place, the reason, and how it begins."""

    place: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Difficulty of an instruction on the estimator's own scale, more is harder; `detail` is for a reader."""

    value: float
    detail: str = ""


class PlainRole:
    """A role that takes nothing from its section of the recipe, nor from the run."""

    @classmethod
    def build(cls, section: object, context: object) -> Self:  # noqa: ARG003
        """Make the role of a run."""
        return cls()


class Teacher(Protocol):
    """T: answers, expands and refines."""

    @property
    def name(self) -> str:
        """Author recorded with every text."""

    def answer(self, instructions: Iterable[Instruction]) -> Iterable[Reply]:
        """Yield one answer to each instruction."""

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterable[tuple[str, Instruction | Failure]]:
        """Yield (task, new instruction), any number for each request; the stage checks them and asks for answers."""

    def refine(self, requests: Iterable[RefineRequest]) -> Iterable[Reply]:
        """Yield y' for each pair."""


class Student(Protocol):
    """S: a checkpoint that answers."""

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterable[Reply]:
        """Yield one answer to each instruction."""


@runtime_checkable
class ManyStudents(Protocol):
    """A student that answers several chunks in parallel: behind a server, or on a cluster."""

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterable[tuple[int, Sequence[Reply]]]:
        """Yield the index of a chunk and one reply to each of its instructions; chunks come in any order."""


def answers(
    student: Student, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
) -> Iterable[tuple[int, Sequence[Reply]]]:
    """Yield the index of a chunk and its replies: in parallel if the student can, else one after the other.

    A thought is parted from its answer; a reply that is all thought is a failure.
    """
    every: Iterable[tuple[int, Iterable[Reply]]] = (
        student.answer_all(checkpoint, chunks)
        if isinstance(student, ManyStudents)
        else ((index, student.answer(checkpoint, chunk)) for index, chunk in enumerate(chunks))
    )
    return ((index, [(name, _answer(reply)) for name, reply in replies]) for index, replies in every)


def _answer(reply: Completion | Failure) -> Completion | Failure:
    if isinstance(reply, Failure):
        return reply
    parted = reply.parted()
    return still_thinking(parted) if parted.all_thought else parted


@runtime_checkable
class Resource(Protocol):
    """A role that holds memory of an accelerator, a server or a cluster while it works."""

    def open(self, folder: Path, progress: Progress) -> None:
        """Begin a session in the run's folder; resources are acquired when they are first needed."""

    def rest(self) -> None:
        """Release memory that training needs; return when it is free."""

    def close(self) -> None:
        """End the session and release everything."""


class Estimator(Protocol):
    """Difficulty of an instruction for a student, in place of the judge's MFD or for comparison with it.

    A class that inherits from this one need not bring scale and cost: the report then shows the name only, and the
    plan counts nothing.
    """

    name: str
    """E.g. "ifd"."""

    @classmethod
    def scale(cls, section: Any) -> Scale:  # noqa: ARG003
        """Return how its values are read and written, for its section of the recipe."""
        return Scale.unknown(getattr(cls, "name", cls.__name__))  # each object may have its own

    @classmethod
    def cost(cls, section: Any) -> EstimateCost:  # noqa: ARG003
        """Return what it takes for one instruction, for its section of the recipe."""
        return EstimateCost()

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterable[tuple[str, Estimate | Unscored]]:
        """Yield (id, estimate) of each pair, in any order; `tasks` has the label of each tagged id."""


@runtime_checkable
class SamplingEstimator(Protocol):
    """An estimator that judges answers of a student; they are saved before the first is judged."""

    student: Student

    def samples(self, pairs: Sequence[Pair]) -> Sequence[Instruction]:
        """Return what the student answers for these pairs, each with an id of its own."""

    def of(self, student: Student) -> Estimator:
        """Return the same estimator of another student."""


class Judge(Protocol):
    """J: scores the student's and the teacher's answer from 1 to 10."""

    @property
    def name(self) -> str:
        """Name recorded with every judgement."""

    def judge(self, comparisons: Iterable[Comparison]) -> Iterable[tuple[str, Verdict]]:
        """Yield (id, verdict) of each comparison."""


class Tagger(Protocol):
    """Assigns one label of a closed taxonomy."""

    @property
    def taxonomy(self) -> Taxonomy:
        """Labels to choose from."""

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        """Return the instructions to label for fitting; none for a tagger that has nothing to learn."""

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Yield (id, label to learn from), or the failure to get one."""

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        """Fit the tagger; return None for a tagger that has nothing to learn."""

    def tag(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Yield (id, label), or the failure to find one."""


class Trainer(Protocol):
    """Training of the next checkpoint."""

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Train, or resume an interrupted training; `job.out` appears only when complete."""


class StudentFormat(Protocol):
    """What the student's own tokenizer and chat template make of a text."""

    def special(self, text: str) -> str:
        """Return the first special token that is written out in a text; "" for none."""

    def fault(self, instruction: Instruction) -> str:
        """Return why the chat template cannot hold a conversation; "" where it can."""

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise `RoleError` if the student cannot be trained on most of the first pairs, or answer any."""


class Corpus(Protocol):
    """D: where the instructions come from."""

    def pairs(self) -> Iterable[Pair | Rejected]:
        """Yield every instruction with its answer ("" if it has none); the same in every session of a run."""


class Benchmark(Protocol):
    """A held-out set of prompts and their grading."""

    @property
    def name(self) -> str:
        """Name, e.g. "in-distribution"."""

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts; the same in every round."""

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterable[tuple[str, Grade | Unscored]]:
        """Yield (id, grade) of each answer, or why there is none."""


class Calls(Protocol):
    """Session of calls to paid models, shared by the roles of a run."""

    def ready(self) -> None:
        """Check that everything needed for a call is there, without calling."""

    def open(self, folder: Path, run: str, progress: Progress) -> None:
        """Begin a session: replies are saved for this run, and `progress` may stop it."""

    def enter(self, number: int, stage: str) -> None:
        """Set the round and stage of the calls from now on."""

    def meter(self) -> str:
        """Return what was spent so far as a short text; empty for nothing."""

    def spent(self) -> Sequence[Spending]:
        """Return what the run has paid so far, earlier sessions included."""

    def close(self) -> None:
        """End the session."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a run.

    Attributes:
        estimator: None for MFD by student and judge.
        compared: estimators measured for comparison only.
        calls: None where no role calls a model over the network.
        resources: roles that hold memory or servers, each once; they release them while the student is trained.
        inputs: digest of every prompt and file that the run depends on, by name.
        format: None where the student's tokenizer is not known.
        notes: remarks on the corpus, once it is read.
        screen: returns why a text is not wanted in training; "" where it is.
    """

    teacher: Teacher
    student: Student
    judge: Judge
    tagger: Tagger
    trainer: Trainer
    benchmarks: Sequence[Benchmark]
    base: Checkpoint
    corpus: Callable[[], Iterable[Pair | Rejected]]
    estimator: Estimator | None = None
    compared: Sequence[Estimator] = ()
    calls: Calls | None = None
    resources: Sequence[Resource] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    format: StudentFormat | None = None
    notes: Sequence[str] = ()
    screen: Callable[[str], str] = always_fit

    def unfit(self, text: str) -> str:
        """Return why a text of the teacher's cannot be trained on, with what it holds; "" where it can."""
        token = self.format.special(text) if self.format else ""
        return f"special token: {token} is written out in it" if token else self.screen(text)

    def untagged(self) -> list[Instruction]:
        """Return the held-out instructions whose benchmark leaves the task to the tagger."""
        prompts = (prompt for benchmark in self.benchmarks for prompt in benchmark.prompts() if not prompt.task)
        return list({prompt.instruction.id: prompt.instruction for prompt in prompts}.values())
