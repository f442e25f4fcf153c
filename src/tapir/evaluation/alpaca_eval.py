"""AlpacaEval 2.0: the judge compares answers with a baseline's in both orders; win rate, raw and length-controlled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tapir.config.evaluation import AlpacaEvalConfig
from tapir.data.files import existing, nan_to_null, write_json
from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError, RecipeError, require
from tapir.domain.evaluation import EvalResult, Grade, Prompt
from tapir.domain.instruction import prompt_id
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison
from tapir.evaluation.annotations import Annotation, by_model, judged, parse, unjudged
from tapir.evaluation.audit.records import LEAST_CONSTANT
from tapir.evaluation.held_out import BaselinePrompt, first_row, json_rows, prompt_order, read_questions
from tapir.evaluation.judged import failure_of, llm_judge
from tapir.evaluation.length_control import LengthControlFiles, LengthControlled, length_controlled_together
from tapir.evaluation.statistics import Floats, bootstrap, success_rate
from tapir.models.context import BuildContext
from tapir.models.preference import Choice, LlmPreference, flipped, preference

NAME = "alpaca_eval"
PROMPTS = ("prefer", "reply-prefer-short", "judge-repair")
"""Prompts of the judge that the verdicts depend on."""
_EVEN = 0.5
_REPEATED = 0.1  # share of the answers that are one text, from which on it is said
_EXTREME = 3  # times as long as the baseline's answers, or as short


class AlpacaEval:
    """The score of an answer is the judge's preference for it, 0 to 1; a success is a preference above one half.

    An empty answer is lost and the baseline's very words are a tie, both without a call.
    """

    name = NAME

    def __init__(self, baseline: Path, prompts: Path | None, judge: LlmPreference) -> None:
        """Take the files, which are read when they are first needed, and the judge."""
        self._files = (baseline, prompts)
        self._judge = judge
        self._verdicts: dict[str, tuple[Choice, ...]] = {}

    @classmethod
    def build(cls, section: AlpacaEvalConfig, context: BuildContext) -> AlpacaEval:
        """Return the benchmark; its judge is the one of the recipe."""
        prompts = existing("evaluation.prompts", section.prompts) if section.prompts else None
        preference_judge = LlmPreference.build(llm_judge(context.recipe), context)
        return cls(existing("evaluation.baseline", section.baseline), prompts, preference_judge)

    @cached_property
    def questions(self) -> Mapping[str, BaselinePrompt]:
        """The prompts by instruction id, in order."""
        return {question.instruction.id: question for question in read_questions(*self._files)}

    @cached_property
    def baseline(self) -> str:
        """Whose answers the baseline's are, as their file says, else its name."""
        name = first_row(self._files[0]).get("generator")
        return name if isinstance(name, str) and name else self._files[0].name

    def prompts(self) -> list[Prompt]:
        """Return the prompts; they are one task, so that the success rate is a mean over all of them."""
        return [Prompt(question.instruction, NAME, question.baseline) for question in self.questions.values()]

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield instruction id and grade of each answer, or why there is none."""
        pending: list[Comparison] = []
        for prompt, answer in answers:
            name = prompt.instruction.id
            if not answer.strip():
                yield name, Grade(0.0, success=False)
            elif answer == prompt.expected:
                yield name, Grade(_EVEN, success=False)
            else:
                pending.append(Comparison(prompt.instruction, prompt.expected, answer, self.questions[name].category))
        for name, verdict in self._judge.prefer(pending):
            if isinstance(verdict, Unscored):
                yield name, verdict
            else:
                self._verdicts[name] = verdict
                value = preference(verdict)
                yield name, Grade(value, value > _EVEN)

    def annotations(self, rows: Iterable[EvaluationRow], model: str) -> list[dict[str, Any]]:
        """Return the rows that this object has graded as AlpacaEval writes them, with the verdicts."""
        by_id = {row.id: row for row in rows}
        return [
            {"index": index} | self._annotation(question, by_id[name], model)
            for index, (name, question) in enumerate(self.questions.items())
        ]

    def pending(self, model: str) -> list[dict[str, Any]]:
        """Return the rows of a model that is not judged yet."""
        rows = [EvaluationRow(NAME, name, NAME, "", "", None, None, False, None) for name in self.questions]  # noqa: FBT003
        return self.annotations(rows, model)

    def _annotation(self, question: BaselinePrompt, row: EvaluationRow, model: str) -> dict[str, Any]:
        verdicts = self._verdicts.get(row.id, ())
        first = sum((verdict.better == "student") == (verdict.order == "student-first") for verdict in verdicts)
        return {
            "dataset": question.category,
            "instruction": question.instruction.transcript,
            "output_1": question.baseline,
            "generator_1": self.baseline,
            "output_2": row.answer or "",
            "generator_2": model,
            "annotator": self._judge.name,
            "preference": None if row.score is None else 1.0 + row.score,
            "failure": failure_of(row),
            "flipped": flipped(verdicts) if verdicts else None,
            "shown_first": [first, len(verdicts)],
            "verdicts": [
                {"order": each.order, "better": each.better, "student": each.student, "weighted": each.weighted}
                for each in verdicts
            ],
        }


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the answers are, in characters, and how the longer one fares.

    Attributes:
        model: mean over the model's answers.
        baseline: mean over the baseline's.
        longer: share of the prompts where the model's answer is the longer one.
        rate_longer: win rate where it is; NaN where it never is.
        rate_shorter: win rate where it is the shorter one; NaN where it never is.
    """

    model: float
    baseline: float
    longer: float
    rate_longer: float
    rate_shorter: float


