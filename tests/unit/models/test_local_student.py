"""A checkpoint answering in this process: the real nano, whole, cut short, short of memory, and at rest."""

from __future__ import annotations

import json
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from support.recording import RecordingProgress
from tapir.config.student import LocalStudentConfig
from tapir.config.toml import parse
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RecipeError, RoleError
from tapir.domain.instruction import Instruction, Origin, Turn
from tapir.domain.roles import Resource
from tapir.domain.round import Checkpoint
from tapir.gym.corpus import corpus
from tapir.models.local import decoding
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import ModelSettings, load
from tapir.runs.build import build_student
from tapir.runs.plan import measure_speed

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
SKILLS = ("letter_counting", "chain_sum", "gcd", "spell_backward", "simple_equations")
ITEMS = [pair.instruction for pair in corpus(SKILLS, size=60, skew=0.0, seed=3)]
Texts = dict[str, tuple[str, str]]


class Spy:
    """Sees the batches that are generated, and may have no room for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int = 10**9) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.refused: list[int] = []
        self.most = most
        self._generate: Callable[..., Any] = decoding.generate
        monkeypatch.setattr("tapir.models.local.generate.generate", self.generate)

    def generate(self, model: Any, tokenizer: Any, prompts: Sequence[list[int]], **settings: Any) -> Any:
        if len(prompts) > self.most:
            self.refused.append(len(prompts))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.shapes.append((len(prompts), max(map(len, prompts))))
        return self._generate(model, tokenizer, prompts, **settings)


def local(seed: int = 1, **changes: Any) -> LocalStudent:
    return LocalStudent(LocalStudentConfig(**{"max_new_tokens": 48, "batch_size": 16, **changes}), seed)


def texts(student: LocalStudent, items: Sequence[Instruction] = ITEMS, checkpoint: Checkpoint = NANO) -> Texts:
    """Text and finish reason of every reply, by id."""
    replies = dict(student.answer(checkpoint, items))
    assert replies.keys() == {item.id for item in items}
    return {name: (reply.text, reply.finish_reason) for name, reply in replies.items() if isinstance(reply, Completion)}


def edited(folder: Path, file: str, **changes: Any) -> Checkpoint:
    """Nano with other entries in one of its JSON files; None takes an entry out."""
    copy = folder / "model"
    shutil.copytree(NANO.path, copy)
    entries = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps({name: value for name, value in entries.items() if value is not None}))
    return Checkpoint(str(copy), 0)


@pytest.fixture(scope="module")
def greedy() -> Texts:
    return texts(local())


def test_answers_are_those_of_bare_generate(greedy: Texts) -> None:
    model, tokenizer = load(NANO)
    for item in ITEMS[:20]:
        prompt = tokenizer.apply_chat_template(item.messages, add_generation_prompt=True, return_tensors="pt")
        ids = model.generate(**prompt, max_new_tokens=48, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert greedy[item.id][0] == tokenizer.decode(ids, skip_special_tokens=True)
    assert {reason for _, reason in greedy.values()} == {"stop", "length"}


@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_size_of_the_batches_does_not_change_what_is_answered(greedy: Texts, size: int) -> None:
    other = texts(local(batch_size=size), ITEMS[:30])
    assert sum(greedy[name] == text for name, text in other.items()) >= 29  # float noise may change one


def test_sampled_replies_follow_the_seed_and_the_instructions_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    fresh, used = local(temperature=0.9), local(temperature=0.9)
    texts(used, ITEMS[30:])
    first = list(fresh.answer(NANO, ITEMS[:20]))
    assert first == list(used.answer(NANO, ITEMS[:20]))
    assert first != list(local(seed=2, temperature=0.9).answer(NANO, ITEMS[:20]))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_answer_that_is_cut_off_has_its_finish_reason() -> None:
    ((name, reply),) = local(max_new_tokens=2).answer(NANO, ITEMS[:1])
    assert name == ITEMS[0].id
    assert isinstance(reply, Completion)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 2)
    assert reply.usage.prompt_tokens > 5


def test_a_second_turn_is_answered_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer = load(NANO)
    prompts: list[list[int]] = []
    generate = decoding.generate
    monkeypatch.setattr(
        "tapir.models.local.generate.generate",
        lambda model, tokenizer, ids, **more: prompts.extend(ids) or generate(model, tokenizer, ids, **more),  # type: ignore[func-returns-value]
    )
    item = Instruction("1-2", "Second?", Origin("evaluation"), (Turn("user", "First?"), Turn("assistant", "So.")))
    assert [name for name, _ in local(max_new_tokens=4).answer(NANO, [item])] == ["1-2"]
    roles = [("user", "First?"), ("assistant", "So."), ("user", "Second?")]
    chat = [{"role": role, "content": text} for role, text in roles]
    assert prompts == [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)]


def test_no_instruction_loads_nothing() -> None:
    assert list(local().answer(Checkpoint("/nowhere", 0), [])) == []


def test_batches_keep_within_rows_and_tokens(monkeypatch: pytest.MonkeyPatch, greedy: Texts) -> None:
    spy = Spy(monkeypatch)
    limited = texts(local(batch_tokens=500))
    assert sum(rows for rows, _ in spy.shapes) == len(ITEMS)
    assert all(rows == 1 or rows * (width + 48) <= 500 for rows, width in spy.shapes)
    assert max(rows for rows, _ in spy.shapes) > 4
    assert [width for _, width in spy.shapes] == sorted(width for _, width in spy.shapes)
    assert sum(greedy[name] == text for name, text in limited.items()) >= len(ITEMS) - 1
    spy.shapes.clear()
    texts(local(batch_tokens=1), ITEMS[:3])
    assert [rows for rows, _ in spy.shapes] == [1, 1, 1], "a single prompt may exceed the limit"


def test_a_prompt_that_does_not_fit_the_context_is_a_failure_of_its_own(greedy: Texts) -> None:
    long = Instruction.of("1 + " * 400, Origin("corpus"))
    replies = dict(local().answer(NANO, [long, *ITEMS[:3]]))
    failure = replies.pop(long.id)
    assert isinstance(failure, Failure)
    assert failure.kind == "too long"
    assert "512" in failure.message
    ids = load(NANO)[1].apply_chat_template(ITEMS[0].messages, add_generation_prompt=True, return_dict=False)
    room = 512 - len(ids)
    (filled,), (over,) = (local(max_new_tokens=count).answer(NANO, ITEMS[:1]) for count in (room, room + 1))
    assert (type(filled[1]), type(over[1])) == (Completion, Failure)
    assert {name: getattr(reply, "text", None) for name, reply in replies.items()} == {
        item.id: greedy[item.id][0] for item in ITEMS[:3]
    }


def test_out_of_memory_means_smaller_batches_from_there_on_and_is_noted_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, greedy: Texts
) -> None:
    spy, progress, student = Spy(monkeypatch, most=5), RecordingProgress(), local()
    student.open(tmp_path, progress)
    replies = texts(student)
    assert sum(greedy[name] == text for name, text in replies.items()) >= len(ITEMS) - 1
    refusals = len(spy.refused)
    texts(student)
    assert len(spy.refused) == refusals, "what was learnt is kept"
    (note,) = progress.notes
    assert "out of memory with 16 prompts" in note
    assert "student.batch_tokens" in note


def test_a_single_prompt_that_does_not_fit_the_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Spy(monkeypatch, most=0)
    with pytest.raises(RoleError, match="out of memory with a single prompt") as caught:
        list(local().answer(NANO, ITEMS))
    assert "student.max_new_tokens" in caught.value.remedy


def test_an_error_that_is_not_about_memory_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("tapir.models.local.generate.generate", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        list(local().answer(NANO, ITEMS))


def test_a_student_at_rest_holds_no_model_and_answers_again(tmp_path: Path, greedy: Texts) -> None:
    student = local()
    assert isinstance(student, Resource)
    student.rest()
    student.open(tmp_path, RecordingProgress())
    for release in (student.rest, student.close):
        assert texts(student, ITEMS[:3]) == {item.id: greedy[item.id] for item in ITEMS[:3]}
        assert student._loaded is not None
        model = weakref.ref(student._loaded[1])
        release()
        assert model() is None
        release()


def test_every_end_token_that_the_model_names_ends_an_answer(tmp_path: Path, greedy: Texts) -> None:
    _, tokenizer = load(NANO)
    tokens = Counter(token for text, _ in greedy.values() for token in tokenizer.encode(text, add_special_tokens=False))
    other = tokens.most_common(1)[0][0]
    replies = texts(local(), ITEMS, edited(tmp_path, "generation_config.json", eos_token_id=[2, other]))
    shorter = 0
    for name, (text, reason) in replies.items():
        whole = tokenizer.encode(greedy[name][0], add_special_tokens=False)
        if other in whole:
            assert (text, reason) == (tokenizer.decode(whole[: whole.index(other)]), "stop")
            shorter += 1
    assert shorter > 10


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"pad_token": "</s>"}),
        ("tokenizer_config.json", {"pad_token": None}),
        ("config.json", {"use_cache": False}),  # as gradient checkpointing saves it
    ],
)
def test_padding_with_the_end_token_and_a_cache_switched_off_change_no_answer(
    tmp_path: Path, greedy: Texts, file: str, changes: dict[str, Any]
) -> None:
    model = edited(tmp_path, file, **changes)
    assert texts(local(), ITEMS[:20], model) == {item.id: greedy[item.id] for item in ITEMS[:20]}


def test_the_settings_of_the_models_own_folder_hold(tmp_path: Path, greedy: Texts) -> None:
    own = {"repetition_penalty": 1.5, "temperature": 0.7, "top_k": 20, "do_sample": True}
    model = edited(tmp_path, "generation_config.json", **own)
    replies = texts(local(), ITEMS[:20], model)
    assert replies == texts(local(seed=2), ITEMS[:20], model), "greedy, whatever the folder says"
    assert any(replies[item.id] != greedy[item.id] for item in ITEMS[:20])


def test_a_base_model_answers_with_the_template_it_is_given(greedy: Texts) -> None:
    plain = (
        "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
    )
    section = LocalStudentConfig(max_new_tokens=48, batch_size=16)
    student = LocalStudent(section, 1, ModelSettings(chat_template=plain))
    assert texts(student, ITEMS[:5]) == {item.id: greedy[item.id] for item in ITEMS[:5]}
    assert measure_speed(student, NANO, ITEMS[:5], 2).examples > 0


def test_a_student_from_outside_the_package_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_student.py").write_text(
        "from tapir.domain.completion import Completion, Usage\n\n\n"
        "class Echo:\n"
        "    def __init__(self, word):\n"
        "        self.word = word\n\n"
        "    def answer(self, checkpoint, instructions):\n"
        "        return [(i.id, Completion(self.word, 'stop', Usage(), 'echo')) for i in instructions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    section = {"kind": "custom", "class": "my_student:Echo", "options": {"word": "Yes."}}
    replies = dict(build_student(parse({"student": section})).answer(NANO, ITEMS[:3]))
    assert {reply.text for reply in replies.values() if isinstance(reply, Completion)} == {"Yes."}
    with pytest.raises(RecipeError, match="lacks answer"):
        build_student(parse({"student": {"kind": "custom", "class": "pathlib:Path"}}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_answers_in_bfloat16_as_the_processor_does_in_float32(greedy: Texts) -> None:
    student = local(batch_size=64)
    same = sum(greedy[name] == text for name, text in texts(student).items())
    assert same >= 0.7 * len(ITEMS)
    assert student._loaded is not None
    assert student._loaded[1].dtype is torch.bfloat16
    held = torch.cuda.memory_allocated()
    student.rest()
    assert torch.cuda.memory_allocated() < held
