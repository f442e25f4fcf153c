"""The gym as teacher, judge and benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice

from tapir.config.evaluation import GymEvaluationConfig
from tapir.domain.completion import Completion, Usage
from tapir.domain.errors import GymError
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import LOWEST_SCORE, RANGE, Judgement, Unscored, Verdict
from tapir.domain.roles import Comparison, ExpandRequest, PlainRole, RefineRequest, Reply
from tapir.domain.task import TaskTag
from tapir.gym.corpus import corpus_skills
from tapir.gym.skills import HARDER_LEVEL, TRAIN_LEVELS, UNSEEN
from tapir.gym.steps import worked_answer
from tapir.gym.world import GymItem, from_address, score, stream
from tapir.models.context import BuildContext

_SUCCESS = 0.99


@dataclass(frozen=True)
class GymBenchmark:
    """`per_task` reserved prompts for each skill, spread evenly over `levels`; each `sample` is another draw."""

    name: str
    skills: tuple[str, ...]
    levels: tuple[int, ...]
    per_task: int
    sample: int = 0

    @staticmethod
    def build(section: GymEvaluationConfig, context: BuildContext) -> list[GymBenchmark]:
        """Return the benchmarks of a run: for the skills of its corpus."""
        return benchmarks(
            corpus_skills(context.recipe),
            per_task=section.per_task,
            harder=section.harder_per_task,
            unseen=section.unseen_per_task,
            sample=section.sample,
        )

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts; they do not depend on the run's seed."""
        return self._prompts

    @cached_property
    def _prompts(self) -> list[Prompt]:
        prompts: dict[str, Prompt] = {}
        key = f"evaluation/{self.sample}" if self.sample else "evaluation"
        for skill in self.skills:
            share, rest = divmod(self.per_task, len(self.levels))
            for turn, level in enumerate(self.levels):
                items = stream(skill, level, key=key, reserved=True)
                fresh = (item for item in items if item.question not in prompts)
                for item in islice(fresh, share + (turn < rest)):
                    origin = Origin("evaluation", source=item.address)
                    prompts[item.question] = Prompt(Instruction.of(item.question, origin), skill, item.answer)
        return list(prompts.values())

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade]]:
        """Yield the library's score, 0 to 1; a success is right but for rounding."""
        for prompt, answer in answers:
            quality = score(from_address(prompt.instruction.origin.source), answer)
            yield prompt.instruction.id, Grade(quality, quality >= _SUCCESS)


def benchmarks(
    skills: Sequence[str], *, per_task: int, harder: int, unseen: int, sample: int = 0
) -> list[GymBenchmark]:
    """Return the held-out sets: in-distribution, one level harder, unseen skills; a size of 0 leaves a set out.

    Sizes are numbers of prompts for each skill. `sample` is the index of the prompt sample: use another for tuning
    than for reporting.
    """
    wanted = (
        GymBenchmark("in-distribution", tuple(skills), TRAIN_LEVELS, per_task, sample),
        GymBenchmark("harder", tuple(skills), (HARDER_LEVEL,), harder, sample),
        GymBenchmark("unseen", tuple(skill.name for skill in UNSEEN), (1, 2), unseen, sample),
    )
    return [benchmark for benchmark in wanted if benchmark.per_task]


class GymTeacher(PlainRole):
    """Teacher with exact answers; every text follows from an item's address."""

    name = "gym-teacher"

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        """Yield the exact answers."""
        for instruction in instructions:
            yield instruction.id, self._completion(from_address(instruction.origin.source).answer)

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction]]:
        """Yield fresh instances of each seed's skill and level; never a text reserved for evaluation."""
        for request in requests:
            for instruction in self._fresh(request):
                yield request.task, instruction

    def _fresh(self, request: ExpandRequest) -> Iterator[Instruction]:
        streams = dict[tuple[str, int], Iterator[GymItem]]()
        for seed in islice(cycle(request.seeds), request.wanted):
            parent = from_address(seed.instruction.origin.source)
            kind = (parent.skill, parent.level)
            items = streams.setdefault(kind, stream(*kind, key=f"{request.seed}/expand", reserved=False))
            for item in islice(items, 1):
                origin = Origin("expansion", parents=(seed.instruction.id,), source=item.address)
                yield Instruction.of(item.question, origin)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        """Yield the answers with worked steps where steps help a small model."""
        for request in requests:
            instruction = request.pair.instruction
            yield instruction.id, self._completion(worked_answer(from_address(instruction.origin.source)))

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag]]:
        """Yield the true skills; the tagger learns from a sample of these."""
        for instruction in instructions:
            yield instruction.id, TaskTag(from_address(instruction.origin.source).skill)

    def _completion(self, text: str) -> Completion:
        return Completion(text, "stop", Usage(), self.name)


class GymJudge(PlainRole):
    """Judge that scores each answer by the library's scorer; there is no display order."""

    name = "gym-verifier"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """Yield 1 + 9 x the scorer's quality; an unreadable answer gets 1, a scorer that fails gives no score."""
        for comparison in comparisons:
            item = from_address(comparison.instruction.origin.source)
            try:
                texts = comparison.student, comparison.reference
                qualities = (min(max(score(item, text), 0.0), 1.0) for text in texts)
                student, reference = (LOWEST_SCORE + RANGE * quality for quality in qualities)
            except GymError as error:
                yield comparison.instruction.id, Unscored("the scorer failed", str(error))
            else:
                yield comparison.instruction.id, (Judgement(student, reference, "alone", "", self.name),)
