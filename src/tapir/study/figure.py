"""The figure of a study: how far each variant comes with how many examples, and how it differs from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from tapir.store.files import replacing
from tapir.study.results import StudyResult, VariantResult

_WIDTH = 460
_ROW = 22
_BASELINE, _OTHER, _GREY, _PALE = "#b4531a", "#1f6f8b", "#888888", "#cfcfcf"
_PALETTE = (_OTHER, "#5b8c2a", "#7a4fa3", "#c2417c", "#3d7fd6", "#8a6d1f", "#2aa198", "#666666")
_REST = "the others"


def draw(found: StudyResult, path: Path) -> None:
    """Write the figure as SVG and, beside it, as PNG.

    Args:
        found: at least one variant.
        path: of the SVG file.
    """
    import vl_convert

    spec = chart(found)
    text = vl_convert.vegalite_to_svg(spec)
    image = vl_convert.vegalite_to_png(spec, scale=2)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    with replacing(path.with_suffix(".png")) as draft:
        draft.write_bytes(image)


def chart(found: StudyResult) -> dict[str, Any]:
    """Both panels as Vega-Lite."""
    import altair as alt

    panels = [_curves(found)]
    if any(found.study.benchmark in one.against for one in found.variants):
        panels.append(_differences(found))
    whole = alt.vconcat(*panels, spacing=28).configure_view(stroke=None).configure_axis(grid=False, labelFontSize=11)
    spec: dict[str, Any] = whole.to_dict()
    return spec


def _curves(found: StudyResult) -> Any:
    import altair as alt

    shown = [one for one in found.variants if len(one.curve) > 1]
    colours = _colours(found, [one.name for one in shown])
    rows = [
        {
            "variant": one.name,
            "line": one.name if one.name in colours else _REST,
            "examples": examples,
            "success": at.value,
            **_bounds(at.low, at.high, at.value),
        }
        for one in shown
        for examples, at in one.curve
    ]
    rows.sort(key=lambda row: row["line"] != _REST)  # what has a name is drawn above the rest
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("examples:Q", title="training examples"),
        y=alt.Y(
            "success:Q",
            title=f"success, {found.study.benchmark}",
            axis=alt.Axis(format=".0%"),
            scale=alt.Scale(zero=False),
        ),
        color=alt.Color(
            "line:N",
            scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            legend=alt.Legend(title=None),
        ),
        detail="variant:N",
    )
    bars = base.mark_rule(strokeOpacity=0.35).encode(y=alt.Y("low:Q"), y2="high:Q")
    return alt.layer(bars, base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=40)).properties(
        width=_WIDTH, height=260, title="Mean over the seeds, 95 % t interval"
    )


def _differences(found: StudyResult) -> Any:
    import altair as alt

    rows = _rows(found.variants, found.study.benchmark)
    order = [row["variant"] for row in rows]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("variant:N", sort=order, title=None))
    tone = alt.condition("datum.clear", alt.value(_OTHER), alt.value(_GREY))
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=_BASELINE, strokeDash=[4, 3]).encode(x="zero:Q")
    title = f"points more than {found.study.baseline}, {found.study.benchmark} (95 % t interval over paired seeds)"
    points = base.mark_point(filled=True, size=60).encode(x=alt.X("points:Q", title=title), color=tone)
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=tone)
    return alt.layer(zero, bars, points).properties(width=_WIDTH, height=_ROW * len(rows))


def _rows(variants: Sequence[VariantResult], benchmark: str) -> list[dict[str, Any]]:
    found = []
    for one in variants:
        if benchmark in one.against:
            at = one.against[benchmark].mean_of_tasks.difference
            bounds = _bounds(100 * at.low, 100 * at.high, 100 * at.value)
            clear = isfinite(at.low) and (at.low > 0 or at.high < 0)
            found.append({"variant": one.name, "points": 100 * at.value, "clear": clear, **bounds})
    return sorted(found, key=lambda row: -float(row["points"]))


def _bounds(low: float, high: float, value: float) -> dict[str, float]:
    """An interval; the value itself where there is none."""
    return {"low": low, "high": high} if isfinite(low) and isfinite(high) else {"low": value, "high": value}


def _colours(found: StudyResult, names: Sequence[str]) -> dict[str, str]:
    """A colour for each line; where there are more than colours, only baseline and method (or the first) have one."""
    if len(names) <= len(_PALETTE):
        return {
            name: _BASELINE if name == found.study.baseline else _PALETTE[place] for place, name in enumerate(names)
        }
    first = next(name for name in names if name != found.study.baseline)
    shown = {found.study.method or first: _OTHER, found.study.baseline: _BASELINE}
    return {name: colour for name, colour in shown.items() if name in names} | {_REST: _PALE}
