"""Difficulty by other estimators than the judge: what the report calls it, and how far two of them agree."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from support.pages import data_of
from support.pages import words as section
from support.runs import UNSCORED, build_run, measure
from tapir.cli.tables import show_result
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import CorpusRow, DifficultyRow, EstimateRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.report import estimators, page
from tapir.report.history import history
from tapir.report.sample import choose_sample
from tapir.report.summary import Summary, summarise

FOLLOWS = "The share of hard examples follows"
QUANTILE = {"threshold": {"rule": "quantile", "value": 0.4}}
KINDS: dict[str, dict[str, object]] = {
    "ifd": {"difficulty": "ifd", "compare": ["length", "pass-rate"], **QUANTILE},
    "pass-rate": {"difficulty": {"kind": "pass-rate", "samples": 4}, "threshold": {"value": 0.4, "most": 0.75}},
    "length": {"difficulty": "length", "threshold": {"rule": "budget", "value": 50}, "target": {"shares": "pool"}},
    "none": {"difficulty": "none", "compare": ["ifd", "length"]},
    "competence": {"schedule": {"kind": "competence", "start": 0.3, "end": 0.9}, "rescoring": "every-round"},
    "mfd": {"compare": ["ifd", "pass-rate", "length"], "threshold": {"most": 6.0}},
}
NAMES = {"ifd": "IFD", "pass-rate": "share of failures", "length": "length", "competence": "MFD", "mfd": "MFD"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunStore]:
    return {kind: build_run(tmp_path_factory.mktemp(kind), curriculum=plan) for kind, plan in KINDS.items()}


@pytest.fixture(scope="module")
def summaries(stores: dict[str, RunStore]) -> dict[str, Summary]:
    return {kind: summarise(store) for kind, store in stores.items()}


@pytest.fixture(scope="module")
def pages(stores: dict[str, RunStore], summaries: dict[str, Summary]) -> dict[str, str]:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    return {kind: page.render(store, summaries[kind]) for kind, store in stores.items()}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.5] * 5, "B is the same for all 5"),
        ([math.nan] * 3 + [0.0, 1.0], "2 instructions have both, 3 are needed"),
    ],
)
def test_a_side_that_does_not_vary_cannot_be_computed_and_says_so(values: list[float], why: str) -> None:
    columns = {"A": {str(place): float(place) for place in range(5)}, "B": dict(zip("01234", values, strict=True))}
    result = estimators._agreement("A", "B", columns)
    assert (result.rho, result.why, result.figure) == (None, why, f"cannot be computed: {why}")


def test_the_interval_is_that_of_columns_ranked_anew_in_every_resample() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    left = rng.normal(size=60)
    right = np.round(left + rng.normal(size=60))
    rows = [rng.integers(60, size=60) for _ in range(2_000)]
    expected = np.percentile([spearmanr(left[row], right[row]).statistic for row in rows], [2.5, 97.5])
    columns = {
        name: {str(place): value for place, value in enumerate(side.tolist())}
        for name, side in (("A", left), ("B", right))
    }
    found = estimators._agreement("A", "B", columns).rho
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.03)
    assert found == estimators._agreement("A", "B", columns).rho


def test_every_two_estimators_are_compared_on_what_both_measured_and_no_difficulty_is_not_one(
    stores: dict[str, RunStore], summaries: dict[str, Summary]
) -> None:
    found = summaries["mfd"].agreements
    every_two = combinations(("MFD", "IFD", "share of failures", "length"), 2)
    assert [(one.first, one.second) for one in found] == list(every_two)
    rows = stores["mfd"].read("round-1/difficulty", DifficultyRow)
    scored = sum(row.gap is not None for row in rows)
    assert {one.n for one in found} == {scored}
    assert scored < len(rows)
    first = found[0].rho
    assert first is not None
    assert first.value == 1.0  # the builder's IFD rises with its MFD
    coarse = found[1].rho
    assert coarse is not None
    assert 0.5 < coarse.low < coarse.value < coarse.high < 1.0  # five values only
    assert [(one.first, one.second) for one in summaries["none"].agreements] == [("IFD", "length")]
    assert summaries["competence"].agreements == summaries["length"].agreements == []


def test_an_estimator_of_ones_own_keeps_its_name(tmp_path: Path) -> None:
    store = build_run(tmp_path, done=1, curriculum=KINDS["ifd"])
    own = [replace(row, estimator="perplexity") for row in store.read("round-0/estimates", EstimateRow)]
    store.write("round-0/estimates", EstimateRow, own)
    store.write("round-0/compared-surprise", EstimateRow, [replace(row, estimator="surprise") for row in own])
    summary = summarise(store)
    assert summary.scale is not None
    assert summary.scale.name == "perplexity"
    assert ("perplexity", "surprise") in [(one.first, one.second) for one in summary.agreements]


@pytest.mark.parametrize("kind", NAMES)
def test_the_page_names_the_estimator_that_the_run_goes_by(pages: dict[str, str], kind: str) -> None:
    name, text = NAMES[kind], pages[kind]
    assert f"Mean {name}" in section(text, "curriculum")
    assert f"Instructions by {name}," in section(text, "difficulty")
    charts = data_of(text)["charts"]
    titles = json.dumps(charts["difficulty"])
    if name == "MFD":
        assert "the teacher's score minus the student's" in titles
    else:
        parts = [section(text, one) for one in ("checks", "judge", "tasks", "curriculum", "instructions")]
        assert "MFD" not in " ".join([titles, *parts])


def test_without_a_difficulty_there_is_one_pool(
    pages: dict[str, str], stores: dict[str, RunStore], summaries: dict[str, Summary]
) -> None:
    summary, store = summaries["none"], stores["none"]
    assert summary.scale is None
    assert not [one for one in summary.checks if one.claim.startswith((FOLLOWS, "The mean difficulty"))]
    corpus = sum(1 for _ in store.each("corpus", CorpusRow))
    assert [one.hard_share for one in summary.rounds] == [None] * 3
    assert [one.hard_pool for one in summary.rounds] == [
        corpus + sum(one.expanded for one in summary.rounds[:number]) for number in (1, 2, 3)
    ]
    text = pages["none"]
    assert '"difficulty":{' not in text
    heads = section(text, "curriculum")
    assert "Pool" in heads
    assert not any(word in heads for word in ("α", "Hard pool", "Easy pool", "Mean"))
    assert "measures no difficulty" in section(text, "difficulty")  # what was compared has its place all the same
    trained = {row.id for number in (1, 2, 3) for row in store.read(f"round-{number}/mixture", MixtureRow)}
    sample = choose_sample(RunReader(store), limit=10_000)
    fates = {one.fate for one in sample.items if one.rounds}
    assert trained == {one.id for one in sample.items if one.rounds}
    assert fates == {"trained", "expansion kept"}


def test_a_schedule_that_follows_competence_is_checked_against_what_each_round_asked_for(
    pages: dict[str, str], summaries: dict[str, Summary]
) -> None:
    (found,) = [one for one in summaries["competence"].checks if one.claim.startswith(FOLLOWS)]
    assert found.claim == "The share of hard examples follows the student's competence (planned)"
    assert found.holds
    planned = [f"{100 * one.wanted / one.size:.1f} %" for one in summaries["competence"].rounds]
    assert found.figures == " -> ".join(f"{share} ({share})" for share in planned)
    assert not [one for one in summaries["competence"].checks if "rises" in one.claim]
    assert f"{planned[1]} planned" in section(pages["competence"], "curriculum")
    assert "planned" not in section(pages["mfd"], "curriculum")


def test_tasks_that_come_as_they_are_found_are_not_measured_against_a_target(
    pages: dict[str, str], summaries: dict[str, Summary]
) -> None:
    assert not [one for one in summaries["length"].checks if "closer to the target" in one.claim]
    assert "balances no tasks" in section(pages["length"], "tasks")
    assert [one for one in summaries["ifd"].checks if "closer to the target" in one.claim]


def test_what_an_estimator_cannot_measure_is_an_alarm(pages: dict[str, str], summaries: dict[str, Summary]) -> None:
    (found,) = [one for one in summaries["ifd"].alarms if one.name == "Instructions without a difficulty"]
    assert found.value == 2 / 120
    assert not found.raised
    assert found.figure == "1.7 % (the answer is too short: 2)"
    words = section(pages["ifd"], "judge")
    assert words.startswith("Checks of the measurements The judge (gym) did not measure the difficulty")
    assert not [one for one in summaries["mfd"].alarms if one.name == found.name]


def test_result_lines_stay_whole_however_narrow_the_output_is(summaries: dict[str, Summary]) -> None:
    output, path = io.StringIO(), "a folder/" * 9
    show_result(Console(file=output, width=40), summaries["ifd"], path, Path(path))
    lines = output.getvalue().splitlines()
    assert {f"student: {path}", f"report: {Path(path)}"} < set(lines)
    closing = next(line for line in lines if line.startswith("difficulty, Spearman's rank correlation (95 %"))
    assert closing.count(" to +") == 3


def test_the_life_of_an_instruction_tells_every_estimate_or_why_there_is_none_and_what_is_hopeless(
    stores: dict[str, RunStore],
) -> None:
    store = stores["ifd"]
    row = next(row for row in store.read("round-1/difficulty", DifficultyRow) if row.part == "hard")
    facts = dict(history(store, row.id))
    assert row.gap is not None
    assert facts["round 0: IFD"] == f"{row.gap:.3f} (as it was measured)"
    assert facts["round 1: difficulty (ifd)"] == f"{row.gap:.3f}, hard"
    assert facts["compared: length"].endswith(" (as it was measured)")
    assert facts["compared: share of failures"].startswith(f"{100 * measure('pass-rate', (row.gap - 0.55) * 20):.1f} %")
    assert "round 1: MFD" not in facts
    unscored = store.read("corpus", CorpusRow)[UNSCORED]
    facts = dict(history(store, unscored.id))
    assert facts["round 0: IFD"] == "none: the answer is too short (1 tokens)"
    assert facts["round 1: difficulty (ifd)"] == "none, unscored"
    judged = stores["mfd"]
    hopeless = next(row for row in judged.read("round-1/difficulty", DifficultyRow) if row.part == "hopeless")
    assert dict(history(judged, hopeless.id))["round 1: MFD"] == f"{hopeless.gap:+.2f} (spread 0.00), hopeless"
