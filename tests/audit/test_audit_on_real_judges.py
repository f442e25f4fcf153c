"""Recorded judges: every figure is worked out again here by counting, from the rows as they are."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau, spearmanr

from tests.audit.recorded import audited, column, figures, recorded, rows, value, written

PANDALM = "agreement/pandalm_a.jsonl.gz"
LLMBAR = "agreement/llmbar_a.jsonl.gz"
TULU = "agreement/tulu_human_65b_vs_7b.jsonl.gz"
PAIRS = "mt_bench/pairwise_qwen2.5-7b.jsonl.gz"
GRADES = "mt_bench/single_grades_qwen_and_gpt4omini.jsonl.gz"
ANNOTATED = "alpaca_eval/annotations/{}.json.gz"
COMPACT = "alpaca_eval/annotations_compact_shared.jsonl.gz"
PROMETHEUS = "judge/prometheus_vicuna_eval.json.gz"
GPT_4 = "weighted_alpaca_eval_gpt4_turbo"


def kappa(pairs: list[tuple[Any, Any]]) -> float:
    """Cohen's κ from its definition: (agreement - agreement by chance) / (1 - agreement by chance)."""
    n = len(pairs)
    seen = sum(one == other for one, other in pairs) / n
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    chance = sum(first[label] * second[label] for label in first) / (n * n)
    return float((seen - chance) / (1 - chance))


def majority(row: dict[str, Any]) -> str:
    """All of the 542 pairs have a majority: two of the three annotators or all."""
    ((label, times),) = Counter(str(row[f"annotator{place}"]) for place in (1, 2, 3)).most_common(1)
    assert times >= 2
    return label


@pytest.mark.parametrize("judge", ["gpt", "pandalm"])
def test_gpt_3_5_and_pandalm_against_the_majority_of_three_annotators(judge: str) -> None:
    names = {"1": "1", "2": "2", "0": "0", "Tie": "0"}
    pairs = [
        (names[str(row[f"{judge}_result"])], majority(row))
        for row in rows(PANDALM)
        if str(row[f"{judge}_result"]) in names
    ]
    decided = [(one, other) for one, other in pairs if "0" not in {one, other}]
    found = figures(audited(recorded(PANDALM)), judge)
    assert value(found["agreement"]) == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))
    assert value(found["decided"]) == pytest.approx(sum(one == other for one, other in decided) / len(decided))
    assert value(found["kappa"]) == pytest.approx(kappa(pairs))
    assert (found["agreement"].n, found["decided"].n) == (len(pairs), len(decided))
    assert value(found["ties"]) == pytest.approx(sum(one == "0" for one, _ in pairs) / len(pairs))


def test_garbage_of_gpt_3_5_is_no_verdict_and_is_counted() -> None:
    found = audited(recorded(PANDALM))
    assert column(found, "gpt").unreadable == {"'garbage' is no verdict": 9}
    assert value(figures(found, "gpt")["unreadable"]) == pytest.approx(9 / 542)
    assert column(found, "pandalm").unreadable == {}


def test_three_annotators_with_one_another_are_the_ceiling() -> None:
    pairs = [
        (row[f"annotator{one}"], row[f"annotator{other}"])
        for row in rows(PANDALM)
        for one, other in combinations((1, 2, 3), 2)
    ]
    both_ways = pairs + [(other, one) for one, other in pairs]
    found = figures(audited(recorded(PANDALM)), "3 people")
    assert value(found["agreement_one"]) == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))
    assert value(found["kappa_one"]) == pytest.approx(kappa(both_ways))
    assert found["agreement_one"].n == 3 * 542


def test_kappa_among_three_annotators_is_that_of_fleiss() -> None:
    from statsmodels.stats.inter_rater import fleiss_kappa

    table = [
        [[row[f"annotator{one}"] for one in (1, 2, 3)].count(label) for label in (0, 1, 2)] for row in rows(PANDALM)
    ]
    found = figures(audited(recorded(PANDALM)), "3 people")
    assert value(found["kappa_one"]) == pytest.approx(float(fleiss_kappa(table, method="fleiss")))


