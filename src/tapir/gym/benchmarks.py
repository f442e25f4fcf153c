"""Held-out sets of the gym; every text is one reserved for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from tapir.domain.instruction import Instruction, Origin
from tapir.gym.skills import HARDER_LEVEL, TRAIN_LEVELS, UNSEEN
from tapir.gym.world import from_address, score, stream
from tapir.roles import Grade, Prompt

_KEY = "evaluation"
_SUCCESS = 0.99


@dataclass(frozen=True)
class GymBenchmark:
    """`per_task` prompts for each skill, spread evenly over `levels`; each `sample` is a draw of its own."""

    name: str
    skills: tuple[str, ...]
    levels: tuple[int, ...]
    per_task: int
    sample: int = 0

    def prompts(self) -> Sequence[Prompt]:
        """The same prompts for every run and round: they do not depend on the run's seed."""
        return self._prompts

    @property
    def _key(self) -> str:
        return f"{_KEY}/{self.sample}" if self.sample else _KEY

    @cached_property
    def _prompts(self) -> list[Prompt]:
        found: dict[str, Prompt] = {}
        for skill in self.skills:
            share, rest = divmod(self.per_task, len(self.levels))
            for turn, level in enumerate(self.levels):
                fresh = (one for one in stream(skill, level, key=self._key, reserved=True) if one.question not in found)
                for one in islice(fresh, share + (turn < rest)):
                    origin = Origin("evaluation", source=one.address)
                    found[one.question] = Prompt(Instruction.of(one.question, origin), skill, one.answer)
        return list(found.values())

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade]]:
        """The library's scorer, 0 to 1; a success is right but for rounding."""
        for prompt, answer in answers:
            found = score(from_address(prompt.instruction.origin.source), answer)
            yield prompt.instruction.id, Grade(found, found >= _SUCCESS)


def benchmarks(
    skills: Sequence[str], *, per_task: int, harder: int, unseen: int, sample: int = 0
) -> list[GymBenchmark]:
    """In-distribution, one level harder, and skills never trained on; a size of 0 leaves a set out.

    Args:
        skills: those of the corpus.
        per_task: in-distribution prompts for each skill.
        harder: prompts one level harder, for each skill.
        unseen: prompts for each skill that is never trained on.
        sample: which draw of prompts; settings that were chosen on one are measured on another.
    """
    wanted = (
        GymBenchmark("in-distribution", tuple(skills), TRAIN_LEVELS, per_task, sample),
        GymBenchmark("harder", tuple(skills), (HARDER_LEVEL,), harder, sample),
        GymBenchmark("unseen", tuple(skill.name for skill in UNSEEN), (1, 2), unseen, sample),
    )
    return [benchmark for benchmark in wanted if benchmark.per_task]
