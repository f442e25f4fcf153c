"""Robustness: all held-out sets of the gym, with perturbed prompts and their unperturbed twins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tapir.data.run.rows import EvaluationRow
from tapir.domain.roles import Benchmark
from tapir.gym.perturb import KINDS, PerturbedBenchmark
from tapir.gym.roles import GymBenchmark, benchmarks
from tapir.gym.skills import TRAIN_LEVELS

PLAIN = "plain"


@dataclass(frozen=True)
class GymSuite:
    """The benchmarks of one evaluation.

    Attributes:
        per_task: in-distribution prompts for each skill; 0 leaves a set out.
        harder: prompts one level harder, for each of them.
        unseen: prompts for each skill that is never trained on.
        perturbed: prompts for each skill that are perturbed in every way, and asked unperturbed too.
        seed: of the perturbations.
    """

    skills: tuple[str, ...]
    per_task: int
    harder: int
    unseen: int
    perturbed: int
    sample: int
    seed: int

    @cached_property
    def changed(self) -> Sequence[PerturbedBenchmark]:
        """One benchmark for each kind of perturbation, of the same prompts."""
        if not self.perturbed:
            return []
        return [PerturbedBenchmark(self._plain, kind, self.seed) for kind in KINDS]

    @cached_property
    def benchmarks(self) -> Sequence[Benchmark]:
        """All benchmarks, in the order of the report."""
        usual = benchmarks(
            self.skills, per_task=self.per_task, harder=self.harder, unseen=self.unseen, sample=self.sample
        )
        return [*usual, *([self._plain] if self.perturbed else []), *self.changed]

    @property
    def digest(self) -> str:
        """Digest of every prompt, so that results on other prompts are never taken for these."""
        names = [prompt.instruction.id for benchmark in self.benchmarks for prompt in benchmark.prompts()]
        return hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()

    @cached_property
    def _plain(self) -> GymBenchmark:
        return GymBenchmark(PLAIN, self.skills, TRAIN_LEVELS, self.perturbed, self.sample)


def paired_with_plain(
    changed: PerturbedBenchmark, rows: Iterable[EvaluationRow]
) -> tuple[list[EvaluationRow], list[EvaluationRow]]:
    """Pair answers to perturbed prompts with those to their twins.

    Returns:
        Rows of the perturbed prompts, and rows of those unperturbed prompts that have a perturbed twin; both have the
        name of the perturbed benchmark and the ids of the unperturbed prompts.
    """
    twins = changed.twins
    answered, others = list(rows), {*twins.values()}
    perturbed = [replace(row, id=twins[row.id]) for row in answered if row.benchmark == changed.name]
    plain = [replace(row, benchmark=changed.name) for row in answered if row.benchmark == PLAIN and row.id in others]
    return perturbed, plain