def test_a_judge_beside_single_annotators_as_annotators_are_beside_one_another() -> None:
    hits = [str(row[f"annotator{place}"]) == str(row["pandalm_result"]) for row in rows(PANDALM) for place in (1, 2, 3)]
    found = figures(audited(recorded(PANDALM)), "pandalm")
    assert value(found["agreement_one"]) == pytest.approx(sum(hits) / len(hits))


def test_length_preference_of_gpt_3_5_beside_that_of_the_annotators() -> None:
    judge, people, both = [], [], []
    for row in rows(PANDALM):
        longer = "1" if len(row["response1"]) > len(row["response2"]) else "2"
        if len(row["response1"]) == len(row["response2"]):
            continue
        said, label = str(row["gpt_result"]), majority(row)
        judge += [said == longer] if said in {"1", "2"} else []
        people += [label == longer] if label != "0" else []
        both += [(said == longer) - (label == longer)] if said in {"1", "2"} and label != "0" else []
    found = audited(recorded(PANDALM))
    assert value(figures(found, "gpt")["longer"]) == pytest.approx(sum(judge) / len(judge))
    assert value(figures(found, "3 people")["longer"]) == pytest.approx(sum(people) / len(people))
    assert value(figures(found, "gpt")["longer_excess"]) == pytest.approx(sum(both) / len(both))


def test_intervals_on_prompts_that_repeat_are_wider_than_rows_alone_would_have_them() -> None:
    """542 pairs are about 91 instructions; a Wilson interval over the rows would claim too much."""
    from tapir.evaluation.statistics import success_rate

    found = figures(audited(recorded(PANDALM)), "pandalm")["agreement"]
    assert found.value is not None
    naive = success_rate(round(found.value * found.n), found.n)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > naive.high - naive.low


def test_a_judge_that_takes_the_longer_answer_fails_where_llmbar_is_adversarial(tmp_path: Path) -> None:
    """LLMBar holds no judge: one is made by a rule, in our format, and matched to its labels by the texts."""
    lines, hits = [], defaultdict(list)
    for row in rows(LLMBAR):
        longer = "a" if len(row["output_1"]) >= len(row["output_2"]) else "b"
        texts = {"instruction": row["input"], "answer_a": row["output_1"], "answer_b": row["output_2"]}
        lines.append(texts | {"verdict": longer, "judge": "longest"})
        hits[row["subset"]].append(longer == " ab"[row["label"]])
    found = audited(written(tmp_path, lines), labels=(recorded(LLMBAR),))
    everything = [one for some in hits.values() for one in some]
    agreement = figures(found, "longest")["agreement"]
    assert agreement.n == 300
    assert value(agreement) == pytest.approx(sum(everything) / 300)
    adversarial = hits["LLMBar/Adversarial/Neighbor"]
    assert sum(adversarial) / len(adversarial) < 0.3
    assert any("300 of the 300 items" in note for note in found.notes)
    assert value(figures(found, "longest")["longer"]) == pytest.approx(1.0)


def test_llmbar_alone_has_labels_and_nobody_to_audit() -> None:
    (section,) = audited(recorded(LLMBAR)).sections
    (only,) = section.columns
    assert only.is_reference
    longer = [
        (len(row["output_1"]) > len(row["output_2"])) == (row["label"] == 1)
        for row in rows(LLMBAR)
        if len(row["output_1"]) != len(row["output_2"])
    ]
    assert value(only.figures["longer"]) == pytest.approx(sum(longer) / len(longer))


