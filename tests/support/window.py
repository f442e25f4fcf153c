"""Rate limit of the fake server, by windows, and how it says when to come again."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


class Window:
    """A rate limit by fixed windows (the first begins with the first request) or by a sliding one."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._began = -math.inf

    def wait(self, now: float, limit: int, window: float, *, sliding: bool) -> float:
        """Count one request; the seconds it must wait, 0 if it may pass. Refused ones are free."""
        if sliding:
            while self._times and self._times[0] <= now - window:
                self._times.popleft()
        elif now >= self._began + window:
            passed = (now - self._began) // window if math.isfinite(self._began) else 0.0
            self._began = self._began + passed * window if passed else now
            self._times.clear()
        if len(self._times) >= limit:
            return (self._times[0] if sliding else self._began) + window - now
        self._times.append(now)
        return 0.0


def retry_after(seconds: float, style: str) -> str:
    """The header for a wait; a date has whole seconds, and the next one is the first that is surely late enough."""
    if style == "date":
        moment = datetime.now(UTC) + timedelta(seconds=seconds + 1)
        return format_datetime(moment.replace(microsecond=0), usegmt=True)
    return {"none": "", "integer": str(math.ceil(seconds))}.get(style, f"{seconds:.3f}")
