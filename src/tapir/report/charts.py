"""The report's charts as Vega-Lite: data and structure here, colours and type in the page.

Marks carry style names (`threshold`, ...) and scales a palette of names in `usermeta`; page.js looks
the colours up among the style sheet's variables, for light and for dark.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import ceil, floor
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.spending import Spending
from tapir.report.histogram import Cut, Histogram, histogram
from tapir.report.rounds import RoundSummary
from tapir.report.scale import Scale
from tapir.report.summary import Summary, tasks_of
from tapir.report.training import Curve

if TYPE_CHECKING:
    import altair as alt

Spec: TypeAlias = dict[str, Any]

_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_INVERSE = 0.78  # from this success on, a heat map cell needs the other colour of text
_ROW = 24  # pixels of a task
_TICK = "M-.14,-1.3H.14V1.3H-.14Z"  # an upright stroke, as the path of a point
_INSET = 0.04  # of the width of a training, left free on both sides
_POINTS = 400  # of a loss curve, at most
_QUIET = {"domain": False, "ticks": False}
_SUCCESS = ("task", "benchmark", "student", "value|success|.1%", "interval|95 % interval", "n|prompts")


def student(number: int) -> str:
    """S_r as it is written in the page."""
    return f"S{number}".translate(_SUBSCRIPT)


def charts(summary: Summary) -> dict[str, Spec]:
    """Every chart the run has data for, by name."""
    found: dict[str, Spec] = {}
    if summary.evaluations:
        found["success"] = success(summary.benchmark(summary.benchmarks[0]))
        found["overall"] = overall(summary.evaluations)
    if summary.rounds:
        found["shares"] = shares(summary.corpus_shares, summary.rounds)
    if summary.gaps and summary.scale:
        found["difficulty"] = difficulty(summary.gaps, summary.scale, summary.cut)
    curves = {one.name: one.loss for one in summary.trainings if one.loss}
    if curves:
        found["loss"] = losses(curves, "Training loss over the steps of every round.", height=240)
    preferred = {one.name: one.preference_loss for one in summary.trainings if one.preference_loss}
    if preferred:
        found["preference-loss"] = losses(preferred, "Preference loss over the steps of every round.", height=170)
    if any(one.calls for one in summary.spending):
        found["costs"] = costs(summary.spending)
    return found


def success(evaluations: Sequence[Evaluation]) -> Spec:
    """Heat map: tasks by checkpoints; tasks that S_0 does best come first."""
    import altair as alt

    rows = [{"task": task} | _row(one, result) for one in evaluations for task, result in one.tasks.items()]
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
        base.mark_text(style="label").encode(text=figure).transform_filter(alt.datum.value < _INVERSE),
        base.mark_text(style="inverse").encode(text=figure).transform_filter(alt.datum.value >= _INVERSE),
    ]
    about = f"Heat map of success on {evaluations[0].benchmark} by task and checkpoint."
    return _spec(layers, rows, about, height=_ROW * len(order))


def overall(evaluations: Sequence[Evaluation]) -> Spec:
    """Lines: every benchmark over the checkpoints, with 95 % intervals as bands."""
    import altair as alt

    names = list(dict.fromkeys(one.benchmark for one in evaluations))
    rows = [_row(one, one.overall) for one in evaluations]
    scale, key = alt.Scale(domain=names), _key(columns=3)
    ceiling = min(1.0, 1.1 * max(one.overall.high for one in evaluations))
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
    """Dots: the share of each task in the corpus, in P(t), and in every round, later ones stronger."""
    import altair as alt

    target = rounds[-1].target
    order = sorted(target, key=lambda task: (-corpus.get(task, 0.0), task))
    found = [("corpus", "corpus", corpus, 1.0), ("target", "target P(t)", target, 1.0)]
    for place, one in enumerate(rounds, 1):
        achieved = {task: count / max(1, one.size) for task, count in one.counts.items()}
        found.append(("rounds", f"round {one.number}", achieved, 0.25 + 0.75 * place / len(rounds)))
    rows = [
        {"task": task, "what": what, "label": label, "share": mix.get(task, 0.0), "weight": weight}
        for what, label, mix, weight in found
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
    """Histogram of the corpus, each bar ending at its upper edge, so that δ parts the bars."""
    import altair as alt

    found = histogram(gaps, scale, cut)
    rows = [
        {"low": _round(one.low), "high": _round(one.high), "last": _round(one.last), "part": one.part}
        | {"count": one.count}
        for one in found.bars
    ]
    order = ["easy", "hard", "withheld", "hopeless"]
    key = _key(symbolType="square", values=[part for part in order if any(part == one.part for one in found.bars)])
    across, span = _across(found, scale, cut)
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


def _across(found: Histogram, scale: Scale, cut: Cut) -> tuple[alt.Axis, list[float]]:
    """The axis of a histogram, and what it spans: MFD from 0 to 9 at least, shares up to 1."""
    import altair as alt

    if scale.kind == "mfd":
        low, high = floor(min(0.0, cut.delta, found.low + scale.width) - scale.width), ceil(max(9.0, found.high))
        return alt.Axis(values=list(range(low, high + 1)), format="d", grid=False), [low, high]
    if scale.kind == "pass-rate":
        edges = [_round(edge * scale.width) for edge in range(round(1 / scale.width) + 1)]
        return alt.Axis(values=edges, format=".0%", grid=False, labelOverlap="parity"), [-scale.width, 1.0]
    whole = {"format": ",d"} if scale.kind == "length" else {}
    return alt.Axis(tickCount=10, grid=False, **whole), [_round(found.low), _round(found.high)]


def _upright(value: float, text: str, below: int) -> list[alt.Chart]:
    """An upright line with its name, `below` the top of the chart."""
    import altair as alt

    here = alt.Chart(alt.Data(values=[{"value": value, "text": text}])).encode(x="value:Q")
    label = here.mark_text(style="threshold-label", align="left", baseline="top", dx=6)
    return [here.mark_rule(style="threshold"), label.encode(y=alt.value(below), text="text:N")]


def losses(curves: Mapping[str, Curve], about: str, *, height: int) -> Spec:
    """Lines: one for each training, over its steps; all are as wide, however many steps they took."""
    import altair as alt

    rows: list[dict[str, object]] = []
    for place, (name, curve) in enumerate(curves.items()):
        last = max(1, curve[-1][0])
        seen = int(len(curve) == 1)  # the points of a line are there for the pointer only
        rows += [
            {
                "when": name,
                "at": place + _INSET + (1 - 2 * _INSET) * step / last,
                "step": step,
                "loss": loss,
                "seen": seen,
            }
            for step, loss in thinned(curve)
        ]
    labels = [[name, f"{curve[-1][0]:,}"] for name, curve in curves.items()]
    across = alt.Axis(
        values=[place + 0.5 for place in range(len(curves))],
        labelExpr=f"{json.dumps(labels)}[floor(datum.value)]",
        labelOverlap="parity",
        grid=False,
        ticks=False,
    )
    line = alt.Chart().encode(
        x=alt.X(
            "at:Q", title="training, and its last logged step", axis=across, scale=alt.Scale(domain=[0, len(curves)])
        ),
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


def thinned(curve: Curve, most: int = _POINTS) -> Curve:
    """At most `most` points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(curve) <= most:
        return curve
    edges = [len(curve) * edge // (most // 2) for edge in range(most // 2 + 1)]
    stretches = [sorted(curve[low:high], key=itemgetter(1)) for low, high in itertools.pairwise(edges)]
    return [point for stretch in stretches for point in sorted({stretch[0], stretch[-1]})]


def costs(spending: Sequence[Spending]) -> Spec:
    """Stacked bars: money of every stage, one part for each round; tokens where no price is set."""
    import altair as alt

    priced = any(one.cost for one in spending)
    title, form = ("money", ",.4~f") if priced else ("tokens", ",d")
    sums: defaultdict[tuple[str, int], float] = defaultdict(float)
    calls: Counter[tuple[str, int]] = Counter()
    for one in spending:
        sums[one.stage, one.round] += one.cost if priced else one.prompt_tokens + one.completion_tokens
        calls[one.stage, one.round] += one.calls
    numbers = sorted({number for _, number in sums})
    label = {number: f"round {number}" if number else "before round 1" for number in numbers}
    rows = [
        {"stage": stage, "label": label[number], "round": number, "amount": amount, "calls": calls[stage, number]}
        for (stage, number), amount in sorted(sums.items())
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
    layers: Sequence[alt.Chart],
    rows: Sequence[Mapping[str, object]],
    about: str,
    *,
    height: int,
    palette: Sequence[str] = (),
) -> Spec:
    """Layers over shared rows, as wide as their place in the page."""
    import altair as alt

    chart = alt.layer(*layers, data=alt.Data(values=list(rows))).properties(
        width="container",
        height=height,
        description=about,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        usermeta={"palette": list(palette)},
    )
    spec: Spec = chart.to_dict()
    return {key: value for key, value in spec.items() if key not in {"$schema", "config"}}


def _row(one: Evaluation, result: EvalResult) -> dict[str, object]:
    span = f"{100 * result.low:.1f} to {100 * result.high:.1f} %"
    figures = {"value": result.value, "low": result.low, "high": result.high, "n": result.n, "interval": span}
    return {"benchmark": one.benchmark, "student": student(one.round)} | figures


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Tooltip lines, each "field", "field|title" or "field|title|number format"."""
    import altair as alt

    parts = [(*field.split("|"), "", "")[:3] for field in fields]
    return [
        alt.Tooltip(name, type="quantitative" if form else "nominal", title=title or name, **_form(form))
        for name, title, form in parts
    ]


def _form(form: str) -> dict[str, str]:
    return {"format": form} if form else {}


def _key(**looks: object) -> alt.Legend:
    import altair as alt

    return alt.Legend(**{"title": None, "orient": "top", "symbolOpacity": 1} | looks)


def threshold(scale: Scale, value: float) -> str:
    """A threshold as people write it: 2, not 2.00; 0.837, not 0.83712; 50 %."""
    text = scale.mean(value)
    number, percent, _ = text.partition(" %")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + percent


def _round(value: float) -> float:
    return round(value, 9)
