"""A checkpoint answering in this process: the real nano, whole, cut short, short of memory, adapted and rested."""

from __future__ import annotations

import json
import shutil
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.gym.corpus import corpus
from tapir.roles import Resource
from tapir.session import SilentWatch
from tapir.students import decoding
from tapir.students.load import ModelSettings, load
from tapir.students.local import AnswerSettings, LocalStudent
from tapir.students.speed import measure

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
GREEDY = AnswerSettings(max_new_tokens=48, batch_size=16, batch_tokens=0, temperature=0.0, seed=1)
SKILLS = ("letter_counting", "chain_sum", "gcd", "spell_backward", "simple_equations")
ITEMS = [pair.instruction for pair in corpus(SKILLS, size=60, skew=0.0, seed=3)]
Said = dict[str, tuple[str, str]]


class Notes(SilentWatch):
    """A watch that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


class Spy:
    """Sees the batches that are generated, and may have no room for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int = 10**9) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.refused: list[int] = []
        self.most = most
        self._generate: Callable[..., Any] = decoding.answers
        monkeypatch.setattr("tapir.students.local.answers", self.answers)

    def answers(self, model: Any, tokenizer: Any, prompts: Sequence[list[int]], **settings: Any) -> Any:
        if len(prompts) > self.most:
            self.refused.append(len(prompts))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.shapes.append((len(prompts), max(map(len, prompts))))
        return self._generate(model, tokenizer, prompts, **settings)


def said(student: LocalStudent, items: Sequence[Instruction] = ITEMS, checkpoint: Checkpoint = NANO) -> Said:
    """Text and finish reason of every reply, by id."""
    found: Said = {}
    for name, reply in student.answer(checkpoint, items):
        assert isinstance(reply, Completion)
        found[name] = (reply.text, reply.finish_reason)
    assert len(found) == len(items)
    return found


def edited(folder: Path, file: str, **changes: Any) -> Checkpoint:
    """Nano with other entries in one of its JSON files; None takes an entry out."""
    copy = folder / "model"
    if not copy.exists():
        shutil.copytree(NANO.path, copy)
    entries = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps({name: one for name, one in entries.items() if one is not None}))
    return Checkpoint(str(copy), 0)


@pytest.fixture(scope="module")
def greedy() -> Said:
    return said(LocalStudent(GREEDY))


def test_answers_are_those_of_bare_generate(greedy: Said) -> None:
    model, tokenizer = load(NANO)
    for one in ITEMS[:20]:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": one.text}], add_generation_prompt=True, return_tensors="pt"
        )
        written = model.generate(**prompt, max_new_tokens=48, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert greedy[one.id][0] == tokenizer.decode(written, skip_special_tokens=True)
    assert {reason for _, reason in greedy.values()} == {"stop", "length"}


def test_the_size_of_the_batches_does_not_change_what_is_answered(greedy: Said) -> None:
    for size in (1, 7, 60):
        other = said(LocalStudent(replace(GREEDY, batch_size=size)), ITEMS[:30])
        assert sum(greedy[name] == one for name, one in other.items()) >= 29  # float noise may change one


def test_the_same_instructions_get_the_same_bytes_whatever_was_asked_before() -> None:
    sampled = replace(GREEDY, temperature=0.9)
    fresh, used = LocalStudent(sampled), LocalStudent(sampled)
    said(used, ITEMS[30:])
    assert list(fresh.answer(NANO, ITEMS[:30])) == list(used.answer(NANO, ITEMS[:30]))


def test_sampling_leaves_the_dice_of_others_alone() -> None:
    state = torch.random.get_rng_state()
    list(LocalStudent(replace(GREEDY, temperature=1.0)).answer(NANO, ITEMS[:4]))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sampled_answers_follow_the_seed() -> None:
    def sample(seed: int) -> Said:
        return said(LocalStudent(replace(GREEDY, temperature=1.0, seed=seed)), ITEMS[:10])

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_answer_that_is_cut_off_says_so() -> None:
    ((name, reply),) = LocalStudent(replace(GREEDY, max_new_tokens=2)).answer(NANO, ITEMS[:1])
    assert name == ITEMS[0].id
    assert isinstance(reply, Completion)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 2)
    assert reply.usage.prompt_tokens > 5


def test_no_instruction_is_no_work() -> None:
    assert list(LocalStudent(GREEDY).answer(Checkpoint("/nowhere", 0), [])) == []


def test_batches_keep_within_rows_and_tokens(monkeypatch: pytest.MonkeyPatch, greedy: Said) -> None:
    spy = Spy(monkeypatch)
    limited = said(LocalStudent(replace(GREEDY, batch_tokens=500)))
    assert sum(rows for rows, _ in spy.shapes) == len(ITEMS)
    assert all(rows == 1 or rows * (width + 48) <= 500 for rows, width in spy.shapes)
    assert max(rows for rows, _ in spy.shapes) > 4
    assert [width for _, width in spy.shapes] == sorted(width for _, width in spy.shapes)
    assert sum(greedy[name] == one for name, one in limited.items()) >= len(ITEMS) - 1


def test_a_single_prompt_may_pass_the_limit_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    said(LocalStudent(replace(GREEDY, batch_tokens=1)), ITEMS[:3])
    assert [rows for rows, _ in spy.shapes] == [1, 1, 1]


