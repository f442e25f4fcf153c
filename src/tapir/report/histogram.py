"""The figures of difficulty, counted into bars that fit their scale."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tapir.report.scale import Scale

_BARS = 24  # about so many, where the scale does not say how wide a bar is
_TAIL = 0.995  # what lies beyond stands in the last bar if it would squeeze all others
_SQUEEZE = 1.5  # times as wide as without it
_DIGITS = 9  # 0.75 is 3 x 0.25, not a little more


@dataclass(frozen=True, slots=True)
class Cut:
    """What parts the figures: hard above `delta`, hopeless above `most`, withheld below 0 where that means anything."""

    delta: float
    most: float = math.inf

    def part(self, gap: float) -> str:
        """Where a figure belongs."""
        if gap > self.most:
            return "hopeless"
        if gap < 0:
            return "withheld"
        return "hard" if gap > self.delta else "easy"


@dataclass(frozen=True, slots=True)
class Bar:
    """Figures above `low` up to `high`; those of the last bar reach up to `last`."""

    low: float
    high: float
    last: float
    part: str
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars between two ends.

    Attributes:
        beyond: figures in the last bar that lie beyond its upper edge.
        largest: of all.
    """

    bars: Sequence[Bar]
    low: float
    high: float
    beyond: int
    largest: float


def histogram(gaps: Sequence[float], scale: Scale, cut: Cut) -> Histogram:
    """Each bar ends at its upper edge, so that a threshold upon an edge parts the bars.

    Args:
        gaps: finite figures, at least one.
        scale: says how wide a bar is, or leaves it to the figures.
        cut: what parts them; the threshold is always inside.
    """
    smallest, largest = min(gaps), max(gaps)
    top = largest if scale.width else _top(gaps, cut.delta)
    width = scale.width or _nice((top - min(smallest, cut.delta)) / _BARS, whole=scale.kind == "length")
    last = _edge(top, width)
    counts: Counter[tuple[int, str]] = Counter()
    reach: defaultdict[int, float] = defaultdict(lambda: -math.inf)
    for gap in gaps:
        edge = min(_edge(gap, width), last)
        counts[edge, cut.part(gap)] += 1
        reach[edge] = max(reach[edge], gap)
    bars = [
        Bar((edge - 1) * width, edge * width, max(edge * width, reach[edge]), part, count)
        for (edge, part), count in sorted(counts.items())
    ]
    low = min(bars[0].low, math.floor(round(cut.delta / width, _DIGITS)) * width)
    high = max(last * width, cut.delta)
    return Histogram(bars, low, high, sum(gap > last * width * (1 + 1e-9) for gap in gaps), largest)


def _edge(value: float, width: float) -> int:
    """Number of the bar that ends at or next above a value."""
    return math.ceil(round(value / width, _DIGITS))


def _top(gaps: Sequence[float], delta: float) -> float:
    """Where the last bar ends: at the largest figure, unless a few would squeeze all others."""
    most = max(float(np.quantile(gaps, _TAIL)), delta)
    span = most - min(gaps)
    return most if span > 0 and max(gaps) - min(gaps) > _SQUEEZE * span else max(gaps)


def _nice(width: float, *, whole: bool) -> float:
    """The next width above that people count in: 1, 2 or 5 times a power of ten."""
    least = 1.0 if whole else 0.0
    if width <= least:
        return 1.0 if whole else 0.01  # all figures are the same
    power = 10.0 ** math.floor(math.log10(width))
    return max(least, next(step * power for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9)))
