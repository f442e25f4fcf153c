"""Difficulty without the judge's gap: IFD beside losses computed one by one, pass rate, length, the stage."""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import fakes, small_model
from support.scripted import Watcher, completion
from tapir.config.curriculum import PassRateConfig
from tapir.data.run.rows import EstimateRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure
from tapir.domain.difficulty import Difficulty, Threshold, split
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Comparison, Estimator, Reply
from tapir.domain.roles import Estimate as Found
from tapir.domain.round import Checkpoint
from tapir.models import estimators as ifd
from tapir.models.estimators import Ifd, Length, PassRate
from tapir.models.local.loading import ModelSettings
from tapir.stages.base import StageContext
from tapir.stages.judge import EstimateDifficulty

TEXTS = (
    ("How many legs have 3 cats?", "They have 12 legs."),
    ("Spell it backward: tapir", "ripat"),
    ("Say something long.", "Once upon a time there was a tapir who counted the legs of every cat. " * 2),
    ("Größe? 漢字", "Größe: 漢字 👩‍🔬"),
    ("Two", "words here"),
)
NOBODY = Checkpoint("nowhere", 0)


def pair(text: str, answer: str) -> Pair:
    return Pair(Instruction.of(text, Origin("corpus")), Response(answer, "corpus"))


def section(samples: int) -> PassRateConfig:
    return PassRateConfig(kind="pass-rate", samples=samples)


PAIRS = [pair(*one) for one in TEXTS]


