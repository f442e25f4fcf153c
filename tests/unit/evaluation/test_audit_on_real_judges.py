"""Audits of recorded judges: every metric is computed again by counting, from the rows as they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from sklearn.metrics import cohen_kappa_score

from support.audits import audited, convert, metrics, recorded, rows, value, write_lines

Convert: TypeAlias = Callable[[str], Path]

FORMATS = {
    "agreement/pandalm_a.jsonl.gz": "pandalm",
    "agreement/llmbar_a.jsonl.gz": "llmbar",
    "agreement/tulu_human_65b_vs_7b.jsonl.gz": "tulu",
    "mt_bench/pairwise_qwen2.5-7b.jsonl.gz": "mt-bench",
}
PANDALM, LLMBAR, TULU, PAIRS = FORMATS
ANNOTATED = "alpaca_eval/annotations/{}.json.gz"
GPT_4 = "weighted_alpaca_eval_gpt4_turbo"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Return a file of another benchmark in the format of pairs."""
    folder = tmp_path_factory.mktemp("converted")
    return cache(lambda name: write_lines(folder, convert(FORMATS[name], recorded(name)), f"{FORMATS[name]}.jsonl"))


def majority(row: dict[str, Any]) -> str:
    """All of the 542 pairs have a majority: two of the three annotators or all."""
    ((label, times),) = Counter(str(row[f"annotator{place}"]) for place in (1, 2, 3)).most_common(1)
    assert times >= 2
    return label


@pytest.mark.parametrize("judge", ["gpt", "pandalm"])
def test_gpt_3_5_and_pandalm_against_the_majority_of_three_annotators(judge: str, converted: Convert) -> None:
    names = {"1": "1", "2": "2", "0": "0", "Tie": "0"}
    pairs = [
        (names[str(row[f"{judge}_result"])], majority(row))
        for row in rows(PANDALM)
        if str(row[f"{judge}_result"]) in names
    ]
    decided = [pair for pair in pairs if "0" not in pair]
    result = metrics(audited(converted(PANDALM)), judge)
    assert value(result["agreement"]) == pytest.approx(sum(first == second for first, second in pairs) / len(pairs))
    assert value(result["decided"]) == pytest.approx(sum(first == second for first, second in decided) / len(decided))
    assert value(result["kappa"]) == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    assert (result["agreement"].n, result["decided"].n) == (len(pairs), len(decided))
    assert value(result["ties"]) == pytest.approx(sum(first == "0" for first, _ in pairs) / len(pairs))


def test_three_annotators_with_one_another_are_the_ceiling(converted: Convert) -> None:
    pairs = [
        pair for row in rows(PANDALM) for pair in combinations([row[f"annotator{place}"] for place in (1, 2, 3)], 2)
    ]
    both_ways = pairs + [(second, first) for first, second in pairs]
    result = metrics(audited(converted(PANDALM)), "3 people")
    assert value(result["agreement_one"]) == pytest.approx(sum(first == second for first, second in pairs) / len(pairs))
    assert value(result["kappa_one"]) == pytest.approx(cohen_kappa_score(*zip(*both_ways, strict=True)))
    assert result["agreement_one"].n == 3 * 542


def test_length_preference_of_gpt_3_5_beside_that_of_the_annotators(converted: Convert) -> None:
    judge, people, both = [], [], []
    for row in rows(PANDALM):
        longer = "1" if len(row["response1"]) > len(row["response2"]) else "2"
        if len(row["response1"]) == len(row["response2"]):
            continue
        verdict, label = str(row["gpt_result"]), majority(row)
        judge += [verdict == longer] if verdict in {"1", "2"} else []
        people += [label == longer] if label != "0" else []
        both += [(verdict == longer) - (label == longer)] if verdict in {"1", "2"} and label != "0" else []
    result = audited(converted(PANDALM))
    assert value(metrics(result, "gpt")["longer"]) == pytest.approx(sum(judge) / len(judge))
    assert value(metrics(result, "3 people")["longer"]) == pytest.approx(sum(people) / len(people))
    assert value(metrics(result, "gpt")["longer_excess"]) == pytest.approx(sum(both) / len(both))


