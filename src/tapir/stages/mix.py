"""Mixture of a round: which examples, and the composed training set."""

from __future__ import annotations

from collections.abc import Mapping

from tapir.data.run.rows import MixtureRow
from tapir.domain.instruction import Pair
from tapir.domain.mixture import Mixture, Pool, mix
from tapir.domain.randomness import seed_for
from tapir.domain.round import RoundPlan
from tapir.stages.base import StageContext


def mix_round(context: StageContext, plan: RoundPlan, hard: Pool, easy: Pool) -> Mixture:
    """Draw the round's examples: return ids by pool."""
    seed = seed_for(context.seed, "mix", plan.number)
    mixture = mix(hard, easy, plan.size, plan.hard_share, plan.target if plan.balanced else None, seed)
    if mixture.size < plan.size:
        context.progress.note(f"the pools have only {mixture.size} of the {plan.size} examples of this round")
    return mixture


def compose(
    context: StageContext,
    mixture: Mixture,
    pairs: Mapping[str, Pair],
    task_of: Mapping[str, str],
    refined: Mapping[str, str],
    *,
    hard: str = "hard",
    thoughts: bool = False,
) -> list[MixtureRow]:
    """Write out the mixture with its texts: y' where there is one and y elsewhere, ordered by id.

    The column `pool` calls examples of the hard pool `hard`; with `thoughts` the author's thought is learnt before an
    answer that is its own.
    """
    pool_of = dict.fromkeys(mixture.hard, hard) | dict.fromkeys(mixture.easy, "easy")

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
            thought=pair.response.thought if thoughts and name not in refined else "",
        )

    return context.store.once(context.path("mixture"), MixtureRow, lambda: map(row, sorted(pool_of)))
