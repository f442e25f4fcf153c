"""Charts of the report as Vega-Lite: data and structure here, colours and type in the page.

Marks carry style names (`threshold`, ...) and scales a palette of names in `usermeta`; page.js looks
the colours up among the style sheet's variables, for light and for dark.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any, TypeAlias

import altair as alt
import numpy as np
from numpy.typing import NDArray

from tapir.domain.completion import Spending
from tapir.domain.difficulty import Scale
from tapir.domain.evaluation import EvalResult, Evaluation
from tapir.report.rounds import RoundSummary
from tapir.report.summary import Cut, Summary, group_spending, tasks_of
from tapir.report.training import Curve

Spec: TypeAlias = dict[str, Any]

_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_PALE = "luminance(scale('color', datum.value)) > 0.179"  # black and white have a contrast of 4.58 with 0.179
_ROW = 24  # pixels of a task
_TICK = "M-.14,-1.3H.14V1.3H-.14Z"  # an upright stroke, as the path of a point
_INSET = 0.04  # of the width of a training, left free on both sides
_POINTS = 400  # of a loss curve, at most
_BARS = 24  # about so many, where the scale does not fix the width of a bar
_TAIL = 0.995  # what lies beyond is counted in the last bar if it would squeeze all others
_SQUEEZE = 1.5  # times as wide as without it
_QUIET = {"domain": False, "ticks": False}
_SUCCESS = ("task", "benchmark", "student", "value|success|.1%", "interval|95 % interval", "n|prompts")


def student(number: int) -> str:
    """Return S_r with its subscript."""
    return f"S{number}".translate(_SUBSCRIPT)


def charts(summary: Summary) -> dict[str, Spec]:
    """Return every chart that the run has data for, by name."""
    specs: dict[str, Spec] = {}
    if summary.evaluations:
        specs["success"] = success(summary.benchmark(summary.benchmarks[0]))
        specs["overall"] = overall(summary.evaluations)
    if summary.rounds:
        specs["shares"] = shares(summary.corpus_shares, summary.rounds)
    if summary.gaps and summary.scale:
        specs["difficulty"] = difficulty(summary.gaps, summary.scale, summary.cut)
    for name, height in (("loss", 240), ("preference_loss", 170)):
        if curves := {each.name: getattr(each, name) for each in summary.trainings if getattr(each, name)}:
            kind = "Training loss" if name == "loss" else "Preference loss"
            specs[name.replace("_", "-")] = losses(curves, f"{kind} over the steps of every round.", height=height)
    if any(entry.calls for entry in summary.spending):
        specs["costs"] = costs(summary.spending)
    return specs


def success(evaluations: Sequence[Evaluation]) -> Spec:
    """Draw a heat map of tasks by checkpoints; tasks that S_0 does best come first."""
    rows = [{"task": task} | _row(each, result) for each in evaluations for task, result in each.tasks.items()]
    first = {task: result.value for task, result in evaluations[0].tasks.items()}
    order = sorted(tasks_of(evaluations), key=lambda task: (-first.get(task, 0.0), task))
    top = alt.Axis(orient="top", labelAngle=0, labelFontWeight=600, **_QUIET)
    base = alt.Chart().encode(
        x=alt.X("student:N", title=None, sort=None, axis=top),
        y=alt.Y("task:N", title=None, sort=order, axis=alt.Axis(**_QUIET)),
        tooltip=_tips(*_SUCCESS),
    )
    shade = alt.Color("value:Q", scale=alt.Scale(domain=[0, 1]), legend=None)
    figure = alt.Text("value:Q", format=".0%")
    layers = [
        base.mark_rect(style="tile").encode(color=shade),
        base.mark_text(fontSize=12).encode(
            text=figure, color=alt.condition(_PALE, alt.value("#000000"), alt.value("#ffffff"))
        ),
    ]
    about = f"Heat map of success on {evaluations[0].benchmark} by task and checkpoint."
    return _spec(layers, rows, about, height=_ROW * len(order))


def overall(evaluations: Sequence[Evaluation]) -> Spec:
    """Draw every benchmark over the checkpoints as a line, with 95 % intervals as bands."""
    names = list(dict.fromkeys(each.benchmark for each in evaluations))
    rows = [_row(each, each.overall) for each in evaluations]
    scale, key = alt.Scale(domain=names), _key(columns=3)
    ceiling = min(1.0, 1.1 * max(each.overall.high for each in evaluations))
    percent = alt.Axis(format=".0%", tickCount=5, **_QUIET)
    base = alt.Chart().encode(
        x=alt.X("student:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, grid=False)),
        color=alt.Color("benchmark:N", scale=scale, legend=key),
    )
    band = base.encode(y=alt.Y("low:Q", title="success"), y2="high:Q")
    line = base.encode(
        y=alt.Y("value:Q", title="success", axis=percent, scale=alt.Scale(domain=[0, ceiling])),
        tooltip=_tips(*_SUCCESS[1:]),
    )
    layers = [
        band.mark_area(opacity=0.14),
        band.mark_rule(opacity=0.5),
        line.mark_line(strokeWidth=2),
        line.mark_point(filled=True, size=55, opacity=1).encode(
            shape=alt.Shape("benchmark:N", scale=scale, legend=key)
        ),
    ]
    palette = [f"series-{place % 4 + 1}" for place in range(len(names))]
    height = min(340, max(220, _ROW * len(evaluations[0].tasks)))
    return _spec(layers, rows, "Success of every benchmark over the checkpoints.", palette=palette, height=height)


def shares(corpus: Mapping[str, float], rounds: Sequence[RoundSummary]) -> Spec:
    """Draw the share of each task in the corpus, in P(t), and in every round as dots, later ones stronger."""
    target = rounds[-1].target
    order = sorted(target, key=lambda task: (-corpus.get(task, 0.0), task))
    mixes = [("corpus", "corpus", corpus, 1.0), ("target", "target P(t)", target, 1.0)]
    for place, each in enumerate(rounds, 1):
        achieved = {task: count / max(1, each.size) for task, count in each.counts.items()}
        mixes.append(("rounds", f"round {each.number}", achieved, 0.25 + 0.75 * place / len(rounds)))
    rows = [
        {"task": task, "what": what, "label": label, "share": mix.get(task, 0.0), "weight": weight}
        for what, label, mix, weight in mixes
        for task in order
    ]
    domain, key = ["corpus", "target", "rounds"], _key(symbolOpacity=1, symbolSize=90)
    marks = alt.Scale(domain=domain, range=["circle", _TICK, "diamond"])
    percent = alt.Axis(format=".0%", tickCount=6, domain=False)
    layer = alt.Chart().mark_point(filled=True, size=75)
    layer = layer.encode(
        x=alt.X("share:Q", title="share of the examples", axis=percent),
        y=alt.Y("task:N", title=None, sort=order, axis=alt.Axis(grid=True, **_QUIET)),
        color=alt.Color("what:N", scale=alt.Scale(domain=domain), legend=key),
        shape=alt.Shape("what:N", scale=marks, legend=key),
        opacity=alt.Opacity("weight:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None),
        tooltip=_tips("task", "label|in", "share||.1%"),
    )
    about = "Share of each task in the corpus, in the target and in every round."
    return _spec([layer], rows, about, palette=["before", "target", "after"], height=_ROW * len(order))


def difficulty(gaps: Sequence[float], scale: Scale, cut: Cut) -> Spec:
    """Draw the histogram of the corpus, each bar ending at its upper edge, so that δ separates the bars."""
    bins = histogram(gaps, scale, cut)
    rows = [asdict(bar) for bar in bins.bars]
    order = ["easy", "hard", "withheld", "hopeless"]
    key = _key(symbolType="square", values=[part for part in order if any(part == row["part"] for row in rows)])
    across, span = _across(bins, scale, cut)
    bars = alt.Chart().mark_bar(binSpacing=1)
    bars = bars.encode(
        x=alt.X("low:Q", bin="binned", scale=alt.Scale(domain=span, nice=False), title=scale.axis, axis=across),
        x2="high:Q",
        y=alt.Y("count:Q", title="instructions", axis=alt.Axis(tickCount=5, format=",d", **_QUIET)),
        color=alt.Color("part:N", scale=alt.Scale(domain=order), legend=key),
        tooltip=_tips("low|above", "last|up to", "part", "count|instructions|,d"),
    )
    layers = [bars, *_upright(cut.delta, f"δ = {threshold(scale, cut.delta)}", 0)]
    if cut.most < span[1]:
        layers += _upright(cut.most, f"hopeless above {threshold(scale, cut.most)}", 18)
    about = f"Histogram of the difficulty of the corpus with the threshold at {threshold(scale, cut.delta)}."
    return _spec(layers, rows, about, palette=order, height=240)


@dataclass(frozen=True, slots=True)
class Bar:
    """Gaps above `low` up to `high`; those of the last bar reach up to `last`."""

    low: float
    high: float
    last: float
    part: str
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars between two ends, and how many gaps in the last lie `beyond` its upper edge, up to the largest."""

    bars: Sequence[Bar]
    low: float
    high: float
    beyond: int
    largest: float


