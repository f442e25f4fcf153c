"""Every role filled by a real vLLM server whose model says nonsense: each item still ends in a named state."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from support import small_model
from support import vllm_server as vllm
from support.vllm_server import Server
from tapir.config.annotators import LlmJudgeConfig, LlmTaggerConfig, LlmTeacherConfig
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Comparison, ExpandRequest, RefineRequest
from tapir.domain.task import TaskTag, Taxonomy
from tapir.models.api.session import ApiSession
from tapir.models.judge import LlmJudge
from tapir.models.prompts import PromptSet
from tapir.models.taggers.llm import LlmTagger
from tapir.models.teacher import LlmTeacher

pytestmark = pytest.mark.vllm

ENDPOINT = ("local",)
BOOK = PromptSet.of({})
TAXONOMY = Taxonomy.from_toml((resources.files("tapir.recipes") / "taxonomies" / "paper.toml").read_text("utf-8"))
TASKS = TAXONOMY.labels
STYLES = pytest.mark.parametrize("json_schema", [False, True], ids=["tagged", "json"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not vllm.installed():
        pytest.skip(".venv-vllm is absent or not complete: `make vllm` installs it")
    with vllm.serving() as found:
        yield found


@contextlib.contextmanager
def switchboard(
    server: Server, folder: Path, *, json_schema: bool = False, model: str = vllm.MODEL
) -> Iterator[ApiSession]:
    """An open switchboard with the server as its one endpoint; its ledger is in the folder."""
    board = ApiSession({"local": EndpointConfig(base_url=server.url, model=model, json_schema=json_schema)})
    board.open(folder, "run", SilentProgress())
    try:
        yield board
    finally:
        board.close()


def instructions(count: int) -> list[Instruction]:
    return [
        Instruction.of(f"Name {number} rivers and say where each ends.", Origin("corpus")) for number in range(count)
    ]


def pairs(count: int) -> list[Pair]:
    return [Pair(one, Response("The Rhine ends in the North Sea.", "corpus")) for one in instructions(count)]


def comparisons(count: int) -> list[Comparison]:
    return [Comparison(one, "The Rhine ends in the North Sea.", "A river.") for one in instructions(count)]


def too_long() -> str:
    return "river " * 2 * small_model.CONTEXT


def judge(board: ApiSession, items: Sequence[Comparison], **settings: object) -> dict[str, Verdict]:
    content = {"kind": "llm", "endpoints": ENDPOINT, "temperature": 1.0, "max_tokens": 64, **settings}
    return dict(LlmJudge(board, BOOK, LlmJudgeConfig.model_validate(content), "nonsense").judge(items))


def teacher(board: ApiSession, max_tokens: int = 48) -> LlmTeacher:
    return LlmTeacher(board, BOOK, LlmTeacherConfig(kind="llm", endpoints=ENDPOINT, max_tokens=max_tokens), "nonsense")


def expand(board: ApiSession) -> list[tuple[str, Instruction | Failure]]:
    requests = [ExpandRequest(task, pairs(4), 10, seed) for seed, task in enumerate(TASKS[:5])]
    return list(teacher(board).expand(requests))


def refine(board: ApiSession) -> dict[str, Completion | Failure]:
    requests = [RefineRequest(pair, task) for pair, task in zip(pairs(10), TASKS, strict=False)]
    return dict(teacher(board).refine(requests))


def tag(board: ApiSession) -> dict[str, TaskTag | Failure]:
    return dict(LlmTagger(board, BOOK, LlmTaggerConfig(kind="llm", endpoints=ENDPOINT), TAXONOMY).tag(instructions(20)))


def counted(results: Sequence[object]) -> Counter[str]:
    """How many ended in which state, with the reason where there is one."""
    states: Counter[str] = Counter()
    for one in results:
        if isinstance(one, Completion):
            states[f"completion: {one.finish_reason}"] += 1
        elif isinstance(one, Unscored):
            states[f"unscored: {one.reason}"] += 1
        elif isinstance(one, Failure):
            states[f"failure: {one.kind}"] += 1
        else:
            states["judged" if isinstance(one, tuple) else type(one).__name__] += 1
    return states


def check_verdict(verdict: Verdict) -> None:
    if isinstance(verdict, Unscored):
        assert verdict.reason
        return
    assert verdict
    assert all(isinstance(one, Judgement) for one in verdict)
    assert all(1 <= score <= 10 for one in verdict for score in (one.student, one.reference))


def check_completion(reply: Completion, max_tokens: int) -> None:
    assert reply.model == vllm.MODEL
    assert not reply.reasoning
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= max_tokens
    assert reply.finish_reason == "stop" or reply.usage.completion_tokens == max_tokens


@STYLES
def test_every_item_of_every_role_ends_in_a_named_state_and_is_in_the_ledger_then(
    server: Server, tmp_path: Path, *, json_schema: bool
) -> None:
    def everything() -> tuple[Any, ...]:
        with switchboard(server, tmp_path, json_schema=json_schema) as board:
            answers = dict(teacher(board).answer(instructions(10)))
            found = judge(board, comparisons(20)), tag(board), expand(board), refine(board), answers
            assert board._client is not None
            return *found, board._client.budget.calls

    verdicts, tags, new, rewritten, answers, calls = everything()
    before = server.count("request_success"), server.count("prompt_tokens")
    *again, more = everything()
    assert (server.count("request_success"), server.count("prompt_tokens")) == before
    assert (calls > 0, more) == (True, 0)
    again[2], found = sorted(again[2], key=repr), sorted(new, key=repr)
    assert again == [verdicts, tags, found, rewritten, answers]
    states = counted([*verdicts.values(), *tags.values(), *(result for _, result in new)])
    assert verdicts.keys() == {item.instruction.id for item in comparisons(20)}, states
    assert tags.keys() == {item.id for item in instructions(20)}, states
    assert {task for task, _ in new} == set(TASKS[:5]), states
    assert rewritten.keys() == {item.id for item in instructions(10)}, states
    for verdict in verdicts.values():
        check_verdict(verdict)
    for reply in rewritten.values():
        assert isinstance(reply, Completion)
        check_completion(reply, 48)
    assert all(tag.task in TASKS for tag in tags.values() if isinstance(tag, TaskTag))
    assert all(result.kind in {"length", "empty", "unreadable"} for _, result in new if isinstance(result, Failure)), (
        states
    )
    assert [states[name] > 0 for name in ("judged", "TaskTag", "Instruction")] == [json_schema] * 3, states


@pytest.mark.parametrize(("mode", "most"), [("pairwise", 4), ("single", 2)])
def test_two_samples_are_two_calls(server: Server, tmp_path: Path, mode: str, most: int) -> None:
    before = server.count("request_success")
    with switchboard(server, tmp_path, json_schema=True) as board:
        found = judge(board, comparisons(10), mode=mode, samples=2)
    assert 40 <= server.count("request_success") - before <= 80
    assert len(found) == 10
    assert all(isinstance(verdict, Unscored) or len(verdict) <= most for verdict in found.values())


def test_an_answer_is_whole_or_says_that_it_was_cut_off_and_what_is_too_long_fails_alone(
    server: Server, tmp_path: Path
) -> None:
    asked = [*instructions(20), Instruction.of(too_long(), Origin("corpus"))]
    with switchboard(server, tmp_path) as board:
        found = dict(teacher(board, max_tokens=12).answer(asked))
        (verdict,) = judge(board, [Comparison(asked[0], "The Rhine.", too_long())]).values()
    assert isinstance(verdict, Unscored)
    assert verdict.reason == "call failed: bad-request"
    assert "maximum context length" in verdict.raw
    states = counted(list(found.values()))
    failure = found.pop(asked[-1].id)
    assert isinstance(failure, Failure), states
    assert failure.kind == "bad-request"
    assert f"maximum context length is {small_model.CONTEXT}" in failure.message
    assert found.keys() == {one.id for one in instructions(20)}, states
    for reply in found.values():
        assert isinstance(reply, Completion), states
        check_completion(reply, 12)
    assert states["completion: stop"] > 0, states
    assert states["completion: length"] > 0, states


def test_an_expected_score_is_the_mean_over_the_scores_the_model_weighed_up(server: Server, tmp_path: Path) -> None:
    with switchboard(server, tmp_path, json_schema=True) as board:
        found = judge(board, comparisons(10), mode="single", expected_score=True)
    states = counted(list(found.values()))
    assert len(found) == 10, states
    for verdict in found.values():
        check_verdict(verdict)
    scores = [one.student for verdict in found.values() if not isinstance(verdict, Unscored) for one in verdict]
    assert scores, states
    assert any(2 * score % 1 for score in scores), scores


def test_a_model_that_the_server_has_not_is_told_with_those_it_has(server: Server, tmp_path: Path) -> None:
    before = server.count("prompt_tokens")
    with (
        pytest.raises(RoleError, match=r"has no model 'studen'; it has student") as caught,
        switchboard(server, tmp_path, model="studen"),
    ):
        pass
    assert "endpoints.local.model" in caught.value.remedy
    assert server.count("prompt_tokens") == before
