"""The seams of the system: who can teach, answer, judge, tag, train and measure.

A role takes requests and gives one reply for each, in any order. Trouble with one item is a value
in the same stream (`Failure`, `Unscored`); trouble with all of them (a bad key, a missing model)
is raised at once as a `RoleError`. Anything with these methods can fill a role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.round import Checkpoint
from tapir.domain.spending import Spending
from tapir.domain.task import TaskTag, Taxonomy

Reply: TypeAlias = tuple[str, Completion | Failure]
"""Instruction id, and what came back for it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One item for the judge: x, the teacher's y and the student's ỹ; `task` is empty where it is not known."""

    instruction: Instruction
    reference: str
    student: str
    task: str = ""


@dataclass(frozen=True, slots=True)
class ExpandRequest:
    """Write new instructions of one task from hard seeds.

    Attributes:
        task: what the new instructions must be tagged as.
        seeds: hard items of that task, in the order they should serve as examples.
        wanted: how many are needed.
        seed: randomness for this request.
    """

    task: str
    seeds: Sequence[Pair]
    wanted: int
    seed: int


@dataclass(frozen=True, slots=True)
class RefineRequest:
    """Rewrite the response of a pair in the manner of its task."""

    pair: Pair
    task: str


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised example: the student is trained on the tokens of `answer` only."""

    id: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair for preference optimisation: of two answers to the same prompt, `chosen` is the better one."""

    id: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Fine-tune `base` on `examples`, leaving the new checkpoint in `out`.

    Attributes:
        work: folder for what is needed to resume the training itself.
        number: round.
        epochs: passes over the examples.
        seed: order of the examples and all other randomness.
        preferences: what the fine-tuned student is then taught to prefer; empty where it is not.
        rounds: N; with `number` it says what part of the whole training this is.
    """

    base: Checkpoint
    examples: Sequence[Example]
    out: Path
    work: Path
    number: int
    epochs: float
    seed: int
    preferences: Sequence[Preference] = ()
    rounds: int = 1

    @property
    def part(self) -> tuple[float, float]:
        """Where in the training of all rounds this one begins and ends, 0 to 1; a warm-up is a whole by itself."""
        if not self.number:
            return 0.0, 1.0
        return (self.number - 1) / self.rounds, self.number / self.rounds


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What training did.

    Attributes:
        loss: mean loss per answer token at each log point, with its step.
        tokens: tokens read, prompt and answer, over all epochs.
        answer_tokens: tokens that carried loss in one epoch.
        too_long: ids of the examples left out because they are longer than the recipe allows.
        cut: ids of the examples that were trained on without their end, where the recipe wants that.
        parameters: of the whole student; 0 where the trainer does not know.
        trainable: how many of them were trained.
        seconds: of training in the session that finished it, loading and saving apart.
        tokens_per_second: read in that session.
        preference_loss: as `loss`, for the preferences.
    """

    steps: int
    loss: Sequence[tuple[int, float]]
    tokens: int
    answer_tokens: int
    too_long: Sequence[str] = ()
    cut: Sequence[str] = ()
    parameters: int = 0
    trainable: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    preference_loss: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class TaggerReport:
    """How good the tagger is on labelled instructions it was not fitted on.

    Attributes:
        by_task: share of a task's instructions that were labelled right (recall).
        f1: harmonic mean of precision and recall of every task.
        calibration_error: expected calibration error of its confidences, 0 to 1; None where it was not measured.
        abstained: how many of the n it was too unsure of to label; they count as wrong.
    """

    trained_on: int
    n: int
    accuracy: float
    by_task: Mapping[str, float]
    f1: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
    abstained: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One held-out instruction with the task it counts for; an empty task is left to the tagger."""

    instruction: Instruction
    task: str
    expected: str


@dataclass(frozen=True, slots=True)
class Grade:
    """How good an answer is, 0 to 1, and whether that counts as a success."""

    score: float
    success: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of a corpus that could not be read: where it stands, why, and how it begins."""

    place: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """How hard an instruction is, on the estimator's own scale: more is harder.

    Attributes:
        detail: what the value was made of, for a reader.
    """

    value: float
    detail: str = ""


class Teacher(Protocol):
    """T: answers, expands and refines."""

    @property
    def name(self) -> str:
        """Who wrote a text, as it is recorded beside it."""

    def answer(self, instructions: Iterable[Instruction]) -> Iterable[Reply]:
        """One answer to each instruction."""

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterable[tuple[str, Instruction | Failure]]:
        """Task and new instruction, any number for each request; the stage checks them and has those kept answered."""

    def refine(self, requests: Iterable[RefineRequest]) -> Iterable[Reply]:
        """Y' for each pair."""


