"""What a trainer and a tagger leave behind: as this version writes it, and as an older one did."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

STEPS = 120
PARAMETERS, TRAINABLE = 494_032_768, 8_798_208


def curve(number: int, steps: int = STEPS, every: int = 3) -> list[list[float]]:
    """A noisy loss that falls; later rounds begin lower."""
    rng = random.Random(number)
    start = 2.0 / (1 + number)
    return [
        [step, (0.2 + start * math.exp(-4 * step / steps)) * rng.uniform(0.85, 1.15)]
        for step in range(every, steps + 1, every)
    ]


def older(number: int) -> dict[str, Any]:
    """training.json as the first version wrote it."""
    return {
        "steps": STEPS,
        "loss": curve(number),
        "tokens": 123_456 + number,
        "answer_tokens": 20_000,
        "too_long": [],
        "examples": 60,
        "epochs": 2.0,
        "base": f"S_{max(0, number - 1)}",
    }


def adapter(number: int, too_long: Sequence[str] = (), preferences: int = 0) -> dict[str, Any]:
    """training.json of an adapter with preference optimisation."""
    return older(number) | {
        "too_long": list(too_long),
        "cut": [],
        "parameters": PARAMETERS,
        "trainable": TRAINABLE,
        "seconds": 185.2 + number,
        "tokens_per_second": 1_234.56,
        "preference_loss": [[step, 0.7 - 0.004 * step] for step in range(1, preferences + 1)],
        "preferences": preferences,
    }
