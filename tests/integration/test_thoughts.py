"""Thoughts before answers: parted in one place for every student, endpoint and recorded answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from importlib import resources
from pathlib import Path

import pytest

from support import fakes, small
from support.command import tapir
from support.judging import judge_section
from support.scripted import BOOK, ENDPOINTS, Watcher, connected
from support.server import Behaviour, serving
from tapir.config.annotators import LlmTaggerConfig
from tapir.config.curriculum import PassRateConfig
from tapir.config.endpoints import CallsConfig, EndpointConfig
from tapir.config.toml import load, parse
from tapir.data.corpus import pairs
from tapir.data.readers import read_file
from tapir.data.run.rows import AnswerRow, CorpusRow, EvaluationRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure, Usage, text_or_failure, usable
from tapir.domain.errors import CostLimit, RecipeError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison, RefineRequest, Reply, answers
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskTag
from tapir.models.api.protocol import Message, Request, Sampling
from tapir.models.api.session import ApiSession
from tapir.models.estimators import PassRate
from tapir.models.judge import LlmJudge
from tapir.models.none import RecordedStudent
from tapir.models.taggers.llm import LlmTagger
from tapir.report.export.dataset import export_dataset, export_mixture
from tapir.report.export.model import export_model
from tapir.report.history import training_examples
from tapir.runs import session
from tapir.runs.corpus import taxonomy

CASES = Path(__file__).parents[3] / "shared" / "cases" / "eval"
TEXTS = [Instruction.of(f"Write a story about {number} tapirs.", Origin("corpus")) for number in range(8)]
THOUGHT = "<think>\nHm, which one?\n</think>\n\n"


def said(text: str, finish: str = "stop", reasoning: str = "") -> Completion:
    return Completion(text, finish, Usage(3, 5), "m", reasoning)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (said("", "length", "Hm"), "still thinking"),
        (said(" \n", "stop", "Hm"), "still thinking"),
        (said("Hm.\n</think>\n\nYes."), "control token"),
        (said("So 7 it is.</think>It is 7."), "control token"),
        (said("So 7 it is.</seed:think>It is 7."), "control token"),
        (said("So 7 it is.\n</think >\nIt is 7."), "control token"),
        (said("Yes.<|im_end|>"), "control token"),
        (said("Yes. </s>"), "control token"),
        (said("Yes.<end_of_turn>\n"), "control token"),
        (said("Yes.<turn|>"), "control token"),
        (said("Yes", "length"), "length"),
        (said("<think>", "length").parted(), "still thinking"),
        (said("<think>\nHm.\n</thi", "length").parted(), "still thinking"),
        (said("", "length").parted("<think>"), "still thinking"),
        (said("<think></think>\n").parted(), "empty"),
        (said("<think>a</think>\n<think>\nb\n</think>\nYes.").parted(), "control token"),
        (said("analysisThe user asks.assistantfinalYes."), "control token"),
    ],
)
def test_a_reply_without_an_answer_of_its_own_is_a_named_failure(reply: Completion, kind: str) -> None:
    found = text_or_failure(reply)
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert usable(reply)[0] is None


@pytest.mark.parametrize(
    "text",
    [
        "In a chat template the closing tag `</think>` ends the reasoning.",
        "Strike it out: <s>old</s>",
        "The token <|im_end|> ends a turn.",
        "Qwen3 writes:\n```\n<think>\nHm.\n</think>\nYes.\n```",
        "Qwen3 writes <think>Hm.</think>Yes.",
        "It writes <think >Hm.</think >Yes.",
        "analysis of variance: see assistantfinal",
    ],
)
def test_an_answer_about_thoughts_and_tokens_is_an_answer(text: str) -> None:
    assert text_or_failure(said(text)) == text
    assert said(text).parted() == said(text)
    assert said(text, reasoning="apart").parted().text == text


@pytest.mark.parametrize(
    "text",
    [
        "Its replies look like this:\n```\nHm.\n</think>\nYes.\n```",
        "It ends so.</think>",
        "analysisYes.assistantfinalNo.",
    ],
)
def test_beside_a_thought_that_came_apart_an_answer_is_taken_as_it_stands(text: str) -> None:
    assert isinstance(text_or_failure(said(text)), Failure)
    assert text_or_failure(said(text, reasoning="apart")) == text
    ended = text_or_failure(said(f"{text}<|im_end|>", reasoning="apart"))
    assert isinstance(ended, Failure)
    assert ended.kind == "control token"


HEAD = "<|start|>assistant<|channel|>"


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<|channel|>analysis<|message|>Hm.<|end|>" + HEAD + "final<|message|>Yes.<|return|>", "Hm.", "Yes."),
        ("<|channel|>commentary<|message|>Look.<|end|>" + HEAD + "final<|message|>Yes.", "Look.", "Yes."),
        (
            "<|channel|>analysis<|message|>Hm.<|end|>"
            + HEAD
            + "commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
            + HEAD
            + "final <|constrain|>json<|message|>{}<|return|>",
            "Hm.\n{}",
            "{}",
        ),
        ("<|channel|>analysis<|message|>Hm.<|end|>", "Hm.", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", "", "{}"),
        ("<think>\n\n</think>\n\n    return 7", "", "    return 7"),
        ("<think >\nHm.\n</think >\n\nYes.", "Hm.", "Yes."),
        ("<Thinking>\nHm.\n</Thinking>\n\nYes.", "Hm.", "Yes."),
        ("<seed:think>Hm.</seed:think>Yes.", "Hm.", "Yes."),
        ("<mm:think>Hm.</mm:think>Yes.", "Hm.", "Yes."),
        ("<thought>\nHm.\n</thought>\nYes.", "Hm.", "Yes."),
        ("\u25c1think\u25b7Hm.\u25c1/think\u25b7Yes.", "Hm.", "Yes."),
        ("<|channel>thought\nHm.<channel|>Yes.", "Hm.", "Yes."),
        ("<|channel>thought\n<channel|>Yes.", "", "Yes."),
        ("<|inner_prefix|>Hm.<|inner_suffix|>Yes.", "Hm.", "Yes."),
        ("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>", "Hm.", "Yes."),
        ("<|START_RESPONSE|>Yes.<|END_RESPONSE|>", "", "Yes."),
        (
            "<|begin_of_thought|>\n\nHm.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nYes.\n\n<|end_of_solution|>",
            "Hm.",
            "Yes.",
        ),
        ("<seed:think>Hm.", "Hm.", ""),
        ("<thoughtful>Yes.</thoughtful>", "", "<thoughtful>Yes.</thoughtful>"),
        ("<think> is a tag, said Ann", "is a tag, said Ann", ""),
        ("  <b>Yes.</b>", "", "  <b>Yes.</b>"),
    ],
)
def test_what_stands_before_the_final_channel_is_the_thought(text: str, thought: str, answer: str) -> None:
    found = said(text).parted()
    assert (found.reasoning, found.text) == (thought, answer)


class Thinking:
    """A student that thinks before every answer of another; about some things it never stops to."""

    def __init__(self, other: fakes.Student) -> None:
        self.other = other

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for name, reply in self.other.answer(checkpoint, instructions):
            if isinstance(reply, Completion):
                endless = next(one for one in instructions if one.id == name).text.endswith("5")
                text = "<think>\nwrong, wrong" if endless else THOUGHT + reply.text
                reply = replace(reply, text=text)  # noqa: PLW2901
            yield name, reply


def test_a_run_judges_and_grades_the_answer_alone_and_keeps_the_thought_apart(tmp_path: Path) -> None:
    roles = fakes.roles(tmp_path / "people")
    assert isinstance(roles.student, fakes.Student)
    session.run(fakes.recipe(), tmp_path / "plain", roles=fakes.roles(tmp_path / "plain-people"))
    session.run(fakes.recipe(), tmp_path / "run", roles=replace(roles, student=Thinking(roles.student)))
    plain, store = RunStore(tmp_path / "plain"), RunStore(tmp_path / "run")
    graded = [row.success for row in store.read("round-3/evaluation", EvaluationRow)]
    assert graded == [row.success for row in plain.read("round-3/evaluation", EvaluationRow)]
    rows = {row.id: row for row in store.read("round-0/answers", AnswerRow)}
    texts = {row.id: row.text for row in store.read("corpus", CorpusRow)}
    for name, row in rows.items():
        if texts[name].endswith("5"):
            assert row.text is None
            assert (row.failure or "").startswith("still thinking: no answer after a thought")
        elif row.text is not None:
            assert (row.text, row.thought) == ("wrong", "Hm, which one?")


def test_recorded_answers_are_parted_as_those_of_a_student() -> None:
    student = RecordedStudent({TEXTS[0].id: THOUGHT + "A story.", TEXTS[1].id: "<think>Hm"}, "file")
    ((_, replies),) = answers(student, Checkpoint("", 0), [TEXTS[:2]])
    first, second = (reply for _, reply in replies)
    assert isinstance(first, Completion)
    assert (first.text, first.reasoning) == ("A story.", "Hm, which one?")
    assert isinstance(second, Failure)
    assert second.kind == "still thinking"


def test_thoughts_in_a_corpus_are_not_learnt_unless_they_are_kept(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"{task} number {number}5", "output": THOUGHT + "right"}
        for task in fakes.LABELS
        for number in range(30)
    ]
    (tmp_path / "rows.json").write_text(json.dumps([*rows, {"instruction": "add number 0", "output": "<think>Hm"}]))
    corpus = list(pairs(read_file(tmp_path / "rows.json"), "rows.json"))
    for mode in ("off", "on", "keep"):
        roles = replace(fakes.roles(tmp_path / mode / "people"), corpus=lambda: corpus)
        recipe = fakes.recipe(rounds=1, refine=False, expand=False)
        recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"thinking": mode})})
        session.run(recipe, tmp_path / mode / "run", roles=roles)
        store = RunStore(tmp_path / mode / "run")
        assert {row.thought for row in store.read("corpus", CorpusRow)} == {"Hm, which one?"}
        mixed = store.read("round-1/mixture", MixtureRow)
        assert {(row.response, row.thought) for row in mixed} == {("right", "Hm, which one?" if mode == "keep" else "")}
        ((_, shown),) = training_examples(store, mixed[0].id)
        assert shown.thought == mixed[0].thought
        assert isinstance(roles.trainer, fakes.Trainer)
        thoughts = {example.thought for example in roles.trainer.jobs[0].examples}
        assert thoughts == ({"Hm, which one?"} if mode == "keep" else {""})


class Teacher(fakes.Teacher):
    """A teacher that thinks before every text it writes."""

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for name, reply in super().answer(instructions):
            yield name, replace(reply, reasoning="Hm, a new one.") if isinstance(reply, Completion) else reply

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        for name, reply in super().refine(requests):
            yield name, replace(reply, reasoning="Hm, to rewrite.") if isinstance(reply, Completion) else reply


@pytest.mark.parametrize("mode", ["on", "keep"])
def test_a_thought_that_is_learnt_stays_with_the_answer_it_led_to(mode: str, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"{task} number {number}{last}", "output": (THOUGHT if last == "4" else "") + "right"}
        for task in fakes.LABELS
        for number in range(3)
        for last in "34"
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    corpus = list(pairs(read_file(tmp_path / "rows.json"), "rows.json"))
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: corpus, teacher=Teacher())
    recipe = fakes.recipe(rounds=1, schedule={"kind": "constant", "share": 1.0})
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"thinking": mode})})
    session.run(recipe, tmp_path / "run", roles=roles)
    store = RunStore(tmp_path / "run")
    mixed = store.read("round-1/mixture", MixtureRow)
    kinds = {(row.refined, row.thought) for row in mixed if row.origin == "corpus"}
    new = {row.thought for row in mixed if row.origin == "expansion"}
    if mode == "on":
        assert kinds == {(True, "")}
        assert new == {""}
    else:
        assert kinds == {(False, "Hm, which one?"), (True, "")}
        assert new == {"Hm, a new one."}


@pytest.mark.parametrize("mode", ["off", "keep"])
def test_a_preference_is_between_two_answers_after_thoughts_or_between_two_without(mode: str, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"{task} number {number}{last}", "output": (THOUGHT if last == "4" else "") + "right"}
        for task in fakes.LABELS
        for number in range(30)
        for last in "34"
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    corpus = list(pairs(read_file(tmp_path / "rows.json"), "rows.json"))
    roles = replace(fakes.roles(tmp_path / "people"), corpus=lambda: corpus, student=Thinking(fakes.Student()))
    changed = {"student": {"thinking": mode}, "training": {"dpo": {"gap": 9.0}}}
    recipe = parse({"curriculum": {"size": 24, "refine": False, "expand": False}, "chunk": 8, **changed})
    session.run(recipe, tmp_path / "run", roles=roles)
    assert isinstance(roles.trainer, fakes.Trainer)
    made = [pair for job in roles.trainer.jobs for pair in job.preferences]
    both = {(pair.prompt[-1], pair.chosen, pair.thought, pair.rejected, pair.rejected_thought) for pair in made}
    hm = "Hm, which one?" if mode == "keep" else ""
    assert both == {("3", "right", "", "wrong", ""), ("4", "right", hm, "wrong", hm)}


@pytest.mark.parametrize("where", ["reasoning_content", "inline", "hidden", "unfinished"])
def test_no_verdict_and_no_label_is_lost_to_thinking(where: str, tmp_path: Path) -> None:
    watcher = Watcher()
    with serving(Behaviour(latency=0.0, reasoning=where, thoughts=700)) as server:
        with connected(server, tmp_path, progress=watcher) as calls:
            judge = LlmJudge(calls, BOOK, judge_section(), "m")
            found = dict(judge.judge(Comparison(one, "As it was.", "So it is.") for one in TEXTS))
            tagger = LlmTagger(calls, BOOK, LlmTaggerConfig(endpoints=ENDPOINTS[:1]), taxonomy(parse({})))
            tags = dict(tagger.tag(TEXTS))
        first = server.stats().requests
        with connected(server, tmp_path, run="again") as calls:
            again = dict(
                LlmJudge(calls, BOOK, judge_section(), "m").judge(
                    Comparison(one, "As it was.", "So it is.") for one in TEXTS
                )
            )
        assert server.stats().requests == first  # both calls of each are in the ledger
    assert not [one for one in found.values() if isinstance(one, Unscored)]
    assert all(isinstance(tag, TaskTag) for tag in tags.values())
    assert again.keys() == found.keys()
    assert first == 2 * (2 * len(TEXTS) + len(TEXTS))
    assert any("were all thought: asked again with 4,096 tokens more" in note for note in watcher.notes)


def test_room_for_thoughts_is_added_to_the_limit_of_every_call(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=700)) as server,
        connected(server, tmp_path, thinking_tokens=2048) as calls,
    ):
        judge = LlmJudge(calls, BOOK, judge_section(), "m")
        found = dict(judge.judge(Comparison(one, "As it was.", "So it is.") for one in TEXTS))
        assert server.stats().requests == 2 * len(TEXTS)
    assert not [one for one in found.values() if isinstance(one, Unscored)]


@pytest.mark.harness
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_thoughts_cost_no_point_of_ifeval(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    import lm_eval

    shipped = Path(lm_eval.__file__).parent / "tasks" / "ifeval" / "ifeval.yaml"
    task: dict[str, object] = {"include": str(shipped), "task": "ifeval", "dataset_path": "json", "dataset_name": None}
    task |= {"dataset_kwargs": {"data_files": {"train": str(CASES / "ifeval_hf.jsonl")}}}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ifeval.yaml").write_text(json.dumps(task))
    for name in ("clean", "thinking"):
        call = ["eval", "harness", str(CASES / f"{name}.json"), "--tasks", "ifeval"]
        done = tapir(*call, "--include", str(tmp_path / "tasks"), "--out", str(tmp_path / name), "--json")
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)["results"]
        assert {metric["value"] for metric in results.values()} == {1.0}, results


class Clock(datetime):
    """Stands still on a day of the test's."""

    faked = "2026-11-30"

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Clock:  # noqa: ARG003
        return cls.fromisoformat(f"{cls.faked}T23:59:00")


