"""What a summary counts: costs, the way in of the corpus, rewrites, and the quick checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.spending import Spending
from tapir.domain.task import shares
from tapir.recipe_file import parse
from tapir.report.checks import Check, checks
from tapir.report.costs import Amount, costs
from tapir.report.intake import SetAside
from tapir.report.page import _money
from tapir.report.rounds import Rewrites, RoundSummary
from tapir.report.sample import select
from tapir.report.summary import Summary, summarise, tasks_of
from tapir.store.rows import MixtureRow, TagRow
from tapir.store.run import RunStore
from tests.runs import BENCHMARKS, DROPPED, HOSTILE, REPEATING, SILENT, SPENDING, TASKS, UNANSWERED, build_run

HARD_SHARE = "The share of hard examples follows the schedule (planned)"
HARDER = "The mean difficulty (MFD) of the examples rises round by round"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("run"), api=True)


@pytest.fixture(scope="module")
def summary(store: RunStore) -> Summary:
    return summarise(store)


# Costs -----------------------------------------------------------------------------------------------


def test_what_is_in_spending_json_is_in_the_summary(summary: Summary) -> None:
    assert tuple(summary.spending) == SPENDING


def test_costs_add_up_by_stage_and_by_task(summary: Summary) -> None:
    found = costs(summary)
    assert found is not None
    assert found.priced
    assert found.total.calls == 328
    assert found.total.tokens == 180_000 + 59_300
    assert found.total.cost == pytest.approx(1.3)
    stages = {(number, stage): amount for number, stage, amount in found.stages}
    assert stages[0, "judge"] == Amount(238, 136_000, 100_000, 35_000, 0.85)
    assert [key for key in stages if key[0] == 0] == [(0, "judge"), (0, "label")]
    assert [name for name, _ in found.tasks] == ["Math", "History", ""]  # the dearest first, no task last
    for parts in ([amount for *_, amount in found.stages], [amount for _, amount in found.tasks]):
        assert sum(one.calls for one in parts) == found.total.calls
        assert sum(one.cost for one in parts) == pytest.approx(found.total.cost)


def test_costs_are_shared_out_among_what_was_gained(store: RunStore, summary: Summary) -> None:
    found = costs(summary)
    assert found is not None
    mixtures = [store.read(f"round-{number}/mixture", MixtureRow) for number in (1, 2, 3)]
    distinct = {row.id for rows in mixtures for row in rows}
    kept = sum(one.expanded for one in summary.rounds)
    first = summary.benchmark(BENCHMARKS[0])
    points = 100 * (first[-1].overall.value - first[0].overall.value)
    assert points > 0
    example, expansion, point = found.rates
    assert (example.units, example.calls) == (len(distinct), 328 / len(distinct))
    assert example.cost == pytest.approx(1.3 / len(distinct))
    assert (expansion.units, expansion.calls) == (kept, 10 / kept)
    assert expansion.cost == pytest.approx(0.06 / kept)
    assert point.what == f"point gained on {BENCHMARKS[0]}"
    assert point.cost == pytest.approx(1.3 / points)


def test_a_loss_has_no_price_per_point(summary: Summary) -> None:
    turned = [replace(one, round=3 - one.round) for one in reversed(summary.evaluations)]
    found = costs(replace(summary, evaluations=turned))
    assert found is not None
    assert [one.what for one in found.rates] == ["kept training example", "kept expansion"]


def test_without_prices_there_are_calls_and_tokens_but_no_money(summary: Summary) -> None:
    free = [replace(one, cost=0.0) for one in SPENDING]
    found = costs(replace(summary, spending=free))
    assert found is not None
    assert not found.priced
    assert found.total.tokens == 239_300
    assert [stage for _, stage, _ in found.stages][:2] == ["judge", "label"]  # by tokens then


@pytest.mark.parametrize("spending", [[], [Spending(0, "judge", "", 0, 0, 0, 0, 0.0)]])
def test_where_no_model_was_called_there_are_no_costs(summary: Summary, spending: list[Spending]) -> None:
    assert costs(replace(summary, spending=spending)) is None


@pytest.mark.parametrize(
    ("amount", "total", "text"),
    [
        (0.0, 0.0, "0.00"),
        (1234.567, 0.0, "1,234.57"),
        (0.0196, 0.0, "0.020"),
        (0.00000123, 0.0, "0.0000012"),
        (0.5, 0.8, "0.5000"),
        (0.5, 300.0, "0.50"),
        (0.00012, 0.0009, "0.000120"),
    ],
)
def test_money_has_as_many_digits_as_say_something(amount: float, total: float, text: str) -> None:
    assert _money(amount, total) == text


# The corpus and the rounds ---------------------------------------------------------------------------


def test_what_was_set_aside_is_counted_and_shown_with_its_place(summary: Summary) -> None:
    intake = summary.intake
    assert intake.size == 121
    assert intake.dropped == {"duplicate": 1, "empty instruction": 1, "not JSON": 1}
    assert SetAside("not JSON", "corpus.jsonl:17", HOSTILE[1]) in intake.rows


def test_near_duplicates_are_counted_and_the_most_alike_come_first(summary: Summary) -> None:
    assert summary.intake.near == 2
    first, second = summary.intake.pairs
    assert (first.similarity, first.measure, second.similarity) == (0.91, "rouge-l", 0.75)
    assert "question 20" in first.text
    assert "question 19" in first.other
    assert second.other == HOSTILE[0]


def test_answers_the_teacher_wrote_first_are_counted(summary: Summary) -> None:
    assert summary.intake.answered == 1
    assert summary.intake.unanswered == {"timeout": 1}


def test_rewrites_and_examples_left_out_are_counted_by_round(store: RunStore, summary: Summary) -> None:
    for one in summary.rounds:
        assert one.too_long == 1
        assert (one.rewrites.failed, one.rewrites.refused, one.rewrites.unjudged) == (1, 1, 1)
    assert summary.rounds[0].rewrites == Rewrites(60, 1, 1, 1)  # everything is new in the first round
    mixtures = [{row.id for row in store.read(f"round-{number}/mixture", MixtureRow)} for number in (1, 2, 3)]
    first, second, third = mixtures
    assert [one.new for one in summary.rounds] == [60, len(second - first), len(third - second - first)]
    assert summary.examples == len(set.union(*mixtures))


def test_answers_that_could_not_be_graded_are_counted_by_benchmark_and_round(summary: Summary) -> None:
    held_out, harder = BENCHMARKS
    assert summary.ungraded == {(held_out, number): 1 for number in range(4)} | {(harder, 1): 30}
    assert TASKS[-1] not in summary.benchmark(harder)[1].tasks
    assert tasks_of(summary.benchmark(harder)) == sorted(TASKS)


def test_tags_of_held_out_instructions_are_not_shares_of_the_corpus(tmp_path: Path) -> None:
    other = build_run(tmp_path, done=0)
    tags = other.read("round-0/tags", TagRow)
    before = summarise(other).corpus_shares
    other.write("round-0/tags", TagRow, [*tags, TagRow("f" * 16, "Math", 1.0, None)])
    assert summarise(other).corpus_shares == before
    assert before == shares(Counter(row.task for row in tags if row.task))


def test_a_run_without_models_behind_servers_has_none_of_this(tmp_path: Path) -> None:
    summary = summarise(build_run(tmp_path))
    assert summary.spending == []
    assert (summary.intake.near, summary.intake.answered, summary.ungraded) == (0, 0, {})
    assert all(one.too_long == one.rewrites.refused == 0 for one in summary.rounds)


def test_the_sample_knows_what_models_behind_servers_did(store: RunStore) -> None:
    chosen = select(store)
    by_text = {one.text: one for one in chosen.items}
    silent = by_text[SILENT]
    assert (silent.fate, silent.teacher) == ("set aside", None)
    assert silent.reason == "the teacher gave no answer: timeout: no reply after 300 s"
    assert chosen.counts["set aside"] == 4
    written = {one.teacher for one in chosen.items if one.origin == f"corpus (file:{REPEATING})"}
    assert written == {"written by the teacher first"}
    kept = {one.refused for one in chosen.items if one.refined}
    assert kept == {"", "the judge preferred the original", "the judge could not compare it"}
    unanswered = next(one for one in chosen.items if one.origin == f"corpus (file:{UNANSWERED})")
    assert unanswered.reason == "no student answer"
    met = {one.reason for one in chosen.items if one.fate == "expansion dropped"}
    assert met <= {"near-duplicate: 0123456789abcdef rouge-l 0.83", "not tagged"} | {
        f"{reason}: {detail}" for reason, detail in DROPPED.items()
    }
    assert "near-duplicate: 0123456789abcdef rouge-l 0.83" in met


# The quick checks ------------------------------------------------------------------------------------


def rounds(*hard: float, size: int = 60) -> list[RoundSummary]:
    return [
        RoundSummary(
            number=number,
            size=size,
            wanted=size,
            new=size,
            too_long=0,
            hard_share=share,
            counts={"Math": size},
            target={"Math": 1.0},
            distance=0.0,
            minimum=1.0,
            difficulty=float(number),
            hard_pool=size,
            easy_pool=size,
            refined=size,
            rewrites=Rewrites(),
            expanded=0,
            dropped={},
        )
        for number, share in enumerate(hard, 1)
    ]


def plan(**curriculum: object) -> dict[str, Any]:
    return parse({"curriculum": {"rounds": 3, **curriculum}}).resolved()


def by_claim(recipe: dict[str, Any], *hard: float) -> dict[str, Check]:
    return {one.claim: one for one in checks(recipe, rounds(*hard), [], {"Math": 0.5, "History": 0.5})}


def test_the_papers_schedule_is_followed(summary: Summary) -> None:
    found = by_claim(plan(), 0.3, 0.5, 0.7)
    assert found[HARD_SHARE].holds
    assert found[HARD_SHARE].figures == "30.0 % (30.0 %) -> 50.0 % (50.0 %) -> 70.0 % (70.0 %)"
    assert found[HARDER].holds
    assert next(one for one in summary.checks if one.claim == HARD_SHARE).holds


def test_a_constant_schedule_is_followed_and_claims_no_rise() -> None:
    found = by_claim(plan(schedule={"kind": "constant", "share": 0.4}), 0.4, 0.4, 0.4)
    assert found[HARD_SHARE].holds
    assert HARDER not in found


def test_one_example_of_rounding_is_allowed_and_two_are_not() -> None:
    constant = plan(schedule={"kind": "constant", "share": 0.5})
    assert by_claim(constant, 31 / 60, 29 / 60, 0.5)[HARD_SHARE].holds
    assert not by_claim(constant, 0.5, 32 / 60, 0.5)[HARD_SHARE].holds
    assert not by_claim(constant, 0.5, 0.5, 28 / 60)[HARD_SHARE].holds


def test_a_single_round_is_checked_against_its_one_share() -> None:
    single = parse({"curriculum": {"variant": "single-round"}}).resolved()
    assert by_claim(single, 1.0)[HARD_SHARE].holds
    assert not by_claim(single, 0.9)[HARD_SHARE].holds


def test_a_recipe_of_another_version_has_no_schedule_to_compare_with() -> None:
    found = by_claim(plan() | {"telepathy": True}, 0.3, 0.5)
    assert HARD_SHARE not in found
    assert len(found) == 2


def test_gains_are_those_of_the_first_benchmark() -> None:
    evaluations = [
        Evaluation(name, number, EvalResult(value, 10, 0.0, 1.0), {})
        for number, value in enumerate((0.2, 0.3))
        for name in ("first", "second")
    ]
    gains = checks(plan(), [], evaluations, {})
    assert gains == [Check("Every round gains success (percentage points)", holds=True, figures="+10.0")]
