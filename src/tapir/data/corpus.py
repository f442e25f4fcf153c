"""Corpora and evaluation sets: pairs with ids, random samples, held-out prompts, and the filter of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tapir.data.duplicates import FEW_WORDS, DuplicateIndex, words
from tapir.data.layouts import TURN, Row
from tapir.data.readers import records
from tapir.data.records import Record, unwrapped
from tapir.data.run.rows import CorpusRow, DropRow, NeighbourRow
from tapir.data.screen import unless_refusal
from tapir.domain.completion import always_fit
from tapir.domain.errors import DataError
from tapir.domain.evaluation import Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response, id_of, instruction_id, normalised
from tapir.domain.randomness import shuffled
from tapir.domain.roles import Rejected

_SHOWN = 3
_USERS = ("user", "human")
_PROMPTS = (
    *("instruction", "prompt", "question", "turns", "text", "problem", "input", "Instruction", "user_prompt"),
    *("messages", "conversation", "conversations", "conversation_input"),
)


def pairs(rows: Iterable[Row | Rejected], author: str) -> Iterator[Pair | Rejected]:
    """Turn rows into pairs; `author` wrote the answers."""
    for row in rows:
        if isinstance(row, Rejected):
            yield row
        else:
            origin = Origin("corpus", source=row.place)
            response = Response(row.response, author if row.response else "", row.thought)
            yield Pair(Instruction.of(row.text, origin, row.context), response)


def sample(corpus: Sequence[Pair | Rejected], limit: int, seed: int) -> list[Pair | Rejected]:
    """Choose `limit` pairs at random, in their order, and every rejected row; a limit of 0 takes all."""
    good = [place for place, row in enumerate(corpus) if isinstance(row, Pair)]
    if not limit or len(good) <= limit:
        return list(corpus)
    chosen = {*shuffled(good, lambda place: id_of(corpus[place]), seed)[:limit]}
    return [row for place, row in enumerate(corpus) if place in chosen or isinstance(row, Rejected)]


def held_out(corpus: Sequence[Pair | Rejected], count: int, seed: int, *, answered: bool) -> list[Prompt]:
    """Choose `count` instructions at random, each text once, to evaluate on; with `answered`, those with an answer."""
    usable = {
        row.instruction.id: row
        for row in corpus
        if isinstance(row, Pair) and row.instruction.text.strip() and (row.response.text.strip() or not answered)
    }
    return [_prompt(pair, answered=answered) for pair in shuffled(usable.values(), id_of, seed)[:count]]


def prompts(rows: Iterable[Pair | Rejected], source: str) -> list[Prompt]:
    """Return the prompts of an evaluation file, each text once."""
    usable: dict[str, Pair] = {}
    bad: list[str] = []
    for row in rows:
        if isinstance(row, Rejected):
            bad.append(f"{row.place}: {row.reason}")
        elif row.instruction.text.strip():
            usable[row.instruction.id] = row
        else:
            bad.append(f"{row.instruction.origin.source}: no instruction")
    if bad:
        more = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"{source}: {len(bad):,} of its rows cannot be read: {'; '.join(bad[:_SHOWN])}{more}",
            remedy="Fix or remove these rows; an evaluation needs every row to be valid.",
        )
    if not usable:
        raise DataError(f"{source} holds no prompts", remedy="Name a file with at least one, or set held_out alone.")
    return [_prompt(pair, answered=True) for pair in usable.values()]


def _prompt(pair: Pair, *, answered: bool) -> Prompt:
    instruction = replace(pair.instruction, origin=Origin("evaluation", source=pair.instruction.origin.source))
    return Prompt(instruction, "", pair.response.text if answered else "")


def conversation(place: str) -> str:
    """Return the place of the conversation that a row is one answer of; empty where it is the only one."""
    whole, _, number = place.rpartition(TURN)
    return whole if number.isdecimal() else ""


@dataclass(frozen=True, slots=True)
class CorpusFilter:
    """Conditions that a row of a corpus has to meet."""

    forbidden: DuplicateIndex  # the texts of all evaluation sets
    known: DuplicateIndex  # empty at first; what passes is added
    drop_near: bool = False  # a near-duplicate of an earlier row, rather than only report it
    unanswered: bool = False  # rows without an answer pass
    screen: Callable[[str], str] = always_fit  # why a text is not wanted in training
    held_out: Collection[str] = ()  # places of conversations of which another answer is measured with

    def sift(self, pairs: Iterable[Pair | Rejected]) -> Iterator[CorpusRow | DropRow | NeighbourRow]:
        """Yield every row, kept or dropped with the reason, and the near-duplicates among the kept ones."""
        seen: dict[str, str] = {}  # id by what is equal but for case and white space, of a conversation by its digest
        talks: dict[str, str] = {}  # of which conversation an instruction is, where several are
        for pair in pairs:
            if isinstance(pair, Rejected):
                yield DropRow(instruction_id(pair.text), "corpus", pair.reason, pair.place, pair.text)
                continue
            item, source = pair.instruction, pair.instruction.origin.source
            if reason := self._unusable(pair):
                yield DropRow(item.id, "corpus", reason, source, item.transcript)
                continue
            whole = normalised(item.transcript)
            whole = instruction_id(whole) if item.context else whole
            if whole in seen:
                yield DropRow(item.id, "corpus", "duplicate", f"{source} repeats {seen[whole]}", item.transcript)
                continue
            talk, match = conversation(source), self.known.find(item.user_text)
            if match and not (talk and talks.get(match.name) == talk):
                if self.drop_near:
                    detail = f"{source} repeats {match.name} ({match.near or 'the same user text'})"
                    yield DropRow(item.id, "corpus", "near-duplicate", detail, item.transcript)
                    continue
                yield NeighbourRow(item.id, match.name, round(match.similarity, 2), match.measure)
            if talk:
                talks[item.id] = talk
            seen[whole] = item.id
            self.known.learn(item.id, item.user_text)
            y = pair.response
            yield CorpusRow(item.id, item.text, y.text, y.author, source, item.context, y.thought)

    def _unusable(self, pair: Pair) -> str:
        item = pair.instruction
        if not item.text.strip():
            return "empty instruction"
        if not pair.response.text.strip() and not self.unanswered:
            return "still thinking" if pair.response.thought else "empty response"
        if reason := self.screen(pair.response.text) or unless_refusal(self.screen(item.transcript)):
            return reason.partition(": ")[0]
        return self._held_out(item)

    def _held_out(self, item: Instruction) -> str:
        match = self.forbidden.find(item.user_text)
        if match and not match.near:
            return "in an evaluation set"
        if self.held_out and conversation(item.origin.source) in self.held_out:
            return "of a held-out conversation"
        turns = item.user_turns
        if len(turns) > 1 and any(map(self.forbidden.equal, turns)):
            return "in an evaluation set"
        return "near an evaluation item" if match else ""


def pair_of(row: CorpusRow) -> Pair:
    """Return the pair of a row of corpus.parquet."""
    instruction = Instruction(row.id, row.text, Origin("corpus", source=row.source), row.context)
    return Pair(instruction, Response(row.response, row.author, row.thought))


def protected(turns: Sequence[str]) -> list[str]:
    """Return what a prompt keeps out of training: all that the user says, and each turn of more than a few words."""
    return ["\n\n".join(turns), *(turn for turn in turns if len(words(turn)) >= FEW_WORDS)]


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of every prompt of an evaluation set such as AlpacaEval, MT-Bench, IFEval, GSM8K or BBH.

    Of a conversation they are what is `protected`; an instruction with an input counts alone and together with it.
    """
    row: Record | Rejected | None = None
    for row in unwrapped(records(path), _PROMPTS):
        prompts = [] if isinstance(row, Rejected) else list(_prompt_texts(row.fields))
        if not prompts:
            why = row.reason if isinstance(row, Rejected) else f"has no text in a column {', '.join(_PROMPTS)}"
            raise DataError(
                f"{row.place} of the evaluation set {path}: {why}",
                remedy="Rename the column with the prompt, e.g. to `instruction`; or remove the row.",
            )
        yield from ((instruction_id(text), text) for text in prompts)
    if row is None:
        raise DataError(f"the evaluation set {path} is empty", remedy="Check evaluation.protect.")


def _asked(turn: Any) -> Any:
    """Return what the user says in a turn; nothing for the turn of another."""
    if not isinstance(turn, dict):
        return turn
    return turn.get("content") or turn.get("value") if turn.get("role", turn.get("from", "user")) in _USERS else None


def _prompt_texts(fields: Mapping[str, Any]) -> Iterator[str]:
    name = next((name for name in _PROMPTS if fields.get(name)), "")
    value, given = fields.get(name), fields.get("input")
    if isinstance(value, str) and value.strip():
        yield value
        if name != "input" and isinstance(given, str) and given.strip():
            yield f"{value}\n\n{given}"
    elif isinstance(value, list):
        turns = [text for text in map(_asked, value) if isinstance(text, str) and text.strip()]
        yield from protected(turns) if turns else ()
