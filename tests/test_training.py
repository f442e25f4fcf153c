"""Training on answer tokens only, with the real trainer and the real student."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError, TrainingError
from tapir.roles import Example, TrainJob
from tapir.session import SilentWatch
from tapir.students.load import load
from tapir.students.local import LocalStudent
from tapir.training.examples import encode, training_order
from tapir.training.sft import SftSettings, SftTrainer

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [Example(f"{number:016x}", f"Calculate {number} + 1.", str(number + 1)) for number in range(24)]
SETTINGS = SftSettings(
    learning_rate=3e-3,
    batch_size=8,
    scheduler="constant",
    warmup_share=0.0,
    weight_decay=0.0,
    max_length=64,
    save_every=100,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load(NANO)[1]


def test_the_mask_covers_the_answer_and_its_end_and_nothing_else(tokenizer: Any) -> None:
    for example, one in zip(EXAMPLES, encode(EXAMPLES, tokenizer, 64)[0], strict=True):
        learnt = [token for token, mask in zip(one.input_ids, one.completion_mask, strict=True) if mask]
        assert tokenizer.decode(learnt) == f"{example.answer}</s>"
        assert sum(one.completion_mask) < len(one.input_ids)


def test_an_example_without_an_answer_is_refused(tokenizer: Any) -> None:
    tokenizer = tokenizer.__class__.from_pretrained(NANO.path)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(TrainingError, match="no answer token"):
        encode([Example("a" * 16, "Calculate 1 + 1.", "")], tokenizer, 64)


def test_a_long_example_is_left_out_by_name_and_never_cut(tokenizer: Any) -> None:
    long = Example("b" * 16, "Calculate 1 + 1.", "1 + " * 60 + "1")
    encoded, too_long = encode([*EXAMPLES, long], tokenizer, 64)
    assert too_long == [long.id]
    assert len(encoded) == len(EXAMPLES)


def test_nothing_but_long_examples_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"more tokens than training\.max_length = 8"):
        encode(EXAMPLES, tokenizer, 8)


def test_an_empty_mixture_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match="empty"):
        encode([], tokenizer, 64)


def test_every_epoch_sees_every_example_once_and_the_seed_decides_the_order() -> None:
    lengths = [number % 7 + 1 for number in range(50)]
    order = training_order(lengths, batch_size=4, epochs=3, seed=1)
    for epoch in range(3):
        assert sorted(order[50 * epoch : 50 * epoch + 50]) == list(range(50))
    assert order == training_order(lengths, batch_size=4, epochs=3, seed=1)
    assert order != training_order(lengths, batch_size=4, epochs=3, seed=2)
    assert len(training_order(lengths, batch_size=4, epochs=0.5, seed=1)) == 25


def train(folder: Path, settings: SftSettings = SETTINGS) -> Checkpoint:
    job = TrainJob(NANO, EXAMPLES, folder / "checkpoint", folder / "training", 1, epochs=20, seed=3)
    report = SftTrainer(settings).train(job, SilentWatch())
    assert report.steps == 60
    first, last = report.loss[0][1], report.loss[-1][1]
    assert last < first / 2
    return Checkpoint(str(job.out), 1)


@pytest.mark.slow
def test_the_student_learns_what_it_is_trained_on_and_answers_with_it(tmp_path: Path) -> None:
    learnt = train(tmp_path)
    student = LocalStudent(max_new_tokens=12, batch_size=8, temperature=0.0, seed=1)
    instructions = [Instruction.of(example.prompt, Origin("corpus")) for example in EXAMPLES]
    replies = dict(student.answer(learnt, instructions))
    right = 0
    for one, example in zip(instructions, EXAMPLES, strict=True):
        reply = replies[one.id]
        assert isinstance(reply, Completion)
        right += reply.text == example.answer
    assert right >= 20


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    wild = SftSettings(**{**{name: getattr(SETTINGS, name) for name in SETTINGS.__slots__}, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"learning_rate|loss is"):
        train(tmp_path, wild)
    assert not (tmp_path / "checkpoint").exists()


def test_a_folder_without_a_model_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(RoleError, match="no student can be loaded"):
        load(Checkpoint(str(tmp_path), 0))


def test_a_model_without_a_chat_template_is_told_as_such(tmp_path: Path) -> None:
    model, tokenizer = load(NANO)
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RoleError, match="chat template"):
        load(Checkpoint(str(tmp_path), 0))


def test_an_answer_that_is_cut_off_says_so() -> None:
    student = LocalStudent(max_new_tokens=2, batch_size=2, temperature=0.0, seed=1)
    one = Instruction.of("State the final answer to the following arithmetic problem: 5 - 9 =", Origin("corpus"))
    ((name, reply),) = student.answer(NANO, [one])
    assert name == one.id
    assert isinstance(reply, Completion)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 2)


def test_sampled_answers_are_the_same_when_they_are_asked_for_again() -> None:
    student = LocalStudent(max_new_tokens=8, batch_size=4, temperature=1.0, seed=1)
    instructions = [Instruction.of(example.prompt, Origin("corpus")) for example in EXAMPLES[:6]]
    assert list(student.answer(NANO, instructions)) == list(student.answer(NANO, instructions))
