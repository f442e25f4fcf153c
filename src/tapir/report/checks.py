"""Quick checks: what the method claims of its rounds, and whether it holds in this run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapir.domain.round import Evaluation
from tapir.domain.task import TaskDistribution
from tapir.errors import RecipeError
from tapir.recipe_file import parse
from tapir.report.rounds import RoundSummary
from tapir.report.scale import MFD, Scale
from tapir.report.training import Training, written

_ENOUGH = 8  # log points of a training; fewer are too noisy to compare its start with its end


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it holds here, and the figures."""

    claim: str
    holds: bool
    figures: str


def checks(
    recipe: Mapping[str, Any],
    rounds: Sequence[RoundSummary],
    evaluations: Sequence[Evaluation],
    corpus_shares: Mapping[str, float],
    trainings: Sequence[Training] = (),
    scale: Scale | None = MFD,
) -> list[Check]:
    """The checks there are figures for, as far as the run has come; what a recipe does not claim is not checked.

    Args:
        recipe: resolved.
        rounds: composed so far.
        evaluations: of every benchmark.
        corpus_shares: share of each task.
        trainings: finished so far.
        scale: of the run's difficulty; None where there is one pool, of which no part is called hard.
    """
    found = list(_hardness(recipe, rounds, scale)) if rounds and scale else []
    if rounds:
        found.append(_every_task(rounds))
    if rounds and recipe["curriculum"]["target"]["shares"] != "pool":
        found.append(_closer(rounds, corpus_shares))
    if trainings and all(len(one.loss) >= _ENOUGH for one in trainings):
        found.append(_learns(trainings))
    first = [one for one in evaluations if one.benchmark == evaluations[0].benchmark]
    if len(first) > 1:
        means = [one.overall.value for one in first]
        gains = ", ".join(f"{100 * (after - before):+.1f}" for before, after in itertools.pairwise(means))
        found.append(Check("Every round gains success (percentage points)", _rises(means), gains))
    return found


def _hardness(recipe: Mapping[str, Any], rounds: Sequence[RoundSummary], scale: Scale) -> Iterator[Check]:
    """Whether the hard shares are those planned, and whether the examples get harder where they should.

    A hard share that follows the student's competence is planned round by round: it is read from what the round asked
    the hard pool for. What is hard is measured anew each time, so that no rise is claimed.
    """
    try:
        plan = parse(recipe).curriculum
    except RecipeError:
        return  # of another version
    alpha = plan.alpha()
    if plan.variant == "multi-round" and plan.schedule.kind == "competence":
        claim = "The share of hard examples follows the student's competence (planned)"
        yield _follows(claim, rounds, [one.wanted / plan.size for one in rounds])
        return
    claim = "The share of hard examples follows the schedule (planned)"
    yield _follows(claim, rounds, [alpha.share(one.number) for one in rounds])
    if len(rounds) > 1 and _rises(alpha.shares[: len(rounds)]):
        yield _harder(rounds, scale)


def _follows(claim: str, rounds: Sequence[RoundSummary], planned: Sequence[float]) -> Check:
    """Whether every round's hard examples are within one example of α·n."""
    achieved = [one.hard_share or 0.0 for one in rounds]
    off = [abs(got - share) * one.size for one, got, share in zip(rounds, achieved, planned, strict=True)]
    figures = " -> ".join(
        f"{100 * got:.1f} % ({100 * share:.1f} %)" for got, share in zip(achieved, planned, strict=True)
    )
    within_one = 1 + 1e-9  # shares are floats
    return Check(claim, max(off) <= within_one, figures)


def _harder(rounds: Sequence[RoundSummary], scale: Scale) -> Check:
    """What a rising α is for; a schedule that does not rise does not claim it."""
    gaps = [one.difficulty for one in rounds if one.difficulty is not None]
    figures = " -> ".join(scale.mean(gap) for gap in gaps) or "nothing was scored"
    holds = len(gaps) == len(rounds) and _rises(gaps)
    return Check(f"The mean difficulty ({scale.name}) of the examples rises round by round", holds, figures)


def _every_task(rounds: Sequence[RoundSummary]) -> Check:
    low = [one.minimum for one in rounds]
    return Check("Every task keeps a share in every round (smallest share)", min(low) > 0, _percent(low))


def _closer(rounds: Sequence[RoundSummary], corpus_shares: Mapping[str, float]) -> Check:
    """Against each round's own target: one that leans to where there is room moves from round to round."""
    before = [TaskDistribution(one.target).distance(corpus_shares) for one in rounds]
    after = [one.distance for one in rounds]
    claim = "Every round is closer to the target than the corpus (total variation distance)"
    holds = all(near < far for near, far in zip(after, before, strict=True))
    if len(set(before)) == 1:
        return Check(claim, holds, _percent([before[0], *after]))
    figures = [f"{100 * near:.1f} % (corpus {100 * far:.1f} %)" for near, far in zip(after, before, strict=True)]
    return Check(claim, holds, " -> ".join(figures))


def _learns(trainings: Sequence[Training]) -> Check:
    ends = [one.ends for one in trainings if one.ends]
    figures = ", ".join(f"{written(start)} -> {written(end)}" for start, end in ends)
    holds = all(end < start for start, end in ends)
    return Check("The loss falls in every training (mean of its first and last quarter)", holds, figures)


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in itertools.pairwise(values))


def _percent(values: Sequence[float]) -> str:
    return " -> ".join(f"{100 * value:.1f} %" for value in values)
