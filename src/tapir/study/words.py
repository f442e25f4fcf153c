"""A study in words: the table for the terminal and for Markdown, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from tapir.domain.round import EvalResult
from tapir.study.efficiency import Efficiency
from tapir.study.results import StudyResult, VariantResult

_THOUSAND = 1000


def head(found: StudyResult) -> list[str]:
    """The columns of the table."""
    others = [name for name in _benchmarks(found) if name != found.study.benchmark]
    return [
        "variant",
        "seeds",
        "examples",
        found.study.benchmark,
        f"vs {found.study.baseline} (points)",
        "p",
        "p Holm",
        "examples to reach it",
        *others,
        "teacher",
        "judge",
        "tokens",
    ]


def rows(found: StudyResult) -> Iterator[list[str]]:
    """A line for each variant, the best first."""
    benchmark = found.study.benchmark
    for one in sorted(found.variants, key=lambda one: -_value(one, benchmark)):
        yield [
            one.name,
            str(len(one.seeds)),
            f"{one.effort.examples:,.0f}",
            rate(one.success[benchmark]),
            *_difference(one, benchmark),
            _needs(one.efficiency),
            *(rate(one.success[name]) for name in _benchmarks(found) if name != benchmark),
            _count(one.effort.teacher),
            _count(one.effort.judge),
            _count(one.effort.tokens),
        ]


def task_rows(found: StudyResult, name: str) -> Iterator[list[str]]:
    """One variant against the baseline, task by task: success of both, difference, p (paired t), p Holm."""
    variant = next(one for one in found.variants if one.name == name)
    if found.study.benchmark not in variant.against:
        return
    for task, one in variant.against[found.study.benchmark].tasks.items():
        p = "-" if not isfinite(one.t_p) else probability(one.t_p)
        adjusted = "-" if one.t_p_holm is None else probability(one.t_p_holm)
        yield [task, f"{100 * one.a:.1f} %", f"{100 * one.b:.1f} %", points(one.difference), p, adjusted]


def part_rows(found: StudyResult) -> Iterator[list[str]]:
    """Variants against the method: the seeds both have, difference, p (paired t), p Holm; the largest loss first."""
    benchmark = found.study.benchmark
    compared = [one for one in found.parts if benchmark in one.against]
    for one in sorted(compared, key=lambda one: one.against[benchmark].mean_of_tasks.difference.value):
        yield [one.name, str(one.against[benchmark].mean_of_tasks.difference.n), *_difference(one, benchmark)]


def markdown(found: StudyResult) -> str:
    """The whole study as a page of Markdown."""
    study = found.study
    lines = [f"# Study {study.name}", "", *_prose(found), "", *_table(head(found), list(rows(found)))]
    shown = _shown_by_task(found)
    if shown:
        columns = ["task", shown.name, study.baseline, "difference (points)", "p", "p Holm"]
        lines += ["", f"## {shown.name} against {study.baseline}, task by task", ""]
        lines += _table(columns, list(task_rows(found, shown.name)))
    if found.parts:
        lines += ["", f"## Against {study.method}, on the seeds that both have", ""]
        lines += _table(["variant", "seeds", "difference (points)", "p", "p Holm"], list(part_rows(found)))
    lines += ["", "## Variants", ""]
    lines += [f"- `{one.name}`: {one.about}; seeds {', '.join(map(str, one.seeds))}" for one in found.variants]
    if found.missing:
        lines += ["", f"Not finished: {', '.join(f'{name} seed {seed}' for name, seed in found.missing)}."]
    return "\n".join(lines) + "\n"


def _prose(found: StudyResult) -> Iterator[str]:
    study = found.study
    yield f"Recipe `{study.recipe}`; every figure is a mean over seeds with its 95 % t interval. Success is the mean of"
    yield f"the tasks on held-out instructions. Differences to `{study.baseline}` are paired by seed (same corpus, same"
    yield "prompts); p is a paired t test, Holm's correction is over all variants. *Examples to reach it*: the share of"
    yield "the baseline's training examples after which the variant's mean curve reaches the baseline's final success."
    yield "*teacher*, *judge*: texts and judgements asked for; *tokens*: read in training."


def _table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(map(_cell, cells))} |" for cells in (columns, rule, *body)]


def _cell(text: str) -> str:
    """A name may hold what ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def as_json(found: StudyResult) -> dict[str, Any]:
    """Everything, for programs; figures that do not exist are null."""
    content: dict[str, Any] = {
        "study": found.study.model_dump(mode="json"),
        "variants": [asdict(one) for one in found.variants],
        "missing": [list(one) for one in found.missing],
        "failed": [list(one) for one in found.failed],
        "against_method": [
            {
                "name": one.name,
                "against": {name: asdict(side) for name, side in one.against.items()},
                "p_holm": one.p_holm,
            }
            for one in found.parts
        ],
    }
    cleaned: dict[str, Any] = _finite(content)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def _shown_by_task(found: StudyResult) -> VariantResult | None:
    """The method; without one the best variant that was compared with the baseline."""
    compared = [one for one in found.variants if found.study.benchmark in one.against]
    method = next((one for one in compared if one.name == found.study.method), None)
    return method or max(compared, key=lambda one: _value(one, found.study.benchmark), default=None)


def _benchmarks(found: StudyResult) -> list[str]:
    return list(dict.fromkeys(name for one in found.variants for name in one.success))


def _value(one: VariantResult, benchmark: str) -> float:
    return one.success[benchmark].value


def _difference(one: VariantResult, benchmark: str) -> tuple[str, str, str]:
    if benchmark not in one.against:
        return "-", "-", "-"
    against = one.against[benchmark].mean_of_tasks
    p = probability(against.t_p) if isfinite(against.t_p) else "-"
    return points(against.difference), p, "-" if one.p_holm is None else probability(one.p_holm)


def rate(result: EvalResult) -> str:
    """A success rate in percent, with its interval where there is one."""
    text = f"{100 * result.value:.1f} %"
    return f"{text} [{100 * result.low:.1f}, {100 * result.high:.1f}]" if isfinite(result.low) else text


def points(result: EvalResult) -> str:
    """A difference in percentage points, with its interval where there is one."""
    text = f"{100 * result.value:+.1f}"
    return f"{text} [{100 * result.low:+.1f}, {100 * result.high:+.1f}]" if isfinite(result.low) else text


def probability(p: float) -> str:
    """A p-value to two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"  # noqa: PLR2004


def _needs(one: Efficiency | None) -> str:
    if one is None:
        return "-"
    if not isfinite(one.share):
        return "not reached"
    high = f"{100 * one.high:.0f}" if isfinite(one.high) else "not reached"
    interval = f" [{100 * one.low:.0f}, {high}]" if isfinite(one.low) else ""
    return f"{100 * one.share:.0f} %{interval}"


def _count(number: float) -> str:
    for unit, size in (("M", _THOUSAND**2), ("k", _THOUSAND)):
        if number >= 10 * size:
            return f"{number / size:.0f}{unit}"
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
