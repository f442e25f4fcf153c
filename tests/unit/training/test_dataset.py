"""Tokenization, loss mask, training order, batches and packing: the same examples however a step is split."""

from __future__ import annotations

import copy
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import small_model
from support.training import EXAMPLES, FULL, LONG, LORA, NANO, changed, losses, template, train
from tapir.domain.errors import TrainingError
from tapir.domain.training import Example
from tapir.models.local.loading import load
from tapir.training.dataset import (
    BatchPlan,
    Encoded,
    check_isolation,
    collate_with_loss_mask,
    cumulative_tokens,
    encode,
    highlight_loss_mask,
    pack,
    plan_batches,
    plan_packed_batches,
    training_order,
)
from tapir.training.loop import smaller_micro_batch, split_step

WORDS = st.text(alphabet="abcdefg ÄßÜéñ水🙂0123456789+=.,\n", min_size=1, max_size=40)
LIMIT = 20
LENGTHS = st.lists(st.integers(2, LIMIT), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load(NANO)[1]


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of another student: byte-level, with merges that may span the border between prompt and answer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model.make(tmp_path_factory.mktemp("model")))


def of(tokenizer: Any, template: str) -> Any:
    """The same tokenizer with a template that nothing has tried."""
    changed = tokenizer.__class__.from_pretrained(NANO.path)
    changed.chat_template = template
    return changed


