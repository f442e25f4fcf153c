"""What a plan says, against what the method does and what a server bills."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir import assemble, session
from tapir.curriculum import Curriculum
from tapir.domain.completion import Completion, Usage
from tapir.domain.task import TaskDistribution
from tapir.errors import MissingExtra, RecipeError, StoreError
from tapir.llm.estimate import ANSWER, Bounds, cut, filler, tokens
from tapir.llm.ledger import Entry, Ledger, Purpose
from tapir.planning import Plan, StagePlan, plan, words
from tapir.planning.rounds import Guess, played
from tapir.recipe import Recipe
from tapir.recipe_file import parse
from tests.recipes import api, endpoint
from tests.runs import build_run
from tests.server import Behaviour, serving
from tests.test_light import tapir

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
ROWS = 60


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A corpus of 60 instructions; every tenth has no answer."""
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            answer = "" if number % 10 == 0 else f"It is {number}, because {number} comes after {number - 1}."
            file.write(json.dumps({"instruction": f"Which number is {number}?", "output": answer}) + "\n")
    return path


@pytest.fixture
def planned(rows: Path) -> Callable[..., Plan]:
    """The plan of a recipe with that corpus and some other tables."""

    def of(*, corpus: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None, **changed: Any) -> Plan:
        content = api(
            corpus={"kind": "file", "path": str(rows), **(corpus or {})},
            evaluation={"kind": "judged", "held_out": 10, **(evaluation or {})},
        )
        content["curriculum"] = {"size": 20, "rounds": 2, "target": {"taxonomy": "paper"}}
        for name, table in changed.items():
            content[name] = {**content.get(name, {}), **table}
        return plan(parse(content), measure=False)

    return of


def stage(found: Plan, name: str, number: int = 0) -> StagePlan:
    return next(one for one in found.stages if (one.stage, one.round) == (name, number))


def names(found: Plan) -> list[str]:
    return [one.stage for one in found.stages]


# Tokens


def test_english_has_about_four_tokens_for_three_words() -> None:
    prompts = [one for one in (resources.files("tapir.llm") / "prompts").iterdir() if one.name.endswith(".txt")]
    text = "".join(one.read_text("utf-8") for one in prompts)
    assert tokens(text) == pytest.approx(len(text.split()) / 0.75, rel=0.1)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 1), ("cat dog", 2), ("responsibility", 2), ("2024", 2), ("\n\n", 1), ("知识", 2), ("():", 2)],
)
def test_pieces_are_counted(text: str, count: int) -> None:
    assert tokens(text) == count


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_two_texts_have_at_most_the_tokens_of_both(one: str, other: str) -> None:
    assert tokens(one + other) <= tokens(one) + tokens(other)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(0, 300))
def test_a_filler_has_its_tokens_and_a_cut_text_no_more_than_its_limit(count: int, limit: int) -> None:
    assert tokens(filler(count)) == count
    assert tokens(cut(filler(count), limit)) == min(count, limit)


# Calls follow from the method


def test_the_judge_sees_every_scored_item_in_both_orders(planned: Callable[..., Plan]) -> None:
    found = planned()
    items = ROWS - ROWS // 10 - 10  # without an answer, or held out
    judged = stage(found, "judge")
    assert judged.items == Bounds.sure(items)
    assert judged.cost.calls.expected == pytest.approx(2 * items * 1.01)
    assert judged.cost.calls.most == 4 * items


def test_samples_multiply_the_verdicts(planned: Callable[..., Plan]) -> None:
    once, thrice = planned(), planned(judge={"samples": 3, "temperature": 1.0})
    for name in ("judge", "canary", "evaluate"):
        assert stage(thrice, name).cost.calls.expected == pytest.approx(3 * stage(once, name).cost.calls.expected)


def test_a_reference_judged_alone_is_paid_once(planned: Callable[..., Plan]) -> None:
    found = planned(judge={"mode": "single"}, curriculum={"rescoring": "every-round"})
    first, second = stage(found, "judge"), stage(found, "judge", 2)
    assert first.cost.calls.expected == pytest.approx(2 * first.items.expected * 1.01)
    new = second.items.expected - first.items.expected
    assert second.cost.calls.expected == pytest.approx((second.items.expected + new) * 1.01)
    assert stage(found, "canary").cost.calls.expected == pytest.approx(20 * 1.01)
    assert stage(found, "evaluate").cost.calls.expected == pytest.approx(2 * 10 * 1.01)
    assert stage(found, "evaluate", 1).cost.calls.expected == pytest.approx(10 * 1.01)


