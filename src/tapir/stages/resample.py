"""Resample: how many hard examples of each task the round needs by P(t), and what the pool lacks."""

from __future__ import annotations

from dataclasses import dataclass

from tapir.domain.mixture import Draw, Pool, resample, resample_as_found
from tapir.domain.randomness import seed_for
from tapir.domain.round import RoundPlan
from tapir.store.keep import Place


@dataclass(frozen=True, slots=True)
class Resample:
    """Exact counts by largest remainder; a shortfall is a value, never a repetition."""

    def run(self, place: Place, plan: RoundPlan, hard: Pool, easy: Pool) -> Draw:
        """What is wanted and what the pool gives, by task."""
        seed = seed_for(place.seed, "mix", plan.number)
        if not plan.balanced:
            return resample_as_found(hard, easy, plan.size, plan.hard_share, seed)
        return resample(hard, easy, plan.size, plan.hard_share, plan.target, seed)
