"""Judge biases: position, length, self-preference, variance, null answers.

Every function takes votes and the pairs they are about, wherever these come from; `votes` are the readable votes of
one rater by pair (`panel.group_votes`), `choices` its verdicts (`panel.verdicts`), `labels` those of a reference.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from tapir.evaluation.audit.metrics import TABLES, Metric, Metrics, mean, share, spread, undefined
from tapir.evaluation.audit.panel import most_frequent, sign, verdicts
from tapir.evaluation.audit.records import AnswerPair, Choice, Order, Pairs, Vote, Votes, prompts_of, side

_TWICE = 2


def model_family(model: str) -> str:
    """Return the family in a model's name; "" where there is none, as of a fine-tuned model with a name of its own."""
    name = model.casefold().replace("_", "-")
    return next((family for family, pattern in TABLES["families"].items() if re.search(pattern, name)), "")


def position_consistency(votes: Votes, pairs: Pairs) -> Metrics:
    """Return how often the display order changes the verdict, and which position it favours.

    `flips`: the verdict differs between the orders; `reversals`: the other answer wins; `favours_first`: of the flips,
    those in favour of the answer shown first; `first_shown`: as `first_position` says.
    """
    both: dict[str, tuple[Choice, Choice]] = {}
    for name, group in votes.items():
        first, second = _choice_in(group, "ab"), _choice_in(group, "ba")
        if first and second:
            both[name] = first, second
    flipped = [name for name, (first, second) in both.items() if first != second]
    prompts = prompts_of(pairs, both)
    missing = "no pair was judged in both orders"
    return {
        "flips": share([first != second for first, second in both.values()], prompts, missing),
        "reversals": share([set(choices) == {"a", "b"} for choices in both.values()], prompts, missing),
        "favours_first": share(
            [sign(both[name][0]) > sign(both[name][1]) for name in flipped],
            prompts_of(pairs, flipped),
            "no verdict changes with the order" if both else missing,
        ),
        "first_shown": first_position([vote for group in votes.values() for vote in group], pairs),
    }


def _choice_in(votes: Sequence[Vote], order: Order) -> Choice | None:
    choices = [vote.choice for vote in votes if vote.order == order and vote.choice]
    return (most_frequent(choices) or "tie") if choices else None


def first_position(votes: Iterable[Vote], pairs: Pairs) -> Metric:
    """Return how often the answer shown first wins, among decided votes whose order is known."""
    decided = [vote for vote in votes if vote.order and vote.choice in {"a", "b"}]
    hits = [vote.choice == vote.order[0] for vote in decided]
    prompts = prompts_of(pairs, (vote.pair for vote in decided))
    return share(hits, prompts, "no decided verdict whose display order is known")


def tie_share(choices: Mapping[str, Choice], pairs: Pairs) -> Metric:
    """Return the share of pairs on which the verdict is a tie."""
    return share([choice == "tie" for choice in choices.values()], prompts_of(pairs, choices), "no verdict")


def length_preference(choices: Mapping[str, Choice], pairs: Pairs, labels: Mapping[str, Choice]) -> Metrics:
    """Return how often the longer answer wins, and how much more often than with the reference on the same pairs."""
    longer = {name: _longer(pairs[name]) for name in choices}
    decided = [name for name, choice in choices.items() if choice != "tie" and longer[name]]
    both = [name for name in decided if labels.get(name, "tie") != "tie"]
    known = any(pair.length_a is not None and pair.length_b is not None for pair in pairs.values())
    unknown = "the lengths of the answers are not known"
    return {
        "longer": share(
            [choices[name] == longer[name] for name in decided],
            prompts_of(pairs, decided),
            "no decided pair of unequal length" if known else unknown,
        ),
        "longer_excess": mean(
            [float(choices[name] == longer[name]) - float(labels[name] == longer[name]) for name in both],
            prompts_of(pairs, both),
            "no pair of unequal length that both decide" if known else unknown,
        ),
    }


