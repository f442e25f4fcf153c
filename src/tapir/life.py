"""The life of one instruction, put together from the tables of a run."""

from __future__ import annotations

from collections.abc import Iterator

from tapir.domain.instruction import instruction_id
from tapir.errors import DataError
from tapir.store.rows import (
    AnswerRow,
    CorpusRow,
    DifficultyRow,
    DropRow,
    EvaluationRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    RefinementRow,
    TagRow,
)
from tapir.store.run import RunStore
from tapir.store.tables import RowT


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
    for row in _read(store, "corpus", CorpusRow):
        if row.id == name:
            yield "instruction", row.text
            yield "origin", f"corpus ({row.source})"
            yield f"answer of {row.author}", row.response
    for drop in _read(store, "drops", DropRow):
        if drop.id == name:
            yield "dropped", f"{drop.stage}: {drop.reason} ({drop.text})"
    for number in _rounds(store):
        yield from _round_facts(store, number, name)


def _round_facts(store: RunStore, number: int, name: str) -> Iterator[tuple[str, str]]:
    here = f"round {number}"
    folder = f"round-{number}"
    for written in _read(store, f"{folder}/expansions", ExpansionRow):
        if written.id == name:
            fate = "kept" if written.reason is None else f"dropped: {written.reason}"
            yield "instruction", written.text
            yield "origin", f"written in {here} for {written.task_wanted} from {', '.join(written.parents)}; {fate}"
            yield f"answer of {written.author}", written.response
            yield f"{here}: task", str(written.task)
    for tag in _read(store, f"{folder}/tags", TagRow):
        if tag.id == name:
            yield "task", f"{tag.task or tag.failure} (confidence {tag.confidence:.2f})"
    for answer in _read(store, f"{folder}/answers", AnswerRow):
        if answer.id == name:
            yield f"{here}: student's answer", answer.text if answer.text is not None else f"failed: {answer.failure}"
    for judged in _read(store, f"{folder}/judgements", JudgementRow):
        if judged.id == name:
            scores = f"teacher {judged.reference:g}, student {judged.student:g}" if judged.unscored is None else ""
            yield f"{here}: {judged.judge} ({judged.order})", scores or f"unscored: {judged.unscored}"
    for measured in _read(store, f"{folder}/difficulty", DifficultyRow):
        if measured.id == name:
            gap = "none" if measured.gap is None else f"{measured.gap:+.2f} (spread {measured.spread:.2f})"
            yield f"{here}: MFD", f"{gap}, {measured.part}"
    for rewrite in _read(store, f"{folder}/refinements", RefinementRow):
        if rewrite.id == name:
            yield f"{here}: refined", rewrite.text if rewrite.text is not None else f"failed: {rewrite.failure}"
    for mixed in _read(store, f"{folder}/mixture", MixtureRow):
        if mixed.id == name:
            yield f"{here}: trained on", f"from the {mixed.pool} pool, answer: {mixed.response}"
    for graded in _read(store, f"{folder}/evaluation", EvaluationRow):
        if graded.id == name:
            if number == 0:
                yield "instruction", graded.instruction
                yield "origin", f"held out: {graded.benchmark}, {graded.task}; expected {graded.expected}"
            yield f"S_{number} answered", f"{graded.answer} ({'right' if graded.success else 'wrong'})"


def _read(store: RunStore, name: str, row: type[RowT]) -> list[RowT]:
    return store.read(name, row) if store.has(name) else []


def _rounds(store: RunStore) -> range:
    number = 0
    while store.round(number).exists():
        number += 1
    return range(number)
