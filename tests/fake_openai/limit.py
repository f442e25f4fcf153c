"""The rate limit of the fake server."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


class Window:
    """Counts requests, by fixed windows (the first begins with the first request) or by a sliding one."""

    def __init__(self) -> None:
        """Nothing has been counted yet."""
        self._times: deque[float] = deque()
        self._began = -math.inf
        self._count = 0

    def wait(self, now: float, limit: int, window: float, *, sliding: bool) -> float:
        """Counts one request at the time `now`; the seconds it must wait, 0 if it may pass. Refused ones are free."""
        if sliding:
            while self._times and self._times[0] <= now - window:
                self._times.popleft()
            if len(self._times) >= limit:
                return self._times[0] + window - now
            self._times.append(now)
            return 0.0
        if now >= self._began + window:
            passed = (now - self._began) // window if math.isfinite(self._began) else 0.0
            self._began = self._began + passed * window if passed else now
            self._count = 0
        if self._count >= limit:
            return self._began + window - now
        self._count += 1
        return 0.0


def retry_after(seconds: float, style: str) -> str:
    """The header line for a wait, ending in CRLF, or nothing for the style "none"."""
    if style == "none":
        return ""
    if style == "integer":
        value = str(math.ceil(seconds))
    elif style == "date":
        # A date has whole seconds: the next one is the first that is surely late enough.
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        value = format_datetime((moment + timedelta(seconds=1)).replace(microsecond=0), usegmt=True)
    else:
        value = f"{seconds:.3f}"
    return f"Retry-After: {value}\r\n"
