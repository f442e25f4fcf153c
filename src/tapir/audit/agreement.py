"""How far a judge agrees with the reference, and people with one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, TypeAlias

from tapir.audit.measures import Figure, kappa, mean, ranks, share, undefined
from tapir.audit.pairs import Choice
from tapir.audit.panel import Panel, leads, verdicts

Figures: TypeAlias = dict[str, Figure]
Said: TypeAlias = tuple[list[Any], list[Any], list[str]]
"""What one said, what the other said, and the prompt, row by row."""

CHOICES: tuple[Choice, ...] = ("a", "b", "tie")
_NO_REFERENCE = "there is no reference: name labels with --labels, or a judge with --reference"
_NO_PAIR = "no pair has both verdicts"
_NO_DECIDED = "no pair on which both decide"
_ALONE = "no item was labelled by two people"


def agreement(panel: Panel, judge: str) -> Figures:
    """A judge's verdicts against those of the reference, and against single people."""
    if not panel.reference and not panel.people:
        return {key: undefined(_NO_REFERENCE) for key in ("agreement", "decided", "kappa", "kendall", "spearman")}
    own = verdicts(panel.by_rater.get(judge, {}))
    found = _classes(_paired(panel, own, panel.labels), "")
    found |= _order_of_leads(panel, judge)
    if len(panel.people) > 1:
        found |= _classes(_with_each(panel, own), "_one")
    return found


def among_people(panel: Panel) -> Figures:
    """Two people with one another: the ceiling for a judge's agreement with one person.

    Every pair of people on an item counts once in each direction, so that κ is Fleiss' (1971), which for two raters is
    Scott's π.
    """
    found: Figures = {}
    if len(panel.people) > 1:
        found |= _classes(_each_pair(panel), "_one", _ALONE)
    return found


def rating_agreement(panel: Panel, judge: str) -> Figures:
    """A judge's scores of single answers against those of the reference."""
    keys = ("same", "quadratic", "kendall", "spearman", "higher", "order_of_answers")
    if not panel.reference and not panel.people:
        return {key: undefined(_NO_REFERENCE) for key in keys}
    own = {name: fmean(some) for name, some in panel.scores.get(judge, {}).items()}
    first, second, prompts = _paired(panel, own, panel.marks)
    nothing = "no answer has both scores"
    found = {
        "same": share([one == other for one, other in zip(first, second, strict=True)], prompts, nothing),
        "quadratic": _quadratic(first, second, prompts),
        "kendall": ranks(first, second, prompts, "kendall"),
        "spearman": ranks(first, second, prompts, "spearman"),
        "higher": mean([one - other for one, other in zip(first, second, strict=True)], prompts, nothing),
    }
    return found | {"order_of_answers": _same_order(panel, own)}


def ratings_among_people(panel: Panel) -> Figures:
    """Two people's scores of the same answer with one another."""
    scores = {one: {name: fmean(some) for name, some in panel.scores.get(one, {}).items()} for one in panel.people}
    first, second, prompts = _symmetric(panel, scores)
    if not first:
        return {}
    same = [one == other for one, other in zip(first, second, strict=True)]
    return {
        "same_one": _halved(share(same, prompts, _ALONE)),
        "quadratic_one": _halved(_quadratic(first, second, prompts)),
    }


def _classes(said: Said, suffix: str, nothing: str = _NO_PAIR) -> Figures:
    first, second, prompts = said
    both = [at for at, pair in enumerate(zip(first, second, strict=True)) if "tie" not in pair]
    same = [one == other for one, other in zip(first, second, strict=True)]
    some = [prompts[at] for at in both]
    found = {
        f"agreement{suffix}": share(same, prompts, nothing),
        f"decided{suffix}": share([same[at] for at in both], some, _NO_DECIDED),
        f"kappa{suffix}": kappa(first, second, prompts, CHOICES) if first else undefined(nothing),
    }
    return {key: _halved(one) for key, one in found.items()} if nothing == _ALONE else found


def _halved(one: Figure) -> Figure:
    """A figure over pairs of people that were counted in both directions."""
    return Figure(one.value, one.n // 2, one.low, one.high, one.why)


def _order_of_leads(panel: Panel, judge: str) -> Figures:
    own = leads(panel.by_rater.get(judge, {}))
    first, second, prompts = _paired(panel, own, panel.leads)
    if not any(one.lead is not None for one in panel.votes if one.rater in {judge, panel.reference, *panel.people}):
        why = "nobody gave scores, only choices"
        return {"kendall": undefined(why), "spearman": undefined(why)}
    return {
        "kendall": ranks(first, second, prompts, "kendall"),
        "spearman": ranks(first, second, prompts, "spearman"),
    }


def _paired(panel: Panel, own: Mapping[str, Any], other: Mapping[str, Any]) -> Said:
    names = [name for name in own if name in other]
    return [own[name] for name in names], [other[name] for name in names], [panel.prompt(name) for name in names]


def _with_each(panel: Panel, own: Mapping[str, Choice]) -> Said:
    """The judge's verdict beside that of every single person."""
    rows: Said = ([], [], [])
    for person in panel.people:
        for place, column in enumerate(_paired(panel, own, verdicts(panel.by_rater.get(person, {})))):
            rows[place].extend(column)
    return rows


def _each_pair(panel: Panel) -> Said:
    return _symmetric(panel, {one: verdicts(panel.by_rater.get(one, {})) for one in panel.people})


def _symmetric(panel: Panel, said: Mapping[str, Mapping[str, Any]]) -> Said:
    """Every two people on every item, in both directions."""
    by_item: dict[str, list[Any]] = defaultdict(list)
    for rater in said.values():
        for name, one in rater.items():
            by_item[name].append(one)
    rows: Said = ([], [], [])
    for name, some in by_item.items():
        for left, right in combinations(some, 2):
            for one, other in ((left, right), (right, left)):
                rows[0].append(one)
                rows[1].append(other)
                rows[2].append(panel.prompt(name))
    return rows


def _quadratic(first: Sequence[float], second: Sequence[float], prompts: Sequence[str]) -> Figure:
    if not first:
        return undefined("no answer has both scores")
    both = [*first, *second]
    step = next((one for one in (1.0, 0.5) if all((score / one).is_integer() for score in both)), None)
    if step is None:
        return undefined("the scores are no levels: not all are whole or half points", len(first))
    count = round((max(both) - min(both)) / step) + 1
    levels = [min(both) + step * place for place in range(count)]
    return kappa(first, second, prompts, levels, quadratic=True)


def _same_order(panel: Panel, own: Mapping[str, float]) -> Figure:
    """Of two answers to one question that the reference tells apart: how often the judge has the same one ahead."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in own:
        if name in panel.marks:
            item = panel.items[name]
            groups[name.removesuffix(f"/{item.model_a}") if item.model_a else item.prompt].append(name)
    hits: list[float] = []
    prompts: list[str] = []
    for name, other in _pairs_of(groups):
        gap, apart = own[name] - own[other], panel.marks[name] - panel.marks[other]
        if apart:
            hits.append(0.5 if gap == 0 else float((gap > 0) == (apart > 0)))
            prompts.append(panel.prompt(name))
    return mean(hits, prompts, "no two answers to one question that the reference tells apart")


def _pairs_of(groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for some in groups.values():
        yield from combinations(some, 2)