@pytest.mark.slow
@pytest.mark.parametrize("dated", [False, True], ids=["a template without a date", "a date in it that the recipe pins"])
def test_runs_begun_on_two_days_have_the_same_tables_weights_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dated: bool
) -> None:
    pytest.importorskip("reasoning_gym")
    changes = [*small.CHANGES, "curriculum.rounds=1"]
    if dated:
        own = (resources.files("tapir.gym") / "nano" / "chat_template.jinja").read_text("utf-8")
        template = "{{ '<user>Today is ' + strftime_now('%d %B %Y') + '.' }}" + own
        (tmp_path / "dated.jinja").write_text(template, encoding="utf-8")
        changes += [f"student.chat_template={tmp_path / 'dated.jinja'}", "student.date=2024-02-29"]
    for patched in ("tapir.runs.session.datetime", "transformers.utils.chat_template_utils.datetime"):
        monkeypatch.setattr(patched, Clock)
    found = []
    for day in ("2026-11-30", "2026-12-01"):
        monkeypatch.setattr(Clock, "faked", day)
        session.run(load("gym", changes), tmp_path / day / "run")
        store = RunStore(tmp_path / day / "run")
        for name, export in (("student", export_model), ("mixture", export_mixture), ("dataset", export_dataset)):
            export(store, tmp_path / day / name)
            (tmp_path / day / name / "tapir-export.json").unlink()  # which names the run
            card = (tmp_path / day / name / "README.md").read_text("utf-8")
            (tmp_path / day / name / "README.md").write_text(card.replace(day, "the day"), encoding="utf-8")
        files = [path for path in (tmp_path / day).rglob("*") if path.is_file()]
        exported = {str(path.relative_to(tmp_path / day)): path.read_bytes() for path in files}
        found.append({path: content for path, content in exported.items() if not path.startswith("run")})
        found[-1] |= small.outcome(store.folder)
        assert json.loads((store.folder / "manifest.json").read_text())["date"] == ("2024-02-29" if dated else day)
    first, second = found
    assert [path for path in first.keys() | second.keys() if first.get(path) != second.get(path)] == []
    assert len([path for path in first if path.endswith("model.safetensors")]) == 2
    assert len([path for path in first if path.endswith(".parquet")]) > 10


