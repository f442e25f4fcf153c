"""What a judge goes by that it should not: the place, the length, its own kin, chance, an answer that says nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeAlias

from tapir.audit.families import family
from tapir.audit.measures import Figure, difference, excess, mean, share, spread, undefined, win_share
from tapir.audit.pairs import Choice, Item, Order, Rating, Vote
from tapir.audit.panel import Panel, most, sign, verdicts

Figures: TypeAlias = dict[str, Figure]

_TWICE = 2
_NOT_TWICE = "no item was judged twice in the same order"


def order(panel: Panel, rater: str) -> Figures:
    """What changes with the display order, and which place it favours."""
    changed: list[bool] = []
    reversed_: list[bool] = []
    first: list[bool] = []
    prompts: list[str] = []
    favoured: list[str] = []
    for name, votes in panel.by_rater.get(rater, {}).items():
        shown = {way: _in_order(votes, way) for way in ("ab", "ba")}
        one, other = shown["ab"], shown["ba"]
        if one is None or other is None:
            continue
        prompts.append(panel.prompt(name))
        changed.append(one != other)
        reversed_.append({one, other} == {"a", "b"})
        if one != other:
            first.append(sign(one) > sign(other))
            favoured.append(panel.prompt(name))
    nothing = "no pair was judged in both orders"
    return {
        "flips": share(changed, prompts, nothing),
        "reversals": share(reversed_, prompts, nothing),
        "favours_first": share(first, favoured, nothing if not changed else "no verdict changes with the order"),
        "first_shown": first_shown(panel, [rater]),
    }


def _in_order(votes: Sequence[Vote], way: Order) -> Choice | None:
    found = [one.choice for one in votes if one.order == way and one.choice]
    return (most(found) or "tie") if found else None


def first_shown(panel: Panel, raters: Sequence[str]) -> Figure:
    """How often the answer shown first is the better one, in every decided vote whose order is known."""
    hits: list[bool] = []
    prompts: list[str] = []
    for rater in raters:
        for name, votes in panel.by_rater.get(rater, {}).items():
            for one in votes:
                if one.order and one.choice in {"a", "b"}:
                    hits.append(one.choice == one.order[0])
                    prompts.append(panel.prompt(name))
    return share(hits, prompts, "no decided verdict whose display order is known")


def ties(panel: Panel, choices: Mapping[str, Choice]) -> Figure:
    """Share of items on which the verdict is a tie."""
    prompts = [panel.prompt(name) for name in choices]
    return share([one == "tie" for one in choices.values()], prompts, "no verdict")


def length(panel: Panel, choices: Mapping[str, Choice], labels: Mapping[str, Choice]) -> Figures:
    """How often the longer answer wins, and how much more often than to the reference on the same pairs."""
    longer = {name: _longer(panel.items[name]) for name in choices}
    decided = [name for name, one in choices.items() if one != "tie" and longer[name]]
    known = any(one.length_a is not None and one.length_b is not None for one in panel.items.values())
    nothing = "no decided pair of unequal length" if known else "the lengths of the answers are not known"
    both = [name for name in decided if labels.get(name, "tie") != "tie"]
    return {
        "longer": share(
            [choices[one] == longer[one] for one in decided], [panel.prompt(one) for one in decided], nothing
        ),
        "longer_excess": excess(
            [choices[one] == longer[one] for one in both],
            [labels[one] == longer[one] for one in both],
            [panel.prompt(one) for one in both],
            nothing if not known else "no pair of unequal length that both decide",
        ),
    }


def _longer(item: Item) -> Choice | None:
    if item.length_a is None or item.length_b is None or item.length_a == item.length_b:
        return None
    return "a" if item.length_a > item.length_b else "b"


def own_kin(panel: Panel, rater: str, choices: Mapping[str, Choice], labels: Mapping[str, Choice]) -> Figures:
    """How often answers of the judge's own family win against others, a tie counting half, and to the reference."""
    kin = family(rater)
    if not kin:
        why = f"the name '{rater}' tells no model family"
        return {"own": undefined(why), "own_excess": undefined(why)}
    sides: dict[str, Choice] = {}
    for name in choices:
        item = panel.items[name]
        mine = family(item.model_a) == kin, family(item.model_b) == kin
        if mine[0] != mine[1] and item.model_a and item.model_b:
            sides[name] = "a" if mine[0] else "b"
    nothing = f"no pair has one answer by the judge's family ({kin}) and one by another"
    both = [name for name in sides if name in labels]
    wins = {name: _won(choices[name], mine) for name, mine in sides.items()}
    return {
        "own": win_share(list(wins.values()), [panel.prompt(one) for one in wins], nothing),
        "own_excess": mean(
            [wins[one] - _won(labels[one], sides[one]) for one in both],
            [panel.prompt(one) for one in both],
            nothing if not sides else "there are no labels to compare with",
        ),
    }


