"""A paired comparison as JSON and in words: what was left out, and what cannot be computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tapir.evaluation.matching import TASK_DIFFERS
from tapir.evaluation.paired import PairedResult


def plain(value: Any) -> Any:
    """The same as JSON can hold it: a figure that could not be computed is null, never NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value


def as_json(found: PairedResult) -> dict[str, Any]:
    """Every figure of a comparison, with the ties of each contrast."""
    content: dict[str, Any] = plain(asdict(found))
    for name, one in (("prompts", found.prompts), ("mean_of_tasks", found.mean_of_tasks)):
        content[name]["ties"] = one.ties
    for task, one in found.tasks.items():
        content["tasks"][task]["ties"] = one.ties
    content["remarks"] = list(remarks(found))
    return content


def remarks(found: PairedResult) -> Iterator[str]:
    """What a reader must know beside the figures."""
    one = found.prompts
    if found.only_a or found.only_b:
        yield f"left out: {found.only_a} prompts that only A was asked, {found.only_b} that only B was asked"
    if found.unscored:
        yield f"left out: {found.unscored} pairs that are not graded on both sides"
    if found.retagged:
        yield f"{found.retagged} prompts have another task in A than in B; they count as the task {TASK_DIFFERS!r}"
    if found.references:
        yield (
            f"{found.references} prompts were graded against different expected answers, so a success of A and one of "
            "B do not mean the same"
        )
    if one.n == 1:
        yield "a single prompt: no interval can be computed, and no p-value can be below 1"
    elif one.ties == one.n:
        yield (
            f"A and B succeed and fail on the same {one.n} prompts: no interval can be computed; they may still differ "
            f"on up to {100 * one.most_unlike:.1f} % of all such prompts"
        )
    elif math.isnan(one.difference.low):
        yield f"the difference is the same on all {one.n} prompts: no interval can be computed"
    alike = sum(math.isnan(task.difference.low) for task in found.tasks.values())
    if alike and len(found.tasks) > 1 and one.ties < one.n:
        yield (
            f"in {alike} of {len(found.tasks)} tasks all differences are equal: the bootstrap sees no chance there, so "
            "the interval of the mean of the tasks is rather too narrow"
        )
