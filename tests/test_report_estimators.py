"""Difficulty by other estimators than the judge: what the report calls it, and how far two of them agree."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir.life import life
from tapir.report import page
from tapir.report.estimators import rank_correlation
from tapir.report.sample import select
from tapir.report.summary import Summary, summarise
from tapir.store.rows import CorpusRow, DifficultyRow, EstimateRow, MixtureRow
from tapir.store.run import RunStore
from tapir.terminal import agreement_line
from tests.browser import Browser, binary, browser
from tests.runs import UNSCORED, build_run
from tests.scored import measured
from tests.test_report import WINDOWS, Elements

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


def section(text: str, name: str) -> str:
    """A section of the page as words; empty where it is left out."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split()) if found else ""


# Rank correlations -----------------------------------------------------------------------------------


@settings(deadline=None)  # the first call loads a library
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40))
def test_the_correlation_is_spearmans_with_ties(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    left, right = ([float(one) for one in column] for column in zip(*pairs, strict=True))
    if len(set(left)) > 1 and len(set(right)) > 1:
        found = rank_correlation(left, right)
        assert found.value == pytest.approx(spearmanr(left, right).statistic, abs=1e-12)
        assert found.n == len(pairs)


def test_the_interval_is_that_of_columns_ranked_anew_in_every_resample() -> None:
    from scipy.stats import spearmanr

    dice = np.random.default_rng(3)
    left = dice.normal(size=60)
    right = np.round(left + dice.normal(size=60))
    rows = [dice.integers(60, size=60) for _ in range(2_000)]
    expected = np.percentile([spearmanr(left[row], right[row]).statistic for row in rows], [2.5, 97.5])
    found = rank_correlation(left.tolist(), right.tolist())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.03)
    assert found == rank_correlation(left.tolist(), right.tolist())


def test_a_reversed_order_is_minus_one_and_its_interval_is_sure() -> None:
    found = rank_correlation([1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 1.0, 0.5])
    assert (found.value, found.low, found.high) == (-1.0, -1.0, -1.0)


def test_every_two_estimators_are_compared_on_what_both_measured(
    stores: dict[str, RunStore], summaries: dict[str, Summary]
) -> None:
    found = summaries["mfd"].agreements
    assert [(one.first, one.second) for one in found] == [
        ("MFD", "IFD"),
        ("MFD", "share of failures"),
        ("MFD", "length"),
        ("IFD", "share of failures"),
        ("IFD", "length"),
        ("share of failures", "length"),
    ]
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


def test_without_a_difficulty_only_the_compared_estimators_are_correlated(summaries: dict[str, Summary]) -> None:
    assert [(one.first, one.second) for one in summaries["none"].agreements] == [("IFD", "length")]
    assert summaries["competence"].agreements == summaries["length"].agreements == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5] * 120, "share of failures is the same for all 118"),
        ([math.nan] * 118 + [0.0, 1.0], "2 instructions have both, 3 are needed"),
        ([math.nan] * 120, "0 instructions have both, 3 are needed"),
    ],
)
def test_a_side_that_does_not_vary_cannot_be_computed_and_the_page_says_so(
    tmp_path: Path, values: list[float], said: str
) -> None:
    pytest.importorskip("altair")
    store = build_run(tmp_path, done=1, curriculum={"compare": ["pass-rate"]})
    rows = store.read("round-0/compared-pass-rate", EstimateRow)
    changed = [
        replace(row, value=None if math.isnan(value) else value, unscored="nothing" if math.isnan(value) else None)
        for row, value in zip(rows, values, strict=True)
    ]
    store.write("round-0/compared-pass-rate", EstimateRow, changed)
    summary = summarise(store)
    (found,) = summary.agreements
    assert found.rho is None
    assert found.why == said
    assert f"cannot be computed: {said}" in section(page.render(store, summary), "difficulty")
    assert f"MFD and share of failures cannot be computed: {said}" in agreement_line(summary.agreements)


def test_an_estimator_of_ones_own_keeps_its_name(tmp_path: Path) -> None:
    store = build_run(tmp_path, done=1, curriculum=KINDS["ifd"])
    own = [replace(row, estimator="perplexity") for row in store.read("round-0/estimates", EstimateRow)]
    store.write("round-0/estimates", EstimateRow, own)
    store.write("round-0/compared-surprise", EstimateRow, [replace(row, estimator="surprise") for row in own])
    summary = summarise(store)
    assert summary.scale is not None
    assert summary.scale.name == "perplexity"
    assert ("perplexity", "surprise") in [(one.first, one.second) for one in summary.agreements]