def _won(choice: Choice, mine: Choice) -> float:
    return 0.5 if choice == "tie" else float(choice == mine)


def own_kin_scores(panel: Panel, rater: str) -> Figures:
    """Mean score of the judge's own family minus that of others, and the same to the reference taken off."""
    kin = family(rater)
    if not kin:
        return {"own": undefined(f"the name '{rater}' tells no model family")}
    scores = {name: fmean(some) for name, some in panel.scores.get(rater, {}).items()}
    own = [name for name in scores if family(panel.items[name].model_a) == kin]
    rest = [name for name in scores if panel.items[name].model_a and name not in set(own)]
    nothing = f"no answer is by the judge's family ({kin})" if not own else "every answer is by the judge's family"
    found = {"own": _apart(panel, scores, own, rest, nothing)}
    if panel.marks:
        more = {name: one - panel.marks[name] for name, one in scores.items() if name in panel.marks}
        known = [name for name in own if name in more], [name for name in rest if name in more]
        found["own_excess"] = _apart(panel, more, *known, nothing if not own else "no label for these answers")
    return found


def _apart(panel: Panel, scores: Mapping[str, float], own: Sequence[str], rest: Sequence[str], why: str) -> Figure:
    return difference(
        [scores[one] for one in own],
        [panel.prompt(one) for one in own],
        [scores[one] for one in rest],
        [panel.prompt(one) for one in rest],
        why,
    )


def variance(panel: Panel, rater: str) -> Figures:
    """How far repeated judgements of one item in one order differ."""
    groups: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for name, votes in panel.by_rater.get(rater, {}).items():
        for one in votes:
            groups[name, one.order].append(one)
    again = {key: some for key, some in groups.items() if len(some) >= _TWICE}
    prompts = [panel.prompt(name) for name, _ in again]
    found = {
        "identical": share([len({one.choice for one in some}) == 1 for some in again.values()], prompts, _NOT_TWICE)
    }
    scored = {key: [one.lead for one in some if one.lead is not None] for key, some in again.items()}
    scored = {key: some for key, some in scored.items() if len(some) >= _TWICE}
    nothing = "there are no scores" if again else _NOT_TWICE
    found["within"] = spread(list(scored.values()), [panel.prompt(name) for name, _ in scored], nothing)
    return found


def variance_of_scores(panel: Panel, rater: str) -> Figures:
    """How far repeated scores of one answer differ."""
    again = {name: some for name, some in panel.scores.get(rater, {}).items() if len(some) >= _TWICE}
    prompts = [panel.prompt(name) for name in again]
    nothing = "no answer was scored twice by this rater"
    return {
        "identical": share([len(set(some)) == 1 for some in again.values()], prompts, nothing),
        "within": spread(list(again.values()), prompts, nothing),
    }


def canary(panel: Panel, rater: str) -> Figures:
    """How an answer that says the same whatever is asked fares."""
    votes = panel.canary.get(rater, {})
    nothing = "no constant answer was judged"
    wins = {name: _won(choice, panel.items[name].constant or "tie") for name, choice in verdicts(votes).items()}
    prompts = [panel.prompt(name) for name in wins]
    constant: dict[str, list[float]] = defaultdict(list)
    other: dict[str, list[float]] = defaultdict(list)
    for name, some in votes.items():
        for one in some:
            if one.scores:
                mine = 0 if panel.items[name].constant == "a" else 1
                constant[name].append(one.scores[mine])
                other[name].append(one.scores[1 - mine])
    scored = [panel.prompt(name) for name in constant]
    without = "constant answers have no scores" if votes else nothing
    return {
        "constant_wins": win_share(list(wins.values()), prompts, nothing),
        "constant_score": mean([fmean(some) for some in constant.values()], scored, without),
        "other_score": mean([fmean(some) for some in other.values()], scored, without),
    }


def unreadable(panel: Panel, said: Iterable[Vote | Rating]) -> tuple[Figure, dict[str, int]]:
    """Share of judgements that give no verdict, and how many for each reason."""
    reasons = [(one.item, one.unreadable) for one in said]
    figure = share([bool(why) for _, why in reasons], [panel.prompt(name) for name, _ in reasons], "no judgement")
    return figure, dict(Counter(why for _, why in reasons if why).most_common())