def histogram(gaps: Sequence[float], scale: Scale, cut: Cut) -> Histogram:
    """Count finite gaps in bars that end at their upper edge, so that a threshold upon an edge separates the bars."""
    values = np.asarray(gaps, np.float64)
    smallest, largest = float(values.min()), float(values.max())
    top = largest if scale.bar else _top(values, cut.delta)
    width = scale.bar or _nice((top - min(smallest, cut.delta)) / _BARS, whole=scale.number.endswith(".0f"))
    last = math.ceil(_round(top / width))
    edges = np.minimum(np.ceil((values / width).round(9)), last).astype(int)
    bars = []
    for edge, part in sorted({(int(edge), cut.part(gap)) for edge, gap in zip(edges, gaps, strict=True)}):
        inside = [gap for gap in values[edges == edge].tolist() if cut.part(gap) == part]
        reach = max(edge * width, float(values[edges == edge].max()))
        bars.append(Bar(_round((edge - 1) * width), _round(edge * width), _round(reach), part, len(inside)))
    low = min(bars[0].low, math.floor(_round(cut.delta / width)) * width)
    beyond = int((values > last * width * (1 + 1e-9)).sum())
    return Histogram(bars, low, max(last * width, cut.delta), beyond, largest)


def _top(values: NDArray[np.float64], delta: float) -> float:
    """Return the end of the last bar: the largest gap, unless a few would squeeze all others."""
    most = max(float(np.quantile(values, _TAIL)), delta)
    span = most - float(values.min())
    return most if span > 0 and np.ptp(values) > _SQUEEZE * span else float(values.max())


