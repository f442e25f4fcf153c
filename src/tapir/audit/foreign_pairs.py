"""Files of others in which two answers are compared: PandaLM, LLMBar, Tulu, MT-Bench, AlpacaEval, ranked pairs.

Every function takes one row and gives it to the gathering. A verdict that is none is kept as unreadable.
"""

from __future__ import annotations

import math
from typing import Any

from tapir.audit.gathering import Gathering
from tapir.audit.pairs import Choice, Item, Order, Rating, Vote, digest, number, pair_id, side

Fields = dict[str, Any]

_NUMBERED: dict[str, Choice] = {"1": "a", "2": "b", "0": "tie", "tie": "tie"}
_LETTERED: dict[str, Choice] = {"a": "a", "b": "b", "tie": "tie", "c": "tie"}
_TULU: dict[str, float] = {
    "a-is-better": 2.0,
    "a-is-slightly-better": 1.0,
    "tie": 0.0,
    "b-is-slightly-better": -1.0,
    "b-is-better": -2.0,
}
_ACCEPTABLE = {"yes": 1.0, "no": 0.0}
_HUMAN = ("author_", "expert_", "human")
_NO_ANSWER = "no verdict"


def two_answers(prompt: str, first: str, second: str, models: tuple[str, str] = ("", "")) -> Item:
    """The item that two texts make; its id is that of the texts."""
    return Item(
        pair_id(prompt, first, second),
        prompt,
        digest(first),
        digest(second),
        *models,
        length_a=len(first),
        length_b=len(second),
    )


def pandalm(row: Fields, into: Gathering) -> None:
    """PandaLM's test set: three annotators, and judges in columns that end in `_result`; the id is `idx`."""
    prompt = f"{row['instruction']}\n{row.get('input') or ''}"
    first, second = str(row["response1"]), str(row["response2"])
    models = str(row.get("cmp_key") or "").split("_")
    known = (models[0], models[1]) if len(models) == 2 else ("", "")  # noqa: PLR2004
    item = Item(
        str(row["idx"]), prompt, digest(first), digest(second), *known, length_a=len(first), length_b=len(second)
    )
    for column, value in row.items():
        person = column.startswith("annotator")
        if not (person or column.endswith("_result")):
            continue
        name = column if person else column.removesuffix("_result")
        if person:
            into.people.add(name)
        into.add(item, _chosen(item.id, name, value, _NUMBERED, "" if person else "ab"))


def llmbar(row: Fields, into: Gathering) -> None:
    """LLMBar: one label by people, and in its `result.json` the verdicts of a judge in both orders."""
    item = two_answers(str(row["input"]), str(row["output_1"]), str(row["output_2"]))
    into.people.add("label")
    into.add(item, _chosen(item.id, "label", row["label"], _NUMBERED, ""))
    for one in row.get("results") or ():
        for key, order in (("swap = False", "ab"), ("swap = True", "ba")):
            said = one.get(key)
            if isinstance(said, dict):
                # The winner is named by the place of the output in the file, not by the place it was shown in.
                into.add(
                    item, _chosen(item.id, "judge", said.get("winner"), _NUMBERED, "ab" if order == "ab" else "ba")
                )


def tulu(row: Fields, into: Gathering) -> None:
    """Open-Instruct's human evaluation of Tulu, by several people: a preference in five steps, each answer fit or not.

    Whether an answer is acceptable is a rating of 1 or 0. The order shown is chance, so which answer is `a` goes by the
    model: κ depends on it.
    """
    texts = str(row["completion_a"]), str(row["completion_b"])
    shown = two_answers(str(row["prompt"]), *texts, (str(row.get("model_a") or ""), str(row.get("model_b") or "")))
    item = shown.turned() if shown.model_a > shown.model_b else shown
    rater = str(row.get("evaluator") or "evaluator")
    into.people.add(rater)
    said = row.get("preference")
    lead = _TULU.get(str(said))
    if lead is None:
        vote = Vote(item.id, rater, None, order="ab", unreadable=_unreadable(said))
    else:
        vote = Vote(item.id, rater, side(lead), lead, "ab")
    into.add(item, vote if item is shown else vote.turned())
    for answer, text, model in (("a", texts[0], shown.model_a), ("b", texts[1], shown.model_b)):
        fit = _ACCEPTABLE.get(str(row.get(f"completion_{answer}_is_acceptable")))
        single = Item(digest(item.prompt, text), item.prompt, digest(text), model_a=model, length_a=len(text))
        into.add(single, Rating(single.id, rater, fit, "" if fit is not None else _NO_ANSWER))


