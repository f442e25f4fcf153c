"""What a plan counts, against the method and against what a server bills."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.command import tapir
from support.paths import SHARED
from support.recipes import api, endpoint
from support.runs import build_run
from support.server import Behaviour, serving
from tapir.cli.plan import _cell, _count, _money, plan_lines
from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, parse
from tapir.domain.completion import Completion, Usage
from tapir.domain.errors import DataError, MissingExtra, RecipeError, StoreError
from tapir.models.api.ledger import Entry, Ledger, Purpose
from tapir.runs import session
from tapir.runs.build import check_installed
from tapir.runs.plan import Plan, Speed, StagePlan, plan, working_time
from tapir.runs.plan.steps import Step
from tapir.runs.plan.tokens import ANSWER, Bounds
from unit.runs.test_planning_rounds import COMPETENCE

ROWS, HELD_OUT = 60, 10
SIZE = ROWS - ROWS // 10 - HELD_OUT
PRICED = {"gpt": endpoint(price_input=1.0, price_output=4.0)}
QUANTILE = {"threshold": {"rule": "quantile", "value": 0.4}}
Planned = Callable[..., Plan]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A corpus of 60 instructions; every tenth has no answer."""
    path = tmp_path / "rows.jsonl"
    answer = "It is {0}, as {0} follows its predecessor.".format
    lines = [
        {"instruction": f"Which number is {n}?", "output": answer(n) if n % 10 else "", "task": "math"}
        for n in range(ROWS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def recipe_of(rows: Path, **changed: Any) -> Recipe:
    content = api(corpus={"kind": "file", "path": str(rows)}, evaluation={"kind": "judged", "held_out": HELD_OUT})
    content["curriculum"] = {"size": 20, "rounds": 2, "target": {"taxonomy": "paper"}}
    return parse(content | {name: {**content.get(name, {}), **table} for name, table in changed.items()})


@pytest.fixture
def planned(rows: Path) -> Planned:
    """The plan of a recipe with that corpus and some other tables."""

    def of(folder: Path | None = None, **changed: Any) -> Plan:
        return plan(recipe_of(rows, **changed), measure=False, folder=folder)

    return of


def stage(result: Plan, name: str, number: int = 0) -> StagePlan:
    return next(stage for stage in result.stages if (stage.stage, stage.round) == (name, number))


def names(result: Plan, number: int | None = None) -> list[str]:
    return [stage.stage for stage in result.stages if number in {None, stage.round}]


def reasons(result: Plan) -> str:
    return "\n".join(result.assumed)


def calls(result: Plan, name: str, number: int = 0) -> float:
    """Expected calls, without the 1 % that are repeated because a reply cannot be read."""
    return stage(result, name, number).cost.calls.expected / 1.01


def test_a_plan_says_that_all_of_the_corpus_is_held_out(rows: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is left of the corpus: in an evaluation set \(54\), empty response"):
        plan(recipe_of(rows, evaluation={"held_out": 200}))


# Stages and calls follow from the method


def test_the_judge_sees_every_scored_item_in_both_orders_and_every_sample(planned: Planned) -> None:
    once, thrice = planned(), planned(judge={"samples": 3, "temperature": 1.0})
    assert stage(once, "judge").items == Bounds.sure(SIZE)
    assert calls(once, "judge") == pytest.approx(2 * SIZE)
    assert stage(once, "judge").cost.calls.most == 4 * SIZE
    assert names(once).count("evaluate") == 3
    assert {stage(once, "evaluate", number).cost.calls for number in range(3)} == {Bounds(2 * 10 * 1.01, 4 * 10)}
    for name in ("judge", "canary", "evaluate"):
        assert calls(thrice, name) == pytest.approx(3 * calls(once, name))


def test_a_reference_judged_alone_is_paid_once(planned: Planned) -> None:
    alone = {"mode": "single"}
    result = planned(judge=alone, curriculum={"rescoring": "every-round"})
    first, second = stage(result, "judge").items.expected, stage(result, "judge", 2).items.expected
    assert calls(result, "judge") == pytest.approx(2 * first)
    assert calls(result, "judge", 2) == pytest.approx(second + second - first)
    assert calls(result, "canary") == pytest.approx(20)
    assert [calls(result, "evaluate", number) for number in (0, 1)] == pytest.approx([2 * HELD_OUT, HELD_OUT])
    unscored = planned(judge=alone, curriculum={"difficulty": "length", "refine_keep": "judge", **QUANTILE})
    assert calls(unscored, "canary") == pytest.approx(40)
    assert calls(unscored, "prefer", 1) == pytest.approx(2 * stage(unscored, "prefer", 1).items.expected)
    rates = {"difficulty": {"kind": "pass-rate", "samples": 6}, **QUANTILE}
    assert calls(planned(judge=alone, curriculum=rates), "estimate") == pytest.approx((6 + 1) * SIZE)
    assert calls(planned(curriculum=rates), "estimate") == pytest.approx(6 * 2 * SIZE)
    compared = planned(judge=alone, curriculum={"compare": ["pass-rate"]})
    assert calls(compared, "compare pass-rate") == pytest.approx(4 * SIZE)


def test_a_verdict_without_a_rationale_is_planned_as_its_scores(planned: Planned) -> None:
    with_one, without = planned(), planned(judge={"rationale": False})
    longer, shorter = (stage(result, "judge").cost.written.expected for result in (with_one, without))
    assert (longer, shorter) == pytest.approx((2 * SIZE * 1.01 * 145, 2 * SIZE * 1.01 * 16))
    assert "a verdict has 145" in reasons(with_one)
    assert "a verdict has 16" in reasons(without)


def test_what_has_no_answer_is_answered_by_the_teacher(planned: Planned) -> None:
    assert "respond" not in names(planned())
    missing = planned(corpus={"answers": "missing"})
    assert stage(missing, "respond").cost.calls == Bounds.sure(ROWS // 10)
    assert stage(missing, "judge").items == Bounds.sure(ROWS - HELD_OUT)
    every, number = planned(corpus={"answers": "teacher"}), ROWS - HELD_OUT
    cost = stage(every, "respond").cost
    assert (cost.calls, cost.written) == (Bounds.sure(number), Bounds(number * ANSWER, number * 1024))
    assert stage(every, "evaluate").cost.calls.expected == pytest.approx(10 + 2 * 10 * 1.01)


def test_a_learning_tagger_asks_for_a_sample_and_a_model_for_everything(planned: Planned) -> None:
    asking = planned(tagger={"kind": "llm"})
    for kind in ("tfidf", "encoder", "embedding"):
        learning = planned(tagger={"kind": kind, "labelled": 25})
        assert [stage(learning, name).cost.calls for name in ("label", "tag")] == [Bounds.sure(25), Bounds()]
    assert "label" not in names(asking)
    assert stage(asking, "tag").cost.calls == Bounds.sure(ROWS - ROWS // 10)  # held-out prompts too


def test_nothing_is_planned_that_the_recipe_switches_off(planned: Planned) -> None:
    result = planned(curriculum={"expand": False, "refine": False}, judge={"null_answers": 0})
    assert not {"expand", "refine", "prefer", "canary"} & {*names(result)}
    assert calls(planned(curriculum={"refine_keep": "judge"}), "prefer", 1) == pytest.approx(40)
    unscored = planned(curriculum={"difficulty": "none"})
    assert not {"answer", "judge", "estimate"} & {*names(unscored)}
    assert "one pool" in reasons(unscored)


def test_scoring_every_round_counts_what_was_written_meanwhile(planned: Planned) -> None:
    result = planned(curriculum={"rescoring": "every-round", "size": 200})
    first, again = stage(result, "judge").items, stage(result, "judge", 2).items
    assert (again.expected > first.expected, again.most) == (True, first.most + 60)  # the hard share of round 1


@pytest.mark.parametrize(("kind", "who"), [("ifd", "student"), ("length", "nobody")])
def test_an_estimator_without_a_judge_takes_its_place_and_costs_no_call(planned: Planned, kind: str, who: str) -> None:
    result = planned(curriculum={"difficulty": kind, "rescoring": "every-round", **QUANTILE})
    assert not {"answer", "judge"} & {*names(result)}
    assert (stage(result, "estimate").who, stage(result, "estimate").items) == (who, Bounds.sure(SIZE))
    assert stage(result, "estimate").cost.calls == Bounds()
    assert stage(result, "estimate", 2).items.expected >= SIZE


def test_what_is_compared_is_measured_once_before_the_first_round(planned: Planned) -> None:
    result = planned(curriculum={"compare": ["ifd", "pass-rate", "length"], "rescoring": "every-round"})
    order = names(result, 0)
    at = order.index("judge")
    assert order[at : at + 5] == ["judge", "compare ifd", "compare pass-rate", "compare length", "canary"]
    assert not [name for name in names(result, 2) if name.startswith("compare")]
    assert calls(result, "compare pass-rate") == pytest.approx(4 * calls(result, "judge"))
    assert stage(result, "compare ifd").seconds is None  # the student was not timed
    assert stage(result, "compare length").seconds == Bounds()


def test_a_recipe_without_teacher_judge_and_tagger_is_planned(rows: Path) -> None:
    nobody = {role: {"kind": "none"} for role in ("teacher", "judge", "tagger")}
    method = {"difficulty": "ifd", "expand": False, "refine": False, "size": 20, "rounds": 2, **QUANTILE}
    content = {
        **nobody,
        "corpus": {"kind": "file", "path": str(rows)},
        "curriculum": {**method, "target": {"taxonomy": "paper", "shares": "pool"}},
        "evaluation": {"kind": "exact", "held_out": HELD_OUT},
    }
    result = plan(parse(content), measure=False)
    assert not result.pays
    assert [names(result, number) for number in (0, 1)] == [["tag", "estimate", "evaluate"], ["train", "evaluate"]]
    assert stage(result, "train", 1).items == Bounds.sure(20)
    assert "all instructions are of one task" in reasons(result)


def test_the_gym_costs_nothing_and_is_planned_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = plan(parse({}), measure=False)
    assert not result.pays
    assert result.total.calls == result.total.money == Bounds()
    assert stage(result, "judge").items == Bounds.sure(2000)

    def missing(recipe: Recipe) -> None:
        raise MissingExtra(f"{recipe.name} needs more", remedy="Install it.")

    monkeypatch.setattr("tapir.runs.plan.check_installed", missing)
    monkeypatch.setattr("tapir.runs.plan.build_roles", lambda recipe: pytest.fail(f"{recipe.name} cannot be built"))
    result = plan(parse({}), measure=True)
    assert result.obstacles == ("gym needs more: Install it.",)
    assert "expand" in names(result)


def test_the_student_of_a_ray_cluster_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.runs.plan.check_installed", lambda _recipe: None)
    monkeypatch.setattr("tapir.runs.plan.measure_speed", lambda *_: pytest.fail("no cluster is there for a plan"))
    assert plan(parse({"engine": "ray"})).seconds is None


def test_a_plan_says_that_the_student_could_not_be_timed_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Speed:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("tapir.runs.plan.measure_speed", full)
    result = plan(parse({}))
    assert result.seconds is None
    assert "memory ran out while the student was timed" in reasons(result)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"judge": {"mode": "single"}, "corpus": {"answers": "teacher"}},
        {"curriculum": {"difficulty": "pass-rate", "rescoring": "every-round", **QUANTILE}},
        {"curriculum": {"difficulty": "none", "size": 80}},
        {"curriculum": {"difficulty": "ifd", "target": {"taxonomy": "paper", "shares": "pool"}, **QUANTILE}},
        {"curriculum": COMPETENCE},
    ],
)
def test_at_most_is_never_below_expected(planned: Planned, changes: dict[str, Any]) -> None:
    for step in planned(endpoints=PRICED, **changes).stages:
        cost = step.cost
        for bounds in (step.items, cost.calls, cost.read, cost.written, cost.money, cost.seconds):
            assert 0 <= bounds.expected <= bounds.most


# Money, time, warnings, assumptions


def test_money_follows_the_prices_and_the_share_of_a_batch(planned: Planned) -> None:
    full = planned(endpoints=PRICED).total
    assert full.money.expected == pytest.approx((full.read.expected + 4 * full.written.expected) / 1e6)
    half = planned(endpoints={"gpt": PRICED["gpt"] | {"batch": True, "batch_price": 0.5}}).total
    assert half.money.expected == pytest.approx(full.money.expected / 2)


def test_the_slowest_limit_decides_the_time(planned: Planned) -> None:
    free, paced = planned().total, planned(endpoints={"gpt": endpoint(requests_per_minute=6)}).total
    assert free.seconds.expected < 60
    assert paced.seconds.expected == pytest.approx(paced.calls.expected * 10)


def test_ifd_takes_two_thirds_of_training_and_a_pass_rate_all_its_samples() -> None:
    speed, step = Speed(answers=5.0, examples=2.0), Step(0, "estimate", "student", Bounds.sure(30))
    assert working_time(replace(step, read=Bounds.sure(30)), speed).expected == pytest.approx(2 / 3 * 30 / 2)
    assert working_time(replace(step, answered=Bounds.sure(120)), speed).expected == pytest.approx(120 / 5)


def test_a_run_that_will_stop_or_fall_short_is_warned_of(planned: Planned) -> None:
    dear = {"gpt": endpoint(price_input=1000.0, price_output=0.0)}
    assert any("will stop" in warning for warning in planned(endpoints=dear, calls={"max_cost": 0.5}).warnings)
    assert not planned(endpoints=dear, calls={"max_cost": 5000.0}).warnings
    free = {"endpoints": dear | {"own": endpoint()}, "judge": {"kind": "llm", "endpoints": ["own"]}}
    (warning,) = planned(**free, calls={"max_cost": 5000.0}).warnings
    assert "calls.max_cost = 5000 counts no call to own: set price_input" in warning
    assert not planned(**free).warnings
    (warning,) = planned(curriculum={"size": 500}).warnings
    assert "of the 500 examples" in warning


def test_every_assumption_is_reported(planned: Planned) -> None:
    text = "\n".join(plan_lines(planned()))
    for part in ("30% of the corpus is hard", "equally common", "150 tokens", "1% of the verdicts", "64 calls at once"):
        assert part in text
    assert "no endpoint has a price" in text
    assert not any(word in text for word in ("competence", "two thirds", "sampled", "most = "))
    assert "40% of the corpus is hard" in reasons(planned(curriculum=QUANTILE))
    budget = {"threshold": {"rule": "budget", "value": 10}}
    assert f"{10 / SIZE:.0%} of the corpus" in reasons(planned(curriculum=budget))
    assert "category column" in reasons(planned(corpus={"columns": {"category": "task"}}))
    changes = {"target": {"taxonomy": "paper", "shares": "competence"}, "threshold": {"most": 7.0}}
    result = planned(curriculum={**COMPETENCE, **changes, "compare": ["ifd", "pass-rate"]})
    for part in (
        *("stays at its start, 20%: it will move towards 90%", "lean to where the student has room to grow"),
        *("beyond curriculum.threshold.most = 7", "2 times, each a third of the time of training", "sampled answers"),
    ):
        assert part in reasons(result)
    assert "training.dpo" not in reasons(result)
    assert "the time leaves out training.dpo" in reasons(planned(training={"dpo": {}}))


def test_a_cell_is_short_and_has_the_most_only_where_it_differs() -> None:
    values = {0: "0", 9_999: "9,999", 12_345: "12.3k", 999_600: "1M", 3e9: "3G"}
    assert [_cell(Bounds.sure(value), _count) for value in values] == [*values.values()]
    assert _cell(Bounds(0.004, 12.5), _money) == "0.004 \u2264 12.50"


# Obstacles


def test_a_key_that_is_not_set_is_an_obstacle(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = {"gpt": endpoint(key="TAPIR_TEST_KEY")}
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    (obstacle,) = planned(endpoints=keyed).obstacles
    assert "TAPIR_TEST_KEY is not set" in obstacle
    monkeypatch.setenv("TAPIR_TEST_KEY", "not-a-real-key")
    assert not planned(endpoints=keyed).obstacles


def test_the_extra_that_brings_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    near, own = {"novelty": {"rule": "near"}}, api(curriculum={"target": {"taxonomy": "paper"}})
    recipes = {("torch", "gym"): {}, ("datasketch", "api"): {"curriculum": near}, ("rapidfuzz", "api"): own}
    recipes["sklearn", "api"] = api(tagger={"kind": "embedding", "endpoints": ["gpt"]})
    for (lacking, extra), content in recipes.items():
        monkeypatch.setattr("importlib.util.find_spec", lambda name, gone=lacking: None if name == gone else name)
        with pytest.raises(MissingExtra, match=lacking) as caught:
            check_installed(parse(content))
        assert caught.value.remedy == f"pip install 'tapir-distill[{extra}]'"


def test_the_network_is_used_only_with_reach(rows: Path) -> None:
    nowhere = recipe_of(rows, endpoints={"gpt": endpoint(base_url="http://127.0.0.1:9/v1")})
    assert not plan(nowhere, measure=False).obstacles
    (obstacle,) = plan(nowhere, measure=False, reach=True).obstacles
    assert "endpoints.gpt" in obstacle
    with serving(Behaviour(latency=0.0), thread=True) as server:
        there = recipe_of(rows, endpoints={"gpt": endpoint(base_url=server.url, model="fake")})
        assert not plan(there, measure=False, reach=True).obstacles
        assert server.stats().requests == 0
    hub = parse(api(corpus={"kind": "hub", "dataset": "nobody/nothing"}, curriculum={"target": {"taxonomy": "paper"}}))
    with pytest.raises(RecipeError, match="on the hub"):
        plan(hub, measure=False)


# Earlier runs


def test_replies_measured_before_take_the_place_of_assumptions(planned: Planned, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "shared.sqlite")
    reply = Completion("x", "stop", Usage(700, 300, 350), "m")
    ledger.add([Entry(bytes([n]) * 16, "m", b"{}", reply, 0.0, Purpose("r", 0, "judge", "")) for n in range(4)])
    ledger.close()
    cached = {"gpt": endpoint(price_input=2.0, price_cached=0.0, price_output=0.0)}
    result = planned(calls={"ledger": str(tmp_path / "shared.sqlite")}, endpoints=cached)
    cost = stage(result, "judge").cost
    assert cost.written.expected == pytest.approx(300 * cost.calls.expected)
    assert cost.money.expected == pytest.approx(cost.read.expected * 2e-6 / 2)  # half of it from the cache
    assert "judge 300 (4 calls)" in reasons(result)


def test_a_thought_that_will_not_end_is_asked_for_twice_unless_it_has_room(planned: Planned, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "shared.sqlite")
    cut = Completion("", "length", Usage(700, 1024), "m", "Hm, hm")
    replies = [cut, *(Completion("x", "stop", Usage(700, tokens), "m", "Hm.") for tokens in (1800, 300)), cut]
    replies = [*replies, Completion("x", "stop", Usage(700, 1800), "m", "Hm.")]
    ledger.add(
        [Entry(bytes([n]) * 16, "m", b"{}", each, 0.0, Purpose("r", 0, "judge", "")) for n, each in enumerate(replies)]
    )
    ledger.close()
    shared = {"ledger": str(tmp_path / "shared.sqlite")}
    once = calls(planned(), "judge")
    for room, again in ((0, 2 / 3), (700, 2 / 3), (800, 0.0)):
        result = planned(calls=shared, judge={"max_tokens": 1024}, endpoints={"gpt": endpoint(thinking_tokens=room)})
        cost = stage(result, "judge").cost
        assert calls(result, "judge") == pytest.approx(once * (1 + again))
        assert cost.written.expected == pytest.approx(1.01 * once * (1300 + again * (1024 + room)))
        assert cost.written.most > cost.written.expected
    assert "judge 1300 (3 calls)" in reasons(result)


def test_a_thought_that_was_never_measured_takes_half_of_its_room(planned: Planned) -> None:
    plain, roomy = (
        stage(planned(endpoints={"gpt": endpoint(thinking_tokens=room)}), "judge").cost for room in (0, 800)
    )
    assert roomy.written.expected - plain.written.expected == pytest.approx(400 * plain.calls.expected)
    assert roomy.written.most - plain.written.most == pytest.approx(800 * plain.calls.most)


def test_the_hard_share_and_the_tasks_of_an_earlier_run_are_used(planned: Planned, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    build_run(earlier, done=1)
    lower, higher = (reasons(planned(earlier, curriculum={"threshold": {"value": value}})) for value in (0.5, 5.0))
    assert int(lower.split("%")[0]) > int(higher.split("%")[0])
    assert "hard for the student (measured in the earlier run)" in lower
    assert "as they were in the earlier run" in lower
    other = reasons(planned(earlier, curriculum={"difficulty": "ifd", **QUANTILE}))
    assert "(measured" not in other.split("\n")[0]
    with pytest.raises(StoreError, match="not a run directory"):
        planned(tmp_path / "nothing")


def test_the_command_prints_the_table_or_json_and_writes_nothing(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(as_toml(recipe_of(rows, endpoints=PRICED)), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    result = tapir("plan", "recipe.toml", "--no-time", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in ("tokens in", "canary", "money: expected", "in the currency of the recipe's prices", "assumed:"):
        assert part in result.stdout
    assert "\u2026" not in result.stdout  # no cell is cut
    content = json.loads(tapir("plan", "recipe.toml", "--no-time", "--json", cwd=tmp_path).stdout)
    assert content["total"]["money"]["most"] > content["total"]["money"]["expected"] > 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_estimate_is_within_a_tenth_of_what_a_server_bills(tmp_path: Path) -> None:
    corpus = SHARED / "seed" / "alpaca_data.json.gz"
    if not corpus.exists():
        pytest.skip("the shared data is not here: shared/data/seed/alpaca_data.json.gz")
    with serving(Behaviour(latency=0.0)) as server:
        fake = endpoint(base_url=server.url, model="fake", price_input=0.4, price_output=1.6, json_schema=True)
        recipe = recipe_of(
            corpus,
            corpus={"kind": "file", "path": str(corpus), "limit": 200},
            tagger={"endpoints": ["gpt"], "labelled": 100},
            evaluation={"kind": "judged", "held_out": 15},
            student={"max_new_tokens": 16},
            curriculum={"size": 40, "rounds": 1},
            training={"epochs": 0.2, "batch_size": 8, "max_length": 4096},
            endpoints={"gpt": fake},
        )
        expected = plan(recipe, measure=False).total
        session.run(recipe, tmp_path / "run")
        billed = server.stats()
    money = (0.4 * billed.prompt_tokens + 1.6 * billed.completion_tokens) / 1e6
    assert expected.read.expected == pytest.approx(billed.prompt_tokens, rel=0.1)
    assert expected.written.expected == pytest.approx(billed.completion_tokens, rel=0.1)
    assert expected.money.expected == pytest.approx(money, rel=0.1)
    assert expected.read.most > billed.prompt_tokens
    assert expected.written.most > billed.completion_tokens