def test_the_closing_line_gives_every_pair_with_its_interval(summaries: dict[str, Summary]) -> None:
    line = agreement_line(summaries["ifd"].agreements)
    assert line.startswith("difficulty, Spearman's rank correlation (95 % interval): IFD and length +")
    assert line.count(" to +") == 3
    assert agreement_line(()) == ""


# What the page calls it ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_the_page_names_the_estimator_that_the_run_goes_by(pages: dict[str, str], kind: str) -> None:
    name, text = NAMES[kind], pages[kind]
    assert f"Mean {name}" in section(text, "curriculum")
    assert f"Instructions by {name}," in section(text, "difficulty")
    charts = json.loads(Elements(text).scripts[0])["charts"]
    titles = json.dumps(charts["difficulty"])
    if name == "MFD":
        assert "the teacher's score minus the student's" in titles
    else:
        parts = [section(text, one) for one in ("checks", "judge", "tasks", "curriculum", "instructions")]
        assert "MFD" not in " ".join([titles, *parts])


def test_the_threshold_and_the_parts_are_those_of_the_tables(
    stores: dict[str, RunStore], summaries: dict[str, Summary]
) -> None:
    for kind in NAMES:
        rows = stores[kind].read("round-1/difficulty", DifficultyRow)
        summary = summaries[kind]
        assert summary.parts == Counter(row.part for row in rows)
        assert Counter(summary.cut.part(gap) for gap in summary.gaps) == Counter(
            row.part for row in rows if row.gap is not None
        )


def test_what_is_hopeless_is_counted_only_where_there_is_any(
    pages: dict[str, str], summaries: dict[str, Summary]
) -> None:
    assert summaries["pass-rate"].parts["hopeless"]
    words = section(pages["pass-rate"], "difficulty")
    assert "Above 75 % it is hopeless now" in words
    assert f"hopeless {summaries['pass-rate'].parts['hopeless']} too hard for now" in words
    assert "hopeless" not in section(pages["ifd"], "difficulty")
    assert "hopeless" in section(pages["pass-rate"], "instructions")


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
    assert "goes by no difficulty" in section(text, "difficulty")  # what was compared has its place all the same
    trained = {row.id for number in (1, 2, 3) for row in store.read(f"round-{number}/mixture", MixtureRow)}
    sample = select(store, limit=10_000)
    fates = {one.fate for one in sample.items if one.rounds}
    assert trained == {one.id for one in sample.items if one.rounds}
    assert fates == {"trained", "expansion kept"}


def test_without_a_difficulty_and_a_comparison_the_section_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    store = build_run(tmp_path, done=1, curriculum={"difficulty": "none"})
    text = page.render(store, summarise(store))
    assert section(text, "difficulty") == ""
    assert 'href="#difficulty"' not in text


def test_a_schedule_that_follows_competence_is_checked_against_what_each_round_asked_for(
    pages: dict[str, str], summaries: dict[str, Summary]
) -> None:
    (found,) = [one for one in summaries["competence"].checks if one.claim.startswith(FOLLOWS)]
    assert found.claim == "The share of hard examples follows the student's competence (planned)"
    assert found.holds
    assert found.figures == "36.7 % (36.7 %) -> 41.7 % (41.7 %) -> 48.3 % (48.3 %)"
    assert not [one for one in summaries["competence"].checks if "rises" in one.claim]
    assert "41.7 % planned" in section(pages["competence"], "curriculum")
    assert "planned" not in section(pages["mfd"], "curriculum")


def test_rising_difficulty_is_claimed_under_the_right_name(summaries: dict[str, Summary]) -> None:
    claims = {kind: [one for one in found.checks if "rises" in one.claim] for kind, found in summaries.items()}
    assert [one.claim for one in claims["ifd"]] == ["The mean difficulty (IFD) of the examples rises round by round"]
    assert claims["ifd"][0].holds
    assert claims["pass-rate"][0].figures.count(" %") == 3
    assert claims["none"] == []


def test_tasks_that_come_as_they_are_found_are_not_measured_against_a_target(
    pages: dict[str, str], summaries: dict[str, Summary]
) -> None:
    assert not [one for one in summaries["length"].checks if "closer to the target" in one.claim]
    assert "balances no tasks" in section(pages["length"], "tasks")
    assert [one for one in summaries["ifd"].checks if "closer to the target" in one.claim]


def test_a_target_that_moves_is_compared_round_by_round(summaries: dict[str, Summary]) -> None:
    from tapir.report.checks import checks

    summary = summaries["ifd"]
    first, *others = summary.rounds
    moved = [replace(first, target={task: 1 / len(first.target) for task in first.target}), *others]
    (found,) = [one for one in checks(summary.recipe, moved, [], summary.corpus_shares) if "closer" in one.claim]
    assert found.figures.count("(corpus ") == 3


