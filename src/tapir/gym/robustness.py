"""Every held-out set of the gym for one measurement, the perturbed ones beside their unperturbed twin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tapir.gym.benchmarks import GymBenchmark, benchmarks
from tapir.gym.perturb import KINDS, PerturbedBenchmark
from tapir.gym.skills import TRAIN_LEVELS
from tapir.roles import Benchmark
from tapir.store.rows import EvaluationRow

PLAIN = "plain"


@dataclass(frozen=True)
class GymSuite:
    """The benchmarks of one measurement.

    Attributes:
        skills: that the student is trained on.
        per_task: in-distribution prompts for each of them; 0 leaves a set out.
        harder: prompts one level harder, for each of them.
        unseen: prompts for each skill that is never trained on.
        perturbed: prompts for each skill that are perturbed in every way, and asked unperturbed too.
        sample: which draw of prompts.
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
        """One benchmark for each kind of perturbation, all of the same prompts."""
        if not self.perturbed:
            return []
        return [PerturbedBenchmark(self._plain, kind, self.seed) for kind in KINDS]

    @cached_property
    def benchmarks(self) -> Sequence[Benchmark]:
        """All of them, in the order of the report."""
        usual = benchmarks(
            self.skills, per_task=self.per_task, harder=self.harder, unseen=self.unseen, sample=self.sample
        )
        return [*usual, *([self._plain] if self.perturbed else []), *self.changed]

    @property
    def digest(self) -> str:
        """Of every prompt, so that results of other prompts are never taken for these."""
        names = [one.instruction.id for benchmark in self.benchmarks for one in benchmark.prompts()]
        return hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()

    @cached_property
    def _plain(self) -> GymBenchmark:
        return GymBenchmark(PLAIN, self.skills, TRAIN_LEVELS, self.perturbed, self.sample)


def beside_plain(
    changed: PerturbedBenchmark, rows: Iterable[EvaluationRow]
) -> tuple[list[EvaluationRow], list[EvaluationRow]]:
    """Answers to perturbed prompts and to their twins, under the same benchmark and the same ids.

    Args:
        changed: which perturbation.
        rows: of the whole measurement.

    Returns:
        Rows of the perturbed prompts, and rows of those unperturbed prompts that have a perturbed twin; both have the
        name of the perturbed benchmark and the ids of the unperturbed prompts.
    """
    twins = changed.twins
    kept = set(twins.values())
    said: list[EvaluationRow] = []
    plain: list[EvaluationRow] = []
    for row in rows:
        if row.benchmark == changed.name:
            said.append(replace(row, id=twins[row.id]))
        elif row.benchmark == PLAIN and row.id in kept:
            plain.append(replace(row, benchmark=changed.name))
    return said, plain
