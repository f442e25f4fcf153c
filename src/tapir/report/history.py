"""History of one instruction: everything the tables of a run record about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from tapir.config.curriculum import CurriculumConfig
from tapir.config.toml import parse, without_idle
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EstimateRow, JudgementRow
from tapir.data.run.store import RunStore
from tapir.data.run.tables import RowT
from tapir.domain.difficulty import Scale
from tapir.domain.errors import DataError
from tapir.domain.instruction import instruction_id, transcript
from tapir.domain.training import Example
from tapir.models.estimators import MFD
from tapir.report.estimators import read_scale, scale_named

_ID = attrgetter("id")


def history(store: RunStore, query: str) -> list[tuple[str, str]]:
    """Return every recorded fact about one instruction, in order: (what, text).

    It is found by its id, by the beginning of one, or by its whole text.
    """
    run = RunReader(store)
    return list(_facts(run, _resolve(run, query)))


def training_examples(store: RunStore, query: str) -> list[tuple[str, Example]]:
    """Return one instruction as the rounds trained on it: (rounds, example), once for each text of its answer."""
    run = RunReader(store)
    name = _resolve(run, query)
    rounds: dict[Example, list[str]] = {}
    for number in run.rounds("mixture"):
        for row in _about(name, run.mixture(number)):
            example = Example(name, row.instruction, row.response, row.context, row.thought)
            rounds.setdefault(example, []).append(str(number))
    if not rounds:
        raise DataError(
            f"no round trained on {name}", remedy="The ids of what was trained on are in round-*/mixture.parquet."
        )
    return [(f"round {', '.join(numbers)}", example) for example, numbers in rounds.items()]


def _resolve(run: RunReader, query: str) -> str:
    ids = {row.id for row in run.corpus()} | {row.id for row in run.drops()}
    for number in run.rounds():
        ids |= {row.id for row in run.expansions(number)} | {row.id for row in run.evaluation(number)}
    digest = instruction_id(query)
    matches = [digest] if digest in ids else sorted(name for name in ids if name.startswith(query.lower()))
    if len(matches) == 1:
        return matches[0]
    first = ", ".join(matches[:5])
    raise DataError(
        f"{len(matches)} instructions have an id that begins with {query!r}" + (f": {first}" if first else ""),
        remedy="Ids stand in corpus.parquet, in round-*/mixture.parquet and in the report's sample.",
    )


def _facts(run: RunReader, name: str) -> Iterator[tuple[str, str]]:
    yield "id", name
    for row in _about(name, run.corpus()):
        yield "instruction", transcript(row.text, row.context)
        yield "origin", f"corpus ({row.source})"
        yield f"answer of {row.author}", row.response
    for drop in _about(name, run.drops()):
        yield "dropped", f"{drop.stage}: {drop.reason} ({drop.detail})"
        yield "instruction", drop.text
    for near in _about(name, run.near_duplicates()):
        yield "near-duplicate of", f"{near.other} ({near.measure} {near.similarity:.2f})"
    for response in _about(name, run.responses()):
        yield f"answer of {response.author}", _text(response.text, response.failure)
    for tag in _about(name, run.tags()):
        yield "task", f"{tag.task or tag.failure} (confidence {tag.confidence:.2f})"
    plan = parse(without_idle(run.recipe)).curriculum
    for number in run.rounds():
        yield from _expansion(run, number, name)
        yield from _scores(run, plan, number, name)
        yield from _training(run, number, name)
        yield from _evaluation(run, number, name)


def _expansion(run: RunReader, number: int, name: str) -> Iterator[tuple[str, str]]:
    for row in _about(name, run.expansions(number)):
        fate = "kept" if row.reason is None else f"dropped: {row.reason} {row.detail}".rstrip()
        yield "instruction", row.text
        yield "origin", f"written in round {number} for {row.task_wanted} from {', '.join(row.parents)}; {fate}"
        yield f"answer of {row.author}", row.response
        yield "task", str(row.task)


def _scores(run: RunReader, plan: CurriculumConfig, number: int, name: str) -> Iterator[tuple[str, str]]:
    place = f"round {number}"
    for answer in _about(name, run.answers(number)):
        if answer.thought:
            yield f"{place}: student's thought", answer.thought
        yield f"{place}: student's answer", _text(answer.text, answer.failure)
    for row in _about(name, run.judgements(number)):
        yield f"{place}: {row.judge} ({row.order})", _judgement(row, "teacher", "student")
    for estimate in _about(name, run.estimates(number)):
        scale = scale_named(estimate.estimator, plan)
        yield f"{place}: {scale.name}", _estimate(estimate, scale)
    for table in run.comparisons(number).values():
        for estimate in _about(name, run.read(table, EstimateRow)):
            scale = scale_named(estimate.estimator, plan)
            yield f"compared: {scale.name}", _estimate(estimate, scale)
    for scored in _about(name, run.difficulty(number)):
        scale = read_scale(run, plan) or MFD
        if scored.gap is None:
            gap = "none"
        else:
            gap = f"{scored.gap:+.2f} (spread {scored.spread:.2f})" if scale.signed else scale.format_mean(scored.gap)
        yield f"{place}: {scale.label}", f"{gap}, {scored.part}"


def _training(run: RunReader, number: int, name: str) -> Iterator[tuple[str, str]]:
    place = f"round {number}"
    for rewrite in _about(name, run.refinements(number)):
        yield f"{place}: refined", _text(rewrite.text, rewrite.failure)
    for row in _about(name, run.judgements(number, "preferences")):
        yield f"{place}: {row.judge} ({row.order})", _judgement(row, "before refining", "refined")
    for example in _about(name, run.mixture(number)):
        fate = f"left out of training: {left}" if (left := run.left_out(number).get(name)) else "trained on"
        yield f"{place}: {fate}", f"from the {example.pool} pool, answer: {example.response}"


def _evaluation(run: RunReader, number: int, name: str) -> Iterator[tuple[str, str]]:
    for graded in _about(name, run.evaluation(number)):
        if number == 0:
            yield "instruction", graded.instruction
            yield "origin", f"held out: {graded.benchmark}, {graded.task}; expected {graded.expected}"
        verdict = graded.failure or ("right" if graded.success else "wrong")
        yield f"S_{number} answered", f"{graded.answer} ({verdict})"


def _text(text: str | None, failure: str | None) -> str:
    return text if text is not None else f"failed: {failure}"


def _estimate(row: EstimateRow, scale: Scale) -> str:
    value = f"none: {row.unscored}" if row.value is None else scale.format_mean(row.value)
    return value + (f" ({row.detail})" if row.detail else "")


def _judgement(row: JudgementRow, reference: str, student: str) -> str:
    if row.student is None or row.reference is None:
        return f"unscored: {row.unscored}"
    return f"{reference} {row.reference:g}, {student} {row.student:g}" + (f"\n{row.rationale}" if row.rationale else "")


def _about(name: str, rows: Iterable[RowT]) -> list[RowT]:
    return [row for row in rows if _ID(row) == name]