def test_what_an_estimator_cannot_measure_is_an_alarm(pages: dict[str, str], summaries: dict[str, Summary]) -> None:
    (found,) = [one for one in summaries["ifd"].alarms if one.name == "Instructions without a difficulty"]
    assert found.value == 2 / 120
    assert not found.raised
    assert found.figure == "1.7 % (the answer is too short: 2)"
    words = section(pages["ifd"], "judge")
    assert words.startswith("Are the measurements to be trusted? The judge (gym) did not measure the difficulty")
    assert not [one for one in summaries["mfd"].alarms if one.name == found.name]


def test_a_figure_that_is_no_number_is_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    store = build_run(tmp_path, done=1, curriculum=KINDS["ifd"])
    rows = store.read("round-1/difficulty", DifficultyRow)
    broken = [replace(row, gap=math.nan) if place < 3 else row for place, row in enumerate(rows)]
    store.write("round-1/difficulty", DifficultyRow, broken)
    summary = summarise(store)
    assert all(map(math.isfinite, summary.gaps))
    assert all(one.difficulty and math.isfinite(one.difficulty) for one in summary.rounds)
    assert "NaN" not in page.render(store, summary).split('id="data">')[1].split("</script>")[0]


# One instruction -------------------------------------------------------------------------------------


def test_the_life_of_an_instruction_tells_every_estimate(stores: dict[str, RunStore]) -> None:
    store = stores["ifd"]
    row = next(row for row in store.read("round-1/difficulty", DifficultyRow) if row.part == "hard")
    facts = dict(life(store, row.id))
    assert row.gap is not None
    assert facts["round 0: IFD"] == f"{row.gap:.3f} (as it was found)"
    assert facts["round 1: difficulty (ifd)"] == f"{row.gap:.3f}, hard"
    assert facts["compared: length"].endswith(" (as it was found)")
    assert facts["compared: share of failures"].startswith(
        f"{100 * measured('pass-rate', (row.gap - 0.55) * 20):.1f} %"
    )
    assert "round 1: MFD" not in facts


def test_the_life_tells_why_there_is_no_estimate_and_what_is_hopeless(stores: dict[str, RunStore]) -> None:
    store = stores["ifd"]
    unscored = store.read("corpus", CorpusRow)[UNSCORED]
    facts = dict(life(store, unscored.id))
    assert facts["round 0: IFD"] == "none: the answer is too short (1 tokens)"
    assert facts["round 1: difficulty (ifd)"] == "none, unscored"
    judged = stores["mfd"]
    hopeless = next(row for row in judged.read("round-1/difficulty", DifficultyRow) if row.part == "hopeless")
    assert dict(life(judged, hopeless.id))["round 1: MFD"] == f"{hopeless.gap:+.2f} (spread 0.00), hopeless"


def test_the_sample_says_why_there_is_no_estimate(stores: dict[str, RunStore], pages: dict[str, str]) -> None:
    name = stores["ifd"].read("corpus", CorpusRow)[UNSCORED].id
    chosen = {one.id: one for one in select(stores["ifd"], limit=10_000).items}
    assert (chosen[name].fate, chosen[name].reason) == ("unscored", "the answer is too short: 1 tokens")
    sample = json.loads(Elements(pages["ifd"]).scripts[0])["sample"]
    texts = {one["difficulty"].split(" ")[0] for one in sample}
    assert texts == {"", "IFD"}


# Drawn by a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if binary() is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_every_estimator_is_drawn_without_an_error(
    tab: Browser, pages: dict[str, str], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(pages[kind], encoding="utf-8")
    for window in ("phone", "desktop"):
        width, height = WINDOWS[window]
        tab.open(path, width=width, height=height, dark=window == "phone")
        root = "document.documentElement.dataset"
        assert tab.ask(f"{root}.errors") == "[]"
        assert int(tab.ask(f"{root}.overflow")) <= 0
        assert tab.ask(f"{root}.ready") == str(5 - (kind == "none"))
        assert tab.complaints == []
        labels = "document.querySelectorAll('[data-chart=difficulty] .role-axis-label text')"
        ticks = tab.ask(f"[...{labels}].map((one) => one.textContent)")
        assert not any("e" in tick for tick in ticks)  # 120, not 1.2e+2
    rows = tab.ask("document.querySelectorAll('.correlations tbody tr').length")
    assert rows == {"ifd": 3, "none": 1, "mfd": 6}.get(kind, 0)
