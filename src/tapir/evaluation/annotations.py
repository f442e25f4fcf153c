"""Recorded comparisons of answers with a baseline's, in the form AlpacaEval writes and in its compact form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tapir.domain.instruction import instruction_id
from tapir.errors import DataError

_BASELINE, _DRAW, _MODEL = 1.0, 1.5, 2.0
_NAMED = 3

Recorded: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where a row stands, and its fields."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One prompt: how far the judge prefers the model's answer to the baseline's.

    Attributes:
        prompt: what the prompt is known by, the same for all models.
        index: its place among the prompts, counted from 0; None where it is not known.
        preference: 0 (the baseline's answer is better) to 1 (the model's); None where nobody judged.
        length: characters of the model's answer.
        baseline_length: characters of the baseline's answer.
        failure: why the model gave no answer (a loss), or why there is no preference; empty for a judged row.
        flipped: whether the judge named another answer when the order changed; None where it saw one order.
        shown_first: how many of the judge's verdicts named the answer shown first, and how many verdicts there are.
    """

    model: str
    baseline: str
    prompt: str
    index: int | None
    category: str
    preference: float | None
    length: int
    baseline_length: int
    failure: str = ""
    flipped: bool | None = None
    shown_first: tuple[int, int] = (0, 0)


def parsed(rows: Iterable[Recorded], source: str, order: Mapping[str, int] | None = None) -> list[Annotation]:
    """Rows of an annotation file as annotations.

    Args:
        rows: as read; the full form has instruction, output_1, output_2, generator_1 and generator_2, the compact one
            model, baseline, index, len_output_1 and len_output_2. Side 1 is the baseline. `preference` runs from 1
            (baseline) to 2 (model), 0 and 1.5 are draws; null is a row that nobody judged.
        source: what the file is called in an error.
        order: place of each prompt by instruction id; None takes a row's own index, or else its place in the file, as
            the official package does.

    Raises:
        DataError: a row is no annotation, or there is none; the first few are named.
    """
    found: list[Annotation] = []
    bad: list[str] = []
    for turn, (place, fields) in enumerate(rows):
        try:
            found.append(_annotation(fields, turn, order))
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            bad.append(f"{place}: {what}")
    if bad:
        more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{source}: {len(bad):,} rows are no annotations: {'; '.join(bad[:_NAMED])}{more}",
            remedy="Give a file as AlpacaEval writes it (annotations.json), or rows with model, baseline, index,"
            " preference, len_output_1 and len_output_2.",
        )
    if not found:
        raise DataError(f"{source} holds no annotations", remedy="Name a file with at least one row.")
    return found


def _annotation(fields: Mapping[str, Any], turn: int, order: Mapping[str, int] | None) -> Annotation:
    compact = "len_output_2" in fields
    model, baseline = fields["model" if compact else "generator_2"], fields["baseline" if compact else "generator_1"]
    lengths = [_length(fields, side, compact=compact) for side in (1, 2)]
    index = fields.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise ValueError(f"index {index!r} is no place")
    if "instruction" in fields:
        prompt = instruction_id(str(fields["instruction"]).strip())
        if order is not None:
            index = _placed(order, prompt)
        elif index is None:
            index = turn
    elif index is None:
        raise KeyError("index")
    else:
        prompt = ""
        if order is not None and index >= len(order):
            raise ValueError(f"index {index} is beyond the {len(order):,} prompts")
    first, of = fields.get("shown_first") or (0, 0)
    return Annotation(
        str(model),
        str(baseline),
        prompt,
        index,
        str(fields.get("dataset") or fields.get("category") or ""),
        _preference(fields["preference"]),
        lengths[1],
        lengths[0],
        str(fields.get("failure") or ("" if _preference(fields["preference"]) is not None else "no preference")),
        fields.get("flipped"),
        (int(first), int(of)),
    )


