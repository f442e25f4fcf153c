"""People for the roles who need no model: the whole loop in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.domain import roles as roles_module
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Order, Unscored, Verdict
from tapir.domain.progress import Progress
from tapir.domain.roles import Comparison, ExpandRequest, RefineRequest, Reply, Roles
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.domain.training import TaggerReport, TrainJob, TrainReport

LABELS = ("add", "spell", "list")


def instruction(task: str, number: int) -> Instruction:
    return Instruction.of(f"{task} number {number}", Origin("corpus", source=f"{task}/{number}"))


def completion(text: str) -> Completion:
    return Completion(text, "stop", Usage(3, 2), "fake")


@dataclass
class Teacher:
    """Writes the next numbers of a task; every fourth text is one that is known already."""

    name: str = "fake-teacher"
    asked: list[str] = field(default_factory=list)

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            yield one.id, completion("right")

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        for request in requests:
            for turn in range(request.wanted):
                self.asked.append(request.task)
                parent = request.seeds[turn % len(request.seeds)].instruction
                number = 0 if turn % 4 == 3 else request.seed % 100_000 + turn
                origin = Origin("expansion", parents=(parent.id,), source=f"{request.task}/{number}")
                yield request.task, Instruction.of(f"{request.task} number {number}", origin)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        for request in requests:
            self.asked.append(request.pair.instruction.id)
            if request.pair.instruction.text.endswith("7"):
                yield request.pair.instruction.id, Failure("timeout", "no answer")
            else:
                yield request.pair.instruction.id, completion(f"{request.pair.response.text}, in steps")


@dataclass
class Student:
    """Right on the tasks it has been trained on (named in its checkpoint), wrong elsewhere."""

    asked: list[str] = field(default_factory=list)

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        learnt = Path(checkpoint.path, "learnt").read_text().split()
        for one in instructions:
            self.asked.append(one.id)
            if one.text.endswith("13"):
                yield one.id, Failure("timeout", "no answer")
            else:
                yield one.id, completion("right" if one.text.split()[0] in learnt else "wrong")


@dataclass
class Moody(Student):
    """Never gives the same answer twice."""

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for name, _ in super().answer(checkpoint, instructions):
            yield name, completion(f"answer {len(self.asked)}")


@dataclass
class Judge:
    """10 for "right", 1 for anything else; it cannot read what ends in 11 and likes the student's 12 better."""

    name: str = "fake-judge"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for one in comparisons:
            if one.instruction.text.endswith("11"):
                yield one.instruction.id, Unscored("no score", "gibberish")
                continue
            student = 10.0 if one.student == "right" else 1.0
            reference = 1.0 if one.instruction.text.endswith("12") else 10.0
            both = [Judgement(student, reference, order, "because", self.name) for order in ORDERS]
            yield one.instruction.id, tuple(both)


ORDERS: tuple[Order, Order] = ("student-first", "reference-first")


@dataclass
class Tagger:
    """The first word is the task; it cannot tag what ends in 9."""

    taxonomy: Taxonomy = field(
        default_factory=lambda: Taxonomy("fake", "1", TaskDistribution.of(dict.fromkeys(LABELS, 1.0)))
    )

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        del instructions, seed
        return []

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        return self.tag(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        del labelled
        return None

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        for one in instructions:
            if one.text.endswith("9"):
                yield one.id, Failure("no label", "?")
            else:
                yield one.id, TaskTag(one.text.split()[0], 0.9)


def taught(tagger: roles_module.Tagger, instructions: Sequence[Instruction], seed: int = 7) -> TaggerReport | None:
    """Have a tagger labelled and fitted, as a run does."""
    sample = tagger.sample(instructions, seed)
    labels = dict(tagger.label(sample))
    return tagger.fit([(one, tag.task) for one in sample if isinstance(tag := labels[one.id], TaskTag)])


def check_tags(tagger: roles_module.Tagger, instructions: Sequence[Instruction]) -> None:
    """Each has one label of the list or a failure, whichever others it is asked about with."""
    together = dict(found := list(tagger.tag(iter(instructions))))
    assert sorted(name for name, _ in found) == sorted(one.id for one in instructions)
    for tag in together.values():
        assert tag.kind if isinstance(tag, Failure) else tag.task in tagger.taxonomy.labels and 0 <= tag.confidence <= 1
    for one in reversed(instructions[::20]):
        ((name, alone),), other = tagger.tag([one]), together[one.id]
        assert name == one.id
        if isinstance(alone, Failure) or isinstance(other, Failure):
            assert getattr(alone, "kind", None) == getattr(other, "kind", None)
        else:
            assert alone.task == other.task
            assert abs(alone.confidence - other.confidence) < 1e-5
    assert list(tagger.tag([])) == []


@dataclass
class Trainer:
    """Learns the commonest task of the examples that it does not know yet."""

    jobs: list[TrainJob] = field(default_factory=list)

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        self.jobs.append(job)
        progress.start(job.number, "train", 1)
        learnt = Path(job.base.path, "learnt").read_text().split()
        tasks = [example.prompt.split()[0] for example in job.examples]
        fresh = sorted({task for task in tasks if task not in learnt}, key=lambda task: (-tasks.count(task), task))
        job.out.mkdir(parents=True)
        (job.out / "learnt").write_text(" ".join([*learnt, *fresh[:1]]))
        progress.finish()
        return TrainReport(1, [(1, 0.5)], 10, 5)


@dataclass
class Benchmark:
    name: str = "held-out"

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(Instruction.of(f"{task} number {number}", Origin("evaluation")), task, "right")
            for task in LABELS
            for number in (1000, 1001)
        ]

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        for prompt, answer in answers:
            right = answer == prompt.expected
            yield prompt.instruction.id, Grade(float(right), right)


def roles(folder: Path, size: int = 20) -> Roles:
    """Everyone, with a base student that knows nothing and `size` pairs for each task."""
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "learnt").write_text("")
    pairs = [Pair(instruction(task, number), Response("right", "corpus")) for task in LABELS for number in range(size)]
    return Roles(
        teacher=Teacher(),
        student=Student(),
        judge=Judge(),
        tagger=Tagger(),
        trainer=Trainer(),
        benchmarks=[Benchmark()],
        base=Checkpoint(str(base), 0),
        corpus=lambda: pairs,
    )


def recipe(**curriculum: object) -> Recipe:
    """A recipe for the loop alone; the sections of the roles are not read by it."""
    return parse({"curriculum": {"size": 24, **curriculum}, "chunk": 8})
