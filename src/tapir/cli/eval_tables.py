"""Tables of `tapir eval`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.cli.tables import new_table, print_line, print_table
from tapir.data.files import sha256
from tapir.evaluation.length_control import MEANING, LengthControlled
from tapir.evaluation.paired import remarks

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tapir.data.run.rows import EvaluationRow
    from tapir.domain.evaluation import EvalResult
    from tapir.evaluation.alpaca_eval import ModelRates
    from tapir.evaluation.mt_bench import MeanGrade, MtBenchScores
    from tapir.evaluation.paired import Contrast, PairedResult

_LEAST_P = 0.001  # p-values below this are written so
OFFICIAL_REFERENCES = "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f"
"""SHA-256 of FastChat's reference_answer/gpt-4.jsonl, several of whose answers are known to be wrong."""
_WRONG_REFERENCES = (
    "these are FastChat's own reference answers: 13 of the 30 have been found wrong by others; grades of mathematics, "
    "reasoning and coding are worth more with corrected ones (--references)"
)
_table = partial(new_table, box=None, padding=(0, 1))
_PAIRED = ["n", "A", "B", "A-B", "interval", "p", "A wins", "B wins", "ties", "score A-B", "p (score)"]


def warn(console: Console, text: str) -> None:
    """Print a line that a reader must not miss."""
    print_line(console, text, "yellow")


def _number(value: float, digits: int = 1, scale: float = 100) -> str:
    """Return a share in per cent (a scale of 1 writes it as it is); "-" for none."""
    return f"{scale * value:.{digits}f}" if math.isfinite(value) else "-"


def _cells(result: EvalResult, digits: int = 1, scale: float = 100) -> list[str]:
    """Return the value and its 95 % interval."""
    value, low, high = (_number(each, digits, scale) for each in (result.value, result.low, result.high))
    return [value, "-" if low == "-" else f"{low} to {high}"]


def _count(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items())


def benchmark_table(name: str, results: Mapping[str, EvalResult], problems: Mapping[str, Mapping[str, int]]) -> Table:
    """Return the success rates of several benchmarks, with the answers that were truncated, empty or failed."""
    table = _table(f"{name}: success in %", ["benchmark"], ["n", "success", "95 % interval"])
    table.add_column("truncated, empty and failed answers")
    for benchmark, result in results.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in problems.get(benchmark, {}).items())
        none = "none" if benchmark in problems else ""  # a further metric of the same answers
        table.add_row(benchmark, f"{result.n:,}", *_cells(result), kinds or none)
    return table


def drop_table(drops: Sequence[PairedResult], left_out: Mapping[str, int]) -> Table:
    """Return what each perturbation of the gym's prompts costs, in points."""
    head = ["n", "left out", "plain", "perturbed", "change", "interval", "p", "p (Holm)"]
    table = _table("perturbed minus plain, the same prompts, mean of the tasks, in points", ["perturbation"], head)
    for drop in drops:
        mean = drop.mean_of_tasks
        rates = [_number(mean.b), _number(mean.a), *_points(mean.difference), _p(mean.p), _p(mean.p_holm)]
        table.add_row(drop.benchmark.partition("+")[2], str(mean.n), str(left_out[drop.benchmark]), *rates)
    return table


def show_pairs(console: Console, names: str, results: Sequence[PairedResult]) -> None:
    """Print the differences of all benchmarks, for a single one also those by task, and remarks."""
    print_line(console, names)
    table = _table("success in %, A minus B in points", ["benchmark", "mean"], _PAIRED)
    for result in results:
        table.add_row(result.benchmark, "of tasks", *_contrast(result.mean_of_tasks))
        table.add_row("", "of prompts", *_contrast(result.prompts))
    print_table(console, table)
    if len(results) == 1 and len(results[0].tasks) > 1:
        (only,) = results
        table = _table(f"{only.benchmark} by task; p corrected for {len(only.tasks)} tasks (Holm)", ["task"], _PAIRED)
        for task, contrast in only.tasks.items():
            table.add_row(task, *_contrast(contrast))
        print_table(console, table)
    for result in results:
        for line in remarks(result):
            warn(console, f"{result.benchmark}: {line}")


def _contrast(contrast: Contrast) -> list[str]:
    p = contrast.p if contrast.p_holm is None else contrast.p_holm
    score_p = contrast.score_p if contrast.score_p_holm is None else contrast.score_p_holm
    rates = [_number(contrast.a), _number(contrast.b), *_points(contrast.difference), _p(p)]
    counts = map(str, (contrast.wins, contrast.losses, contrast.ties))
    return [str(contrast.n), *rates, *counts, f"{contrast.score.value:+.3f}", _p(score_p)]


def _points(result: EvalResult) -> list[str]:
    bounds = "none" if math.isnan(result.low) else f"{100 * result.low:+.1f} to {100 * result.high:+.1f}"
    return [f"{100 * result.value:+.1f}", bounds]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"<{_LEAST_P}" if value < _LEAST_P else f"{value:.3f}"


