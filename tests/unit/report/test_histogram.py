"""The histogram of difficulty: bars that fit the scale, parted where the threshold is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.runs import build_run
from tapir.config.curriculum import IfdConfig, LengthConfig, PassRateConfig
from tapir.data.run.rows import DifficultyRow
from tapir.domain.difficulty import Scale
from tapir.models.estimators import MFD, Ifd, Length, PassRate
from tapir.report import page
from tapir.report.charts import difficulty, histogram, threshold
from tapir.report.summary import Cut, summarise

BY_LENGTH = {"difficulty": "length", "threshold": {"rule": "budget", "value": 50}}
IFD, LENGTH = Ifd.scale(IfdConfig(kind="ifd")), Length.scale(LengthConfig(kind="length"))
SHARES = PassRate.scale(PassRateConfig(kind="pass-rate"))

figures = st.lists(st.floats(0.01, 1e4, allow_nan=False).map(lambda value: round(value, 3)), min_size=1, max_size=60)


@given(figures, st.sampled_from([IFD, LENGTH, MFD, SHARES]), st.floats(0, 100))
def test_every_figure_stands_in_one_bar_of_its_part(gaps: list[float], scale: Scale, delta: float) -> None:
    if scale.bar:
        gaps = [gap % (1 if scale is SHARES else 9) for gap in gaps]
    cut = Cut(delta, delta + 20)
    found = histogram(gaps, scale, cut)
    assert sum(bar.count for bar in found.bars) == len(gaps)
    width = found.bars[0].high - found.bars[0].low
    for bar in found.bars:
        inside = [gap for gap in gaps if bar.low < gap + 1e-9 * width and gap <= bar.last + 1e-9 * width]
        assert bar.count <= sum(cut.part(gap) == bar.part for gap in inside)
    assert found.low <= min(bar.low for bar in found.bars)
    assert found.high >= max(delta, *(bar.high for bar in found.bars)) - 1e-9 * width
    assert len({bar.low for bar in found.bars}) <= 200 or scale is MFD


def test_a_few_very_long_answers_do_not_squeeze_all_others_and_equal_figures_are_one_bar() -> None:
    gaps = [float(100 + place % 90) for place in range(2_000)] + [50_000.0]
    found = histogram(gaps, LENGTH, Cut(150.0))
    assert len({bar.low for bar in found.bars}) >= 15
    assert found.beyond == 1
    assert found.bars[-1].last == found.largest == 50_000
    for scale in (IFD, LENGTH, MFD):
        (bar,) = histogram([7.0] * 5, scale, Cut(7.0)).bars
        assert (bar.part, bar.count) == ("easy", 5)


def test_the_histogram_says_what_is_left_out_of_its_last_bar(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    store = build_run(tmp_path, done=1, corpus=400, curriculum=BY_LENGTH)
    rows = store.read("round-1/difficulty", DifficultyRow)
    longest = next(row.id for row in rows if row.part == "hard")
    store.write(
        "round-1/difficulty", DifficultyRow, [replace(row, gap=9e4) if row.id == longest else row for row in rows]
    )
    words = page.render(store, summarise(store))
    assert "The last bar holds 1 that lie beyond its edge, up to 90,000." in words


@pytest.mark.parametrize(
    ("scale", "value", "text"),
    [(MFD, 2.0, "2"), (MFD, 1.75, "1.75"), (IFD, 0.83712, "0.837"), (LENGTH, 1200.0, "1,200"), (SHARES, 0.5, "50 %")],
)
def test_a_threshold_is_written_as_people_do(scale: Scale, value: float, text: str) -> None:
    assert threshold(scale, value) == text
    assert f"δ = {text}" in json.dumps(difficulty([value, value + 0.1], scale, Cut(value)), ensure_ascii=False)
