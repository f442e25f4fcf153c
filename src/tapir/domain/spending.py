"""What calls to paid models took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spending:
    """Calls, tokens and money for one task in one stage of one round; the task is empty where none is known.

    Attributes:
        cost: in the currency of the recipe's prices; 0 where no price is set.
    """

    round: int
    stage: str
    task: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: float
