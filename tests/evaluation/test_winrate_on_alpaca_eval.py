"""Win rates recomputed from AlpacaEval's own annotations against the published leaderboard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from tapir.assemble.judging import recorded_annotations, rows_of
from tapir.domain.completion import Token
from tapir.evaluation.annotations import Annotation, by_model
from tapir.evaluation.length_control import Given, LengthControlled, NotComputed, length_controlled
from tapir.evaluation.winrate import win_rate
from tapir.llm.preference import share_of_first
from tests.evaluation.pairs import SHARED

DATA = SHARED / "alpaca_eval"
COMPACT = DATA / "annotations_compact_shared.jsonl.gz"
FULL = sorted((DATA / "annotations").glob("*.json.gz")) if DATA.exists() else []

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not beside the repository")
Rows = Mapping[str, list[Annotation]]


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    with (DATA / "leaderboard_shared_models.csv").open(encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def compact() -> Rows:
    return by_model(recorded_annotations([COMPACT], None))


def test_the_win_rates_of_all_models_in_the_compact_file_are_the_published_ones(
    compact: Rows, published: Mapping[str, Mapping[str, str]]
) -> None:
    models = [name for name in compact if name in published]
    assert len(models) == 7
    for name in models:
        check(compact[name], published[name])


@pytest.mark.parametrize("path", FULL, ids=[path.name for path in FULL])
def test_the_win_rate_of_a_full_annotation_file_is_the_published_one(
    path: Path, published: Mapping[str, Mapping[str, str]]
) -> None:
    ((name, rows),) = by_model(recorded_annotations([path], None)).items()
    check(rows, published[name])


def check(rows: list[Annotation], row: Mapping[str, str]) -> None:
    found = win_rate(rows, seed=0)
    assert 100 * found.rate.value == pytest.approx(float(row["win_rate"]), abs=1e-6)
    assert 100 * found.standard_error == pytest.approx(float(row["standard_error"]), abs=1e-6)
    assert 100 * found.discrete == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)
    counts = (found.wins, found.losses, found.draws, found.rate.n)
    assert counts == tuple(int(row[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total"))
    assert int(found.lengths.model) == int(row["avg_length"])
    if found.losses:
        assert found.rate.low < found.rate.value < found.rate.high


def test_both_forms_of_the_same_annotations_say_the_same(compact: Rows) -> None:
    for path in FULL:
        ((name, rows),) = by_model(recorded_annotations([path], None)).items()
        other = compact[name]
        assert [one.preference for one in rows] == [one.preference for one in other]
        assert [(one.length, one.baseline_length) for one in rows] == [
            (one.length, one.baseline_length) for one in other
        ]


@pytest.mark.slow
def test_length_controlled_rates_without_the_official_files_are_near_the_published_ones_and_in_their_order(
    compact: Rows, published: Mapping[str, Mapping[str, str]]
) -> None:
    found = length_controlled(compact, Given(), seed=0)
    baseline = found.pop("gpt4_1106_preview")
    assert isinstance(baseline, NotComputed)
    assert "ties" in baseline.reason
    rates, wanted = {}, {}
    for name, one in found.items():
        assert isinstance(one, LengthControlled)
        assert one.how == "joint difficulty"
        assert one.rate.low < one.rate.value < one.rate.high
        if name in published:
            rates[name] = 100 * one.rate.value
            wanted[name] = float(published[name]["length_controlled_winrate"])
    off = [abs(rates[name] - wanted[name]) for name in rates]
    assert len(off) == 6
    assert sum(off) / len(off) <= 1.5
    assert max(off) <= 4
    assert sorted(rates, key=lambda name: rates[name]) == sorted(wanted, key=lambda name: wanted[name])


def test_the_share_of_the_letters_log_probabilities_is_the_recorded_preference() -> None:
    """Both forms keep them; which letter stood for the model was shuffled, so either share may be the preference."""
    seen = 0
    for path in FULL:
        for _, fields in rows_of(path):
            if not fields["raw_completion"]:  # equal answers were not judged
                continue
            first = fields["raw_completion"]["logprobs"]["content"][0]
            others = tuple((one["token"], one["logprob"]) for one in first["top_logprobs"])
            share = share_of_first(first["token"], 0, [Token(first["token"], others)], "mM")
            if share is None:
                continue
            preference = fields["preference"] - 1
            assert min(abs(share - preference), abs(1 - share - preference)) < 1e-6
            seen += 1
    assert seen > 1500
