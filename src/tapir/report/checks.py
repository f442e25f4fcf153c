"""Quick checks: what the method claims of its rounds, and whether it holds in this run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir.domain.round import Evaluation
from tapir.domain.schedule import Schedule
from tapir.domain.task import TaskDistribution
from tapir.errors import RecipeError
from tapir.recipe_file import parse
from tapir.report.rounds import RoundSummary
from tapir.report.training import Training, written

_ENOUGH = 8  # log points of a training; fewer are too noisy to compare its start with its end


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it holds here, and the figures."""

    claim: str
    holds: bool
    figures: str


def checks(
    recipe: Mapping[str, object],
    rounds: Sequence[RoundSummary],
    evaluations: Sequence[Evaluation],
    corpus_shares: Mapping[str, float],
    trainings: Sequence[Training] = (),
) -> list[Check]:
    """The checks there are figures for, as far as the run has come."""
    alpha = schedule(recipe)
    found = []
    if rounds and alpha:
        found.append(_follows(alpha, rounds))
        planned = alpha.shares[: len(rounds)]
        if len(rounds) > 1 and _rises(planned):
            found.append(_harder(rounds))
    if rounds:
        found += [_every_task(rounds), _closer(rounds, corpus_shares)]
    if trainings and all(len(one.loss) >= _ENOUGH for one in trainings):
        found.append(_learns(trainings))
    first = [one for one in evaluations if one.benchmark == evaluations[0].benchmark]
    if len(first) > 1:
        means = [one.overall.value for one in first]
        gains = ", ".join(f"{100 * (after - before):+.1f}" for before, after in itertools.pairwise(means))
        found.append(Check("Every round gains success (percentage points)", _rises(means), gains))
    return found


def schedule(recipe: Mapping[str, object]) -> Schedule | None:
    """α by round as the recipe has it; None where this version cannot read the recipe."""
    try:
        return parse(recipe).curriculum.alpha()
    except RecipeError:
        return None


def _follows(alpha: Schedule, rounds: Sequence[RoundSummary]) -> Check:
    """Whether every round's hard examples are within one example of α·n."""
    planned = [alpha.share(one.number) for one in rounds]
    off = [abs(one.hard_share - share) * one.size for one, share in zip(rounds, planned, strict=True)]
    figures = " -> ".join(
        f"{100 * one.hard_share:.1f} % ({100 * share:.1f} %)" for one, share in zip(rounds, planned, strict=True)
    )
    within_one = 1 + 1e-9  # shares are floats
    return Check("The share of hard examples follows the schedule (planned)", max(off) <= within_one, figures)


def _harder(rounds: Sequence[RoundSummary]) -> Check:
    """What a rising α is for; a schedule that does not rise does not claim it."""
    gaps = [one.difficulty for one in rounds if one.difficulty is not None]
    figures = " -> ".join(f"{gap:.2f}" for gap in gaps) or "nothing was scored"
    holds = len(gaps) == len(rounds) and _rises(gaps)
    return Check("The mean difficulty (MFD) of the examples rises round by round", holds, figures)


def _every_task(rounds: Sequence[RoundSummary]) -> Check:
    low = [one.minimum for one in rounds]
    return Check("Every task keeps a share in every round (smallest share)", min(low) > 0, _percent(low))


def _closer(rounds: Sequence[RoundSummary], corpus_shares: Mapping[str, float]) -> Check:
    before = TaskDistribution(rounds[0].target).distance(corpus_shares)
    distance = [one.distance for one in rounds]
    claim = "Every round is closer to the target than the corpus (total variation distance)"
    return Check(claim, max(distance) < before, _percent([before, *distance]))


def _learns(trainings: Sequence[Training]) -> Check:
    ends = [one.ends for one in trainings if one.ends]
    figures = ", ".join(f"{written(start)} -> {written(end)}" for start, end in ends)
    holds = all(end < start for start, end in ends)
    return Check("The loss falls in every training (mean of its first and last quarter)", holds, figures)


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in itertools.pairwise(values))


def _percent(values: Sequence[float]) -> str:
    return " -> ".join(f"{100 * value:.1f} %" for value in values)