def test_one_date_belongs_to_a_run_also_on_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.runs.session.datetime", Clock)
    monkeypatch.setattr(Clock, "faked", "2026-11-30")
    recipe = fakes.recipe(rounds=1)
    session.run(recipe, tmp_path / "run", roles=fakes.roles(tmp_path / "people"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["date"] == "2026-11-30"
    monkeypatch.setattr(Clock, "faked", "2026-12-01")
    assert session.dated(recipe, tmp_path / "run").student.date == "2026-11-30"
    assert session.dated(recipe, tmp_path / "other").student.date == "2026-12-01"
    session.run(recipe, tmp_path / "run", roles=fakes.roles(tmp_path / "people"))  # goes on, on the next day
    session.run(recipe, tmp_path / "other", roles=fakes.roles(tmp_path / "people"))
    tables = [path.relative_to(tmp_path / "run") for path in sorted((tmp_path / "run").rglob("*.parquet"))]
    assert tables
    assert all((tmp_path / "run" / one).read_bytes() == (tmp_path / "other" / one).read_bytes() for one in tables)
    pinned = recipe.model_copy(update={"student": recipe.student.model_copy(update={"date": "2024-02-29"})})
    assert session.dated(pinned, tmp_path / "new").student.date == "2024-02-29"
    assert load("gym", ["student.date=2024-02-29"]).student.date == "2024-02-29"  # which is a date to TOML
    for wrong in ("student.date=yesterday", "student.date=2024-02-29T10:00:00"):
        with pytest.raises(RecipeError, match=r"student\.date"):
            load("gym", [wrong])


def test_the_pass_rate_is_that_of_answers_without_their_thoughts(tmp_path: Path) -> None:
    (tmp_path / "learnt").write_text("add")
    known = [Pair(fakes.instruction(task, 1), Response("right", "corpus")) for task in ("add", "spell")]
    estimator = PassRate(PassRateConfig(kind="pass-rate", samples=2), Thinking(fakes.Student()), fakes.Judge())
    found = dict(estimator.estimate(Checkpoint(str(tmp_path), 0), known, {}))
    values = [one.value for pair in known if not isinstance(one := found[pair.instruction.id], Unscored)]
    assert values == [0.0, 1.0]


def test_two_requests_under_one_key_are_both_answered_and_asked_again(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=700)) as server,
        connected(server, tmp_path) as calls,
    ):
        requests = [Request([Message(role="user", content=text.text)], Sampling(0.0, 64)) for text in TEXTS[:2]]
        found = list(calls.stream(ENDPOINTS, [("same", request) for request in requests]))
    assert [key for key, _ in found] == ["same", "same"]
    assert all(isinstance(reply, Completion) and reply.text for _, reply in found)


