"""Mix: round(α·n) examples from the hard pool, the rest from the easy pool, both by P(t)."""

from __future__ import annotations

from dataclasses import dataclass

from tapir.domain.mixture import Mixture, Pool, mix, mix_as_found
from tapir.domain.randomness import seed_for
from tapir.domain.round import RoundPlan
from tapir.store.keep import Place


@dataclass(frozen=True, slots=True)
class Mix:
    """Compose the round; the seed is that of `resample`, so what was drawn there is drawn here."""

    def run(self, place: Place, plan: RoundPlan, hard: Pool, easy: Pool) -> Mixture:
        """Ids by pool, with what was wanted and what was got."""
        seed = seed_for(place.seed, "mix", plan.number)
        if plan.balanced:
            mixture = mix(hard, easy, plan.size, plan.hard_share, plan.target, seed)
        else:
            mixture = mix_as_found(hard, easy, plan.size, plan.hard_share, seed)
        if mixture.shortfall:
            place.watch.note(f"the pools hold {mixture.size} of the {plan.size} examples wanted")
        return mixture