def _placed(order: Mapping[str, int], prompt: str) -> int:
    if prompt not in order:
        raise ValueError("its instruction is not among the prompts")
    return order[prompt]


def _length(fields: Mapping[str, Any], side: int, *, compact: bool) -> int:
    if compact:
        length = fields[f"len_output_{side}"]
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(f"len_output_{side} is {length!r}")
        return length
    text = fields[f"output_{side}"]
    return len(text) if isinstance(text, str) else 0


def _preference(value: object) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"preference {value!r} is no number")
    if value == 0:
        return _DRAW - _BASELINE
    if not _BASELINE <= value <= _MODEL:
        raise ValueError(f"preference {value} is not between 1 and 2")
    return float(value) - _BASELINE


def by_model(found: Sequence[Annotation], prompts: Sequence[int] | None = None) -> dict[str, list[Annotation]]:
    """Annotations by model, one for each prompt of the set; a row that is not there becomes one without preference.

    Args:
        found: of any number of models, against one baseline.
        prompts: the places that make the set; None takes every place that any of the models has, from 0 on.

    Raises:
        DataError: there are two baselines, two different rows of one model for one prompt, or two prompts in one
            place.
    """
    baselines = sorted({one.baseline for one in found})
    if len(baselines) > 1:
        raise DataError(
            f"the annotations compare with {len(baselines)} baselines: {', '.join(baselines)}",
            remedy="Give annotations against one baseline at a time.",
        )
    places = sorted(set(prompts) if prompts is not None else range(1 + max(one.index or 0 for one in found)))
    models: dict[str, dict[int, Annotation]] = {}
    asked: dict[int, str] = {}
    for one in found:
        if one.index is not None and one.prompt and asked.setdefault(one.index, one.prompt) != one.prompt:
            raise DataError(
                f"the rows of {one.model} are in another order: prompt {one.index} is not the one that other rows have"
                " there",
                remedy="Give --prompts, so that rows are matched by their instructions.",
            )
        rows = models.setdefault(one.model, {})
        place = -1 if one.index is None else one.index
        before = rows.setdefault(place, one)
        if before.preference != one.preference:
            raise DataError(
                f"{one.model} has two annotations of prompt {place}: {_shown(before)} and {_shown(one)}",
                remedy="Give each model's annotations once.",
            )
    return {
        model: [rows.get(place) or _absent(model, baselines[0], place) for place in places]
        for model, rows in models.items()
    }


def _shown(one: Annotation) -> str:
    return "no preference" if one.preference is None else f"{one.preference + _BASELINE:g}"


def _absent(model: str, baseline: str, place: int) -> Annotation:
    return Annotation(model, baseline, "", place, "", None, 0, 0, "no annotation")


def unjudged(rows: Sequence[Annotation]) -> Counter[str]:
    """Reason and number of the rows that nobody judged."""
    return Counter(one.failure or "no preference" for one in rows if one.preference is None)


def judged(rows: Sequence[Annotation], *, without_unjudged: bool) -> list[Annotation]:
    """The rows with a preference.

    Raises:
        DataError: some have none and leaving them out was not asked for, or none has one.
    """
    kept = [one for one in rows if one.preference is not None]
    missing = [one for one in rows if one.preference is None]
    reasons = ", ".join(f"{why} ({count:,})" for why, count in unjudged(rows).most_common(_NAMED))
    model = rows[0].model if rows else "the model"
    if not kept:
        raise DataError(
            f"{model}: none of {len(rows):,} comparisons was judged: {reasons or 'there is none'}",
            remedy="Have them judged; a win rate needs at least one.",
        )
    if missing and not without_unjudged:
        first = ", ".join(str(one.index) for one in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DataError(
            f"{model}: {len(missing):,} of {len(rows):,} prompts were not judged: {reasons}; their places: {first}",
            remedy="Run the same command again to have failed calls repeated, mend the judge, or give"
            " --without-unjudged to leave these prompts out by name.",
        )
    return kept