def show_rates(console: Console, rates: Sequence[ModelRates], model: str = "", verdicts: str = "") -> None:
    """Print the win rates of every model; for `model`, or a single one, all that is known of it."""
    print_table(console, _rate_table(rates))
    chosen = next((each for each in rates if each.raw.model == model), rates[0])
    if len(rates) == 1 or model:
        for line in (*_rate_details(chosen), *filter(None, [verdicts])):
            print_line(console, line)
        if chosen.raw.categories:
            table = _table("by category, in %", ["category"], ("n", "win rate", "95 % interval"))
            for name, result in chosen.raw.categories.items():
                table.add_row(name, f"{result.n:,}", *_cells(result, 2))
            print_table(console, table)
    for how in sorted({each.controlled.how for each in rates if isinstance(each.controlled, LengthControlled)}):
        print_line(console, f"at equal lengths ({how}): {MEANING[how]}")
    for each in rates:
        if not isinstance(each.controlled, LengthControlled):
            warn(console, f"{each.raw.model}: no rate at equal lengths: {each.controlled}")
        for remark in each.raw.remarks:
            warn(console, f"{each.raw.model}: {remark}")
        if unjudged := each.raw.unjudged:
            left_out = f"{sum(unjudged.values()):,} prompts left out, not judged: {_count(unjudged)}"
            warn(console, f"{each.raw.model}: {left_out}")


def _rate_table(rates: Sequence[ModelRates]) -> Table:
    head = ("n", "win rate", "95 % interval", "equal lengths", "95 % interval", "w/d/l", "chars")
    table = _table(f"win rate against {rates[0].raw.baseline}, in %", ["model"], head)
    for each in rates:
        raw, controlled = each.raw, each.controlled
        error = f" \u00b1 {_number(raw.standard_error, 2)}" if math.isfinite(raw.standard_error) else ""
        equal = _cells(controlled.rate, 2) if isinstance(controlled, LengthControlled) else ["-", "-"]
        value, interval = _cells(raw.rate, 2)
        counts = f"{raw.wins}/{raw.draws}/{raw.losses}", f"{raw.lengths.model:,.0f}"
        table.add_row(raw.model, f"{raw.rate.n:,}", value + error, interval, *equal, *counts)
    return table


def _rate_details(rates: ModelRates) -> Iterator[str]:
    raw, lengths = rates.raw, rates.raw.lengths
    yield f"discrete win rate {_number(raw.discrete, 2)} % (a win counts 1, a draw a half)"
    if raw.flips[1]:
        share = _number(raw.flips[0] / raw.flips[1])
        yield f"order: the verdict changed with it in {raw.flips[0]:,} of {raw.flips[1]:,} pairs ({share} %)"
    if raw.shown_first[1]:
        yield f"the answer shown first won {_number(raw.shown_first[0] / raw.shown_first[1])} % of the verdicts"
    yield (
        f"length: {lengths.model:,.0f} characters against {lengths.baseline:,.0f}; longer in "
        f"{_number(lengths.longer)} % of the prompts (win rate there {_number(lengths.rate_longer, 2)} %,"
        f" where shorter {_number(lengths.rate_shorter, 2)} %)"
    )
    if raw.failures:
        yield f"no answer, counted as lost: {_count(raw.failures)}"
    if not math.isfinite(raw.rate.low):
        yield "no interval: all preferences are equal"


def verdict_line(annotations: Sequence[Mapping[str, Any]], rows: Sequence[EvaluationRow]) -> str:
    """Return how the judge's verdicts were made, and how many answers were truncated."""
    weighted = [verdict["weighted"] for annotation in annotations for verdict in annotation["verdicts"]]
    how = f"{sum(weighted):,} of {len(weighted):,} verdicts weighted by log-probabilities"
    if not any(weighted):
        how = "discrete verdicts (judge.expected_score = true asks for log-probabilities)"
    return f"judge: {how}; truncated answers: {sum(row.finish_reason == 'length' for row in rows):,}"


def show_grades(console: Console, scores: MtBenchScores, references: Path | None) -> None:
    """Print mean grades by category and turn, and what they do not contain."""
    turns = [*sorted({turn for _, turn in scores.by if turn}), 0]  # 0 is both
    head = [cell for turn in turns for cell in (f"turn {turn}" if turn else "both turns", "95 % interval", "n")]
    table = _table(f"grades of {scores.model}, 1 to 10", ["category"], head)
    for name in dict.fromkeys(category for category, _ in scores.by if category):
        table.add_row(name, *(cell for turn in turns for cell in _grade_cells(scores.by[name, turn])))
    table.add_section()
    table.add_row("all", *(cell for turn in turns for cell in _grade_cells(scores.by["", turn])), style="bold")
    print_table(console, table)
    if scores.failures:
        print_line(console, f"no answer, graded 1: {_count(scores.failures)}")
    if unscored := scores.by["", 0].unscored:
        total = sum(unscored.values())
        warn(console, f"not in these means: {total:,} answers without a grade: {_count(unscored)}")
    if references and sha256(references) == OFFICIAL_REFERENCES:
        warn(console, _WRONG_REFERENCES)


def _grade_cells(mean: MeanGrade) -> list[str]:
    left = sum(mean.unscored.values())
    if mean.result is None:
        return ["-", "-", f"0 of {left:,}"]
    n = mean.result.n
    return [*_cells(mean.result, 2, 1), f"{n:,} of {n + left:,}" if left else f"{n:,}"]