def test_a_judge_that_takes_the_longer_answer_fails_where_llmbar_is_adversarial(
    tmp_path: Path, converted: Convert
) -> None:
    """LLMBar holds no judge: one is made by a rule, in our format, and matched to its labels by the texts."""
    lines, hits = [], defaultdict(list)
    for row in rows(LLMBAR):
        longer = "a" if len(row["output_1"]) >= len(row["output_2"]) else "b"
        texts = {"instruction": row["input"], "answer_a": row["output_1"], "answer_b": row["output_2"]}
        lines.append(texts | {"verdict": longer, "judge": "longest"})
        hits[row["subset"]].append(longer == " ab"[row["label"]])
    result = audited(write_lines(tmp_path, lines), labels=(converted(LLMBAR),))
    everything = [hit for group in hits.values() for hit in group]
    agreement = metrics(result, "longest")["agreement"]
    assert agreement.n == 300
    assert value(agreement) == pytest.approx(sum(everything) / 300)
    adversarial = hits["LLMBar/Adversarial/Neighbor"]
    assert sum(adversarial) / len(adversarial) < 0.3
    assert any("300 of the 300 items" in note for note in result.notes)
    assert value(metrics(result, "longest")["longer"]) == pytest.approx(1.0)


def tulu_pairs() -> list[tuple[int, int]]:
    """Return the verdicts of every two people on the same answers, above 0 where the larger model is preferred."""
    leads = {"a-is-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -2}
    given: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(TULU):
        sign = 1 if row["model_a"] == "tulu_65B" else -1
        texts = str(sorted((row["completion_a"], row["completion_b"])))
        given[row["prompt"], texts][row["evaluator"]].append(sign * leads[row["preference"]])
    return [
        pair
        for people in given.values()
        for pair in combinations([(sum(votes) > 0) - (sum(votes) < 0) for votes in people.values()], 2)
    ]


def test_people_who_labelled_the_same_tulu_item_agree_as_often_as_counted(converted: Convert) -> None:
    pairs = tulu_pairs()
    decided = [pair for pair in pairs if all(pair)]
    result = metrics(audited(converted(TULU)), "15 people")
    assert result["agreement_one"].n == len(pairs) == 88
    assert value(result["agreement_one"]) == pytest.approx(sum(first == second for first, second in pairs) / len(pairs))
    assert value(result["decided_one"]) == pytest.approx(
        sum(first == second for first, second in decided) / len(decided)
    )
    both_ways = pairs + [(second, first) for first, second in pairs]
    assert value(result["kappa_one"]) == pytest.approx(cohen_kappa_score(*zip(*both_ways, strict=True)))


def test_order_flips_of_qwen_7b_on_mt_bench(converted: Convert) -> None:
    both = Counter((row["winner_ab"], row["winner_ba"]) for row in rows(PAIRS))
    turned = {"A": "B", "B": "A", "tie": "tie"}
    changed = {pair: count for pair, count in both.items() if pair[0] != turned[pair[1]]}
    # The place shown is named: the first is favoured where A is said more often than B.
    first = sum(count for pair, count in changed.items() if pair.count("A") > pair.count("B"))
    opposite = both["A", "A"] + both["B", "B"]
    result = metrics(audited(converted(PAIRS)), "Qwen2.5-7B-Instruct")
    assert value(result["flips"]) == pytest.approx(sum(changed.values()) / 1200)
    assert value(result["reversals"]) == pytest.approx(opposite / 1200)
    assert result["favours_first"].n == sum(changed.values())
    assert value(result["favours_first"]) == pytest.approx(first / sum(changed.values()))
    inconsistent = sum(row["winner"] in {"tie", "inconsistent"} for row in rows(PAIRS))
    assert value(result["ties"]) == pytest.approx(inconsistent / 1200)


@pytest.mark.parametrize("model", ["alpaca-7b", "vicuna-7b-v1.5"])
def test_length_order_and_cost_of_the_alpaca_eval_judge(model: str) -> None:
    name = ANNOTATED.format(model)
    longer, first, won = [], [], []
    for row in rows(name):
        second = row["preference"] > 1.5
        if row["preference"] == 1.5:
            won.append(0.5)
            continue
        won.append(float(not second))
        lengths = len(row["output_1"]), len(row["output_2"])
        longer += [second == (lengths[1] > lengths[0])] if lengths[0] != lengths[1] else []
        if row["raw_completion"]:
            tokens = row["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
            first.append(next(entry["token"] for entry in tokens if entry["token"] in {"m", "M"}).islower())
    result = metrics(audited(recorded(name)), GPT_4)
    assert value(result["longer"]) == pytest.approx(sum(longer) / len(longer))
    assert value(result["first_shown"]) == pytest.approx(sum(first) / len(first))
    # The baseline is GPT-4 itself and the judge too, so this is a win rate and no proof of self-preference.
    assert value(result["own"]) == pytest.approx(sum(won) / len(won))
    assert "labels" in result["own_excess"].why
    prices = [row["price_per_example"] for row in rows(name) if row["price_per_example"] is not None]
    assert result["money"].value == pytest.approx(1000 * sum(prices) / len(prices))
