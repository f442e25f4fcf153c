"""Formatting of a study's results: tables, Markdown, JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from tapir.data.files import nan_to_null
from tapir.domain.evaluation import EvalResult
from tapir.runs.study.results import Efficiency, StudyResult, VariantResult

_THOUSAND = 1000
_PIPE = r"\|"  # in a cell of a table


def head(result: StudyResult) -> list[str]:
    """Return the columns of the table."""
    study = result.study
    first = ("variant", "seeds", "examples", study.benchmark, f"vs {study.baseline} (points)", "p", "p Holm")
    return [*first, "examples to reach it", *_other_benchmarks(result), "teacher", "judge", "tokens"]


def rows(result: StudyResult) -> Iterator[list[str]]:
    """Yield a row for each variant, the best first."""
    benchmark = result.study.benchmark
    for variant in sorted(result.variants, key=lambda variant: -variant.success[benchmark].value):
        yield [
            variant.name,
            str(len(variant.seeds)),
            f"{variant.effort.examples:,.0f}",
            rate(variant.success[benchmark]),
            *_difference(variant, benchmark),
            _share_needed(variant.efficiency),
            *(rate(variant.success[name]) for name in _other_benchmarks(result)),
            _count(variant.effort.teacher),
            _count(variant.effort.judge),
            _count(variant.effort.tokens),
        ]


def task_rows(variant: VariantResult, benchmark: str) -> Iterator[list[str]]:
    """Yield a row for each task: success of a variant and of the baseline, difference, p (paired t), p Holm."""
    for task, contrast in variant.against[benchmark].tasks.items():
        rates = [f"{100 * value:.1f} %" for value in (contrast.a, contrast.b)]
        yield [task, *rates, points(contrast.difference), _p(contrast.t_p), _p(contrast.t_p_holm)]


def part_rows(result: StudyResult) -> Iterator[list[str]]:
    """Yield a row for each variant against the method, largest loss first: seeds both have, difference, p, p Holm."""
    benchmark = result.study.benchmark
    compared = [each for each in result.parts if benchmark in each.against]
    for variant in sorted(compared, key=lambda each: each.against[benchmark].mean_of_tasks.difference.value):
        seeds = variant.against[benchmark].mean_of_tasks.difference.n
        yield [variant.name, str(seeds), *_difference(variant, benchmark)]


def markdown(result: StudyResult) -> str:
    """Return the whole study as a page of Markdown."""
    study = result.study
    introduction = (
        f"Recipe `{study.recipe}`; every number is a mean over seeds with its 95 % t interval. Success is the mean of",
        f"the tasks on held-out instructions. Differences to `{study.baseline}` are paired by seed (same corpus, same",
        "prompts); p is a paired t test, Holm's correction is over all variants. *Examples to reach it*: the share of",
        "the baseline's training examples after which the variant's mean curve reaches the baseline's final success.",
        "*teacher*, *judge*: texts and judgements requested; *tokens*: read in training.",
    )
    lines = [f"# Study {study.name}", "", *introduction, "", *_table(head(result), rows(result))]
    if shown := _variant_by_task(result):
        columns = ["task", shown.name, study.baseline, "difference (points)", "p", "p Holm"]
        lines += ["", f"## {shown.name} against {study.baseline}, task by task", ""]
        lines += _table(columns, task_rows(shown, study.benchmark))
    if result.parts:
        lines += ["", f"## Against {study.method}, on the seeds that both have", ""]
        lines += _table(["variant", "seeds", "difference (points)", "p", "p Holm"], part_rows(result))
    lines += ["", "## Variants", ""]
    lines += [f"- `{entry.name}`: {entry.about}; seeds {', '.join(map(str, entry.seeds))}" for entry in result.variants]
    if result.missing:
        lines += ["", f"Not finished: {', '.join(f'{name} seed {seed}' for name, seed in result.missing)}."]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], body: Iterator[list[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in columns[1:])]
    return [
        f"| {' | '.join(' '.join(text.split()).replace('|', _PIPE) for text in cells)} |"
        for cells in (columns, rule, *body)
    ]


def to_json(result: StudyResult) -> Any:
    """Return everything as JSON; values that do not exist are null."""
    content = {
        "study": result.study.model_dump(mode="json"),
        "variants": result.variants,
        "missing": result.missing,
        "failed": result.failed,
        "against_method": [
            {name: getattr(part, name) for name in ("name", "against", "p_holm")} for part in result.parts
        ],
    }
    return nan_to_null(content)


def _variant_by_task(result: StudyResult) -> VariantResult | None:
    """Return the method; without one the best variant that was compared with the baseline."""
    study = result.study
    compared = [variant for variant in result.variants if study.benchmark in variant.against]
    return max(
        compared, key=lambda each: (each.name == study.method, each.success[study.benchmark].value), default=None
    )


def _other_benchmarks(result: StudyResult) -> list[str]:
    names = dict.fromkeys(name for variant in result.variants for name in variant.success)
    return [name for name in names if name != result.study.benchmark]


def _difference(variant: VariantResult, benchmark: str) -> tuple[str, str, str]:
    if benchmark not in variant.against:
        return "-", "-", "-"
    contrast = variant.against[benchmark].mean_of_tasks
    return points(contrast.difference), _p(contrast.t_p), _p(variant.p_holm)


def rate(result: EvalResult) -> str:
    """Return a success rate in percent, with its interval where there is one."""
    return f"{100 * result.value:.1f} %{_interval(result, '.1f')}"


def points(result: EvalResult) -> str:
    """Return a difference in percentage points, with its interval where there is one."""
    return f"{100 * result.value:+.1f}{_interval(result, '+.1f')}"


def _interval(result: EvalResult, form: str) -> str:
    return f" [{100 * result.low:{form}}, {100 * result.high:{form}}]" if isfinite(result.low) else ""


def _p(p: float | None) -> str:
    if p is None or not isfinite(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"  # noqa: PLR2004


def _share_needed(efficiency: Efficiency | None) -> str:
    if efficiency is None:
        return "-"
    if not isfinite(efficiency.share):
        return "not reached"
    high = f"{100 * efficiency.high:.0f}" if isfinite(efficiency.high) else "not reached"
    interval = f" [{100 * efficiency.low:.0f}, {high}]" if isfinite(efficiency.low) else ""
    return f"{100 * efficiency.share:.0f} %{interval}"


def _count(number: float) -> str:
    rounded = float(f"{number:.3g}")  # which may reach the next unit
    for unit, size in (("M", _THOUSAND**2), ("k", _THOUSAND)):
        if rounded >= size:
            return f"{number / size:.{0 if rounded >= 10 * size else 1}f}{unit}"
    return f"{number:.0f}"
