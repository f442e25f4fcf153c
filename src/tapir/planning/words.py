"""A plan in words: the cells of its table and the lines below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tapir.llm.estimate import Bounds
from tapir.planning import Plan
from tapir.planning.costs import Cost

_MEGABYTE = 1_000_000
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MANY = 10_000


def head(plan: Plan) -> list[str]:
    """The columns of the table."""
    paid = ["calls", "tokens in", "tokens out", *(["money"] if plan.priced else [])]
    return ["round", "stage", "items", *(paid if plan.pays else []), "time", *([] if plan.pays else ["by"])]


def rows(plan: Plan) -> Iterator[list[str]]:
    """One row for each stage and, where calls are made, one for all."""
    for stage in plan.stages:
        found = [str(stage.round), stage.stage, _cell(stage.items, _exact)]
        if plan.pays:
            yield [*found, *_taken(plan, stage.cost), _wait(stage.seconds)]
        else:
            yield [*found, _wait(stage.seconds), stage.who]
    if plan.pays:
        yield ["", "all", "", *_taken(plan, plan.total), _wait(plan.seconds)]


def _taken(plan: Plan, cost: Cost) -> list[str]:
    cells = [_cell(one, _count) for one in (cost.calls, cost.read, cost.written)]
    cells += [_cell(cost.money, _money)] if plan.priced else []
    return cells if cost.calls.most else [""] * len(cells)


def lines(plan: Plan) -> Iterator[str]:
    """What stands below the table."""
    total = plan.total
    if not plan.pays:
        yield "paid calls: none (the embedded teacher and judge cost nothing)"
    elif plan.priced:
        yield (
            f"money: expected {_money(total.money.expected)}, at most {_money(total.money.most)}"
            " (in the currency of the recipe's prices)"
        )
    else:
        yield "money: no endpoint has a price (price_input, price_output)"
    yield f"disk: about {plan.disk / _MEGABYTE:,.0f} MB"
    yield from _time(plan)
    yield from (f"warning: {one}" for one in plan.warnings)
    if plan.assumed:
        yield "assumed:"
        yield from (f"  - {one}" for one in plan.assumed)
    yield from (f"not ready: {one}" for one in plan.obstacles)


def _time(plan: Plan) -> Iterator[str]:
    if plan.seconds is not None:
        yield f"time: about {_duration(plan.seconds.expected)} on this machine (the student measured just now)"
    elif plan.pays:
        yield (
            f"time: about {_duration(plan.total.seconds.expected)} of calls; the student's own work was not measured"
            " (with --no-time, or where its weights are not on this machine)"
        )


def _cell(one: Bounds, text: Callable[[float], str]) -> str:
    expected, most = text(one.expected), text(one.most)
    return expected if expected == most else f"{expected} \u2264 {most}"


def _exact(value: float) -> str:
    return f"{value:,.0f}"


def _count(value: float) -> str:
    if value < _MANY:
        return _exact(value)
    rounded = float(f"{value:.3g}")
    unit, letter = next(one for one in _UNITS if rounded >= one[0])
    return f"{rounded / unit:.3g}{letter}"


def _money(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}"


def _wait(seconds: Bounds | None) -> str:
    if seconds is None:
        return "?"
    return _duration(seconds.expected) if seconds.most else ""


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 (a minute and a half is still said in seconds)
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"