def _nice(width: float, *, whole: bool) -> float:
    """Return the next width above that people count in: 1, 2 or 5 times a power of ten."""
    least = 1.0 if whole else 0.0
    if width <= least:
        return 1.0 if whole else 0.01  # all gaps are the same
    power = 10.0 ** math.floor(math.log10(width))
    return max(least, next(step * power for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9)))


def _across(bins: Histogram, scale: Scale, cut: Cut) -> tuple[alt.Axis, list[float]]:
    """Return the axis of a histogram and its span: all bars, and at least the span of the estimator's scale."""
    ticks = {"format": scale.ticks} if scale.ticks else {}
    if scale.span is None:
        return alt.Axis(tickCount=10, grid=False, **ticks), [_round(bins.low), _round(bins.high)]
    low = math.floor(_round((min(scale.span[0], cut.delta, bins.low + scale.bar) - scale.bar) / scale.tick))
    high = math.ceil(_round(max(scale.span[1], bins.high) / scale.tick))
    first = low if scale.signed else max(low, round(scale.span[0] / scale.tick))
    values = [_round(place * scale.tick) for place in range(first, high + 1)]
    axis = alt.Axis(values=values, grid=False, labelOverlap="parity", **ticks)
    return axis, [_round(low * scale.tick), _round(high * scale.tick)]


def _upright(value: float, text: str, below: int) -> list[alt.Chart]:
    """Draw an upright line with its name, `below` the top of the chart."""
    line = alt.Chart(alt.Data(values=[{"value": value, "text": text}])).encode(x="value:Q")
    label = line.mark_text(style="threshold-label", align="left", baseline="top", dx=6)
    return [line.mark_rule(style="threshold"), label.encode(y=alt.value(below), text="text:N")]