class Student(Protocol):
    """S: a checkpoint that answers."""

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterable[Reply]:
        """One answer to each instruction."""


@runtime_checkable
class ManyStudents(Protocol):
    """A student that works on several chunks at a time: one behind a server, or many beside each other."""

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterable[tuple[int, Sequence[Reply]]]:
        """Place of a chunk among `chunks` and one reply to each of its instructions; chunks come in any order."""


def answers(
    student: Student, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
) -> Iterable[tuple[int, Sequence[Reply]]]:
    """Place of a chunk among `chunks` and its replies: in any order if the student can, else one after the other."""
    if isinstance(student, ManyStudents):
        return student.answer_all(checkpoint, chunks)
    return ((place, list(student.answer(checkpoint, chunk))) for place, chunk in enumerate(chunks))


@runtime_checkable
class Resource(Protocol):
    """A role that holds something while it works: memory of an accelerator, a server, a cluster."""

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins in the run's folder; nothing is taken before it is needed."""

    def rest(self) -> None:
        """Give back memory that training needs; returns when it is free."""

    def close(self) -> None:
        """The session ends: give back everything."""


class Estimator(Protocol):
    """Says how hard an instruction is for a student; takes the place of the judge's MFD, or stands beside it."""

    @property
    def name(self) -> str:
        """E.g. "ifd"."""

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterable[tuple[str, Estimate | Unscored]]:
        """Instruction id and estimate for each pair, in any order; `tasks` has the label of each id that is tagged."""


class Judge(Protocol):
    """J: scores the student's and the teacher's answer from 1 to 10."""

    @property
    def name(self) -> str:
        """Recorded with every judgement."""

    def judge(self, comparisons: Iterable[Comparison]) -> Iterable[tuple[str, Verdict]]:
        """Instruction id and verdict for each comparison."""


class Tagger(Protocol):
    """Assigns one label of a closed taxonomy."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels it chooses from."""

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        """The instructions whose labels it has to learn from; none for a tagger that has nothing to learn."""

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Instruction id and the label to learn from, or the failure to get one."""

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        """Learn from labels; None for a tagger that has nothing to learn."""

    def tag(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Instruction id and label, or the failure to find one."""


class Trainer(Protocol):
    """Turns examples into the next checkpoint."""

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train, or finish a training that was cut short; `job.out` appears only when complete."""


class Benchmark(Protocol):
    """A held-out set with its way of grading."""

    @property
    def name(self) -> str:
        """E.g. "in-distribution"."""

    def prompts(self) -> Sequence[Prompt]:
        """The same prompts in every round."""

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterable[tuple[str, Grade | Unscored]]:
        """Instruction id and grade of each answer, or why there is none."""


class Watch(Protocol):
    """Who is told how far a stage is, and who may ask it to stop."""

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """A stage of round `number` begins; `done` of its `total` items are on disk already."""

    def advance(self, items: int = 1) -> None:
        """So many more items are finished and on disk."""

    def finish(self) -> None:
        """The stage is complete."""

    def note(self, text: str) -> None:
        """A fact worth a line, for example a shortfall."""

    def measure(self, **figures: float) -> None:
        """How a stage is doing while it works: `loss`, `tokens_per_second`, `seconds_left` and the like, by name."""

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""

    def check(self) -> None:
        """Raise `Interrupted` if the user asked to stop."""


class Calls(Protocol):
    """Whatever speaks to paid models on behalf of the roles."""

    def ready(self) -> None:
        """See that everything needed to call is there, without calling."""

    def open(self, folder: Path, run: str, watch: Watch) -> None:
        """A session begins: replies are kept for this run, and the watch may stop it."""

    def enter(self, number: int, stage: str) -> None:
        """From now on calls are made for this round and stage."""

    def meter(self) -> str:
        """What was spent so far, in a few words; empty where nothing is."""

    def spent(self) -> Sequence[Spending]:
        """What the run has paid so far, earlier sessions included."""

    def close(self) -> None:
        """The session ends."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Everyone who takes part in a run.

    Attributes:
        estimator: measures difficulty; None leaves it to student and judge (MFD).
        compared: estimators measured besides, to see how far they agree.
        calls: None where no role calls a model over the network.
        resources: roles that hold something, each once; they rest while the student is trained.
        inputs: digest of every prompt and file that the run depends on, by name.
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
