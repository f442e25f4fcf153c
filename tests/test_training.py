"""Training on answer tokens only, with the real trainer and the real student."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.errors import MissingExtra, TrainingError
from tapir.roles import Example
from tapir.students.load import ModelSettings, load
from tapir.training.examples import encode, tokens_of, training_order
from tapir.training.mask import coloured
from tapir.training.sft import SftTrainer
from tests import small_model
from tests.tuning import EXAMPLES, NANO, SETTINGS, Heard, answers, job_in, train

LONG = Example("b" * 16, "Calculate 1 + 1.", "1 + " * 60 + "1")
WORDS = st.text(alphabet="abcdefg ÄßÜéñ水🙂0123456789+=.,\n", min_size=1, max_size=40)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load(NANO)[1]


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of another student: byte-level, with merges that may span the border between prompt and answer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model.make(tmp_path_factory.mktemp("model")))


def template(answer: str, prompt: str = "{{ messages[0].content }}") -> str:
    """Of a student that is asked with <user> and <answer>; `answer` is written when there is one."""
    return f"<user>{prompt}<answer>{{% if messages|length > 1 %}}{answer}{{% endif %}}"


def of(tokenizer: Any, template: str) -> Any:
    """The same tokenizer with a template that nothing has tried."""
    changed = tokenizer.__class__.from_pretrained(NANO.path)
    changed.chat_template = template
    return changed


def test_the_mask_covers_the_answer_and_its_end_and_nothing_else(tokenizer: Any) -> None:
    for example, one in zip(EXAMPLES, encode(EXAMPLES, tokenizer, max_length=64).examples, strict=True):
        learnt = [token for token, mask in zip(one.input_ids, one.completion_mask, strict=True) if mask]
        assert tokenizer.decode(learnt) == f"{example.answer}</s>"
        asked = [{"role": "user", "content": example.prompt}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert list(one.input_ids[: one.start]) == prompt


def test_an_example_without_an_answer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match="example aaaaaaaaaaaaaaaa has no answer token"):
        encode([Example("a" * 16, "Calculate 1 + 1.", " ")], tokenizer, max_length=64)


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
    assert all(one.input_ids[-1] == end for one in found.examples)


def test_a_long_example_is_left_out_by_name_and_never_cut_unless_asked(tokenizer: Any) -> None:
    found = encode([*EXAMPLES, LONG], tokenizer, max_length=64)
    assert (found.too_long, found.cut, len(found.examples)) == ([LONG.id], [], len(EXAMPLES))


def test_a_long_example_that_is_cut_keeps_its_prompt_and_is_told(tokenizer: Any) -> None:
    whole = next(iter(tokens_of([LONG], tokenizer)))
    endless = Example("c" * 16, "1 + " * 60, "1")
    found = encode([*EXAMPLES, LONG, endless], tokenizer, max_length=64, too_long="cut")
    assert (found.too_long, found.cut) == ([endless.id], [LONG.id])
    assert list(found.examples[-1].input_ids) == list(whole.input_ids[:64])
    assert found.examples[-1].start == whole.start


def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_cut(tokenizer: Any) -> None:
    start = next(iter(tokens_of([LONG], tokenizer))).start
    assert encode([*EXAMPLES, LONG], tokenizer, max_length=start + 1, too_long="cut").cut[-1] == LONG.id
    with pytest.raises(TrainingError, match="all 1 examples"):
        encode([LONG], tokenizer, max_length=start, too_long="cut")


def test_nothing_but_long_examples_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"more tokens than training\.max_length = 8"):
        encode(EXAMPLES, tokenizer, max_length=8)


def test_an_empty_mixture_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match="empty"):
        encode([], tokenizer, max_length=64)


def test_a_token_that_spans_the_border_is_split_and_the_prompt_is_what_the_student_is_asked(bytewise: Any) -> None:
    spanned = copy.deepcopy(bytewise)
    spanned.chat_template = "{{ messages[0].content }}\nMy ans{{ messages[1].content ~ '<|end|>' if messages[1:] }}"
    example = Example("a" * 16, "Calculate 1 + 1.", "wer is 2.")
    asked = [{"role": "user", "content": example.prompt}]
    prompt = spanned.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    whole = spanned.apply_chat_template([*asked, {"role": "assistant", "content": example.answer}], return_dict=False)
    assert whole[: len(prompt)] != prompt
    (one,) = tokens_of([example], spanned)
    assert list(one.input_ids[: one.start]) == prompt
    assert spanned.decode(list(one.input_ids[one.start :])) == "wer is 2.<|end|>"


@given(prompt=WORDS, answer=WORDS.filter(lambda text: text.strip()))
def test_the_pieces_of_the_coloured_example_join_to_the_whole(bytewise: Any, prompt: str, answer: str) -> None:
    example = Example("a" * 16, prompt, answer)
    pieces = coloured(example, bytewise)
    (one,) = tokens_of([example], bytewise)
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


@pytest.mark.slow
def test_the_student_learns_what_it_is_trained_on_and_answers_with_it(tmp_path: Path) -> None:
    watch = Heard()
    report = train(tmp_path, epochs=20, watch=watch)
    assert report.steps == watch.steps == 60
    assert watch.starts == [(60, 0)]
    assert report.loss[-1][1] < report.loss[0][1] / 2
    assert (report.parameters, report.trainable) == (2_086_464, 2_086_464)
    assert report.tokens == 20 * sum(
        len(one.input_ids) for one in encode(EXAMPLES, load(NANO)[1], max_length=64).examples
    )
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    said = answers(tmp_path / "checkpoint")
    assert sum(one == example.answer for one, example in zip(said, EXAMPLES, strict=True)) >= 20


@pytest.mark.slow
def test_the_watch_is_told_loss_speed_and_time_left(tmp_path: Path) -> None:
    watch = Heard()
    report = train(tmp_path, watch=watch)
    assert [(figures["step"], figures["loss"]) for figures in watch.figures] == list(report.loss)
    assert all(figures["learning_rate"] == SETTINGS.learning_rate for figures in watch.figures)
    assert all(figures["tokens_per_second"] > 0 for figures in watch.figures)
    left = [figures["seconds_left"] for figures in watch.figures]
    assert left[0] > 0
    assert left[-1] == 0


@pytest.mark.slow
def test_a_tracker_is_told_in_a_folder_that_outlasts_the_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="no tracker is installed here")
    train(tmp_path, replace(SETTINGS, report_to=("tensorboard",)), epochs=1)
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the training loss is (nan|inf) at step") as caught:
        train(tmp_path, replace(SETTINGS, learning_rate=1e30))
    assert "training.learning_rate" in caught.value.remedy
    assert not (tmp_path / "checkpoint").exists()


def test_a_template_that_drops_the_answer_is_told_before_the_first_step(tmp_path: Path) -> None:
    short = template("{{ messages[1].content[:18] }}</s>")  # enough for the conversation that a template is tried with
    settings = replace(SETTINGS, model=ModelSettings(chat_template=short))
    job = job_in(tmp_path, examples=[*EXAMPLES, Example("d" * 16, "Calculate 1 + 1.", "The sum of 1 and 1 is 2.")])
    watch = Heard()
    with pytest.raises(TrainingError, match=r"drops or changes the answer of example dddddddddddddddd") as caught:
        SftTrainer(settings).train(job, watch)
    assert "student.chat_template" in caught.value.remedy
    assert watch.starts == []


def test_what_is_left_out_and_what_is_cut_is_counted_and_told(tmp_path: Path) -> None:
    endless = Example("c" * 16, "1 + " * 60, "1")
    watch = Heard()
    job = job_in(tmp_path, epochs=1, examples=[*EXAMPLES, LONG, endless])
    report = SftTrainer(replace(SETTINGS, too_long="cut")).train(job, watch)
    assert (report.too_long, report.cut) == ([endless.id], [LONG.id])
    assert "1 of 26 examples left out: longer than max_length = 64" in watch.notes
    assert "1 of 26 examples cut: longer than max_length = 64" in watch.notes


def test_a_tracker_that_does_not_exist_or_is_not_installed_is_told_before_anything_starts() -> None:
    with pytest.raises(TrainingError, match=r"training\.report_to: there is no tracker 'wanddb'") as caught:
        SftTrainer(replace(SETTINGS, report_to=("wanddb",)))
    assert "mlflow, tensorboard, trackio, wandb" in caught.value.remedy


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for settings, package in (
        (replace(SETTINGS, report_to=("wandb",)), "wandb"),
        (replace(SETTINGS, method="qlora"), "bitsandbytes"),
    ):
        with pytest.raises(MissingExtra, match=f"needs {package}") as caught:
            SftTrainer(settings)
        assert caught.value.remedy == f"pip install {package}"


def test_a_precision_that_the_processor_does_not_compute_in_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"training\.precision = 'float16' needs a GPU"):
        train(tmp_path, replace(SETTINGS, precision="float16"))
