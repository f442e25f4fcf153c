"""Checks of what the method claims about its rounds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir.config.curriculum import CurriculumConfig
from tapir.domain.difficulty import Scale
from tapir.domain.task import TaskDistribution
from tapir.evaluation.gain import Gain
from tapir.models.estimators import MFD
from tapir.report.rounds import RoundSummary
from tapir.report.training import Training, format_loss

_ENOUGH = 8  # log points of a training; fewer are too noisy to compare its start with its end


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it holds here (None where that cannot be told from chance), and the numbers."""

    claim: str
    holds: bool | None
    figures: str


def checks(
    plan: CurriculumConfig,
    rounds: Sequence[RoundSummary],
    gains: Sequence[Gain | None],
    corpus_shares: Mapping[str, float],
    trainings: Sequence[Training] = (),
    scale: Scale | None = MFD,
) -> list[Check]:
    """Return the checks that the run has data for; what a recipe does not claim is not checked.

    `gains` lead from each evaluation of the first benchmark to the next. Without a `scale` of difficulty there is one
    pool and no hard part.
    """
    result = list(_hardness(plan, rounds, scale)) if rounds and scale else []
    if rounds:
        low = [each.minimum for each in rounds]
        result.append(Check("Every task keeps a share in every round (smallest share)", min(low) > 0, _percent(low)))
    if rounds and plan.target.shares != "pool":
        result.append(_closer(rounds, corpus_shares))
    if trainings and all(len(training.loss) >= _ENOUGH for training in trainings):
        ends = [training.ends for training in trainings if training.ends]
        figures = ", ".join(f"{format_loss(start)} -> {format_loss(end)}" for start, end in ends)
        claim = "The loss falls in every training (mean of its first and last quarter)"
        result.append(Check(claim, all(end < start for start, end in ends), figures))
    if gains:
        certain = [gain.points for gain in gains if gain and gain.certain]
        figures = "; ".join(str(gain) if gain else "no prompt is graded in both" for gain in gains)
        rises = None if len(certain) < len(gains) else True
        if any(points < 0 for points in certain):
            rises = False
        result.append(Check("Every round gains success (percentage points, 95 % interval)", rises, figures))
    return result


def _hardness(plan: CurriculumConfig, rounds: Sequence[RoundSummary], scale: Scale) -> Iterator[Check]:
    """Check whether the hard shares are those planned, and whether the examples get harder where they should.

    A hard share that follows the student's competence is planned round by round: it is read from what the round
    requested from the hard pool. What is hard is measured anew each time: only a planned α that rises claims a rise.
    """
    alpha = plan.alpha()
    what, planned = "schedule", [alpha.share(each.number) for each in rounds]
    if plan.schedule.kind == "competence":
        what, planned = "student's competence", [each.wanted / plan.size_of(each.number) for each in rounds]
    yield _follows(f"The share of hard examples follows the {what} (planned)", rounds, planned)
    if len(rounds) > 1 and _rises(alpha.shares[: len(rounds)]):
        gaps = [each.difficulty for each in rounds if each.difficulty is not None]
        figures = " -> ".join(scale.format_mean(gap) for gap in gaps) or "nothing was scored"
        holds = len(gaps) == len(rounds) and _rises(gaps)
        yield Check(f"The mean difficulty ({scale.name}) of the examples rises round by round", holds, figures)


def _follows(claim: str, rounds: Sequence[RoundSummary], planned: Sequence[float]) -> Check:
    """Check whether every round's hard examples are within one example of α·n."""
    achieved = [each.hard_share or 0.0 for each in rounds]
    off = [abs(got - share) * each.size for each, got, share in zip(rounds, achieved, planned, strict=True)]
    figures = " -> ".join(
        f"{100 * got:.1f} % ({100 * share:.1f} %)" for got, share in zip(achieved, planned, strict=True)
    )
    within_one = 1 + 1e-9  # shares are floats
    return Check(claim, max(off) <= within_one, figures)


def _closer(rounds: Sequence[RoundSummary], corpus_shares: Mapping[str, float]) -> Check:
    """Compare each round with its own target, which may move from round to round."""
    before = [TaskDistribution(each.target).distance(corpus_shares) for each in rounds]
    after = [each.distance for each in rounds]
    claim = "Every round is closer to the target than the corpus (total variation distance)"
    holds = all(near < far for near, far in zip(after, before, strict=True))
    if len(set(before)) == 1:
        return Check(claim, holds, _percent([before[0], *after]))
    figures = [f"{100 * near:.1f} % (corpus {100 * far:.1f} %)" for near, far in zip(after, before, strict=True)]
    return Check(claim, holds, " -> ".join(figures))


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in itertools.pairwise(values))


def _percent(values: Sequence[float]) -> str:
    return " -> ".join(f"{100 * value:.1f} %" for value in values)
