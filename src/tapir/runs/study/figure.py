"""Figure of a study: success by training examples, and differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from tapir.data.files import replacing, write_text
from tapir.runs.study.results import StudyResult

_WIDTH = 460
_ROW = 22
_BASELINE, _OTHER, _GREY, _PALE = "#b4531a", "#1f6f8b", "#888888", "#cfcfcf"
_PALETTE = (_OTHER, "#5b8c2a", "#7a4fa3", "#c2417c", "#3d7fd6", "#8a6d1f", "#2aa198", "#666666")
_REST = "the others"


def draw(result: StudyResult, path: Path) -> None:
    """Write the figure as SVG to `path` and, beside it, as PNG."""
    spec = chart(result)
    image = vl_convert.vegalite_to_png(spec, scale=2)
    write_text(path, vl_convert.vegalite_to_svg(spec))
    with replacing(path.with_suffix(".png")) as draft:
        draft.write_bytes(image)


def chart(result: StudyResult) -> dict[str, Any]:
    """Return both panels as Vega-Lite."""
    panels = [_curves(result)]
    if any(result.study.benchmark in variant.against for variant in result.variants):
        panels.append(_differences(result))
    whole = alt.vconcat(*panels, spacing=28).configure_view(stroke=None).configure_axis(grid=False, labelFontSize=11)
    return dict(whole.to_dict())


def _curves(result: StudyResult) -> Any:
    shown = [variant for variant in result.variants if len(variant.curve) > 1]
    colours = _colours(result, [variant.name for variant in shown])
    rows = [
        {
            "variant": variant.name,
            "line": variant.name if variant.name in colours else _REST,
            "examples": examples,
            "success": at.value,
            **_bounds(at.low, at.high, at.value),
        }
        for variant in shown
        for examples, at in variant.curve
    ]
    rows.sort(key=lambda row: row["line"] != _REST)  # what has a name is drawn above the rest
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    success, percent = f"success, {result.study.benchmark}", alt.Axis(format=".0%")
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("examples:Q", title="training examples"),
        y=alt.Y("success:Q", title=success, axis=percent, scale=alt.Scale(zero=False)),
        color=alt.Color("line:N", scale=scale, legend=alt.Legend(title=None)),
        detail="variant:N",
    )
    bars = base.mark_rule(strokeOpacity=0.35).encode(y=alt.Y("low:Q"), y2="high:Q")
    return alt.layer(bars, base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=40)).properties(
        width=_WIDTH, height=260, title="Mean over the seeds, 95 % t interval"
    )


def _differences(result: StudyResult) -> Any:
    rows: list[dict[str, Any]] = []
    for variant in result.variants:
        if result.study.benchmark in variant.against:
            at = variant.against[result.study.benchmark].mean_of_tasks.difference
            bounds = _bounds(100 * at.low, 100 * at.high, 100 * at.value)
            clear = isfinite(at.low) and (at.low > 0 or at.high < 0)
            rows.append({"variant": variant.name, "points": 100 * at.value, "clear": clear, **bounds})
    rows.sort(key=lambda row: -row["points"])
    order = [row["variant"] for row in rows]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("variant:N", sort=order, title=None))
    tone = alt.condition("datum.clear", alt.value(_OTHER), alt.value(_GREY))
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=_BASELINE, strokeDash=[4, 3]).encode(x="zero:Q")
    title = f"points more than {result.study.baseline}, {result.study.benchmark} (95 % t interval over paired seeds)"
    points = base.mark_point(filled=True, size=60).encode(x=alt.X("points:Q", title=title), color=tone)
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=tone)
    return alt.layer(zero, bars, points).properties(width=_WIDTH, height=_ROW * len(rows))


def _bounds(low: float, high: float, value: float) -> dict[str, float]:
    """Return an interval; the value itself where there is none."""
    return {"low": low, "high": high} if isfinite(low) and isfinite(high) else {"low": value, "high": value}


def _colours(result: StudyResult, names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each line; of too many only baseline and method (or the first) have one."""
    baseline, rest = result.study.baseline, {}
    if len(names) > len(_PALETTE):
        method = result.study.method or next(name for name in names if name != baseline)
        names, rest = [name for name in (method, baseline) if name in names], {_REST: _PALE}
    return {name: _BASELINE if name == baseline else _PALETTE[place] for place, name in enumerate(names)} | rest
