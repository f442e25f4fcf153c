"""The gym's judge: the library's own scorer on the 1 to 10 scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE, Judgement, Unscored, Verdict
from tapir.errors import GymError
from tapir.gym.world import from_address, score
from tapir.roles import Comparison


class GymJudge:
    """Scores each answer alone, so display order does not exist and cannot matter."""

    name = "gym-verifier"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """1 + 9 x the scorer's quality; an unreadable answer gets 1, a scorer that fails gives no score."""
        for comparison in comparisons:
            yield comparison.instruction.id, self._verdict(comparison)

    def _verdict(self, comparison: Comparison) -> Verdict:
        found = from_address(comparison.instruction.origin.source)
        try:
            student, reference = score(found, comparison.student), score(found, comparison.reference)
        except GymError as error:
            return Unscored("the scorer failed", str(error))
        return (Judgement(_on_scale(student), _on_scale(reference), "alone", "", self.name),)


def _on_scale(quality: float) -> float:
    return LOWEST_SCORE + (HIGHEST_SCORE - LOWEST_SCORE) * min(max(quality, 0.0), 1.0)
