"""What every step reads: the same examples however they are shared out, and packed ones do not see each other."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.errors import TrainingError
from tapir.students.load import load
from tapir.training.batches import Layout, pack, packed, plain, read_until, tensors
from tapir.training.examples import Encoded, encode, training_order
from tapir.training.packing import check_isolation
from tapir.training.settings import halved, shared_out
from tests.tuning import EXAMPLES, LORA, NANO, SETTINGS, train

LIMIT = 20
LENGTHS = st.lists(st.integers(2, LIMIT), min_size=1, max_size=60)


def steps_of(layout: Layout, processes: int) -> list[list[int]]:
    """Places of the examples of every step, as the data loader shares items out to the processes."""
    each = layout.per_pass * layout.accumulation * processes
    found = []
    for first in range(0, layout.items, each):
        rows = chain.from_iterable(layout.rows(item) for item in range(first, min(first + each, layout.items)))
        found.append([place for row in rows for place in row])
    return found


@given(lengths=LENGTHS, micro=st.integers(1, 3), accumulation=st.integers(1, 3), processes=st.integers(1, 3))
def test_a_step_reads_the_same_examples_however_it_is_shared_out(
    lengths: list[int], micro: int, accumulation: int, processes: int
) -> None:
    order = list(range(len(lengths)))
    batch_size = micro * accumulation * processes
    wanted = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    layout = plain(order, batch_size, micro, processes)
    assert (layout.accumulation, layout.steps) == (accumulation, len(wanted))
    assert steps_of(layout, processes) == wanted
    assert processes == 1 or layout.items % (micro * processes) == 0  # nobody waits for a pass that others do not make
    layout = packed(order, lengths, batch_size=batch_size, max_length=LIMIT, micro=micro, processes=processes)
    assert layout.steps == len(wanted)
    assert layout.items == layout.steps * layout.accumulation * processes
    assert [sorted(step) for step in steps_of(layout, processes)] == wanted
    for item in range(layout.items):
        rows = layout.rows(item)
        assert 1 <= len(rows) <= micro
        assert all(sum(lengths[place] for place in row) <= LIMIT for row in rows)


@given(lengths=LENGTHS)
def test_rows_hold_every_example_once_and_are_as_full_as_can_be_told(lengths: list[int]) -> None:
    rows = pack(range(len(lengths)), lengths, LIMIT)
    assert Counter(place for row in rows for place in row) == Counter(range(len(lengths)))
    sums = [sum(lengths[place] for place in row) for row in rows]
    assert max(sums) <= LIMIT
    assert sum(1 for one in sums if one <= LIMIT / 2) <= 1  # two rows that are half empty would have been one


def test_tokens_read_are_counted_by_step() -> None:
    assert read_until([0, 1, 2, 1], [5, 7, 9], 2) == [0, 12, 28]
    assert read_until([2], [5, 7, 9], 2) == [0, 9]


@pytest.mark.parametrize(
    ("batch_size", "micro", "processes"), [(8, 3, 1), (8, 16, 1), (8, 8, 2), (9, 0, 2), (1, 0, 2), (8, 3, 2)]
)
def test_a_step_that_cannot_be_shared_out_evenly_is_refused(batch_size: int, micro: int, processes: int) -> None:
    with pytest.raises(TrainingError, match=r"training\.batch_size = .* training\.micro_batch = "):
        shared_out(replace(SETTINGS, batch_size=batch_size, micro_batch=micro), processes)


def test_a_smaller_pass_still_shares_out_the_step() -> None:
    assert shared_out(replace(SETTINGS, batch_size=12, micro_batch=0), 2) == (6, 1)
    assert shared_out(replace(SETTINGS, batch_size=12, micro_batch=2), 2) == (2, 3)
    assert [halved(8, 1), halved(6, 1), halved(5, 1), halved(3, 3), halved(1, 8)] == [4, 3, 1, 1, 0]


def answers_of(encoded: Sequence[Encoded], model: Any, *, packing: bool) -> tuple[float, list[Any]]:
    """Loss and gradients of one step."""
    import torch

    rows = [
        [encoded[place] for place in row]
        for row in pack(range(len(encoded)), [len(one.input_ids) for one in encoded], 64)
    ]
    found = tensors(rows if packing else [[one] for one in encoded], 0, packing=packing)
    model.zero_grad()
    labels = found.pop("labels")
    logits = model(**found, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), [one.grad.clone() for one in model.parameters()]


@pytest.fixture(scope="module")
def student() -> tuple[Any, Any]:
    return load(NANO)


@pytest.mark.parametrize("kernels", ["sdpa", "eager"])
def test_packed_examples_have_the_loss_and_the_gradients_they_have_alone(
    student: tuple[Any, Any], kernels: str
) -> None:
    import torch

    model, tokenizer = student
    model.set_attn_implementation(kernels)
    encoded = encode(EXAMPLES, tokenizer, max_length=64).examples
    together, alone = (answers_of(encoded, model, packing=packing) for packing in (True, False))
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    for one, other in zip(together[1], alone[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_built_in_student_keeps_packed_examples_apart(student: tuple[Any, Any]) -> None:
    model, tokenizer = student
    check_isolation(model, encode(EXAMPLES, tokenizer, max_length=64).examples, 0, model.device)


def test_a_model_whose_examples_see_each_other_is_refused(student: tuple[Any, Any]) -> None:
    import torch

    model, tokenizer = student

    class Leaking(torch.nn.Module):
        """Does not care for positions, as a model that carries a state from token to token."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = model, model.config

        def forward(self, input_ids: Any, position_ids: Any = None, **others: Any) -> Any:  # noqa: ARG002
            return self.inner(input_ids=input_ids, **others)

    encoded = encode(EXAMPLES, tokenizer, max_length=64).examples
    with pytest.raises(TrainingError, match=r"an example of this student sees the one before it") as caught:
        check_isolation(Leaking(), encoded, 0, model.device)
    assert "training.packing = false" in caught.value.remedy


def test_the_first_token_of_an_example_is_not_for_its_neighbour_to_predict() -> None:
    one, other = Encoded(array("i", [7, 8]), 0), Encoded(array("i", [9, 10, 11]), 1)
    found = tensors([[one, other]], 0, packing=True)
    assert found["labels"].tolist() == [[-100, 8, -100, 10, 11]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    found = tensors([[one], [other], []], 0, packing=False)
    assert found["labels"].tolist() == [[-100, 8, -100], [-100, 10, 11], [-100] * 3]
    assert found["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]


@pytest.mark.slow
def test_the_size_of_a_pass_changes_nothing_but_the_last_bits(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    small = train(tmp_path / "small", replace(SETTINGS, micro_batch=2))
    assert small.steps == whole.steps
    assert [loss for _, loss in small.loss] == pytest.approx([loss for _, loss in whole.loss], rel=1e-3)


@pytest.mark.slow
def test_packing_changes_nothing_but_the_last_bits_where_the_order_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(lengths: Sequence[int], *, by_length: bool, **how: Any) -> list[int]:  # noqa: ARG001
        return training_order(lengths, by_length=False, **how)

    monkeypatch.setattr("tapir.training.sft.training_order", shuffled)
    apart = train(tmp_path / "apart", LORA)
    for name, micro in (("rows", 1), ("all", 0)):
        report = train(tmp_path / name, replace(LORA, packing=True, micro_batch=micro))
        assert (report.steps, report.tokens, report.answer_tokens) == (12, apart.tokens, apart.answer_tokens)
        assert [loss for _, loss in report.loss] == pytest.approx([loss for _, loss in apart.loss], rel=1e-3)
