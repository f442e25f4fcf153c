"""Our own plain format: one JSON object a line, one judgement of two answers each. docs/audit.md describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tapir.audit.gathering import Gathering
from tapir.audit.pairs import Choice, Item, Order, Vote, by_scores, digest, number, pair_id
from tapir.errors import DataError

Fields = dict[str, Any]

KEYS = (
    "id",
    "prompt_id",
    "instruction",
    "answer_a",
    "answer_b",
    "verdict",
    "score_a",
    "score_b",
    "label",
    "order",
    "length_a",
    "length_b",
    "model_a",
    "model_b",
    "judge",
    "constant",
    "unreadable",
    "price",
    "seconds",
)
LABEL = "label"
_CHOICES: dict[str, Choice] = {"a": "a", "b": "b", "tie": "tie"}


def own(row: Fields, into: Gathering, place: str = "") -> None:
    """One line of the plain format.

    Raises:
        DataError: the row does not say what was judged, or `order` or `constant` hold what they cannot.
    """
    item = _item(row, place)
    rater, order = str(row.get("judge") or "judge"), _order(row, place)
    said = False
    if "score_a" in row or "score_b" in row:
        into.add(item, _scored(row, item, rater, order))
        said = True
    elif "verdict" in row or row.get("unreadable"):
        into.add(item, _verdict(item.id, rater, row.get("verdict"), order, str(row.get("unreadable") or "")))
        said = True
    if said:
        into.paid(rater, number(row.get("price")), number(row.get("seconds")))
    for name, value in _labels(row.get("label")):
        into.label(item, _verdict(item.id, name, value, "", ""))
        said = True
    if not said:
        raise DataError(
            f"{place}: there is no verdict, no pair of scores and no label",
            remedy='A line needs "verdict" ("a", "b", "tie"), "score_a" and "score_b", or "label". See docs/audit.md.',
        )


def _item(row: Fields, place: str) -> Item:
    texts = row.get("answer_a"), row.get("answer_b")
    prompt = row.get("prompt_id", row.get("instruction"))
    known = isinstance(texts[0], str) and isinstance(texts[1], str)
    models = str(row.get("model_a") or ""), str(row.get("model_b") or "")
    if row.get("id") is not None:
        name = str(row["id"])
    elif prompt is None:
        raise DataError(
            f"{place}: nothing says what was judged",
            remedy='Give every line an "id", a "prompt_id" or the "instruction". See docs/audit.md.',
        )
    elif known and "instruction" in row:
        name = pair_id(str(row["instruction"]), str(texts[0]), str(texts[1]))
    else:
        name = "/".join((str(prompt) if "prompt_id" in row else digest(str(prompt)), *filter(None, sorted(models))))
    constant: Any = row.get("constant") or ""
    if constant not in {"", "a", "b"}:
        raise DataError(f'{place}: "constant" is {constant!r}', remedy='It names the constant answer: "a" or "b".')
    first, second = (str(text) if known else "" for text in texts)
    lengths = [_length(row.get(f"length_{one}"), text, known=known) for one, text in (("a", first), ("b", second))]
    return Item(
        name,
        str(name if prompt is None else prompt),
        digest(first) if known else "",
        digest(second) if known else "",
        *models,
        length_a=lengths[0],
        length_b=lengths[1],
        constant=constant,
    )


def _length(value: object, text: str, *, known: bool) -> int | None:
    given = number(value)
    if given is not None:
        return int(given)
    return len(text) if known else None


def _order(row: Fields, place: str) -> Order:
    order = str(row.get("order") or "").casefold()
    if order not in {"", "ab", "ba"}:
        raise DataError(
            f'{place}: "order" is {row["order"]!r}', remedy='It is "ab" or "ba", whichever was shown first.'
        )
    return "ab" if order == "ab" else "ba" if order == "ba" else ""


def _scored(row: Fields, item: Item, rater: str, order: Order) -> Vote:
    first, second = number(row.get("score_a")), number(row.get("score_b"))
    if first is None or second is None:
        missing = row.get("score_a") is None or row.get("score_b") is None
        why = "a score is missing" if missing else "a score is not a finite number"
        return Vote(item.id, rater, None, order=order, unreadable=str(row.get("unreadable") or why))
    return by_scores(item.id, rater, (first, second), order)


def _verdict(item: str, rater: str, value: object, order: Order, why: str) -> Vote:
    choice = _CHOICES.get(str(value).strip().casefold())
    if choice is None:
        why = why or ("no verdict" if value is None else f"'{str(value)[:40]}' is no verdict")
    return Vote(item, rater, choice, order=order, unreadable="" if choice else why)


def _labels(value: object) -> Iterable[tuple[str, object]]:
    """One label, a list of them, or a name for each."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [(str(name), one) for name, one in value.items()]
    if isinstance(value, list):
        return [(f"{LABEL} {place}", one) for place, one in enumerate(value, 1)]
    return [(LABEL, value)]
