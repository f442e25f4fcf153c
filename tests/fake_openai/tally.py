"""What the fake server remembers of the requests it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Stats:
    """The counts since the start or the last reset; chat completions only, batch lines among them where it says so.

    Attributes:
        requests: chat completions that arrived over HTTP, whatever became of them.
        batch_lines: lines of batches that were worked on.
        by_status: answers by HTTP status, batch lines included; "left" are requests whose client went away first.
        faults: faults by kind ("error", "hang", "cut", "nonsense", "length"), batch lines included.
        in_flight: requests that wait for their answer now.
        in_flight_max: the most there were at once.
        distinct: different requests, by the digest of their JSON.
        repeats: requests that had been answered with a complete 200 before: what a resumed run would pay twice.
        prompt_tokens: metered on complete answers with status 200 only, as is the next.
        completion_tokens: thoughts included.
        first_request: seconds since the epoch, 0 before the first one.
        last_request: the same for the last one.
        connections: connections opened.
    """

    requests: int
    batch_lines: int
    by_status: Mapping[str, int]
    faults: Mapping[str, int]
    in_flight: int
    in_flight_max: int
    distinct: int
    repeats: int
    prompt_tokens: int
    completion_tokens: int
    first_request: float
    last_request: float
    connections: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Stats:
        """From the JSON of `GET /control`."""
        return cls(**{one.name: found[one.name] for one in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """For `GET /control`."""
        return asdict(self)


class Tally:
    """The running counts behind `Stats`."""

    def __init__(self) -> None:
        """Nothing has been counted yet."""
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forgets all but the requests in flight."""
        self.requests = 0
        self.batch_lines = 0
        self.connections = 0
        self.by_status: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.in_flight_max = self.in_flight
        self.repeats = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.first_request = 0.0
        self.last_request = 0.0
        self._seen: set[bytes] = set()
        self._attempts: Counter[bytes] = Counter()
        self._answered: set[bytes] = set()

    def arrived(self, now: float) -> None:
        """A chat completion came in over HTTP."""
        self.requests += 1
        self.first_request = self.first_request or now
        self.last_request = now
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def recognised(self, digest: bytes) -> None:
        """The request's JSON is known by now."""
        self._seen.add(digest)
        self.repeats += digest in self._answered

    def attempt(self, digest: bytes) -> int:
        """The number of this attempt, from 1."""
        self._attempts[digest] += 1
        return self._attempts[digest]

    def answered(self, digest: bytes, prompt_tokens: int, completion_tokens: int) -> None:
        """A complete 200 went out."""
        self._answered.add(digest)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def stats(self) -> Stats:
        """The counts as they stand."""
        return Stats(
            requests=self.requests,
            batch_lines=self.batch_lines,
            by_status=dict(self.by_status),
            faults=dict(self.faults),
            in_flight=self.in_flight,
            in_flight_max=self.in_flight_max,
            distinct=len(self._seen),
            repeats=self.repeats,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            first_request=self.first_request,
            last_request=self.last_request,
            connections=self.connections,
        )
