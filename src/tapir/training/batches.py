"""Which examples every forward pass reads, and what they look like as tensors.

The whole training is laid out before it begins. An item is what the data loader hands out: one example, or with
packing everything that one forward pass reads. A step always reads the same examples, whatever the number of
processes, the size of a pass, or packing; and a resumed training only skips the items of the steps it has done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from tapir.training.examples import Encoded

if TYPE_CHECKING:
    import torch

Row: TypeAlias = Sequence[int]
"""Places of the examples that share one row of a tensor; an empty row stands for an example that is not there."""

_IGNORED = -100  # the label that carries no loss


@dataclass(frozen=True, slots=True)
class Layout:
    """A training laid out.

    Attributes:
        items: how many there are; they are numbered in the order of training.
        rows: the rows of an item.
        per_pass: items in one forward pass of one process.
        accumulation: forward passes of one process in one step.
        steps: optimizer steps in all.
    """

    items: int
    rows: Callable[[int], Sequence[Row]]
    per_pass: int
    accumulation: int
    steps: int


def plain(order: Sequence[int], batch_size: int, micro: int, processes: int) -> Layout:
    """One example in a row; where several processes share the last step, each gets as many rows as the others."""
    missing = -len(order) % (micro * processes) if processes > 1 else 0
    passes = batch_size // micro // processes
    return Layout(
        len(order) + missing, lambda item: [order[item : item + 1]], micro, passes, -(-len(order) // batch_size)
    )


def packed(
    order: Sequence[int], lengths: Sequence[int], *, batch_size: int, max_length: int, micro: int, processes: int
) -> Layout:
    """As many examples of a step in a row as fit in max_length; a forward pass reads at most `micro` rows."""
    steps = [pack(order[first : first + batch_size], lengths, max_length) for first in range(0, len(order), batch_size)]
    accumulation = max(-(-len(rows) // (micro * processes)) for rows in steps)
    passes = accumulation * processes
    items = [rows[first::passes] or [()] for rows in steps for first in range(passes)]
    return Layout(len(items), items.__getitem__, 1, accumulation, len(steps))


def pack(places: Sequence[int], lengths: Sequence[int], max_length: int) -> list[Row]:
    """Rows of at most max_length tokens: the longest example first, each into the fullest row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(places, key=lambda place: -lengths[place]):
        fitting = [number for number, left in enumerate(room) if left >= lengths[place]]
        if fitting:
            best = min(fitting, key=lambda number: room[number])
            rows[best].append(place)
            room[best] -= lengths[place]
        else:
            rows.append([place])
            room.append(max_length - lengths[place])
    return sorted(rows, key=lambda row: -sum(lengths[place] for place in row))


def read_until(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[int]:
    """Tokens read before step 0, 1, 2 and so on, up to the last."""
    sizes = [lengths[place] for place in order]
    return [
        *accumulate((sum(sizes[first : first + batch_size]) for first in range(0, len(sizes), batch_size)), initial=0)
    ]


def collator(
    examples: Sequence[Encoded], layout: Layout, pad: int, *, packing: bool, one_row: bool = False
) -> Callable[[Sequence[Mapping[str, int]]], dict[str, torch.Tensor]]:
    """What turns the items of one forward pass into tensors.

    Args:
        examples: by place.
        layout: what items hold.
        pad: id of the padding token.
        packing: examples of a row are told apart by positions that begin again at 0, which is how transformers
            keeps them from seeing each other; otherwise rows come with an attention mask.
        one_row: all rows behind each other in one, as kernels for sequences of different lengths take them.
    """

    def collate(found: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        rows = [row for one in found for row in layout.rows(one["item"])]
        if one_row:
            rows = [[place for row in rows for place in row]]
        return tensors([[examples[place] for place in row] for row in rows], pad, packing=packing)

    return collate


def tensors(rows: Sequence[Sequence[Encoded]], pad: int, *, packing: bool) -> dict[str, Any]:
    """Rows as tensors of shape (rows, tokens of the longest row): input_ids, labels, and who sees whom."""
    import torch

    width = max(2, *(sum(len(one.input_ids) for one in row) for row in rows))
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), _IGNORED)
    positions = torch.zeros_like(ids)
    seen = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        first = 0
        for one in row:
            last = first + len(one.input_ids)
            ids[number, first:last] = torch.tensor(one.input_ids)
            start = first + max(1, one.start)  # the first token of a row's example is not for its neighbour to predict
            labels[number, start:last] = ids[number, start:last]
            positions[number, first:last] = torch.arange(last - first)
            first = last
        seen[number, : max(1, first)] = 1
    apart = {"position_ids": positions} if packing else {"attention_mask": seen}
    return {"input_ids": ids, "labels": labels, **apart}
