"""Recorded comparisons of answers with a baseline's, in the form that AlpacaEval writes (annotations.json)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapir.domain.errors import DataError
from tapir.domain.instruction import prompt_id
from tapir.evaluation.audit.records import digest, number
from tapir.evaluation.held_out import Fields, parse_rows, text

_BASELINE, _DRAW, _MODEL = 1.0, 1.5, 2.0
_NAMED = 3
_LONGEST = 60  # characters of an instruction in an error
_MISSING = "no annotation"
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Annotation:
    """One prompt: how far the judge prefers the model's answer to the baseline's.

    Attributes:
        prompt: `prompt_id` of the instruction, of a conversation that of all its turns.
        index: its place among the prompts, from 0; -1 where the row does not say it, until `by_model` does.
        preference: 0 (the baseline's answer is better) to 1 (the model's); None where there is no verdict.
        length: characters of the model's answer.
        baseline_length: characters of the baseline's answer.
        failure: why the model gave no answer (a loss), or why there is no preference; empty for a judged row.
        flipped: whether the judge named another answer when the order changed; None where it saw one order.
        shown_first: how many of the judge's verdicts named the answer shown first, and how many verdicts there are.
        text: beginning of the instruction.
        answer: digest of the model's answer.
        source: where the row stands, for errors.
    """

    model: str
    baseline: str
    prompt: str
    index: int
    category: str
    preference: float | None
    length: int
    baseline_length: int
    failure: str = ""
    flipped: bool | None = None
    shown_first: tuple[int, int] = (0, 0)
    text: str = ""
    answer: str = ""
    source: str = ""


def parse(rows: Iterable[tuple[str, Fields]], source: str, order: Mapping[str, int] | None = None) -> list[Annotation]:
    """Return the rows of an annotation file.

    Args:
        rows: place and fields. Side 1 is the baseline; `preference` runs from 1 (baseline) to 2 (model), 0 and 1.5 are
            draws, null is a row without a verdict.
        source: name of the file, for errors.
        order: place of each prompt by `prompt_id`; None takes a row's own index, if it has one.
    """
    rows = list(rows)
    wanted = "instruction, preference, output_1, output_2, generator_1 and generator_2, as AlpacaEval writes them"
    parsed = parse_rows(rows, lambda fields: _annotation(fields, order), source, wanted)
    return [replace(row, source=place) for row, (place, _) in zip(parsed, rows, strict=True)]


def _annotation(fields: Fields, order: Mapping[str, int] | None) -> Annotation:
    instruction = text(fields, "instruction").strip()
    index = _UNKNOWN if fields.get("index") is None else fields["index"]
    prompt = prompt_id(instruction)
    if isinstance(index, bool) or not isinstance(index, int) or (index < 0 and fields.get("index") is not None):
        raise ValueError(f"index {index!r} is no place")
    if order is not None and prompt not in order:
        raise ValueError("its instruction is not among the prompts")
    preference = _preference(fields["preference"])
    first, verdicts = fields.get("shown_first") or (0, 0)
    outputs = fields["output_2"], fields["output_1"]
    length, baseline_length = (len(output) if isinstance(output, str) else 0 for output in outputs)
    return Annotation(
        text(fields, "generator_2"),
        text(fields, "generator_1"),
        prompt,
        index if order is None else order[prompt],
        str(fields.get("dataset") or fields.get("category") or ""),
        preference,
        length,
        baseline_length,
        str(fields.get("failure") or ("" if preference is not None else "no preference")),
        fields.get("flipped"),
        (int(first), int(verdicts)),
        instruction[:_LONGEST],
        digest(outputs[0]) if isinstance(outputs[0], str) and outputs[0].strip() else "",
    )


def _preference(value: Any) -> float | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if (preference := number(value)) is None:
        raise TypeError(f"preference {value!r} is no number")
    if preference and not _BASELINE <= preference <= _MODEL:
        raise ValueError(f"preference {value} is not between 1 and 2")
    return (preference or _DRAW) - _BASELINE


def by_model(annotations: Sequence[Annotation], prompts: Sequence[int] | None = None) -> dict[str, list[Annotation]]:
    """Return annotations by model, one for each prompt; one that is missing becomes a row without preference.

    Rows belong together by their prompt. Equal rows are one, and a row without a verdict yields to one that has it.

    Args:
        annotations: of any number of models, against one baseline.
        prompts: the places that make the set; None takes every place that any of the models has, from 0 on.
    """
    baselines = sorted({row.baseline for row in annotations})
    if len(baselines) > 1:
        raise DataError(
            f"the annotations compare with {len(baselines)} baselines: {', '.join(baselines)}",
            remedy="Give annotations against one baseline at a time.",
        )
    models: dict[str, dict[str, Annotation]] = {}
    for row in annotations:
        rows = models.setdefault(row.model, {})
        rows[row.prompt] = _same(rows[row.prompt], row) if row.prompt in rows else row
    at = _places(models)
    no_row = Annotation("", baselines[0], "", 0, "", None, 0, 0, _MISSING)
    known = (row for rows in models.values() for row in rows.values())
    lost = {at[row.prompt]: replace(no_row, prompt=row.prompt, text=row.text) for row in known}
    places = prompts if prompts is not None else range(1 + max(lost))
    by_place = {model: {at[row.prompt]: row for row in rows.values()} for model, rows in models.items()}
    return {
        model: [replace(rows.get(place) or lost.get(place) or no_row, model=model, index=place) for place in places]
        for model, rows in by_place.items()
    }


def _same(first: Annotation, second: Annotation) -> Annotation:
    """Return the one of two rows of a model about a prompt that counts."""
    if first.preference is None or second.preference is None:
        return second if first.preference is None else first
    if (first.preference, first.answer) == (second.preference, second.answer):
        return first
    raise DataError(
        f"{first.model} has two annotations of {first.text!r} that differ: preference"
        f" {_BASELINE + first.preference:g} ({first.source}) and {_BASELINE + second.preference:g} ({second.source})",
        remedy="Keep one verdict about each prompt.",
    )


def _places(models: Mapping[str, Mapping[str, Annotation]]) -> dict[str, int]:
    """Return the place of each prompt: its index, or behind all that have one, in the order of the longest model."""
    longest = sorted(models.values(), key=len, reverse=True)  # stable: the first of several
    places: dict[str, int] = {}
    at: dict[int, Annotation] = {}
    for row in (row for rows in longest for row in rows.values() if row.index != _UNKNOWN):
        other = at.setdefault(row.index, row)
        if places.setdefault(row.prompt, row.index) != row.index or other.prompt != row.prompt:
            raise DataError(
                f"the rows of {row.model} have other places than those of {other.model}: {row.text!r} is at {row.index}"
                f" ({row.source}), which is not so in other rows",
                remedy="Give --prompts, so that places are those of that file.",
            )
    following = 1 + max(at, default=-1)
    for rows in longest:
        for prompt in (prompt for prompt in rows if prompt not in places):
            places[prompt], following = following, following + 1
    return places


def unjudged(rows: Sequence[Annotation]) -> Counter[str]:
    """Count the rows without a preference, by reason."""
    return Counter(row.failure or "no preference" for row in rows if row.preference is None)


def judged(rows: Sequence[Annotation], *, without_unjudged: bool) -> list[Annotation]:
    """Return the rows with a preference; one without is an error unless `without_unjudged` leaves it out."""
    with_preference = [row for row in rows if row.preference is not None]
    if with_preference and (without_unjudged or len(with_preference) == len(rows)):
        return with_preference
    missing = [row for row in rows if row.preference is None]
    reasons = unjudged(rows)
    number, total = len(missing), f"{len(rows):,}"
    first = "; ".join(f"{row.index} {row.text!r}" if row.text else str(row.index) for row in missing[:_NAMED])
    if set(reasons) == {_MISSING}:
        what, remedy = f"{number:,} {'row is' if number == 1 else 'rows are'} missing of {total}", "Give all the rows."
    else:
        why = ", ".join(f"{why} ({count:,})" for why, count in reasons.most_common(_NAMED)) or "there is none"
        what = f"{number:,} of {total} prompts were not judged: {why}"
        remedy = "Run the same command again to repeat failed calls, or fix the judge."
    raise DataError(
        f"{rows[0].model if rows else 'the model'}: {what}; their places: {first}" + "; ..." * (number > _NAMED),
        remedy=remedy + " --without-unjudged leaves these prompts out by name." * bool(with_preference),
    )