def ranked(row: Fields, into: Gathering) -> None:
    """Preference pairs (`chosen`, `rejected`) as they are used for training: one verdict each, by a judge not named.

    The better answer stands in the same column of every row; which is `a` is decided by the texts, so that a verdict
    says something.
    """
    prompt = f"{row.get('instruction', row.get('prompt', ''))}\n{row.get('input') or ''}"
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    first, second = sorted((chosen, rejected), key=digest)
    item = two_answers(prompt, first, second)
    choice: Choice = "tie" if chosen == rejected else "a" if first == chosen else "b"
    into.add(item, Vote(item.id, str(row.get("judge") or "judge"), choice))


def alpaca_eval(row: Fields, into: Gathering) -> None:
    """AlpacaEval's annotations: 1 for the first output to 2 for the second, whole or weighted by probability.

    The order shown is chance and is read off the judge's first token, where it was recorded: `m` stands for the
    output shown first, `M` for the one shown second.
    """
    models = str(row.get("generator_1") or ""), str(row.get("generator_2") or "")
    item = two_answers(str(row["instruction"]), str(row["output_1"]), str(row["output_2"]), models)
    rater = str(row.get("annotator") or "judge")
    if rater in {"humans", "human"} or "annotator_index" in row:
        rater = f"human {row['annotator_index']}" if "annotator_index" in row else rater
        into.people.add(rater)
    value = number(row.get("preference"))
    if value == 0:
        value = 1.5  # how earlier versions wrote a draw
    if value is None or not 1 <= value <= 2:  # noqa: PLR2004
        into.add(item, Vote(item.id, rater, None, unreadable=_unreadable(row.get("preference"))))
    else:
        lead = 3 - 2 * value
        into.add(item, Vote(item.id, rater, side(lead), lead, _order_of(row.get("raw_completion"), lead)))
    into.paid(rater, number(row.get("price_per_example")), number(row.get("time_per_example")))


def mt_bench_pairs(row: Fields, into: Gathering) -> None:
    """MT-Bench comparisons judged in both orders, or by people; `winner_ab` names the place shown, A or B."""
    models = str(row.get("model_a", row.get("model_1", ""))), str(row.get("model_b", row.get("model_2", "")))
    rater = _judge(row.get("judge_id", row.get("judge", "judge")))
    question, turn = str(row["question_id"]), str(row.get("turn", ""))
    item = Item("/".join((question, turn, *sorted(models))), question, model_a=models[0], model_b=models[1])
    if "winner_ab" in row:
        turned: dict[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}
        first = _chosen(item.id, rater, row["winner_ab"], _LETTERED, "ab")
        shown = _chosen(item.id, rater, row["winner_ba"], _LETTERED, "ba")
        choice = turned[shown.choice] if shown.choice else None
        into.add(item, first, Vote(item.id, rater, choice, order="ba", unreadable=shown.unreadable))
        return
    names: dict[str, Choice] = {"model_1": "a", "model_2": "b", "model_a": "a", "model_b": "b", "tie": "tie"}
    if "g1_winner" in row:
        for column, order in (("g1_winner", "ab"), ("g2_winner", "ba")):
            into.add(item, _chosen(item.id, rater, row.get(column), names, "ab" if order == "ab" else "ba"))
        return
    if rater.startswith(_HUMAN):
        into.people.add(rater)
    names["tie (inconsistent)"] = "tie"
    into.add(item, _chosen(item.id, rater, row.get("winner"), names, ""))


def _judge(value: object) -> str:
    """FastChat writes a judge as a name, or as a list of its name and its prompt."""
    return str(value[0]) if isinstance(value, list) and value else str(value)


def _chosen(item: str, rater: str, value: object, names: dict[str, Choice], order: Order) -> Vote:
    choice = names.get(str(value).strip().casefold())
    return Vote(item, rater, choice, order=order, unreadable="" if choice else _unreadable(value))


def _unreadable(value: object) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return _NO_ANSWER
    return f"'{str(value)[:40]}' is no verdict"


def _order_of(raw: object, lead: float) -> Order:
    """The order that was shown, from the most probable of the two tokens and from whom it made the winner."""
    try:
        tokens = raw["logprobs"]["content"][0]["top_logprobs"]  # type: ignore[index]
        token = next(one["token"] for one in tokens if one["token"] in {"m", "M"})
    except (TypeError, KeyError, IndexError, StopIteration):
        return ""
    if lead == 0:
        return ""
    return "ab" if (token == "m") == (lead > 0) else "ba"  # noqa: S105