@pytest.fixture(scope="module", params=["nano", "without a beginning", "with a beginning"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The nano, or a small Llama whose tokenizer may have a token that begins a text."""
    if request.param == "nano":
        return Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
    folder = small_model.make(tmp_path_factory.mktemp("model"))
    if request.param == "with a beginning":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|turn|>"}))
    return Checkpoint(str(folder), 0)


def loss(model: Any, before: Sequence[int], answer: Sequence[int]) -> float:
    """The mean of -log p of every token of the answer, each asked for by itself."""
    found = []
    for place in range(len(answer)):
        read = torch.tensor([[*before, *answer[:place]]])
        with torch.inference_mode():
            found.append(-float(model(read).logits[0, -1].double().log_softmax(dim=-1)[answer[place]]))
    return sum(found) / len(found)


def by_hand(student: Checkpoint, pairs: Sequence[Pair]) -> dict[str, float]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(student.path)
    found = {}
    for one in pairs:
        chat = [{"role": "user", "content": one.instruction.text}]
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer = tokenizer(one.response.text, add_special_tokens=False)["input_ids"]
        begins = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        found[one.instruction.id] = loss(model, prompt, answer) / loss(model, [begins], answer)
    return found


def values(estimator: Ifd, student: Checkpoint, pairs: Sequence[Pair]) -> dict[str, float]:
    found = dict(estimator.estimate(student, pairs, {}))
    assert found.keys() == {one.instruction.id for one in pairs}
    return {name: one.value for name, one in found.items() if isinstance(one, Found)}


def test_ifd_is_the_loss_with_the_instruction_by_the_loss_without_it(student: Checkpoint) -> None:
    found = values(Ifd(ModelSettings("float32")), student, PAIRS)
    assert found == pytest.approx(by_hand(student, PAIRS), abs=1e-4)
    assert len({round(value, 6) for value in found.values()}) == len(PAIRS)


def test_ifd_depends_neither_on_the_company_nor_on_the_size_of_the_batch(
    student: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = Ifd(ModelSettings("float32"))
    together = values(estimator, student, PAIRS)
    alone = {name: value for one in PAIRS for name, value in values(estimator, student, [one]).items()}
    assert alone == pytest.approx(together, abs=1e-5)
    monkeypatch.setattr(ifd, "_BATCH_TOKENS", 40)
    assert values(estimator, student, PAIRS[::-1]) == pytest.approx(together, abs=1e-5)


def test_a_large_vocabulary_makes_smaller_batches(student: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    batch = ifd._batch

    def seen(model: Any, pad: int, texts: Any, room: int) -> list[float]:
        shapes.append(len(texts) * max(sum(map(len, one)) for one in texts))
        return batch(model, pad, texts, room)

    monkeypatch.setattr(ifd, "_batch", seen)
    vocabulary = 1642 if student.path.endswith("nano") else 1024
    monkeypatch.setattr(ifd, "_LOGITS", 60 * vocabulary)
    short = [one for one in PAIRS if len(one.response.text) < 30]
    values(Ifd(ModelSettings("float32")), student, short)
    assert len(shapes) > 2
    assert max(shapes) <= 60


def test_what_is_empty_or_too_long_is_unscored_and_the_rest_is_measured(student: Checkpoint) -> None:
    odd = {"empty": "", "long": "tapir " * small_model.CONTEXT}
    pairs = [*PAIRS[:1], *(pair(text, answer) for text, answer in odd.items())]
    found = dict(Ifd(ModelSettings("float32")).estimate(student, pairs, {}))
    assert [type(found[one.instruction.id]) for one in pairs] == [Found, Unscored, Unscored]
    reasons = [one.reason for one in found.values() if isinstance(one, Unscored)]
    assert reasons == ["the answer is empty", "too long for the student"]


def with_less_memory(model: Any, monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[int]:
    """A pass over more tokens than this runs out of memory; the return value lists the logits of each other."""
    sizes, forward = [], type(model).forward

    def limited(self: Any, input_ids: Any, **keys: Any) -> Any:
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found = forward(self, input_ids, **keys)
        sizes.append(found.logits.shape[0] * found.logits.shape[1])
        return found

    limited.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(model), "forward", limited)
    return sizes


def test_what_does_not_fit_the_memory_is_unscored_and_the_rest_is_measured(
    student: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = Ifd(ModelSettings("float32"))
    expected = values(estimator, student, PAIRS)
    model, tokenizer = estimator.load(student)
    longest = PAIRS[2]  # its answer alone has more tokens than any other text
    with_less_memory(model, monkeypatch, len(tokenizer(longest.response.text)["input_ids"]) - 1)
    found = dict(estimator.estimate(student, PAIRS, {}))
    odd = found.pop(longest.instruction.id)
    assert isinstance(odd, Unscored)
    assert odd.reason == "too long for the memory"
    assert {name: one.value for name, one in found.items() if isinstance(one, Found)} == pytest.approx(
        {name: value for name, value in expected.items() if name != longest.instruction.id}, abs=1e-5
    )


def test_of_a_text_longer_than_a_batch_only_the_answers_logits_are_kept(
    student: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = Ifd(ModelSettings("float32"))
    long = pair("Say it. " * 30, "Once upon a time there was a tapir.")
    expected = values(estimator, student, [long])
    model, tokenizer = estimator.load(student)
    sizes = with_less_memory(model, monkeypatch, 10_000)
    monkeypatch.setattr(ifd, "_BATCH_TOKENS", 4)
    assert values(estimator, student, [long]) == pytest.approx(expected, abs=1e-5)
    answer = len(tokenizer(long.response.text, add_special_tokens=False)["input_ids"])
    assert sizes == [answer + 1, answer + 1]


def test_ifd_holds_one_model_at_a_time_and_gives_it_back(student: Checkpoint, tmp_path: Path) -> None:
    estimator = Ifd(ModelSettings("float32"))
    estimator.open(tmp_path, SilentProgress())
    list(estimator.estimate(student, PAIRS[:1], {}))
    assert estimator._loaded is not None
    first = estimator._loaded[1]
    list(estimator.estimate(student, PAIRS[1:2], {}))
    assert estimator._loaded[1] is first
    estimator.rest()
    assert estimator._loaded is None
    with pytest.raises(RoleError):
        list(estimator.estimate(Checkpoint(str(tmp_path), 1), PAIRS[:1], {}))
    estimator.close()


def lengths(pairs: Sequence[Pair]) -> dict[str, float]:
    return {name: one.value for name, one in Length().estimate(NOBODY, pairs, {}) if isinstance(one, Found)}


def test_a_longer_answer_is_harder_by_length() -> None:
    found = lengths(PAIRS)
    assert {name: math.floor(value) for name, value in found.items()} == {
        one.instruction.id: len(one.response.text) for one in PAIRS
    }
    assert [one.detail for _, one in Length().estimate(NOBODY, PAIRS[:1], {}) if isinstance(one, Found)] == [
        "18 characters"
    ]


def test_a_budget_of_the_longest_answers_is_spent_where_many_are_equally_long() -> None:
    pairs = [pair(f"number {number}", "1" if number % 4 else "12") for number in range(400)]
    gaps = np.array([lengths(pairs)[one.instruction.id] for one in pairs])
    parts = split([one.instruction.id for one in pairs], gaps, Threshold("budget", 250))
    assert len(parts.hard) == 250
    assert {one.instruction.id for one in pairs if len(one.response.text) == 2} <= set(parts.hard)
    assert lengths(pairs[::-1]) == lengths(pairs)


@dataclass
class Sampling:
    """Answers each copy of an instruction with the next word of its text; "silent" is a failure."""

    asked: list[Instruction] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        assert checkpoint == NOBODY
        turns: Counter[str] = Counter()
        for one in instructions:
            self.asked.append(one)
            word = one.text.split()[turns[one.text]]
            turns[one.text] += 1
            yield one.id, Failure("timeout", "no answer") if word == "silent" else completion(word)

    def open(self, folder: Path, progress: SilentProgress) -> None:
        del folder, progress
        self.opened.append("open")

    def rest(self) -> None:
        self.opened.append("rest")

    def close(self) -> None:
        self.opened.append("close")


@dataclass
class Verdicts:
    """8 for the teacher; "better", "equal" and "worse" are what they say, "odd" is worse in one order of two."""

    name: str = "verdicts"
    tasks: list[str] = field(default_factory=list)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        scores = {"better": (9.0, 9.0), "equal": (8.0, 8.0), "worse": (7.0, 7.0), "odd": (8.0, 7.0)}
        for one in comparisons:
            assert one.reference == "taught"
            self.tasks.append(one.task)
            if one.student == "garbled":
                yield one.instruction.id, Unscored("no score found")
            else:
                orders = zip(fakes.ORDERS, scores[one.student], strict=True)
                yield one.instruction.id, tuple(Judgement(score, 8.0, order, "", self.name) for order, score in orders)


@pytest.mark.parametrize(
    ("samples", "difficulty"),
    [
        ("worse worse worse worse", 1.0),
        ("equal equal equal equal", 0.0),
        ("worse equal worse worse", 0.75),
        ("odd equal equal equal", 0.25),
        ("silent equal worse worse", 0.75),
        ("garbled silent equal worse", 2 / 3),
        ("garbled garbled garbled worse", 1.0),
        ("worse better equal equal", 0.25),
        ("better better better better", -1.0),
        ("better equal garbled worse", 1 / 3),
        ("better better equal worse", -0.5),
    ],
)
def test_the_pass_rate_is_of_the_samples_that_failed_or_were_judged(samples: str, difficulty: float) -> None:
    found = dict(PassRate(section(4), Sampling(), Verdicts()).estimate(NOBODY, [pair(samples, "taught")], {}))
    (estimate,) = found.values()
    assert isinstance(estimate, Found)
    assert estimate.value == pytest.approx(difficulty)


def test_a_teacher_answer_that_the_samples_beat_is_withheld_from_training() -> None:
    pairs = [pair(word, "taught") for word in ("better better", "equal equal", "worse better", "worse worse")]
    found = dict(PassRate(section(2), Sampling(), Verdicts()).estimate(NOBODY, pairs, {}))
    values = np.array([found[one.instruction.id].value for one in pairs])  # type: ignore[union-attr]
    parts = split([one.instruction.text for one in pairs], values, Threshold("quantile", 0.5))
    assert parts.withheld == {"better better"}
    assert set(parts.hard) == {"worse better", "worse worse"}
    assert found[pairs[0].instruction.id] == Found(-1.0, "2 of 2 samples pass")


def test_the_judge_knows_the_task_of_every_sample_and_without_a_judged_one_there_is_no_pass_rate() -> None:
    judge, pairs = Verdicts(), [pair(f"{word} silent", "taught") for word in ("silent", "garbled", "worse")]
    found = dict(PassRate(section(2), Sampling(), judge).estimate(NOBODY, pairs, {pairs[1].instruction.id: "code"}))
    nothing = Unscored("no sample was judged", "4 answers of the chunk failed")
    assert [found[one.instruction.id] for one in pairs] == [nothing, nothing, Found(1.0, "0 of 2 samples pass")]
    assert judge.tasks == ["code", ""]


def test_every_sample_has_an_id_of_its_own_and_the_estimate_that_of_the_instruction() -> None:
    student = Sampling()
    pairs = [pair("worse equal worse", "taught"), pair("equal equal equal", "taught")]
    found = dict(PassRate(section(3), student, Verdicts()).estimate(NOBODY, pairs, {}))
    assert found.keys() == {one.instruction.id for one in pairs}
    assert len({one.id for one in student.asked}) == len(student.asked) == 6
    assert not {one.id for one in student.asked} & found.keys()
    assert Counter(one.text for one in student.asked) == {one.instruction.text: 3 for one in pairs}
    again = Sampling()
    list(PassRate(section(3), again, Verdicts()).estimate(NOBODY, pairs[::-1], {}))
    assert {one.id for one in again.asked} == {one.id for one in student.asked}


@dataclass
class Scripted(Estimator):
    """The number at the end of the answer; no word of what has none, and NaN where the answer says so."""

    name: str = "scripted"
    asked: list[str] = field(default_factory=list)

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Found | Unscored]]:
        del checkpoint, tasks
        for one in reversed(pairs):
            self.asked.append(one.instruction.text)
            if one.response.text == "unread":
                yield one.instruction.id, Unscored("cannot read it", "raw")
            elif one.response.text != "left out":
                yield one.instruction.id, Found(float(one.response.text), "seen")


def place(folder: Path, progress: Watcher | None = None) -> StageContext:
    return StageContext(RunStore(folder), progress or Watcher(), 0, 7)


ANSWERS = ["1.5", "unread", "left out", "nan", "inf", "-2", "0"]
SEVEN = [pair(f"number {number}", answer) for number, answer in enumerate(ANSWERS)]


def test_what_cannot_be_measured_is_unscored_with_its_reason(tmp_path: Path) -> None:
    found = EstimateDifficulty(Scripted(), 3, {}).run(place(tmp_path), NOBODY, SEVEN)
    by_answer = {one.response.text: found[one.instruction.id] for one in SEVEN}
    assert by_answer["1.5"] == Difficulty(1.5, 0.0)
    assert by_answer["-2"] == Difficulty(-2.0, 0.0)
    assert by_answer["unread"] == Unscored("cannot read it", "raw")
    assert by_answer["left out"] == Unscored("no estimate")
    assert {one.reason for one in map(by_answer.get, ("nan", "inf")) if isinstance(one, Unscored)} == {
        "nan is no difficulty",
        "inf is no difficulty",
    }
    rows = RunStore(tmp_path).read("round-0/estimates", EstimateRow)
    assert sum(row.value is None for row in rows) == 4
    assert EstimateDifficulty(Scripted(), 3, {}).run(place(tmp_path / "none"), NOBODY, []) == {}
    assert {row.estimator for row in rows} == {"scripted"}


def test_pairs_of_like_length_stand_together_whatever_their_order(tmp_path: Path) -> None:
    pairs = [pair("x" * (number % 5 + 1) + str(number), "1") for number in range(20)]
    there, back = EstimateDifficulty(Scripted(), 4, {}), EstimateDifficulty(Scripted(), 4, {})
    assert there.run(place(tmp_path / "a"), NOBODY, pairs) == back.run(place(tmp_path / "b"), NOBODY, pairs[::-1])
    tables = [(tmp_path / name / "round-0/estimates.parquet").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]


def test_a_stop_keeps_what_was_measured_and_the_rest_is_owed(tmp_path: Path) -> None:
    whole, first, second = Scripted(), Scripted(), Scripted()
    pairs = [pair(f"number {number}", str(number)) for number in range(10)]
    EstimateDifficulty(whole, 3, {}).run(place(tmp_path / "whole"), NOBODY, pairs)
    with pytest.raises(Interrupted):
        EstimateDifficulty(first, 3, {}).run(place(tmp_path / "part", Watcher(stop_after=4)), NOBODY, pairs)
    assert len(first.asked) == 6
    EstimateDifficulty(second, 3, {}).run(place(tmp_path / "part"), NOBODY, pairs)
    assert len(second.asked) == 4
    assert sorted(first.asked + second.asked) == sorted(whole.asked)
    tables = [(tmp_path / name / "round-0/estimates.parquet").read_bytes() for name in ("whole", "part")]
    assert tables[0] == tables[1]
    third = Scripted()
    EstimateDifficulty(third, 3, {}).run(place(tmp_path / "part"), NOBODY, pairs)
    assert not third.asked


def test_what_is_only_compared_has_a_table_and_a_name_of_its_own(tmp_path: Path) -> None:
    progress = Watcher()
    EstimateDifficulty(Length(), 3, {}, "compared-length").run(place(tmp_path, progress), NOBODY, SEVEN)
    assert len(RunStore(tmp_path).read("round-0/compared-length", EstimateRow)) == 7
    assert [stage for _, stage, _, _ in progress.started] == ["compare length"]


def test_the_loss_of_a_thinking_student_is_that_of_the_answer_after_its_thought(
    student: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant:<think>' }}{% endif %}"
    estimator = Ifd(ModelSettings("float32", template, thinks=True))
    asked: list[str] = []

    def losses(_model: Any, tokenizer: Any, texts: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        asked.extend(tokenizer.decode(before) for before, _ in texts)
        return [1.0] * len(texts)

    monkeypatch.setattr(Ifd, "_losses", staticmethod(losses))
    assert len(dict(estimator.estimate(student, PAIRS[:1], {}))) == 1
    assert "".join(asked[0].split()).endswith("assistant:<think></think>")


def test_a_loss_that_is_no_number_is_unscored(student: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifd, "_batch", lambda _model, _pad, texts, _room: [math.nan] * len(texts))
    found = dict(Ifd(ModelSettings("float32")).estimate(student, PAIRS, {}))
    assert {one.reason for one in found.values() if isinstance(one, Unscored)} == {"the loss is no number"}
    assert all(isinstance(one, Unscored) for one in found.values())


def test_where_nothing_can_be_measured_the_estimator_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(RoleError, match="scripted could not be measured for any of 2 instructions: ") as caught:
        EstimateDifficulty(Scripted(), 3, {}).run(place(tmp_path), NOBODY, SEVEN[1:3])
    assert "round-0/estimates.parquet" in caught.value.remedy
