"""The life of one instruction, put together from the tables of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from tapir.domain.instruction import instruction_id
from tapir.errors import DataError
from tapir.report.scale import MFD, read_scale, scale_of
from tapir.roles import Example
from tapir.store.files import read_json
from tapir.store.rows import (
    AnswerRow,
    CorpusRow,
    DifficultyRow,
    DropRow,
    EstimateRow,
    EvaluationRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    NeighbourRow,
    RefinementRow,
    ResponseRow,
    TagRow,
)
from tapir.store.run import RunStore
from tapir.store.tables import Row, RowT


class _NamedRow(Row, Protocol):
    """A row about one instruction."""

    @property
    def id(self) -> str: ...


NamedRowT = TypeVar("NamedRowT", bound=_NamedRow)


def life(store: RunStore, wanted: str) -> list[tuple[str, str]]:
    """Every recorded fact about one instruction, in order: (what, text).

    Args:
        store: the run.
        wanted: an id, the beginning of one, or the whole text of the instruction.

    Raises:
        DataError: no instruction or more than one begins like that.
    """
    name = _resolve(store, wanted)
    return list(_facts(store, name))


def trained_on(store: RunStore, wanted: str) -> list[tuple[str, Example]]:
    """One instruction as the rounds trained on it: (where, example), once for each text of its answer.

    Raises:
        DataError: there is no such instruction, or no round trained on it.
    """
    name = _resolve(store, wanted)
    found: dict[tuple[str, str], list[str]] = {}
    for number in _rounds(store):
        for row in _rows(store, f"round-{number}/mixture", MixtureRow, name):
            found.setdefault((row.instruction, row.response), []).append(str(number))
    if not found:
        raise DataError(
            f"no round trained on {name}", remedy="The ids of what was trained on are in round-*/mixture.parquet."
        )
    return [
        (f"round {', '.join(numbers)}", Example(name, instruction, response))
        for (instruction, response), numbers in found.items()
    ]


def _resolve(store: RunStore, wanted: str) -> str:
    ids: set[str] = set()
    for row in _read(store, "corpus", CorpusRow):
        ids.add(row.id)
    for dropped in _read(store, "drops", DropRow):
        ids.add(dropped.id)
    for number in _rounds(store):
        ids |= {row.id for row in _read(store, f"round-{number}/expansions", ExpansionRow)}
        ids |= {row.id for row in _read(store, f"round-{number}/evaluation", EvaluationRow)}
    digest = instruction_id(wanted)
    found = [digest] if digest in ids else sorted(name for name in ids if name.startswith(wanted.lower()))
    if len(found) == 1:
        return found[0]
    some = ", ".join(found[:5])
    raise DataError(
        f"{len(found)} instructions have an id that begins with {wanted!r}" + (f": {some}" if found else ""),
        remedy="Ids stand in corpus.parquet, in round-*/mixture.parquet and in the report's sample.",
    )


def _facts(store: RunStore, name: str) -> Iterator[tuple[str, str]]:
    yield "id", name
    for row in _rows(store, "corpus", CorpusRow, name):
        yield "instruction", row.text
        yield "origin", f"corpus ({row.source})"
        yield f"answer of {row.author}", row.response
    for drop in _rows(store, "drops", DropRow, name):
        yield "dropped", f"{drop.stage}: {drop.reason} ({drop.detail})"
        yield "instruction", drop.text
    for near in _rows(store, "neighbours", NeighbourRow, name):
        yield "nearly repeats", f"{near.other} ({near.measure} {near.similarity:.2f})"
    for number in _rounds(store):
        yield from _written(store, number, name)
        yield from _scored(store, number, name)
        yield from _trained(store, number, name)
        yield from _held_out(store, number, name)


def _written(store: RunStore, number: int, name: str) -> Iterator[tuple[str, str]]:
    for row in _rows(store, f"round-{number}/expansions", ExpansionRow, name):
        fate = "kept" if row.reason is None else f"dropped: {row.reason} {row.detail}".rstrip()
        yield "instruction", row.text
        yield "origin", f"written in round {number} for {row.task_wanted} from {', '.join(row.parents)}; {fate}"
        yield f"answer of {row.author}", row.response
        yield "task", str(row.task)


def _scored(store: RunStore, number: int, name: str) -> Iterator[tuple[str, str]]:
    folder, here = f"round-{number}", f"round {number}"
    for written in _rows(store, f"{folder}/responses", ResponseRow, name):
        yield f"answer of {written.author}", written.text if written.text is not None else f"failed: {written.failure}"
    for tag in _rows(store, f"{folder}/tags", TagRow, name):
        yield "task", f"{tag.task or tag.failure} (confidence {tag.confidence:.2f})"
    for answer in _rows(store, f"{folder}/answers", AnswerRow, name):
        yield f"{here}: student's answer", answer.text if answer.text is not None else f"failed: {answer.failure}"
    for judged in _rows(store, f"{folder}/judgements", JudgementRow, name):
        yield f"{here}: {judged.judge} ({judged.order})", _said(judged, "teacher", "student")
    for found in _rows(store, f"{folder}/estimates", EstimateRow, name):
        yield f"{here}: {_named(found)}", _estimated(found)
    for table in sorted(path.stem for path in store.round(number).glob("compared-*.parquet")):
        for found in _rows(store, f"{folder}/{table}", EstimateRow, name):
            yield f"compared: {_named(found)}", _estimated(found)
    for measured in _rows(store, f"{folder}/difficulty", DifficultyRow, name):
        scale = read_scale(store, read_json(store.folder / "recipe.json")) or MFD
        if measured.gap is None:
            gap = "none"
        else:
            gap = f"{measured.gap:+.2f} (spread {measured.spread:.2f})" if scale.signed else scale.mean(measured.gap)
        yield f"{here}: {scale.label}", f"{gap}, {measured.part}"


def _trained(store: RunStore, number: int, name: str) -> Iterator[tuple[str, str]]:
    folder, here = f"round-{number}", f"round {number}"
    for rewrite in _rows(store, f"{folder}/refinements", RefinementRow, name):
        yield f"{here}: refined", rewrite.text if rewrite.text is not None else f"failed: {rewrite.failure}"
    for judged in _rows(store, f"{folder}/preferences", JudgementRow, name):
        yield f"{here}: {judged.judge} ({judged.order})", _said(judged, "before refining", "refined")
    for mixed in _rows(store, f"{folder}/mixture", MixtureRow, name):
        yield f"{here}: trained on", f"from the {mixed.pool} pool, answer: {mixed.response}"


def _held_out(store: RunStore, number: int, name: str) -> Iterator[tuple[str, str]]:
    for graded in _rows(store, f"round-{number}/evaluation", EvaluationRow, name):
        if number == 0:
            yield "instruction", graded.instruction
            yield "origin", f"held out: {graded.benchmark}, {graded.task}; expected {graded.expected}"
        verdict = graded.failure or ("right" if graded.success else "wrong")
        yield f"S_{number} answered", f"{graded.answer} ({verdict})"


def _named(row: EstimateRow) -> str:
    """What was measured: its name in the report."""
    return (scale_of({"kind": row.estimator}) or MFD).name


def _estimated(row: EstimateRow) -> str:
    """What an estimator found, and what it was made of."""
    scale = scale_of({"kind": row.estimator}) or MFD
    value = f"none: {row.unscored}" if row.value is None else scale.mean(row.value)
    return value + (f" ({row.detail})" if row.detail else "")


def _said(row: JudgementRow, reference: str, student: str) -> str:
    """Scores with their rationale, or why there are none."""
    if row.student is None or row.reference is None:
        return f"unscored: {row.unscored}"
    return f"{reference} {row.reference:g}, {student} {row.student:g}" + (f"\n{row.rationale}" if row.rationale else "")


def _rows(store: RunStore, table: str, row: type[NamedRowT], name: str) -> list[NamedRowT]:
    """The table's rows about one instruction; none where the table is not made yet."""
    return [one for one in _read(store, table, row) if one.id == name]


def _read(store: RunStore, name: str, row: type[RowT]) -> list[RowT]:
    return store.read(name, row) if store.has(name) else []


def _rounds(store: RunStore) -> range:
    number = 0
    while store.round(number).exists():
        number += 1
    return range(number)