def tulu_twice() -> list[tuple[int, int]]:
    """Verdicts of every two people on the same two answers, above 0 where the larger model is preferred."""
    steps = {"a-is-better": 1, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -1}
    leads = {"a-is-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -2}
    said: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(TULU):
        turned = 1 if row["model_a"] == "tulu_65B" else -1
        texts = tuple(sorted((row["completion_a"], row["completion_b"])))
        said[row["prompt"], str(texts)][row["evaluator"]].append(turned * leads[row["preference"]])
    assert set(steps) == {row["preference"] for row in rows(TULU)}
    found = []
    for people in said.values():
        verdicts = [(mean > 0) - (mean < 0) for mean in (sum(some) / len(some) for some in people.values())]
        found += list(combinations(verdicts, 2))
    return found


def test_people_who_labelled_the_same_tulu_item_agree_as_often_as_counted() -> None:
    pairs = tulu_twice()
    decided = [(one, other) for one, other in pairs if one and other]
    found = figures(audited(recorded(TULU)), "15 people")
    assert found["agreement_one"].n == len(pairs) == 88
    assert value(found["agreement_one"]) == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))
    assert value(found["decided_one"]) == pytest.approx(sum(one == other for one, other in decided) / len(decided))
    assert value(found["kappa_one"]) == pytest.approx(kappa(pairs + [(other, one) for one, other in pairs]))


def test_people_who_rated_the_same_tulu_answer_agree_on_whether_it_is_acceptable_as_often_as_counted() -> None:
    said: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(TULU):
        for answer in ("a", "b"):
            fit = row[f"completion_{answer}_is_acceptable"] == "yes"
            said[row["prompt"], row[f"completion_{answer}"]][row["evaluator"]].append(fit)
    pairs = []
    for people in said.values():
        pairs += list(combinations([sum(some) / len(some) for some in people.values()], 2))
    found = figures(audited(recorded(TULU)), "15 people", "ratings")
    assert found["same_one"].n == len(pairs)
    assert value(found["same_one"]) == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))


def test_people_prefer_the_first_tulu_answer_as_often_as_counted() -> None:
    shown = Counter(row["preference"][0] for row in rows(TULU) if row["preference"] != "tie")
    found = figures(audited(recorded(TULU)), "15 people")
    assert value(found["first_shown"]) == pytest.approx(shown["a"] / (shown["a"] + shown["b"]))


def test_order_flips_of_qwen_7b_on_mt_bench() -> None:
    both = Counter((row["winner_ab"], row["winner_ba"]) for row in rows(PAIRS))
    turned = {"A": "B", "B": "A", "tie": "tie"}
    changed = {pair: count for pair, count in both.items() if pair[0] != turned[pair[1]]}
    # The place shown is named: the first is favoured where A is said more often than B.
    first = sum(count for pair, count in changed.items() if pair.count("A") > pair.count("B"))
    opposite = both["A", "A"] + both["B", "B"]
    found = figures(audited(recorded(PAIRS)), "Qwen2.5-7B-Instruct")
    assert value(found["flips"]) == pytest.approx(sum(changed.values()) / 1200)
    assert value(found["reversals"]) == pytest.approx(opposite / 1200)
    assert found["favours_first"].n == sum(changed.values())
    assert value(found["favours_first"]) == pytest.approx(first / sum(changed.values()))
    inconsistent = sum(row["winner"] in {"tie", "inconsistent"} for row in rows(PAIRS))
    assert value(found["ties"]) == pytest.approx(inconsistent / 1200)


@pytest.mark.parametrize("judge", ["Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct", "Qwen2.5-32B-Instruct"])
def test_single_grades_against_those_of_gpt_4o_mini(judge: str) -> None:
    grades: dict[str, dict[tuple[Any, ...], float]] = defaultdict(dict)
    for row in rows(GRADES):
        for turn in (1, 2):
            if row[f"score_turn{turn}"] != -1:
                place = (row["mode"], row["question_id"], row["model_id"], turn)
                grades[row["judge_id"]][place] = row[f"score_turn{turn}"]
    both = [name for name in grades[judge] if name in grades["gpt-4o-mini"]]
    own, other = ([grades[one][name] for name in both] for one in (judge, "gpt-4o-mini"))
    found = figures(audited(recorded(GRADES), reference="gpt-4o-mini"), judge, "ratings")
    assert found["spearman"].n == len(both)
    assert value(found["spearman"]) == pytest.approx(float(spearmanr(own, other).statistic))
    assert value(found["kendall"]) == pytest.approx(float(kendalltau(own, other).statistic))
    assert value(found["same"]) == pytest.approx(sum(map(float.__eq__, own, other)) / len(both))
    assert value(found["higher"]) == pytest.approx(math.fsum(map(float.__sub__, own, other)) / len(both))


