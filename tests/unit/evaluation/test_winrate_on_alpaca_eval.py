"""Win rates recomputed from AlpacaEval's own annotations against the published leaderboard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.paths import SHARED
from tapir.domain.completion import Token
from tapir.evaluation.alpaca_eval import win_rate
from tapir.evaluation.annotations import Annotation, by_model, parse
from tapir.evaluation.held_out import json_rows
from tapir.evaluation.length_control import LengthControlFiles, LengthControlled, length_controlled_together
from tapir.models.logprobs import share_of_first

DATA = SHARED / "alpaca_eval"
COMPACT = DATA / "annotations_compact_shared.jsonl.gz"
FULL = sorted((DATA / "annotations").glob("*.json.gz")) if DATA.exists() else []

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not beside the repository")
RATES = {
    "FuseChat-Llama-3.2-1B-Instruct": 0.29921932265888196,
    "alpaca-7b": 0.025914505402236034,
    "gemma-2b-it": 0.03401971438136646,
    "gpt4_1106_preview": 0.5,
    "phi-2-sft": 0.039775677752173916,
    "text_davinci_003": 0.01962147665416149,
    "vicuna-7b-v1.5": 0.047974939391677025,
    "wizardlm-13b": 0.05878152589354038,
}
Rows = Mapping[str, list[Annotation]]


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    with (DATA / "leaderboard_shared_models.csv").open(encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def compact() -> Rows:
    """Rows of lengths and preferences, written out as AlpacaEval writes annotations."""
    rows = [
        (
            place,
            {
                "instruction": f"prompt {row['index']}",
                "index": row["index"],
                "preference": row["preference"],
                "generator_1": row["baseline"],
                "output_1": "x" * row["len_output_1"],
                "generator_2": row["model"],
                "output_2": "x" * row["len_output_2"],
            },
        )
        for place, row in json_rows(COMPACT)
    ]
    return by_model(parse(rows, COMPACT.name))


def test_the_win_rates_of_all_models_in_the_compact_file_are_the_published_ones(
    compact: Rows, published: Mapping[str, Mapping[str, str]]
) -> None:
    models = [name for name in compact if name in published]
    assert len(models) == 7
    for name in models:
        check(compact[name], published[name])


@pytest.mark.parametrize("models", [7, 5])
def test_length_controlled_intervals_of_several_models_hold_the_published_rates(
    compact: Rows, published: Mapping[str, Mapping[str, str]], models: int
) -> None:
    names = [name for name in compact if name != "gpt4_1106_preview"][-models:]
    found = length_controlled_together({name: compact[name] for name in names}, LengthControlFiles())
    for name in (name for name in names if name in published):
        rate, known = found[name], float(published[name]["length_controlled_winrate"]) / 100
        assert isinstance(rate, LengthControlled)
        assert rate.rate.low <= known <= rate.rate.high
        assert abs(rate.rate.value - known) < 0.04


@pytest.mark.parametrize("path", FULL, ids=[path.name for path in FULL])
def test_the_win_rate_of_a_full_annotation_file_is_the_published_one(
    path: Path, published: Mapping[str, Mapping[str, str]]
) -> None:
    ((name, rows),) = by_model(parse(json_rows(path), path.name)).items()
    check(rows, published[name])


def check(rows: list[Annotation], row: Mapping[str, str]) -> None:
    found = win_rate(rows)
    assert 100 * found.rate.value == pytest.approx(float(row["win_rate"]), abs=1e-6)
    assert found.rate.value == pytest.approx(RATES[found.model], abs=1e-14)
    assert 100 * found.standard_error == pytest.approx(float(row["standard_error"]), abs=1e-6)
    assert 100 * found.discrete == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)
    counts = (found.wins, found.losses, found.draws, found.rate.n)
    assert counts == tuple(int(row[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total"))
    assert int(found.lengths.model) == int(row["avg_length"])
    if found.losses:
        assert found.rate.low < found.rate.value < found.rate.high


def test_the_share_of_the_letters_log_probabilities_is_the_recorded_preference() -> None:
    """Both forms keep them; which letter stood for the model was shuffled, so either share may be the preference."""
    seen = 0
    for path in FULL:
        for _, fields in json_rows(path):
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