THINKS = Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=700)
MANY = [Request([Message(role="user", content=f"{text.text} {n}")], Sampling(0.0, 64)) for n in "ab" for text in TEXTS]


def test_a_second_call_has_as_much_room_as_the_context_of_the_model(tmp_path: Path) -> None:
    watcher = Watcher()
    fits = replace(THINKS, length_limit=2000)
    with serving(fits) as server, connected(server, tmp_path, progress=watcher) as calls:
        replies = [reply for _, reply in calls.stream(ENDPOINTS, enumerate(MANY))]
        assert server.stats().by_status["400"] == 0
    assert not [one for one in map(text_or_failure, replies) if isinstance(one, Failure)]
    assert any("asked again with 1,9" in note and "thinking_tokens = 19" in note for note in watcher.notes)
    with serving(replace(THINKS, length_limit=76)) as server, connected(server, tmp_path / "none", run="b") as calls:
        replies = [reply for _, reply in calls.stream(ENDPOINTS, enumerate(MANY))]
        assert server.stats().requests == len(MANY)
    assert {one.kind for one in map(text_or_failure, replies) if isinstance(one, Failure)} == {"still thinking"}


@pytest.mark.parametrize("how", ["call", "batch"])
def test_a_second_call_that_is_refused_is_the_failure_of_its_item_alone_also_on_resume(
    how: str, tmp_path: Path
) -> None:
    short = replace(THINKS, length_limit=1000, tells_limit=False, batch_seconds=0.0)
    endpoints = ENDPOINTS[:1]
    for run in ("first", "resumed"):
        with serving(short) as server, connected(server, tmp_path, run=run, batch=how == "batch") as calls:
            replies = [reply for _, reply in calls.stream(endpoints, enumerate(MANY))]
            rest = server.stats()
        assert {one.kind for one in map(text_or_failure, replies) if isinstance(one, Failure)} == {"still thinking"}
        assert len(replies) == len(MANY) > 10
    assert how == "batch" or rest.requests == rest.by_status["400"] == len(MANY)  # the first calls are in the ledger


