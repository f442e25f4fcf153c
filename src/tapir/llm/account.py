"""What a run has spent and may still spend."""

from __future__ import annotations

from dataclasses import dataclass, field

from tapir.domain.completion import Usage
from tapir.llm.endpoint import Endpoint

_BYTES_PER_TOKEN = 1  # digits and rare scripts: some tokenizers make one token of every byte


@dataclass(slots=True)
class Account:
    """Money and calls of one run.

    Attributes:
        most: money that may be spent; 0 is no limit.
        spent: money spent so far, earlier sessions included.
        reserved: the most that the calls in flight can cost.
        calls: replies paid for in this session.
        reused: replies found in the ledger in this session.
    """

    most: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0
    calls: int = 0
    reused: int = 0
    usage: Usage = field(default_factory=Usage)

    def worst(self, endpoint: Endpoint, sent: bytes, max_tokens: int) -> float:
        """The most a call can cost."""
        return endpoint.cost(Usage(len(sent) // _BYTES_PER_TOKEN + 1, max_tokens))

    def allows(self, worst: float) -> bool:
        """Whether a call that may cost so much fits into what is left."""
        return not self.most or self.spent + self.reserved + worst <= self.most

    def paid(self, cost: float, usage: Usage) -> None:
        """A call came back."""
        self.spent += cost
        self.calls += 1
        self.usage = Usage(
            self.usage.prompt_tokens + usage.prompt_tokens,
            self.usage.completion_tokens + usage.completion_tokens,
            self.usage.cached_tokens + usage.cached_tokens,
        )