def _longer(pair: AnswerPair) -> Choice | None:
    if pair.length_a is None or pair.length_b is None or pair.length_a == pair.length_b:
        return None
    return side(pair.length_a - pair.length_b)


def self_preference(rater: str, choices: Mapping[str, Choice], pairs: Pairs, labels: Mapping[str, Choice]) -> Metrics:
    """Return how often answers of the judge's own family win, a tie counting half; and their excess."""
    family = model_family(rater)
    if not family:
        return dict.fromkeys(("own", "own_excess"), undefined(f"the name '{rater}' tells no model family"))
    own: dict[str, Choice] = {}
    for name in choices:
        models = pairs[name].model_a, pairs[name].model_b
        first, second = (model_family(model) == family for model in models)
        if first != second and all(models):
            own[name] = "a" if first else "b"
    both = [name for name in own if name in labels]
    missing = f"no pair has one answer by the judge's family ({family}) and one by another"
    more = [_win(choices[name], own[name]) - _win(labels[name], own[name]) for name in both]
    unlabelled = "there are no labels to compare with" if own else missing
    return {
        "own": share([_win(choices[name], answer) for name, answer in own.items()], prompts_of(pairs, own), missing),
        "own_excess": mean(more, prompts_of(pairs, both), unlabelled),
    }


def _win(choice: Choice, answer: Choice) -> float:
    return 0.5 if choice == "tie" else float(choice == answer)


def repeat_variance(votes: Votes, pairs: Pairs) -> Metrics:
    """Return how far repeated judgements of one pair in one order differ."""
    groups: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for name, group in votes.items():
        for vote in group:
            groups[name, vote.order].append(vote)
    repeats = {key: group for key, group in groups.items() if len(group) >= _TWICE}
    leads = {key: [vote.lead for vote in group if vote.lead is not None] for key, group in repeats.items()}
    scored = {key: values for key, values in leads.items() if len(values) >= _TWICE}
    identical = [len({vote.choice for vote in group}) == 1 for group in repeats.values()]
    missing = "no item was judged twice in the same order"
    unscored = "there are no scores" if repeats else missing
    return {
        "identical": share(identical, prompts_of(pairs, (name for name, _ in repeats)), missing),
        "within": spread(list(scored.values()), prompts_of(pairs, (name for name, _ in scored)), unscored),
    }


def null_answer(votes: Votes, pairs: Pairs) -> Metrics:
    """Return how often an answer that is the same to every prompt wins, its score and that of the other answer."""
    missing = "no constant answer was judged"
    wins = {name: _win(choice, pairs[name].constant or "tie") for name, choice in verdicts(votes).items()}
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, group in votes.items():
        if values := [vote.scores for vote in group if vote.scores]:
            scores[name] = values if pairs[name].constant == "a" else [(second, first) for first, second in values]
    prompts = prompts_of(pairs, scores)
    unscored = "constant answers have no scores" if votes else missing
    return {
        "constant_wins": share(list(wins.values()), prompts_of(pairs, wins), missing),
        "constant_score": mean([fmean(own for own, _ in group) for group in scores.values()], prompts, unscored),
        "other_score": mean([fmean(other for _, other in group) for group in scores.values()], prompts, unscored),
    }


def unreadable_share(votes: Sequence[Vote], pairs: Pairs) -> tuple[Metric, dict[str, int]]:
    """Return the share of judgements without a verdict, and how many for each reason; joint votes are one judgement."""
    judged = {(vote.pair, vote.rater) if vote.joint else place: vote for place, vote in enumerate(votes)}.values()
    prompts = prompts_of(pairs, (vote.pair for vote in judged))
    metric = share([bool(vote.unreadable) for vote in judged], prompts, "no judgement")
    return metric, dict(Counter(vote.unreadable for vote in judged if vote.unreadable).most_common())