def test_a_grade_of_minus_one_is_unreadable_where_the_judge_wrote_something() -> None:
    counted = Counter(
        row["judge_id"]
        for row in rows(GRADES)
        for turn in (1, 2)
        if row[f"score_turn{turn}"] == -1 and row[f"judgment_turn{turn}"]
    )
    assert sum(counted.values()) == 7
    found = audited(recorded(GRADES), reference="gpt-4o-mini")
    for judge in ("Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct", "Qwen2.5-32B-Instruct", "gpt-4o-mini"):
        assert sum(column(found, judge, "ratings").unreadable.values()) == counted[judge]
    # 480 answers with two turns, and 174 in reference mode with the second turn only.
    assert figures(found, "gpt-4o-mini", "ratings")["unreadable"].n == 2 * 480 + 174


def test_gpt_4_scored_the_same_answers_three_times() -> None:
    scores = [row["gpt4_score"] for row in rows(PROMETHEUS)]
    variances = [sum((one - sum(some) / 3) ** 2 for one in some) / 2 for some in scores]
    found = figures(audited(recorded(PROMETHEUS)), "gpt4", "ratings")
    assert value(found["identical"]) == pytest.approx(sum(len(set(some)) == 1 for some in scores) / len(scores))
    assert value(found["within"]) == pytest.approx(math.sqrt(sum(variances) / len(variances)))
    means = defaultdict(list)
    for row in rows(PROMETHEUS):
        means[row["response_source"] == "chat_gpt"].append(sum(row["gpt4_score"]) / 3)
    own, others = (sum(means[kin]) / len(means[kin]) for kin in (True, False))
    assert value(found["own"]) == pytest.approx(own - others)


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
            first.append(next(one["token"] for one in tokens if one["token"] in {"m", "M"}).islower())
    found = figures(audited(recorded(name)), GPT_4)
    assert value(found["longer"]) == pytest.approx(sum(longer) / len(longer))
    assert value(found["first_shown"]) == pytest.approx(sum(first) / len(first))
    # The baseline is GPT-4 itself and the judge too, so this is a win rate and no proof of self-preference.
    assert value(found["own"]) == pytest.approx(sum(won) / len(won))
    assert "labels" in found["own_excess"].why
    prices = [row["price_per_example"] for row in rows(name) if row["price_per_example"] is not None]
    assert found["money"].value == pytest.approx(1000 * sum(prices) / len(prices))


def test_length_preference_on_a_leaderboard_is_none_of_the_published_one(tmp_path: Path) -> None:
    """The published figure is about pairs of like quality labelled by people; here a strong, long baseline meets weak
    models, so a preference for length and for quality cannot be told apart. The audit says so by having no labels."""
    lines, longer = [], []
    for row in rows(COMPACT):
        if row["model"] == row["baseline"]:
            continue
        scores = {"score_a": 2 - row["preference"], "score_b": row["preference"] - 1}
        lengths = {"length_a": row["len_output_1"], "length_b": row["len_output_2"]}
        models = {"model_a": row["baseline"], "model_b": row["model"], "judge": GPT_4}
        lines.append({"prompt_id": row["index"], **scores, **lengths, **models})
        if row["preference"] != 1.5 and row["len_output_1"] != row["len_output_2"]:
            longer.append((row["preference"] > 1.5) == (row["len_output_2"] > row["len_output_1"]))
    found = figures(audited(written(tmp_path, lines)), GPT_4)
    assert found["longer"].n == len(longer)
    assert value(found["longer"]) == pytest.approx(sum(longer) / len(longer))
    with recorded("alpaca_eval/evaluators_leaderboard.csv").open(encoding="utf-8") as file:
        published = {row[""]: float(row["Proba. prefer longer"]) for row in csv.DictReader(file)}
    assert value(found["longer"]) > published[GPT_4] + 0.2
    assert found["longer_excess"].value is None
