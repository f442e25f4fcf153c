"""The summary of a run: costs, the corpus, the rounds, and the checks of the method."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from support.runs import BENCHMARKS, HOSTILE, REPEATING, SILENT, SPENDING, TASKS, UNANSWERED, build_run
from tapir.cli.tables import status_lines
from tapir.config.curriculum import CurriculumConfig
from tapir.config.toml import parse
from tapir.data.files import read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import TagRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Spending
from tapir.domain.task import shares
from tapir.report.checks import Check, checks
from tapir.report.page import render
from tapir.report.rounds import Rewrites, RoundSummary
from tapir.report.sample import choose_sample
from tapir.report.summary import Summary, costs, group_spending, sum_spending, summarise, tasks_of

HARD_SHARE = "The share of hard examples follows the schedule (planned)"
HARDER = "The mean difficulty (MFD) of the examples rises round by round"


def test_costs_add_up_by_stage_and_by_task(api_summary: Summary) -> None:
    found = costs(api_summary)
    assert found is not None
    assert found.priced
    assert found.total.calls == 328
    assert (found.total.prompt_tokens, found.total.completion_tokens) == (180_000, 59_300)
    assert found.total.cost == pytest.approx(1.3)
    stages = {(number, stage): amount for number, stage, amount in found.stages}
    assert stages[0, "judge"] == Spending(0, "", "", 238, 136_000, 100_000, 35_000, 0.85)
    assert [key for key in stages if key[0] == 0] == [(0, "judge"), (0, "label")]
    assert [name for name, _ in found.tasks] == ["Math", "History", ""]  # the dearest first, no task last
    for parts in ([amount for *_, amount in found.stages], [amount for _, amount in found.tasks]):
        assert sum(one.calls for one in parts) == found.total.calls
        assert sum(one.cost for one in parts) == pytest.approx(found.total.cost)


def test_costs_are_shared_out_among_what_was_gained(api_run: RunStore, api_summary: Summary) -> None:
    found = costs(api_summary)
    assert found is not None
    mixtures = [RunReader(api_run).learnt(number) for number in (1, 2, 3)]
    distinct = {row.id for rows in mixtures for row in rows}
    kept = sum(one.expanded for one in api_summary.rounds)
    change = api_summary.gains[BENCHMARKS[0]]
    assert change is not None
    points = change.points
    assert points > 0
    example, expansion, point = found.rates
    assert (example.units, example.calls) == (len(distinct), 328 / len(distinct))
    assert example.cost == pytest.approx(1.3 / len(distinct))
    assert (expansion.units, expansion.calls) == (kept, 10 / kept)
    assert expansion.cost == pytest.approx(0.06 / kept)
    assert point.what == f"point gained on {BENCHMARKS[0]}"
    assert point.cost == pytest.approx(1.3 / points)


def test_without_prices_there_are_calls_and_tokens_but_no_money(api_summary: Summary) -> None:
    free = [replace(one, cost=0.0) for one in SPENDING]
    found = costs(replace(api_summary, spending=free))
    assert found is not None
    assert not found.priced
    assert [stage for _, stage, _ in found.stages][:2] == ["judge", "label"]  # by tokens then


def test_calls_that_may_have_been_billed_stand_apart(api_run: RunStore) -> None:
    summary = summarise(api_run)
    more = Spending(1, "refine", "Math", 0, 0, 0, 0, 0.0, possible_calls=3, possible_cost=0.25)
    with_more = replace(summary, spending=[*SPENDING, more])
    assert "possibly billed" not in render(api_run, summary) + next(status_lines(summary, api_run.folder, ""))
    found = costs(with_more)
    assert found is not None
    assert found.total == replace(sum_spending(SPENDING), possible_calls=3, possible_cost=0.25)
    assert "possibly billed: 3 calls, at most 0.2500" in next(status_lines(with_more, api_run.folder, ""))
    assert re.search(r"possibly billed</dt>.*>3</span>.*at most \D*0\.25", render(api_run, with_more))
    assert costs(replace(summary, spending=[more])) is not None  # where no call had a reply too
    assert "nothing was paid" not in render(api_run, replace(summary, spending=[more]))


def test_the_command_that_goes_on_can_be_pasted_whatever_the_folder_is_called(api_summary: Summary) -> None:
    line = next(status_lines(replace(api_summary, finished=False), Path("my runs/gym"), ""))
    assert "`tapir resume 'my runs/gym'` goes on" in line


def test_a_brief_summary_says_all_that_a_status_shows_and_reads_no_texts(
    api_run: RunStore, api_summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("read_corpus", "alarms"):
        monkeypatch.setattr(f"tapir.report.summary.{name}", Mock(side_effect=AssertionError))
    brief = summarise(api_run, brief=True)
    assert brief == replace(api_summary, corpus=brief.corpus, alarms=())
    assert [*status_lines(brief, api_run.folder, "done")] == [*status_lines(api_summary, api_run.folder, "done")]


def test_costs_are_grouped_in_one_pass_however_many_labels_there_are() -> None:
    class Watched(list[Spending]):
        passes = 0

        def __iter__(self) -> Iterator[Spending]:
            self.passes += 1
            return super().__iter__()

    entries = Watched(Spending(one, "judge", f"label {one % 50}", 1, 1, 0, 1, 0.1) for one in range(200))
    groups = group_spending(entries, "task")
    assert [(name, amount.calls) for name, amount in groups] == [(f"label {one}", 4) for one in range(50)]
    assert entries.passes == 1


@pytest.mark.parametrize("spending", [[], [Spending(0, "judge", "", 0, 0, 0, 0, 0.0)]])
def test_where_no_model_was_called_there_are_no_costs(api_summary: Summary, spending: list[Spending]) -> None:
    assert costs(replace(api_summary, spending=spending)) is None


def test_what_the_corpus_lost_repeats_or_was_answered_first_is_counted_with_its_place(api_summary: Summary) -> None:
    corpus = api_summary.corpus
    assert corpus.size == 121
    assert corpus.dropped == {"duplicate": 1, "empty instruction": 1, "not JSON": 1}
    assert ("not JSON", "corpus.jsonl:17", HOSTILE[1]) in [(row.reason, row.detail, row.text) for row in corpus.rows]
    assert api_summary.corpus.near == 1
    (pair,) = api_summary.corpus.pairs
    assert pair.text == f"{pair.other} now"
    assert 0.7 < pair.similarity < 1
    assert api_summary.corpus.answered == 1
    assert api_summary.corpus.unanswered == {"timeout": 1}


def test_rewrites_and_examples_left_out_are_counted_by_round(api_run: RunStore, api_summary: Summary) -> None:
    for each in api_summary.rounds:
        assert each.left_out == 1
        assert (each.rewrites.failed, each.rewrites.worse, each.rewrites.unjudged) == (1, 1, 1)
        assert (each.rewrites.better, each.rewrites.equal > 0) == (0, True)
    assert api_summary.rounds[0].rewrites.equal == api_summary.rounds[0].refined
    mixtures = [{row.id for row in RunReader(api_run).learnt(number)} for number in (1, 2, 3)]
    first, second, third = mixtures
    assert [each.new for each in api_summary.rounds] == [59, len(second - first), len(third - second - first)]
    assert sum(each.new for each in api_summary.rounds) == len(set.union(*mixtures))


def test_answers_that_could_not_be_graded_are_counted_by_benchmark_and_round(api_summary: Summary) -> None:
    held_out, harder = BENCHMARKS
    assert api_summary.ungraded == {(held_out, number): 1 for number in range(4)} | {(harder, 1): 30}
    assert TASKS[-1] not in api_summary.benchmark(harder)[1].tasks
    assert tasks_of(api_summary.benchmark(harder)) == sorted(TASKS)


def test_tags_of_held_out_instructions_are_not_shares_of_the_corpus(tmp_path: Path) -> None:
    other = build_run(tmp_path, done=0)
    tags = other.read("round-0/tags", TagRow)
    before = summarise(other).corpus_shares
    other.write("round-0/tags", TagRow, [*tags, TagRow("f" * 16, "Math", 1.0, None)])
    assert summarise(other).corpus_shares == before
    assert before == shares(Counter(row.task for row in tags if row.task))


def test_a_key_without_effect_that_an_earlier_version_wrote_is_passed_over(tmp_path: Path) -> None:
    other = build_run(tmp_path, done=0, api=True)
    recipe = read_json(other.folder / "recipe.json")
    recipe["evaluation"]["turns"] = "last"
    write_json(other.folder / "recipe.json", recipe)
    assert summarise(other).recipe.evaluation.kind == "judged"


def test_the_sample_knows_what_models_behind_servers_did(api_run: RunStore) -> None:
    chosen = choose_sample(RunReader(api_run), limit=10_000)
    silent = next(item for item in chosen.items if item.text == SILENT)
    assert (silent.fate, silent.teacher) == ("dropped", None)
    assert silent.reason == "the teacher gave no answer: timeout: no reply after 300 s"
    assert chosen.counts["dropped"] == 4
    written = {item.teacher for item in chosen.items if item.origin == f"corpus (file:{REPEATING})"}
    assert written == {"written by the teacher"}
    refused = {item.refused for item in chosen.items if item.refined}
    assert refused == {"", "the judge preferred the original", "the judge could not compare it"}
    unanswered = next(item for item in chosen.items if item.origin == f"corpus (file:{UNANSWERED})")
    assert unanswered.reason == "no student answer"
    reasons = {item.reason.partition(":")[0] for item in chosen.items if item.fate == "expansion dropped"}
    assert reasons == {"duplicate", "in an evaluation set", "not tagged", "tagged as another task"}


def rounds(*hard: float, size: int = 60) -> list[RoundSummary]:
    rest: dict[str, Any] = dict.fromkeys(("size", "wanted", "new", "hard_pool", "easy_pool", "refined"), size)
    rest |= {"counts": {"Math": size}, "target": {"Math": 1.0}, "distance": 0.0, "minimum": 1.0}
    rest |= {"left_out": 0, "rewrites": Rewrites(), "expanded": 0, "dropped": {}}
    return [
        RoundSummary(number=number, hard_share=share, difficulty=float(number), **rest)
        for number, share in enumerate(hard, 1)
    ]


def plan(**curriculum: object) -> CurriculumConfig:
    return parse({"curriculum": {"rounds": 3, **curriculum}}).curriculum


def by_claim(plan: CurriculumConfig, *hard: float) -> dict[str, Check]:
    return {one.claim: one for one in checks(plan, rounds(*hard), [], {"Math": 0.5, "History": 0.5})}


def test_the_papers_schedule_is_followed(api_summary: Summary) -> None:
    found = by_claim(plan(), 0.3, 0.5, 0.7)
    assert found[HARD_SHARE].holds
    assert found[HARD_SHARE].figures == "30.0 % (30.0 %) -> 50.0 % (50.0 %) -> 70.0 % (70.0 %)"
    assert found[HARDER].holds
    assert next(one for one in api_summary.checks if one.claim == HARD_SHARE).holds


def test_a_constant_schedule_claims_no_rise_and_a_single_round_is_checked_against_its_one_share() -> None:
    found = by_claim(plan(schedule={"kind": "constant", "share": 0.4}), 0.4, 0.4, 0.4)
    assert found[HARD_SHARE].holds
    assert HARDER not in found
    single = parse({"curriculum": {"variant": "single-round"}}).curriculum
    assert [by_claim(single, share)[HARD_SHARE].holds for share in (1.0, 0.9)] == [True, False]


def test_a_target_that_moves_is_compared_round_by_round() -> None:
    first, second = rounds(0.3, 0.5)
    moved = [replace(first, target={"Math": 0.5, "History": 0.5}), second]
    (found,) = [one for one in checks(plan(), moved, [], {"Math": 0.5, "History": 0.5}) if "closer" in one.claim]
    assert (found.holds, found.figures) == (False, "0.0 % (corpus 0.0 %) -> 0.0 % (corpus 50.0 %)")


def test_one_example_of_rounding_is_allowed_and_two_are_not() -> None:
    constant = plan(schedule={"kind": "constant", "share": 0.5})
    assert by_claim(constant, 31 / 60, 29 / 60, 0.5)[HARD_SHARE].holds
    assert not by_claim(constant, 0.5, 32 / 60, 0.5)[HARD_SHARE].holds
    assert not by_claim(constant, 0.5, 0.5, 28 / 60)[HARD_SHARE].holds