@dataclass(frozen=True, slots=True)
class WinRate:
    """A model against a baseline; rates are 0 to 1.

    Attributes:
        rate: mean preference, with its interval (bootstrap by prompt); NaN bounds where it cannot be had.
        standard_error: of the mean; NaN for a single prompt.
        wins: prompts where the judge prefers the model's answer, by however little.
        discrete: share of wins, a draw counted half.
        unjudged: reason and number of the prompts that were left out.
        failures: kind and number of the prompts that the model gave no answer to; each is a loss.
        flips: prompts where the judge's choice changed with the order, and prompts seen in both orders.
        shown_first: verdicts for the answer shown first, and verdicts.
        categories: rate by category, where there are several.
        remarks: why the rate may say less than it seems to.
    """

    model: str
    baseline: str
    rate: EvalResult
    standard_error: float
    wins: int
    losses: int
    draws: int
    discrete: float
    lengths: Lengths
    unjudged: Mapping[str, int]
    failures: Mapping[str, int]
    flips: tuple[int, int]
    shown_first: tuple[int, int]
    categories: Mapping[str, EvalResult]
    remarks: Sequence[str]


def win_rate(rows: Sequence[Annotation], *, without_unjudged: bool = False) -> WinRate:
    """Return the rate over all prompts of the set: `rows` has one row of one model for each, judged or not.

    Prompts without a verdict are counted; they are an error unless `without_unjudged` leaves them out of the rate.
    """
    chosen = judged(rows, without_unjudged=without_unjudged)
    values = np.array([row.preference for row in chosen], dtype=np.float64)
    wins, losses, n = int(np.sum(values > _EVEN)), int(np.sum(values < _EVEN)), len(values)
    own, other = np.array([(row.length, row.baseline_length) for row in chosen]).T
    by_length = [float(values[fits].mean()) if fits.any() else math.nan for fits in (own > other, own < other)]
    flips = [row.flipped for row in chosen if row.flipped is not None]
    names = np.array([row.category for row in chosen])
    categories = sorted(set(filter(None, names.tolist())))
    return WinRate(
        model=chosen[0].model,
        baseline=chosen[0].baseline,
        rate=_rate(values),
        standard_error=float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan,
        wins=wins,
        losses=losses,
        draws=n - wins - losses,
        discrete=(wins + (n - wins - losses) / 2) / n,
        lengths=Lengths(float(own.mean()), float(other.mean()), float(np.mean(own > other)), *by_length),
        unjudged=dict(unjudged(rows)),
        failures=dict(Counter(row.failure for row in chosen if row.failure)),
        flips=(sum(flips), len(flips)),
        shown_first=(sum(row.shown_first[0] for row in chosen), sum(row.shown_first[1] for row in chosen)),
        categories={name: _rate(values[names == name]) for name in categories if len(categories) > 1},
        remarks=list(_remarks(chosen, values)),
    )