def test_a_prompt_that_does_not_fit_the_context_is_a_failure_of_its_own(greedy: Said) -> None:
    long = Instruction.of("1 + " * 400, Origin("corpus"))
    replies = dict(LocalStudent(GREEDY).answer(NANO, [long, *ITEMS[:3]]))
    failure = replies[long.id]
    assert isinstance(failure, Failure)
    assert failure.kind == "too long"
    assert "512" in failure.message
    for one in ITEMS[:3]:
        reply = replies[one.id]
        assert isinstance(reply, Completion)
        assert reply.text == greedy[one.id][0]


def test_out_of_memory_means_smaller_batches_from_there_on_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, greedy: Said
) -> None:
    spy, watch = Spy(monkeypatch, most=5), Notes()
    student = LocalStudent(GREEDY)
    student.open(tmp_path, watch)
    replies = said(student)
    assert sum(greedy[name] == one for name, one in replies.items()) >= len(ITEMS) - 1
    assert len(watch.told) == 1
    assert "out of memory with 16 prompts" in watch.told[0]
    assert "student.batch_tokens" in watch.told[0]
    refusals = len(spy.refused)
    said(student)
    assert len(spy.refused) <= refusals  # what was learnt is kept
    assert len(watch.told) == 1


def test_one_prompt_that_does_not_fit_the_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Spy(monkeypatch, most=0)
    with pytest.raises(RoleError, match="out of memory with a single prompt") as caught:
        list(LocalStudent(GREEDY).answer(NANO, ITEMS))
    assert "student.max_new_tokens" in caught.value.remedy


def test_an_error_that_is_not_about_memory_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("tapir.students.local.answers", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        list(LocalStudent(GREEDY).answer(NANO, ITEMS))


def test_a_student_at_rest_holds_no_model_and_answers_again_when_asked(tmp_path: Path, greedy: Said) -> None:
    student = LocalStudent(GREEDY)
    assert isinstance(student, Resource)
    student.rest()
    student.open(tmp_path, Notes())
    for let_go in (student.rest, student.close):
        assert said(student, ITEMS[:3]) == {one.id: greedy[one.id] for one in ITEMS[:3]}
        assert student._loaded is not None
        model = weakref.ref(student._loaded[1])
        let_go()
        assert model() is None
        let_go()


def test_every_end_token_that_the_model_names_ends_an_answer(tmp_path: Path, greedy: Said) -> None:
    _, tokenizer = load(NANO)
    tokens = Counter(token for text, _ in greedy.values() for token in tokenizer.encode(text, add_special_tokens=False))
    other = tokens.most_common(1)[0][0]
    model = edited(tmp_path, "generation_config.json", eos_token_id=[2, other])
    replies = said(LocalStudent(GREEDY), ITEMS, model)
    shorter = 0
    for name, (text, reason) in replies.items():
        whole = tokenizer.encode(greedy[name][0], add_special_tokens=False)
        if other in whole:
            assert (text, reason) == (tokenizer.decode(whole[: whole.index(other)]), "stop")
            shorter += 1
    assert shorter > 10


def test_padding_with_the_end_token_cuts_no_answer(tmp_path: Path, greedy: Said) -> None:
    model = edited(tmp_path, "tokenizer_config.json", pad_token="</s>")  # noqa: S106 (no password)
    assert said(LocalStudent(GREEDY), ITEMS, model) == greedy


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path: Path, greedy: Said) -> None:
    model = edited(tmp_path, "tokenizer_config.json", pad_token=None)
    assert load(model)[1].pad_token == "</s>"  # noqa: S105 (no password)
    assert said(LocalStudent(GREEDY), ITEMS[:20], model) == {one.id: greedy[one.id] for one in ITEMS[:20]}


def test_the_settings_of_the_models_own_folder_hold(tmp_path: Path, greedy: Said) -> None:
    model = edited(
        tmp_path, "generation_config.json", repetition_penalty=1.5, temperature=0.7, top_k=20, do_sample=True
    )
    replies = said(LocalStudent(GREEDY), ITEMS[:20], model)
    assert replies == said(LocalStudent(replace(GREEDY, seed=2)), ITEMS[:20], model)  # greedy, whatever the folder says
    assert any(replies[one.id] != greedy[one.id] for one in ITEMS[:20])


def test_a_model_saved_without_its_cache_answers_with_one(tmp_path: Path, greedy: Said) -> None:
    model = edited(tmp_path, "config.json", use_cache=False)
    assert said(LocalStudent(GREEDY), ITEMS[:5], model) == {one.id: greedy[one.id] for one in ITEMS[:5]}


def test_a_base_model_answers_with_the_template_it_is_given() -> None:
    shouting = (
        "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
    )
    student = LocalStudent(GREEDY, ModelSettings(chat_template=shouting))
    plain = LocalStudent(GREEDY)
    assert said(student, ITEMS[:5]) == said(plain, ITEMS[:5])
    assert measure(student, NANO, ITEMS[:5], 2).examples > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_answers_in_bfloat16_as_the_processor_does_in_float32(greedy: Said) -> None:
    student = LocalStudent(replace(GREEDY, batch_size=64))
    replies = said(student)
    same = sum(greedy[name] == one for name, one in replies.items())
    assert same >= 0.7 * len(ITEMS)
    assert student._loaded is not None
    assert student._loaded[1].dtype is torch.bfloat16
    began = time.perf_counter()
    tokens = sum(
        reply.usage.completion_tokens for _, reply in student.answer(NANO, ITEMS) if not isinstance(reply, Failure)
    )
    print(f"{tokens / (time.perf_counter() - began):,.0f} tokens/s; {same} of {len(ITEMS)} answers the same")  # noqa: T201
    held = torch.cuda.memory_allocated()
    student.rest()
    assert torch.cuda.memory_allocated() < held
