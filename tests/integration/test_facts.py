"""What a server can do: the model it has, whether it takes a JSON schema, and what each role would meet."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from support.calling import PRICES
from support.command import tapir
from support.recipes import api
from support.scripted import BOOK, Watcher, connected
from support.server import Behaviour, Server, serving
from tapir.config.annotators import LlmTaggerConfig
from tapir.config.toml import as_toml, parse
from tapir.data.run.reader import RunReader
from tapir.data.run.store import CHECKSUMS, RunStore
from tapir.domain.errors import RoleError, RunMismatch
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskTag
from tapir.models.api.ledger import Ledger, merge_ledgers
from tapir.models.api.session import ApiSession
from tapir.models.taggers.llm import LlmTagger
from tapir.runs import session
from tapir.runs.corpus import taxonomy

QUICK = Behaviour(latency=0.0)
TEXTS = [Instruction.of(f"Write a story about {number} tapirs.", Origin("corpus")) for number in range(6)]


def opened(server: Server, folder: Path, **changes: Any) -> AbstractContextManager[ApiSession]:
    return connected(server, folder, **{"model": "auto", "json": "auto", **PRICES, **changes})


def tags(calls: ApiSession) -> list[object]:
    section = LlmTaggerConfig(endpoints=("one",))
    return [tag for _, tag in LlmTagger(calls, BOOK, section, taxonomy(parse({}))).tag(TEXTS)]


@pytest.mark.parametrize(
    ("behaviour", "takes", "calls"),
    [
        ({}, True, 1),
        ({"ignores_schema": True}, False, 1),
        ({"refused_fields": ("response_format",)}, False, 1),
        ({"refused_fields": ("response_format",), "names_refused": False}, False, 2),
    ],
    ids=["taken", "ignored", "refused", "refused without a reason"],
)
def test_whether_a_server_takes_a_schema_is_found_out_once_paid_and_said(
    tmp_path: Path, behaviour: dict[str, Any], *, takes: bool, calls: int
) -> None:
    watcher = Watcher()
    with serving(Behaviour(latency=0.0, **behaviour)) as server:
        for run in ("run", "run", "another"):
            with opened(server, tmp_path, run=run, progress=watcher) as made:
                assert [made.json_schema(("one",)) for _ in range(2)] == [takes] * 2
        billed = server.stats()
        with opened(server, tmp_path) as made:
            paid = next(iter(made.spent()), None)
    assert billed.requests == calls
    if paid:
        assert (paid.prompt_tokens, paid.completion_tokens) == (billed.prompt_tokens, billed.completion_tokens)
    assert (paid is None) == (not billed.completion_tokens)
    (said,) = [note for note in watcher.notes if "JSON schema" in note]
    assert f"takes {'a' if takes else 'no'} JSON schema" in said
    assert f"{billed.prompt_tokens + billed.completion_tokens} tokens" in said


def test_a_reply_that_was_cut_off_tells_nothing_for_later_about_a_schema(tmp_path: Path) -> None:
    watcher = Watcher()
    with serving(Behaviour(latency=0.0, finish_length_share=1.0)) as server:
        for _ in range(2):
            with opened(server, tmp_path, progress=watcher) as made:
                assert [made.json_schema(("one",)) for _ in range(2)] == [False] * 2
        assert server.stats().requests == 1
        server.set(finish_length_share=0.0)
        with opened(server, tmp_path, thinking_tokens=64) as made:
            assert made.json_schema(("one",))
    assert ["as its reply to one was cut off" in note for note in watcher.notes if "JSON schema" in note] == [True] * 2


@pytest.mark.parametrize("first", [True, False], ids=["with a schema first", "without one first"])
def test_a_resumed_run_asks_in_the_style_it_began_with_and_pays_nothing_again(tmp_path: Path, *, first: bool) -> None:
    with serving(Behaviour(latency=0.0, ignores_schema=not first)) as server:
        with opened(server, tmp_path) as made:
            before = tags(made)
        requests = server.stats().requests
        server.set(ignores_schema=first)
        with opened(server, tmp_path) as made:
            assert made.json_schema(("one",)) == first
            assert tags(made) == before
        assert server.stats().requests == requests == len(TEXTS) + 1
    assert all(isinstance(tag, TaskTag) for tag in before)


def test_a_finding_moves_with_a_merged_ledger_and_belongs_to_its_model(tmp_path: Path) -> None:
    with serving(QUICK) as server, opened(server, tmp_path / "one") as made:
        assert made.json_schema(("one",))
        url = server.url
    merge_ledgers(tmp_path / "all.sqlite", [tmp_path / "one" / "ledger.sqlite"])
    ledger = Ledger(tmp_path / "all.sqlite")
    found = [ledger.find_fact(*key) for key in (("new", "x", url, "fake"), ("run", "one", "moved", "fake"))]
    assert found == [True, True]
    assert ledger.find_fact("run", "one", url, "other") is None
    ledger.close()


def test_a_server_that_replies_to_nothing_is_an_error_with_the_setting_it_complains_of(tmp_path: Path) -> None:
    behaviour = Behaviour(latency=0.0, refused_fields=("max_tokens",))
    with (
        serving(behaviour) as server,
        opened(server, tmp_path) as made,
        pytest.raises(RoleError, match="field 'max_tokens'") as caught,
    ):
        made.json_schema(("one",))
    assert caught.value.remedy == 'Set endpoints.one.max_tokens_field = "max_completion_tokens".'


@pytest.mark.parametrize(
    ("models", "wanted", "outcome"),
    [
        (("/models/q.gguf",), "auto", "/models/q.gguf"),
        (("chat", "text-embedding-small"), "auto", "chat"),
        (("auto", "large"), "auto", "auto"),
        (("small", "large"), "auto", "has 2 models: "),
        (("qwen2.5:latest",), "qwen2.5", "qwen2.5"),
        (("small",), "medium", "has no model 'medium'; it has small"),
    ],
)
def test_the_model_is_the_only_one_of_the_server_or_the_one_named(
    tmp_path: Path, models: tuple[str, ...], wanted: str, outcome: str
) -> None:
    with serving(Behaviour(latency=0.0, models=models)) as server:
        if " " not in outcome:
            with opened(server, tmp_path, model=wanted) as made:
                assert made.model("one") == outcome
            assert not server.stats().requests
            return
        with pytest.raises(RoleError) as caught, opened(server, tmp_path, model=wanted):
            pass
        assert outcome in str(caught.value)
        assert all(name in str(caught.value) for name in models)
        assert "endpoints.one.model" in caught.value.remedy


def test_a_name_that_the_server_takes_without_listing_it_is_no_error(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0, models=("/m/q.gguf",), takes_any_name=True)) as server:
        for _ in range(2):
            with opened(server, tmp_path, model="q"):
                pass
        assert server.stats().requests == 1


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"instruction": f"Write a story about {number} tapirs.", "output": "Once."} for number in range(30)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def recipe(rows: Path, server: Server, **changed: Any) -> dict[str, Any]:
    tables = api(corpus={"kind": "file", "path": str(rows)}, evaluation={"kind": "judged", "held_out": 5})
    tables["curriculum"] = {"target": {"taxonomy": "paper"}}
    return {**tables, "endpoints": {"gpt": {"base_url": server.url, **PRICES}}, **changed}


def test_a_run_keeps_the_model_it_found_and_is_refused_with_another(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serving(Behaviour(latency=0.0, models=("first",))) as server:
        made = parse(recipe(rows, server))
        session.claim(made, folder, session.preflight(made, folder))
        (folder / CHECKSUMS).touch()  # it has begun
        assert RunReader(RunStore(folder)).recipe["endpoints"]["gpt"]["model"] == "first"
        server.set(models=("second", "first"))
        session.claim(made, folder, session.preflight(made, folder))
        server.set(models=("second",))
        stored = session.stored_recipe(folder)
        roles = session.preflight(stored, folder)
        with pytest.raises(RunMismatch, match=r"endpoints\.gpt\.model: first -> second"):
            session.claim(stored, folder, roles)


@pytest.mark.parametrize(
    ("behaviour", "changed", "lines"),
    [
        ({}, {}, {role: ["model fake, JSON schema, reply was read"] for role in ("teacher", "judge", "tagger")}),
        ({"ignores_schema": True}, {}, {"judge": ["no JSON schema, reply was read"]}),
        (
            {"refused_fields": ("temperature",)},
            {"teacher": {"kind": "llm", "endpoints": ["gpt"], "temperature": False, "expand_temperature": False}},
            {"judge": ["no reply", "Set temperature = false"], "teacher": ["reply was read"]},
        ),
        ({"models": ("a", "b")}, {}, {"tagger": ["has 2 models", "Set endpoints.gpt.model to one of them."]}),
        (
            {},
            {"judge": {"kind": "llm", "endpoints": ["gpt"], "max_tokens": 9}},
            {"judge": ["reply was not read: reply was cut off; it begins"]},
        ),
    ],
    ids=["all is well", "no schema", "no temperature", "several models", "cut off"],
)
def test_check_reach_calls_every_role_once_and_says_what_came(
    rows: Path, tmp_path: Path, behaviour: dict[str, Any], changed: dict[str, Any], lines: dict[str, list[str]]
) -> None:
    with serving(Behaviour(latency=0.0, **behaviour)) as server:
        made = parse(recipe(rows, server, **changed))
        (tmp_path / "recipe.toml").write_text(as_toml(made), encoding="utf-8")
        result = tapir("check", "recipe.toml", "--reach", cwd=tmp_path)
        billed = server.stats()
    said = {line.split(" ")[0]: line for line in result.stdout.splitlines() if " at endpoints.gpt: " in line}
    assert all(part in said[role] for role, parts in lines.items() for part in parts), result.stdout
    unusable = [role for role, line in said.items() if "reply was read" not in line]
    assert result.returncode == bool(unusable)
    assert ("cannot be used yet: " if unusable else "recipe.toml: good") in result.stdout
    counted = sum(int(line.split("(")[-1].split(" ")[0].replace(",", "")) for line in said.values() if "tokens" in line)
    assert counted == billed.prompt_tokens + billed.completion_tokens


@pytest.mark.parametrize("thoughts", [100, 700])
def test_a_model_that_thinks_takes_a_schema_all_the_same(thoughts: int, tmp_path: Path) -> None:
    behaviour = Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=thoughts)
    with serving(behaviour) as server, opened(server, tmp_path) as made:
        assert made.json_schema(("one",))
        assert server.stats().requests == (2 if thoughts > 512 else 1)