def test_there_is_one_evaluation_more_than_rounds(planned: Callable[..., Plan]) -> None:
    found = planned()
    assert names(found).count("evaluate") == 3
    assert {stage(found, "evaluate", number).cost.calls for number in range(3)} == {Bounds(2 * 10 * 1.01, 4 * 10)}


def test_what_has_no_answer_is_answered_by_the_teacher(planned: Callable[..., Plan]) -> None:
    assert "respond" not in names(planned())
    missing = planned(corpus={"answers": "missing"})
    assert stage(missing, "respond").cost.calls == Bounds.sure(ROWS // 10)
    assert stage(missing, "judge").items == Bounds.sure(ROWS - 10)
    every = planned(corpus={"answers": "teacher"})
    assert stage(every, "respond").cost.calls == Bounds.sure(ROWS - 10)
    assert stage(every, "respond").cost.written == Bounds((ROWS - 10) * ANSWER, (ROWS - 10) * 1024)
    assert stage(every, "evaluate").cost.calls.expected == pytest.approx(10 + 2 * 10 * 1.01)


def test_a_learning_tagger_asks_for_a_sample_and_a_model_for_everything(planned: Callable[..., Plan]) -> None:
    learning = planned(tagger={"labelled": 25})
    assert stage(learning, "label").cost.calls == Bounds.sure(25)
    assert stage(learning, "tag").cost.calls == Bounds()
    asking = planned(tagger={"kind": "llm"})
    assert "label" not in names(asking)
    assert stage(asking, "tag").cost.calls == Bounds.sure(ROWS - ROWS // 10)  # held-out prompts too


def test_nothing_is_planned_that_the_recipe_switches_off(planned: Callable[..., Plan]) -> None:
    found = planned(curriculum={"expand": False, "refine": False}, judge={"null_answers": 0})
    assert not {"expand", "refine", "prefer", "canary"} & {*names(found)}
    assert stage(planned(curriculum={"refine_keep": "judge"}), "prefer", 1).cost.calls.expected == pytest.approx(40.4)


def test_scoring_every_round_counts_what_was_written_meanwhile(planned: Callable[..., Plan]) -> None:
    found = planned(curriculum={"rescoring": "every-round", "size": 200})
    first, again = stage(found, "judge").items, stage(found, "judge", 2).items
    assert again.expected > first.expected
    assert again.most == first.most + 60  # the hard share of round 1


def test_the_embedded_world_costs_nothing() -> None:
    found = plan(parse({}), measure=False)
    assert not found.pays
    assert found.total.calls == found.total.money == Bounds()
    assert stage(found, "judge").items == Bounds.sure(2000)


def test_the_embedded_world_is_planned_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(recipe: Recipe) -> None:
        raise MissingExtra(f"{recipe.name} needs more", remedy="Install it.")

    monkeypatch.setattr(assemble, "check_installed", missing)
    monkeypatch.setattr(assemble, "roles", lambda recipe: pytest.fail(f"{recipe.name} cannot be assembled"))
    found = plan(parse({}), measure=True)
    assert found.obstacles == ("gym needs more: Install it.",)
    assert "expand" in names(found)


def test_at_most_is_never_below_expected(planned: Callable[..., Plan]) -> None:
    dear = {"gpt": endpoint(price_input=1.0, price_output=4.0)}
    for changes in ({}, {"judge": {"mode": "single"}}, {"curriculum": {"rescoring": "every-round"}}):
        for one in planned(endpoints=dear, **changes).stages:
            cost = one.cost
            for bounds in (one.items, cost.calls, cost.read, cost.written, cost.money, cost.seconds):
                assert 0 <= bounds.expected <= bounds.most


# Rounds


def rounds_of(size: int, hard: float, **settings: Any) -> list[Any]:
    curriculum = Curriculum(size=100, rounds=3, **settings)
    target = TaskDistribution.of({"a": 1.0, "b": 1.0})
    return played(curriculum, size, Guess(hard, {"a": 0.5, "b": 0.5}, 0.5), target, seed=1, at_once=5)


def test_a_rich_pool_needs_no_expansion() -> None:
    assert all(one.written.expected == 0 for one in rounds_of(10_000, 0.5))


def test_a_poor_pool_is_expanded_until_the_hard_share_is_met() -> None:
    found = rounds_of(1_000, 0.02)
    assert found[0].answered.expected == pytest.approx(30 - 20, abs=6)
    assert found[0].written.expected > found[0].answered.expected  # half of it is dropped and asked for again
    assert [one.trained.expected for one in found] == [100, 100, 100]


def test_without_a_hard_seed_nothing_is_expanded() -> None:
    assert all(one.written.expected == 0 for one in rounds_of(1_000, 0.0))


def test_an_example_is_refined_once_in_a_run() -> None:
    found = rounds_of(110, 0.5, expand=False)
    assert found[0].refined.expected > 80
    assert sum(one.refined.expected for one in found) <= 110


# Money, time, warnings


def test_money_follows_the_prices_and_the_share_of_a_batch(planned: Callable[..., Plan]) -> None:
    prices = {"price_input": 2.0, "price_output": 8.0}
    full = planned(endpoints={"gpt": endpoint(**prices)}).total
    assert full.money.expected == pytest.approx((2 * full.read.expected + 8 * full.written.expected) / 1e6)
    half = planned(endpoints={"gpt": endpoint(**prices, batch=True, batch_price=0.5)}).total
    assert half.money.expected == pytest.approx(full.money.expected / 2)


def test_the_slowest_limit_decides_the_time(planned: Callable[..., Plan]) -> None:
    free, paced = planned().total, planned(endpoints={"gpt": endpoint(requests_per_minute=6)}).total
    assert free.seconds.expected < 60
    assert paced.seconds.expected == pytest.approx(paced.calls.expected * 10)


def test_a_limit_below_the_expected_money_is_warned_of(planned: Callable[..., Plan]) -> None:
    dear = {"gpt": endpoint(price_input=1000.0)}
    assert any("will stop" in one for one in planned(endpoints=dear, calls={"max_cost": 0.5}).warnings)
    assert not planned(endpoints=dear, calls={"max_cost": 5000.0}).warnings
    assert not planned(endpoints=dear).warnings


def test_a_corpus_too_small_for_its_rounds_is_warned_of(planned: Callable[..., Plan]) -> None:
    (warning,) = planned(curriculum={"size": 500}).warnings
    assert "of the 500 examples" in warning


def test_every_assumption_is_said(planned: Callable[..., Plan]) -> None:
    said = "\n".join(words.lines(planned()))
    for part in ("30% of the corpus is hard", "equally common", "150 tokens", "1% of the verdicts", "64 calls at once"):
        assert part in said
    assert "no endpoint has a price" in said


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3k"), (999_600, "1M"), (1.5e6, "1.5M"), (3e9, "3G")],
)
def test_large_numbers_are_said_in_three_digits(value: float, text: str) -> None:
    assert words._cell(Bounds.sure(value), words._count) == text


def test_a_cell_says_at_most_only_where_it_differs() -> None:
    assert words._cell(Bounds(3, 5), words._exact) == "3 \u2264 5"
    assert words._cell(Bounds(0.004, 12.5), words._money) == "0.004 \u2264 12.50"


# Obstacles


def test_a_key_that_is_not_set_is_an_obstacle(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = {"gpt": endpoint(key="TAPIR_TEST_KEY")}
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    (obstacle,) = planned(endpoints=keyed).obstacles
    assert "TAPIR_TEST_KEY is not set" in obstacle
    monkeypatch.setenv("TAPIR_TEST_KEY", "not-a-real-key")
    assert not planned(endpoints=keyed).obstacles


def test_endpoints_are_asked_only_with_reach(rows: Path) -> None:
    content = api(corpus={"kind": "file", "path": str(rows)}, evaluation={"kind": "judged", "held_out": 10})
    content |= {"curriculum": {"target": {"taxonomy": "paper"}}}
    nowhere = parse(content | {"endpoints": {"gpt": endpoint(base_url="http://127.0.0.1:9/v1")}})
    assert not plan(nowhere, measure=False).obstacles
    (obstacle,) = plan(nowhere, measure=False, reach=True).obstacles
    assert "endpoints.gpt" in obstacle
    with serving(Behaviour(latency=0.0), thread=True) as server:
        there = parse(content | {"endpoints": {"gpt": endpoint(base_url=server.url, model="fake")}})
        assert not plan(there, measure=False, reach=True).obstacles
        assert server.stats().requests == 0


def test_a_corpus_on_the_hub_is_not_fetched_without_reach() -> None:
    hub = parse(api(corpus={"kind": "hub", "dataset": "nobody/nothing"}, curriculum={"target": {"taxonomy": "paper"}}))
    with pytest.raises(RecipeError, match="on the hub"):
        plan(hub, measure=False)


# Earlier runs


def test_replies_measured_before_take_the_place_of_assumptions(planned: Callable[..., Plan], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "shared.sqlite")
    reply = Completion("x", "stop", Usage(700, 300, 350), "m")
    ledger.add([Entry(bytes([n]) * 16, "m", b"{}", reply, 0.0, Purpose("r", 0, "judge", "")) for n in range(4)])
    ledger.close()
    found = planned(
        calls={"ledger": str(tmp_path / "shared.sqlite")},
        endpoints={"gpt": endpoint(price_input=2.0, price_cached=0.0)},
    )
    judged = stage(found, "judge").cost
    assert judged.written.expected == pytest.approx(300 * judged.calls.expected)
    assert judged.money.expected == pytest.approx(judged.read.expected * 2e-6 / 2)  # half of it from the cache
    assert any("judge 300 (4 calls)" in line for line in found.assumed)


def test_the_hard_share_and_the_tasks_of_an_earlier_run_are_used(rows: Path, tmp_path: Path) -> None:
    content = api(corpus={"kind": "file", "path": str(rows)}, evaluation={"kind": "judged", "held_out": 10})
    recipe = parse(content | {"curriculum": {"target": {"taxonomy": "paper"}, "size": 20}})
    build_run(tmp_path / "earlier")
    found = plan(recipe, measure=False, folder=tmp_path / "earlier")
    assert any("hard for the student (measured" in line for line in found.assumed)
    assert any("as they were in the earlier run" in line for line in found.assumed)
    with pytest.raises(StoreError, match="not a run directory"):
        plan(recipe, measure=False, folder=tmp_path / "nothing")


def test_the_category_column_says_how_common_tasks_are(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [{"instruction": f"What is {n}?", "output": "It.", "task": "math" if n % 3 else "Law"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content = api(corpus={"kind": "file", "path": str(path), "columns": {"category": "task"}})
    content |= {"curriculum": {"target": {"taxonomy": "paper"}, "size": 20}}
    found = plan(parse(content | {"evaluation": {"kind": "judged", "held_out": 6}}), measure=False)
    assert any("category column" in line for line in found.assumed)


def test_the_command_prints_the_table_and_writes_nothing(rows: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        corpus = {{ kind = "file", path = "{rows.as_posix()}" }}
        teacher = {{ kind = "llm", endpoints = ["one"] }}
        judge = {{ kind = "llm", endpoints = ["one"] }}
        tagger = {{ endpoints = ["one"] }}
        evaluation = {{ kind = "judged", held_out = 10 }}
        [curriculum]
        size = 20
        target = {{ taxonomy = "paper" }}
        [endpoints.one]
        base_url = "http://127.0.0.1:9/v1"
        model = "m"
        price_input = 1.0
        """,
        encoding="utf-8",
    )
    before = sorted(tmp_path.iterdir())
    result = tapir("plan", "recipe.toml", "--no-time", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in ("tokens in", "canary", "money: expected", "in the currency of the recipe's prices", "assumed:"):
        assert part in result.stdout
    assert "\u2026" not in result.stdout  # no cell is cut
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_estimate_is_within_a_tenth_of_what_a_server_bills(tmp_path: Path) -> None:
    corpus = SHARED / "seed" / "alpaca_data.json.gz"
    if not corpus.exists():
        pytest.skip("the shared data is not here: shared/data/seed/alpaca_data.json.gz")
    with serving(Behaviour(latency=0.0)) as server:
        content = api(
            corpus={"kind": "file", "path": str(corpus), "limit": 200},
            tagger={"endpoints": ["gpt"], "labelled": 100},
            evaluation={"kind": "judged", "held_out": 15},
            student={"max_new_tokens": 16},
            curriculum={"size": 40, "rounds": 1, "target": {"taxonomy": "paper"}},
            training={"epochs": 0.2, "batch_size": 8, "max_length": 4096},
            endpoints={
                "gpt": endpoint(base_url=server.url, model="fake", price_input=0.4, price_output=1.6, json_schema=True)
            },
        )
        recipe = parse(content)
        guessed = plan(recipe, measure=False).total
        session.run(recipe, tmp_path / "run")
        billed = server.stats()
    money = (0.4 * billed.prompt_tokens + 1.6 * billed.completion_tokens) / 1e6
    assert guessed.read.expected == pytest.approx(billed.prompt_tokens, rel=0.1)
    assert guessed.written.expected == pytest.approx(billed.completion_tokens, rel=0.1)
    assert guessed.money.expected == pytest.approx(money, rel=0.1)
    assert guessed.read.most > billed.prompt_tokens
    assert guessed.written.most > billed.completion_tokens