@pytest.mark.parametrize("where", ["hidden", "unfinished"])
def test_a_thought_that_is_not_shown_is_given_room_in_a_second_batch(where: str, tmp_path: Path) -> None:
    hides = Behaviour(latency=0.0, batch_seconds=0.0, reasoning=where, thoughts=700)
    with serving(hides) as server, connected(server, tmp_path, batch=True) as calls:
        replies = [reply for _, reply in calls.stream(ENDPOINTS[:1], enumerate(MANY))]
        assert server.fake is not None
        assert [len(batch.lines) for batch in server.fake.batches.values()] == [len(MANY)] * 2
    assert not [one for one in map(text_or_failure, replies) if isinstance(one, Failure)]


def test_the_call_with_room_for_a_thought_keeps_to_the_limit_and_the_first_is_not_paid_again(tmp_path: Path) -> None:
    request = Request([Message(role="user", content=TEXTS[0].text)], Sampling(0.0, 64))
    with serving(Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=700)) as server:
        paid = EndpointConfig(base_url=server.url, model="fake", price_output=1e6)  # 1 for each token

        def reply(max_cost: float) -> Completion | Failure:
            calls = ApiSession({"one": paid}, CallsConfig(max_cost=max_cost), pause_factor=0.01)
            calls.open(tmp_path, "run", Watcher())
            try:
                ((_, found),) = calls.stream(("one",), [("", request)])
            finally:
                calls.close()
            return found

        with pytest.raises(CostLimit):
            reply(1000.0)
        assert server.stats().requests == 1
        assert text_or_failure(reply(10_000.0))
        assert server.stats().requests == 2
        paid = paid.model_copy(update={"thinking_tokens": 2000})
        with pytest.raises(CostLimit):  # what the endpoint gives a thought counts as well
            reply(2000.0)
