"""Mixture of a round: how many examples of each task, which ones, and the composed training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tapir.data.run.rows import MixtureRow
from tapir.domain.instruction import Pair
from tapir.domain.mixture import Draw, Mixture, Pool, mix, resample
from tapir.domain.randomness import seed_for
from tapir.domain.round import RoundPlan
from tapir.stages.base import StageContext


@dataclass(frozen=True, slots=True)
class Resample:
    """Count what the hard pool must give, exactly; a shortfall is a value, never a repetition."""

    def run(self, context: StageContext, plan: RoundPlan, hard: Pool, easy: Pool) -> Draw:
        """Return what is wanted and what the pool has, by task."""
        seed = seed_for(context.seed, "mix", plan.number)
        return resample(hard, easy, plan.size, plan.hard_share, plan.target if plan.balanced else None, seed)


@dataclass(frozen=True, slots=True)
class Mix:
    """Draw the round's examples; the seed is that of `Resample`, so the same items are drawn."""

    def run(self, context: StageContext, plan: RoundPlan, hard: Pool, easy: Pool) -> Mixture:
        """Return ids by pool, with the wanted and the achieved counts."""
        seed = seed_for(context.seed, "mix", plan.number)
        mixture = mix(hard, easy, plan.size, plan.hard_share, plan.target if plan.balanced else None, seed)
        if mixture.shortfall:
            context.progress.note(f"the pools have only {mixture.size} of the {plan.size} examples of this round")
        return mixture


@dataclass(frozen=True, slots=True)
class Compose:
    """Write out the mixture with its texts."""

    hard: str = "hard"  # what the column `pool` calls examples of the hard pool
    thoughts: bool = False  # whether the author's thought is learnt before an answer that is its own

    def run(
        self,
        context: StageContext,
        mixture: Mixture,
        pairs: Mapping[str, Pair],
        task_of: Mapping[str, str],
        refined: Mapping[str, str],
    ) -> list[MixtureRow]:
        """Return one row for each example, with y' where there is one and y elsewhere, ordered by id."""
        pool_of = dict.fromkeys(mixture.hard, self.hard) | dict.fromkeys(mixture.easy, "easy")

        def row(name: str) -> MixtureRow:
            pair = pairs[name]
            return MixtureRow(
                id=name,
                instruction=pair.instruction.text,
                response=refined.get(name, pair.response.text),
                task=task_of[name],
                pool=pool_of[name],
                origin=pair.instruction.origin.kind,
                refined=name in refined,
                context=pair.instruction.context,
                thought=pair.response.thought if self.thoughts and name not in refined else "",
            )

        return context.store.once(context.path("mixture"), MixtureRow, lambda: map(row, sorted(pool_of)))