def _remarks(rows: Sequence[Annotation], values: Floats) -> Iterator[str]:
    """Yield what `tapir audit` would say too: constant answers, extreme lengths, verdicts that follow the position."""
    texts = [row.answer for row in rows]
    answer, times = Counter(filter(None, texts)).most_common(1)[0] if any(texts) else ("", 0)
    if times >= max(LEAST_CONSTANT, _REPEATED * len(rows)):
        there = 100 * values[[text == answer for text in texts]].mean()
        yield (
            f"{times:,} of {len(rows):,} answers are the same text, which wins {there:.1f} % of its prompts: the judge"
            " prefers something that answers nothing, or the file holds one answer for all"
        )
    own, other = np.mean([(row.length, row.baseline_length) for row in rows], axis=0)
    if other and not 1 / _EXTREME <= own / other <= _EXTREME:
        yield (
            f"its answers have {own / other:.2g} times the length of the baseline's ({own:,.0f} and {other:,.0f}"
            " characters on average): the raw rate is also about length"
        )
    flips = [2 * row.shown_first[0] > row.shown_first[1] for row in rows if row.flipped and row.shown_first[1]]
    if flips:
        first = success_rate(sum(flips), len(flips))
        if first.low > _EVEN or first.high < _EVEN:
            share, place = max(first.value, 1 - first.value), "first" if first.value > _EVEN else "second"
            yield (
                f"where the verdict changed with the order ({len(flips):,} of {len(rows):,} prompts), the judge named"
                f" the answer shown {place} in {100 * share:.0f} %: it goes by the position there"
            )


def _rate(values: Floats) -> EvalResult:
    """Return the mean with its interval; equal values have none, since resampling them would feign certainty."""
    if np.ptp(values) == 0:
        return EvalResult(float(values[0]), len(values), math.nan, math.nan)
    return bootstrap(np.mean, values)


@dataclass(frozen=True, slots=True)
class ModelRates:
    """Raw and length-controlled win rate of a model, or why there is no such rate."""

    raw: WinRate
    controlled: LengthControlled | str

    def as_json(self) -> dict[str, Any]:
        """Return the rates, from 0 to 1; what cannot be computed is null."""
        missing = {"rate": None, "reason": self.controlled}
        controlled = missing if isinstance(self.controlled, str) else self.controlled
        content: dict[str, Any] = nan_to_null({**asdict(self.raw), "length_controlled": controlled})
        return content


def rate_models(
    recorded: Sequence[Path],
    files: LengthControlFiles,
    prompts: Path | None = None,
    folder: Path | None = None,
    *,
    own: Sequence[Mapping[str, Any]] = (),
    without_unjudged: bool = False,
    check: bool = False,
) -> list[ModelRates]:
    """Return both rates of every model, the best raw rate first.

    Args:
        recorded: files with annotations, of other models than the one that was evaluated.
        files: for the length-controlled rate.
        prompts: file with the prompts that count; None takes those of the annotations.
        folder: to write winrate.json to; None writes nothing.
        own: annotations of the model that was evaluated.
        without_unjudged: leave out prompts without a verdict; they are counted.
        check: only check the recorded annotations, and that they go with `own`, which is not judged yet.
    """
    require("eval", "sklearn")
    if not own and not recorded:
        raise RecipeError("there is nothing to rate", remedy="Give a TARGET, or annotations with --annotations.")
    order = prompt_order(prompts) if prompts else None
    if own:
        order = {prompt_id(each["instruction"]): each["index"] for each in own}
    rows = parse([(str(each["index"]), each) for each in own], "annotations.json", order) if own else []
    mine = {row.model for row in rows}
    for path in recorded:
        more = parse(json_rows(path), str(path), order)
        if both := mine & {row.model for row in more}:
            raise DataError(f"{path} holds {', '.join(both)} too", remedy="Give annotations of other models.")
        rows += more
    models = by_model(rows, None if order is None else range(len(order)))
    if check:
        for name in models.keys() - mine:
            judged(models[name], without_unjudged=without_unjudged)
        return []
    kept = {name: judged(each, without_unjudged=without_unjudged) for name, each in models.items()}
    controlled = length_controlled_together(kept, files)
    raw = {name: win_rate(each, without_unjudged=without_unjudged) for name, each in models.items()}
    rates = [ModelRates(raw[name], controlled[name]) for name in models]
    rates.sort(key=lambda each: -each.raw.rate.value)
    if folder:
        write_json(folder / "winrate.json", [each.as_json() for each in rates])
    return rates
