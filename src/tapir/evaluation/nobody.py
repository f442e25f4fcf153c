"""The judge of a recipe that has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tapir.domain.judgement import Unscored, Verdict
from tapir.roles import Comparison


class Nobody:
    """Scores nothing; a recipe without a judge asks for nothing that needs one."""

    name = "nobody"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """No comparison has a score."""
        for one in comparisons:
            yield one.instruction.id, Unscored("the recipe names no judge")