def test_the_mask_covers_the_answer_and_its_end_and_nothing_else(tokenizer: Any) -> None:
    for example, encoded in zip(EXAMPLES, encode(EXAMPLES, tokenizer, max_length=64).examples, strict=True):
        assert tokenizer.decode(encoded.input_ids[encoded.answer_start :]) == f"{example.answer}</s>"
        labels = collate_with_loss_mask([[encoded]], 0, packing=False)["labels"][0].tolist()
        assert labels == [-100] * encoded.answer_start + list(encoded.input_ids[encoded.answer_start :])
        asked = [{"role": "user", "content": example.prompt}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert list(encoded.input_ids[: encoded.answer_start]) == prompt


@pytest.mark.parametrize(
    ("unfit", "what"),
    [
        (template("</s>"), "drops or changes"),
        (template("{{ messages[1].content }}"), r"writes no end token \('</s>'\)"),
        (template("{{ messages[1].content }}</s>", "{{ messages|length }}"), "does not keep the prompt"),
        (template("{{ raise_exception('no answers, please') }}"), "fails on example .*: no answers, please"),
    ],
    ids=["no answer", "no end", "another prompt", "an error"],
)
def test_a_template_that_the_student_cannot_learn_from_is_refused(tokenizer: Any, unfit: str, what: str) -> None:
    with pytest.raises(TrainingError, match=what) as caught:
        encode(EXAMPLES, of(tokenizer, unfit), max_length=64)
    assert EXAMPLES[0].id in str(caught.value)
    assert "student.chat_template" in caught.value.remedy


def test_an_end_token_that_only_the_model_names_is_an_end(tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<user>")
    changed = of(tokenizer, template("{{ messages[1].content }}<user>"))
    found = encode(EXAMPLES, changed, max_length=64, ends={tokenizer.eos_token_id, end})
    assert all(example.input_ids[-1] == end for example in found.examples)


def test_a_long_example_is_dropped_or_cut_and_keeps_its_prompt(tokenizer: Any) -> None:
    encoded = encode([*EXAMPLES, LONG], tokenizer, max_length=64)
    assert (encoded.too_long, encoded.cut, len(encoded.examples)) == ([LONG.id], [], len(EXAMPLES))
    (whole,) = encode([LONG], tokenizer, max_length=1000).examples
    endless = Example("c" * 16, "1 + " * 60, "1")
    encoded = encode([*EXAMPLES, LONG, endless], tokenizer, max_length=64, too_long="cut")
    assert (encoded.too_long, encoded.cut) == ([endless.id], [LONG.id])
    assert list(encoded.examples[-1].input_ids) == list(whole.input_ids[:64])
    assert encoded.examples[-1].answer_start == whole.answer_start
    assert encode([LONG], tokenizer, max_length=whole.answer_start + 1, too_long="cut").cut == [LONG.id]
    assert encode([LONG], tokenizer, max_length=len(whole.input_ids)).too_long == []


@pytest.mark.parametrize(
    ("examples", "problem"),
    [
        ([], "empty"),
        ([Example("a" * 16, "Calculate 1 + 1.", " ")], "example aaaaaaaaaaaaaaaa has no answer token"),
        (EXAMPLES, "all 24 examples have more than 8 tokens"),
    ],
)
def test_without_anything_to_train_on_there_is_no_training(
    tokenizer: Any, examples: list[Example], problem: str
) -> None:
    for too_long in ("drop", "cut"):
        with pytest.raises(TrainingError, match=problem):
            encode(examples, tokenizer, max_length=8, too_long=too_long)


def test_a_token_that_spans_the_border_is_split_and_the_prompt_is_what_the_student_is_asked(bytewise: Any) -> None:
    spanned = copy.deepcopy(bytewise)
    spanned.chat_template = "{{ messages[0].content }}\nMy ans{{ messages[1].content ~ '<|end|>' if messages[1:] }}"
    example = Example("a" * 16, "Calculate 1 + 1.", "wer is 2.")
    asked = [{"role": "user", "content": example.prompt}]
    prompt = spanned.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    whole = spanned.apply_chat_template([*asked, {"role": "assistant", "content": example.answer}], return_dict=False)
    assert whole[: len(prompt)] != prompt
    (one,) = encode([example], spanned, max_length=1000).examples
    assert list(one.input_ids[: one.answer_start]) == prompt
    assert spanned.decode(list(one.input_ids[one.answer_start :])) == "wer is 2.<|end|>"


@given(prompt=WORDS, answer=WORDS.filter(lambda text: text.strip()))
def test_the_pieces_of_a_highlighted_example_join_to_the_whole(bytewise: Any, prompt: str, answer: str) -> None:
    example = Example("a" * 16, prompt, answer)
    pieces = highlight_loss_mask(example, bytewise)
    (one,) = encode([example], bytewise, max_length=1000).examples
    assert "".join(text for text, _ in pieces) == bytewise.decode(list(one.input_ids))
    assert [learnt for _, learnt in pieces] == [False, True]
    assert pieces[1][0] == f"{answer}<|end|>"


def test_every_epoch_sees_every_example_once_and_the_seed_decides_the_order() -> None:
    lengths = [number % 7 + 1 for number in range(50)]
    for by_length in (True, False):
        order = training_order(lengths, batch_size=4, epochs=3, seed=1, by_length=by_length)
        for epoch in range(3):
            assert sorted(order[50 * epoch : 50 * epoch + 50]) == list(range(50))
        assert order == training_order(lengths, batch_size=4, epochs=3, seed=1, by_length=by_length)
        assert order != training_order(lengths, batch_size=4, epochs=3, seed=2, by_length=by_length)
        assert len(training_order(lengths, batch_size=4, epochs=0.5, seed=1, by_length=by_length)) == 25


def steps_of(plan: BatchPlan, processes: int) -> list[list[int]]:
    """Places of the examples of every step, as the data loader shares items out to the processes."""
    each = plan.per_pass * plan.accumulation * processes
    found = []
    for first in range(0, plan.items, each):
        rows = chain.from_iterable(plan.rows(item) for item in range(first, min(first + each, plan.items)))
        found.append([place for row in rows for place in row])
    return found


@given(lengths=LENGTHS, micro=st.integers(1, 3), accumulation=st.integers(1, 3), processes=st.integers(1, 3))
def test_a_step_reads_the_same_examples_however_it_is_split(
    lengths: list[int], micro: int, accumulation: int, processes: int
) -> None:
    order = list(range(len(lengths)))
    batch_size = micro * accumulation * processes
    wanted = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    plan = plan_batches(order, batch_size, micro, processes)
    assert (plan.accumulation, plan.steps) == (accumulation, len(wanted))
    assert steps_of(plan, processes) == wanted
    assert processes == 1 or plan.items % (micro * processes) == 0  # nobody waits for a pass that others do not make
    plan = plan_packed_batches(
        order, lengths, batch_size=batch_size, max_length=LIMIT, micro=micro, processes=processes
    )
    assert plan.steps == len(wanted)
    assert plan.items == plan.steps * plan.accumulation * processes
    assert [sorted(step) for step in steps_of(plan, processes)] == wanted
    for item in range(plan.items):
        rows = plan.rows(item)
        assert 1 <= len(rows) <= micro
        assert all(sum(lengths[place] for place in row) <= LIMIT for row in rows)


@given(lengths=LENGTHS)
def test_rows_hold_every_example_once_and_are_as_full_as_can_be_told(lengths: list[int]) -> None:
    rows = pack(range(len(lengths)), lengths, LIMIT)
    assert Counter(place for row in rows for place in row) == Counter(range(len(lengths)))
    sums = [sum(lengths[place] for place in row) for row in rows]
    assert max(sums) <= LIMIT
    assert sum(1 for tokens in sums if tokens <= LIMIT / 2) <= 1  # two rows that are half empty would have been one


def test_tokens_read_are_counted_by_step() -> None:
    assert cumulative_tokens([0, 1, 2, 1], [5, 7, 9], 2) == [0, 12, 28]
    assert cumulative_tokens([2], [5, 7, 9], 2) == [0, 9]


@pytest.mark.parametrize(
    ("batch_size", "micro", "processes"), [(8, 3, 1), (8, 16, 1), (8, 8, 2), (9, 0, 2), (1, 0, 2), (8, 3, 2)]
)
def test_a_step_that_cannot_be_split_evenly_is_refused(batch_size: int, micro: int, processes: int) -> None:
    with pytest.raises(TrainingError, match=r"training\.batch_size = .* training\.micro_batch = "):
        split_step(changed(FULL, batch_size=batch_size, micro_batch=micro), processes)


def test_a_smaller_pass_still_splits_the_step() -> None:
    assert split_step(changed(FULL, batch_size=12, micro_batch=0), 2) == (6, 1)
    assert split_step(changed(FULL, batch_size=12, micro_batch=2), 2) == (2, 3)
    steps = [(8, 1), (6, 1), (5, 1), (3, 3), (1, 8)]
    assert [smaller_micro_batch(micro, passes) for micro, passes in steps] == [4, 3, 1, 1, 0]


def loss_and_gradients(encoded: Sequence[Encoded], model: Any, *, packing: bool) -> tuple[float, list[Any]]:
    """Of one step."""
    import torch

    rows = [
        [encoded[place] for place in row]
        for row in pack(range(len(encoded)), [len(example.input_ids) for example in encoded], 64)
    ]
    found = collate_with_loss_mask(rows if packing else [[example] for example in encoded], 0, packing=packing)
    model.zero_grad()
    labels = found.pop("labels")
    logits = model(**found, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), [part.grad.clone() for part in model.parameters()]


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
    together, alone = (loss_and_gradients(encoded, model, packing=packing) for packing in (True, False))
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    for one, other in zip(together[1], alone[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


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
    check_isolation(model, encoded, 0)
    with pytest.raises(TrainingError, match=r"an example of this student sees the one before it") as caught:
        check_isolation(Leaking(), encoded, 0)
    assert "training.packing = false" in caught.value.remedy


def test_the_first_token_of_an_example_is_not_predicted_from_the_example_before() -> None:
    one, other = Encoded(array("i", [7, 8]), 0), Encoded(array("i", [9, 10, 11]), 1)
    found = collate_with_loss_mask([[one, other]], 0, packing=True)
    assert found["labels"].tolist() == [[-100, 8, -100, 10, 11]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    found = collate_with_loss_mask([[one], [other], []], 0, packing=False)
    assert found["labels"].tolist() == [[-100, 8, -100], [-100, 10, 11], [-100] * 3]
    assert found["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]


@pytest.mark.slow
def test_packing_and_the_size_of_a_pass_change_nothing_but_the_last_bits_where_the_order_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffle(lengths: Sequence[int], *, by_length: bool, **options: Any) -> list[int]:  # noqa: ARG001
        return training_order(lengths, by_length=False, **options)

    monkeypatch.setattr("tapir.training.loop.training_order", shuffle)
    whole = train(tmp_path / "whole", LORA)
    for packing, micro in ((False, 2), (True, 1), (True, 0)):
        report = train(tmp_path / f"{packing}-{micro}", changed(LORA, packing=packing, micro_batch=micro))
        assert (report.steps, report.tokens, report.answer_tokens) == (12, whole.tokens, whole.answer_tokens)
        assert losses(report) == pytest.approx(losses(whole), rel=1e-3)
