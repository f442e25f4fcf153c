"""A corpus from rows: pairs with ids, a random part of them, and the part that is held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tapir.data.row import BadRow, Row
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.randomness import priorities
from tapir.errors import DataError
from tapir.roles import Prompt, Rejected

_NAMED = 3


def pairs(rows: Iterable[Row | BadRow], author: str) -> Iterator[Pair | Rejected]:
    """Every row as a pair, or as what was wrong with it; `author` is who wrote the answers."""
    for row in rows:
        if isinstance(row, BadRow):
            yield Rejected(row.place, row.reason, row.text)
        else:
            origin = Origin("corpus", source=row.place)
            yield Pair(Instruction.of(row.text, origin), Response(row.response, author if row.response else ""))


def sampled(found: Sequence[Pair | Rejected], limit: int, seed: int) -> list[Pair | Rejected]:
    """`limit` pairs chosen at random, in their order, and every rejected row; a limit of 0 takes all."""
    good = [place for place, one in enumerate(found) if isinstance(one, Pair)]
    if not limit or len(good) <= limit:
        return list(found)
    ids = [one.instruction.id for one in found if isinstance(one, Pair)]
    order = priorities(ids, seed).argsort(kind="stable")[:limit]
    chosen = {good[turn] for turn in order}
    return [one for place, one in enumerate(found) if place in chosen or isinstance(one, Rejected)]


def held_out(found: Sequence[Pair | Rejected], count: int, seed: int, *, answered: bool) -> list[Prompt]:
    """`count` instructions chosen at random, each text once, to be measured with and never trained on.

    Args:
        found: the corpus.
        count: how many.
        seed: chooses them.
        answered: whether the corpus's own answer is what the student is compared with; only instructions that
            have one are taken then. Otherwise the teacher answers.
    """
    usable = {
        one.instruction.id: one
        for one in found
        if isinstance(one, Pair) and one.instruction.text.strip() and (one.response.text.strip() or not answered)
    }
    order = priorities(list(usable), seed).argsort(kind="stable")[:count]
    ids = list(usable)
    return [_prompt(usable[ids[place]], answered=answered) for place in order]


def prompts(found: Iterable[Pair | Rejected], source: str) -> list[Prompt]:
    """Every row of an evaluation file as something to be measured with, each text once.

    Args:
        found: the rows.
        source: what the file is called in an error.

    Raises:
        DataError: a row is no prompt, or there is no row.
    """
    usable: dict[str, Pair] = {}
    bad: list[str] = []
    for one in found:
        if isinstance(one, Rejected):
            bad.append(f"{one.place}: {one.reason}")
        elif not one.instruction.text.strip():
            bad.append(f"{one.instruction.origin.source}: no instruction")
        else:
            usable[one.instruction.id] = one
    if bad:
        more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{source}: {len(bad):,} of its rows cannot be read: {'; '.join(bad[:_NAMED])}{more}",
            remedy="Mend or remove these rows: nothing is measured on less than was meant.",
        )
    if not usable:
        raise DataError(f"{source} holds no prompts", remedy="Name a file with at least one, or set held_out alone.")
    return [_prompt(one, answered=True) for one in usable.values()]


def _prompt(pair: Pair, *, answered: bool) -> Prompt:
    one = pair.instruction
    instruction = Instruction(one.id, one.text, Origin("evaluation", source=one.origin.source))
    return Prompt(instruction, "", pair.response.text if answered else "")
