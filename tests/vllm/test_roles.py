"""Every role filled by a real vLLM server whose model says nonsense: each item still ends in a named state."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import pytest

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.task import TaskTag, Taxonomy
from tapir.errors import RoleError
from tapir.llm.book import Book
from tapir.llm.endpoint import Endpoint
from tapir.llm.judge import JudgeSettings, LlmJudge
from tapir.llm.switchboard import Switchboard
from tapir.llm.tagger import LlmTagger, TaggerSettings
from tapir.llm.teacher import LlmTeacher, TeacherSettings
from tapir.roles import Comparison, ExpandRequest, RefineRequest
from tapir.session import SilentWatch
from tests import small_model
from tests.vllm import server as vllm
from tests.vllm.server import Server

pytestmark = pytest.mark.vllm

ENDPOINT = ("local",)
BOOK = Book.of({})
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
) -> Iterator[Switchboard]:
    """An open switchboard with the server as its one endpoint; its ledger is in the folder."""
    board = Switchboard({"local": Endpoint("local", server.url, model, json_schema=json_schema)})
    board.open(folder, "run", SilentWatch())
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


def judge(board: Switchboard, items: Sequence[Comparison], **settings: object) -> dict[str, Verdict]:
    found = JudgeSettings(**{"endpoints": ENDPOINT, "temperature": 1.0, "max_tokens": 64, **settings})  # type: ignore[arg-type]
    return dict(LlmJudge(board, BOOK, found, "nonsense").judge(items))


def teacher(board: Switchboard, max_tokens: int = 48) -> LlmTeacher:
    return LlmTeacher(board, BOOK, TeacherSettings(ENDPOINT, max_tokens=max_tokens), "nonsense")


def expand(board: Switchboard) -> list[tuple[str, Instruction | Failure]]:
    requests = [ExpandRequest(task, pairs(4), 10, seed) for seed, task in enumerate(TASKS[:5])]
    return list(teacher(board).expand(requests))


def refine(board: Switchboard) -> dict[str, Completion | Failure]:
    requests = [RefineRequest(pair, task) for pair, task in zip(pairs(10), TASKS, strict=False)]
    return dict(teacher(board).refine(requests))


def tag(board: Switchboard) -> dict[str, TaskTag | Failure]:
    return dict(LlmTagger(board, BOOK, TaggerSettings(ENDPOINT), TAXONOMY).tag(instructions(20)))


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
def test_every_comparison_is_scored_or_unscored_with_a_reason(
    server: Server, tmp_path: Path, *, json_schema: bool
) -> None:
    with switchboard(server, tmp_path, json_schema=json_schema) as board:
        found = judge(board, comparisons(20))
    states = counted(list(found.values()))
    assert found.keys() == {one.instruction.id for one in comparisons(20)}, states
    for verdict in found.values():
        check_verdict(verdict)
    if json_schema:
        assert states["judged"] > 0, states
    else:
        assert not states["judged"], states


@pytest.mark.parametrize("single", [False, True], ids=["pairwise", "single"])
def test_two_samples_are_two_calls(server: Server, tmp_path: Path, *, single: bool) -> None:
    before = server.count("request_success")
    with switchboard(server, tmp_path, json_schema=True) as board:
        found = judge(board, comparisons(10), single=single, samples=2)
    asked = server.count("request_success") - before
    states = counted(list(found.values()))
    assert sum(states.values()) == 10, states
    assert 40 <= asked <= 80, (asked, states)
    for verdict in found.values():
        check_verdict(verdict)
        assert isinstance(verdict, Unscored) or len(verdict) <= (2 if single else 4)


def test_an_answer_is_whole_or_says_that_it_was_cut_off_and_a_prompt_too_long_fails_alone(
    server: Server, tmp_path: Path
) -> None:
    asked = [*instructions(20), Instruction.of(too_long(), Origin("corpus"))]
    with switchboard(server, tmp_path) as board:
        found = dict(teacher(board, max_tokens=12).answer(asked))
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


def test_a_comparison_that_does_not_fit_is_unscored_with_what_the_server_said(server: Server, tmp_path: Path) -> None:
    with switchboard(server, tmp_path) as board:
        found = judge(board, [Comparison(instructions(1)[0], "The Rhine.", too_long())])
    (verdict,) = found.values()
    assert isinstance(verdict, Unscored)
    assert verdict.reason == "call failed: bad-request"
    assert "maximum context length" in verdict.raw


@STYLES
def test_every_call_for_new_instructions_brings_some_or_a_failure(
    server: Server, tmp_path: Path, *, json_schema: bool
) -> None:
    with switchboard(server, tmp_path, json_schema=json_schema) as board:
        found = expand(board)
    states = counted([one for _, one in found])
    assert {task for task, _ in found} == set(TASKS[:5]), states
    assert all(one.kind in {"length", "empty", "unreadable"} for _, one in found if isinstance(one, Failure)), states
    assert bool(states["Instruction"]) == json_schema, states


def test_every_answer_is_rewritten_or_fails(server: Server, tmp_path: Path) -> None:
    with switchboard(server, tmp_path) as board:
        found = refine(board)
    states = counted(list(found.values()))
    assert found.keys() == {one.id for one in instructions(10)}, states
    for reply in found.values():
        assert isinstance(reply, Completion), states
        check_completion(reply, 48)


@STYLES
def test_nonsense_is_a_label_only_where_the_schema_leaves_nothing_else(
    server: Server, tmp_path: Path, *, json_schema: bool
) -> None:
    with switchboard(server, tmp_path, json_schema=json_schema) as board:
        found = tag(board)
    states = counted(list(found.values()))
    assert found.keys() == {one.id for one in instructions(20)}, states
    assert all(one.task in TASKS for one in found.values() if isinstance(one, TaskTag))
    if json_schema:
        assert states["TaskTag"] > 0, states
        assert states["TaskTag"] + states["failure: length"] == 20, states
    else:
        assert not states["TaskTag"], states


def test_an_expected_score_is_the_mean_over_the_scores_the_model_weighed_up(server: Server, tmp_path: Path) -> None:
    with switchboard(server, tmp_path, json_schema=True) as board:
        found = judge(board, comparisons(10), single=True, expected_score=True)
    states = counted(list(found.values()))
    assert len(found) == 10, states
    for verdict in found.values():
        check_verdict(verdict)
    scores = [one.student for verdict in found.values() if not isinstance(verdict, Unscored) for one in verdict]
    assert scores, states
    assert any(2 * score % 1 for score in scores), scores


@STYLES
def test_a_second_pass_finds_everything_in_the_ledger(server: Server, tmp_path: Path, *, json_schema: bool) -> None:
    def everything() -> tuple[list[object], int]:
        with switchboard(server, tmp_path, json_schema=json_schema) as board:
            answers = dict(teacher(board).answer(instructions(10)))
            results: list[object] = [judge(board, comparisons(20)), answers, refine(board), tag(board)]
            results.append(sorted(expand(board), key=repr))
            assert board._engine is not None
            return results, board._engine.account.calls

    first, calls = everything()
    before = server.count("request_success"), server.count("prompt_tokens")
    second, more = everything()
    assert (server.count("request_success"), server.count("prompt_tokens")) == before
    assert calls > 0
    assert more == 0
    assert second == first


def test_a_model_that_the_server_has_not_is_told_with_those_it_has(server: Server, tmp_path: Path) -> None:
    before = server.count("prompt_tokens")
    with (
        pytest.raises(RoleError, match=r"has no model 'nonsens'; it has nonsense") as caught,
        switchboard(server, tmp_path, model="nonsens"),
    ):
        pass
    assert "endpoints.local.model" in caught.value.remedy
    assert server.count("prompt_tokens") == before