def losses(curves: Mapping[str, Curve], about: str, *, height: int) -> Spec:
    """Draw one line for each training over its steps, all equally wide."""
    rows: list[dict[str, object]] = []
    for place, (name, curve) in enumerate(curves.items()):
        last = max(1, curve[-1][0])
        common = {"when": name, "seen": int(len(curve) == 1)}  # the points of a line are there for the pointer only
        for step, loss in thin(curve):
            rows.append(common | {"at": place + _INSET + (1 - 2 * _INSET) * step / last, "step": step, "loss": loss})
    labels = [[name, f"{curve[-1][0]:,}"] for name, curve in curves.items()]
    middles = [place + 0.5 for place in range(len(curves))]
    text = f"{json.dumps(labels)}[floor(datum.value)]"
    across = alt.Axis(values=middles, labelExpr=text, labelOverlap="parity", grid=False, ticks=False)
    title, span = "training, and its last logged step", alt.Scale(domain=[0, len(curves)])
    line = alt.Chart().encode(
        x=alt.X("at:Q", title=title, axis=across, scale=span),
        y=alt.Y("loss:Q", axis=alt.Axis(tickCount=5, **_QUIET), scale=alt.Scale(zero=False)),
        color=alt.Color("when:N", scale=alt.Scale(domain=list(curves)), legend=None),
    )
    shown = alt.Opacity("seen:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None)
    point = line.encode(opacity=shown, tooltip=_tips("when", "step||,d", "loss||.4~g"))
    borders = alt.Chart(alt.Data(values=[{"at": place} for place in range(1, len(curves))]))
    layers = [
        borders.mark_rule(style="border").encode(x="at:Q"),
        line.mark_line(strokeWidth=1.5, strokeJoin="round"),
        point.mark_point(filled=True, size=80),
    ]
    palette = ["before" if name == "warm-up" else "after" for name in curves]
    return _spec(layers, rows, about, palette=palette, height=height)


def thin(curve: Curve, most: int = _POINTS) -> Curve:
    """Return at most `most` points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(curve) <= most:
        return curve
    edges = [len(curve) * edge // (most // 2) for edge in range(most // 2 + 1)]
    stretches = [sorted(curve[low:high], key=itemgetter(1)) for low, high in itertools.pairwise(edges)]
    return [point for stretch in stretches for point in sorted({stretch[0], stretch[-1]})]


def costs(spending: Sequence[Spending]) -> Spec:
    """Draw the money of every stage as stacked bars, one part for each round; tokens where no price is set."""
    priced = any(entry.cost for entry in spending)
    title, form = ("money", ",.4~f") if priced else ("tokens", ",d")
    amounts = sorted(group_spending(spending, "stage", "round"), key=itemgetter(0))
    sums = {key: each.cost if priced else each.prompt_tokens + each.completion_tokens for key, each in amounts}
    numbers = sorted({number for _, number in sums})
    label = {number: f"round {number}" if number else "before round 1" for number in numbers}
    rows = [
        {"stage": stage, "label": label[number], "round": number, "amount": sums[stage, number], "calls": each.calls}
        for (stage, number), each in amounts
    ]
    stages = dict.fromkeys(stage for stage, _ in sums)
    order = sorted(stages, key=lambda stage: (-sum(sums.get((stage, number), 0.0) for number in numbers), stage))
    domain, later = list(label.values()), max(1, numbers[-1])
    strength = [0.3 + 0.7 * number / later if number else 1.0 for number in numbers]
    key = alt.Legend(title=None, orient="top")
    bars = alt.Chart().mark_bar(style="tile", height={"band": 0.62})
    bars = bars.encode(
        x=alt.X("amount:Q", title=title, axis=alt.Axis(tickCount=5, domain=False)),
        y=alt.Y("stage:N", title=None, sort=order, axis=alt.Axis(**_QUIET)),
        color=alt.Color("label:O", scale=alt.Scale(domain=domain), legend=key),
        opacity=alt.Opacity("label:O", scale=alt.Scale(type="ordinal", domain=domain, range=strength), legend=key),
        order=alt.Order("round:Q"),
        tooltip=_tips("stage", "label|when", f"amount|{title}|{form}", "calls||,d"),
    )
    palette = ["after" if number else "before" for number in numbers]
    about = f"{title.capitalize()} of every stage, by round."
    return _spec([bars], rows, about, palette=palette, height=max(80, 32 * len(order)))


def _spec(
    layers: Sequence[alt.Chart], rows: Sequence[Mapping[str, Any]], about: str, height: int, palette: Sequence[str] = ()
) -> Spec:
    """Return layers over shared rows, as wide as their place in the page."""
    chart = alt.layer(*layers, data=alt.Data(values=list(rows))).properties(
        width="container",
        height=height,
        description=about,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        usermeta={"palette": list(palette)},
    )
    spec: Spec = chart.to_dict()
    return {key: value for key, value in spec.items() if key not in {"$schema", "config"}}


def _row(evaluation: Evaluation, result: EvalResult) -> dict[str, object]:
    span = f"{100 * result.low:.1f} to {100 * result.high:.1f} %"
    return {"benchmark": evaluation.benchmark, "student": student(evaluation.round), "interval": span} | asdict(result)


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Return tooltip lines, each "field", "field|title" or "field|title|number format"."""
    tips = []
    for name, title, form in ((*field.split("|"), "", "")[:3] for field in fields):
        kind = {"type": "quantitative", "format": form} if form else {"type": "nominal"}
        tips.append(alt.Tooltip(name, title=title or name, **kind))
    return tips


def _key(**looks: object) -> alt.Legend:
    return alt.Legend(**{"title": None, "orient": "top", "symbolOpacity": 1} | looks)


def beyond(summary: Summary) -> str:
    """Say what the last bar of the histogram also holds, where a few large gaps would squeeze all others."""
    if not (summary.gaps and summary.scale):
        return ""
    bars = histogram(summary.gaps, summary.scale, summary.cut)
    reach = summary.scale.format_mean(bars.largest)
    return f" The last bar holds {bars.beyond:,} that lie beyond its edge, up to {reach}." if bars.beyond else ""


def threshold(scale: Scale, value: float) -> str:
    """Format a threshold: 2, not 2.00; 0.837, not 0.83712; 50 %."""
    text = scale.format_mean(value)
    number, percent, _ = text.partition(" %")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + percent


def _round(value: float) -> float:
    """Round, so that 0.75 is 3 x 0.25 and not a little more."""
    return round(value, 9)
