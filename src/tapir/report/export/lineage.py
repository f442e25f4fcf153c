"""Training examples of a run with their lineage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tapir.data.run.reader import RunReader
from tapir.data.run.rows import MixtureRow
from tapir.domain.completion import after_thought
from tapir.domain.instruction import Turn

_Key: TypeAlias = tuple[str, bytes]
_PART = r"[^\s\"'`,;|<>\\/]+"
_SPACED = rf"{_PART}(?: [^\s\"'`,;|<>@\\/=-][^\s\"'`,;|<>\\/=]*)*"
_ADDRESS = re.compile(r"\w[\w+.-]*://[^\s\"'`]+")
_WHOLE = re.compile(r"(?:~|[A-Za-z]:)?[\\/]+(?:[^\r\n\\/]+[\\/]+)*([^\r\n\\/]+)[\\/]*")
_BEFORE = r"(?:(?<![\w.])|(?<=\s-\w)|(?<=^-\w))"  # no word, which makes a path a relative one, but an option
_ROOT = rf"(?:(?:~|[A-Za-z]:)[\\/]+{_SPACED}|[\\/]+{_PART})[\\/]+"
_WITHIN = re.compile(rf"{_BEFORE}{_ROOT}(?:{_SPACED}[\\/]+)*({_PART})")


@dataclass(frozen=True, slots=True)
class ExportedExample:
    """One example with its lineage, a row of the exported tables; the data card describes the fields.

    `messages` ends with the answer that is learnt, after its `thought` in marks where there is one. `gap` is its
    difficulty as last measured by the last of its `rounds`; None for what was written since then.
    """

    messages: tuple[Turn, ...]
    id: str
    task: str
    pool: str
    origin: str
    parents: tuple[str, ...]
    source: str
    author: str
    refined: bool
    refiner: str
    gap: float | None
    rounds: tuple[int, ...]
    thought: str


@dataclass(slots=True)
class _Origin:
    source: str = ""
    author: str = ""
    parents: tuple[str, ...] = ()
    refiner: str = ""


@dataclass(slots=True)
class _Trained:
    """Rounds, pool and last gap of one pair of instruction and response."""

    pool: str
    gap: float | None
    rounds: list[int] = field(default_factory=list)


def examples(run: RunReader, rounds: Sequence[int]) -> Iterator[ExportedExample]:
    """Yield each distinct pair of instruction and response once, in the order of the rounds.

    An instruction stands there twice if a later round trained on another response, for example because its
    refinement had failed before. The first two rows may come out of order: one with a gap and one with parents,
    so that a reader who infers the types from the beginning of a file meets every type there.

    Texts are streamed; what stays in memory is the lineage.
    """
    trained = _trained(run, rounds)
    origins = _origins(run, {name for name, _ in trained})
    first = {
        next((key for key, pair in trained.items() if pair.gap is not None), None),
        next((key for key in trained if origins[key[0]].parents), None),
    }
    for leading in (True, False):
        done: set[_Key] = set()
        for number in rounds:
            for row in run.learnt(number):
                key = _key(row)
                if (key in first) is leading and key not in done and trained[key].rounds[0] == number:
                    done.add(key)
                    pair, origin = trained[key], origins[row.id]
                    answer = Turn("assistant", after_thought(row.thought, row.response))
                    yield ExportedExample(
                        messages=(*row.context, Turn("user", row.instruction), answer),
                        id=row.id,
                        task=row.task,
                        pool=pair.pool,
                        origin=row.origin,
                        parents=origin.parents,
                        source=without_paths(origin.source),
                        author=without_paths(origin.author),
                        refined=row.refined,
                        refiner=without_paths(origin.refiner) if row.refined else "",
                        gap=pair.gap,
                        rounds=tuple(pair.rounds),
                        thought=row.thought,
                    )


def _key(row: MixtureRow) -> _Key:
    return row.id, hashlib.blake2b(row.response.encode(), digest_size=8).digest()


def _trained(run: RunReader, rounds: Sequence[int]) -> dict[_Key, _Trained]:
    trained: dict[_Key, _Trained] = {}
    gaps: dict[str, float | None] = {}
    for number in range(1, max(rounds, default=0) + 1):
        gaps.update((row.id, row.gap) for row in run.difficulty(number))
        if number in rounds:
            for row in run.learnt(number):
                pair = trained.setdefault(_key(row), _Trained(row.pool, None))
                pair.pool, pair.gap = row.pool, gaps.get(row.id)
                pair.rounds.append(number)
    return trained


def _origins(run: RunReader, wanted: set[str]) -> dict[str, _Origin]:
    origins = {name: _Origin() for name in wanted}
    for row in run.corpus():
        if row.id in origins:
            origins[row.id].source, origins[row.id].author = row.source, row.author
    for answer in run.responses():
        if answer.text is not None and answer.id in origins:
            origins[answer.id].author = answer.author
    for expansion in run.kept_expansions():
        if expansion.id in origins:
            origins[expansion.id] = _Origin(expansion.source, expansion.author, expansion.parents)
    for number in run.rounds("mixture"):
        for rewrite in run.refinements(number):
            if rewrite.text is not None and rewrite.id in origins:
                origins[rewrite.id].refiner = rewrite.author
    return origins


def without_paths(text: str) -> str:
    """Reduce every absolute path in a text to its last part, and replace every address.

    Within a longer text a path has at least two parts, so that "4 /5" stays as it is.
    """
    text = _ADDRESS.sub("address", text)
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else _WITHIN.sub(r"\1", text)
