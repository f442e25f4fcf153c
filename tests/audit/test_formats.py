"""Every format is known by its columns, and what cannot be used is an error or is counted, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir.audit.families import family
from tapir.audit.pairs import Source
from tapir.audit.readers import read_file
from tapir.errors import DataError
from tests.audit.recorded import audited, column, figures, recorded, value, written

Line = dict[str, Any]


def one(source: Source) -> list[tuple[str | None, str, float | None]]:
    return [(vote.choice, vote.order, vote.lead) for vote in source.votes]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("agreement/pandalm_a.jsonl.gz", "pandalm"),
        ("agreement/llmbar_a.jsonl.gz", "llmbar"),
        ("agreement/tulu_human_65b_vs_7b.jsonl.gz", "tulu"),
        ("mt_bench/pairwise_qwen2.5-7b.jsonl.gz", "mt-bench-pairs"),
        ("mt_bench/single_grades_qwen_and_gpt4omini.jsonl.gz", "mt-bench-grades"),
        ("mt_bench/gpt-4_single_phi-3-dpo.jsonl.gz", "mt-bench-grades"),
        ("alpaca_eval/annotations/alpaca-7b.json.gz", "alpaca-eval"),
        ("judge/prometheus_vicuna_eval.json.gz", "prometheus"),
        ("judge/gpt4_ranked_pairs.jsonl.gz", "ranked"),
    ],
)
def test_a_format_is_seen_from_the_rows(name: str, layout: str) -> None:
    found = read_file(recorded(name))
    assert found.layout == layout
    assert not found.notes


def test_llmbar_results_hold_a_judge_in_both_orders(tmp_path: Path) -> None:
    """The winner is named by its place in the file, so `1` and `2` for the two orders is a preference for the first."""
    said = {"swap = False": {"winner": "1"}, "swap = True": {"winner": "2"}}
    line = {"input": "Add 2 and 2.", "output_1": "4", "output_2": "5", "label": 1, "results": [said]}
    source = read_file(written(tmp_path, [line]), judge="GPT-4")
    assert one(source) == [("a", "", None), ("a", "ab", None), ("b", "ba", None)]
    assert source.raters == ["label", "GPT-4"]
    assert figures(audited(written(tmp_path, [line])), "judge")["favours_first"].value == 1


def test_fastchat_comparisons_and_people_are_read(tmp_path: Path) -> None:
    base = {"question_id": 81, "turn": 1}
    machine = base | {
        "model_1": "x",
        "model_2": "y",
        "g1_winner": "model_1",
        "g2_winner": "tie",
        "judge": ["gpt-4", "v2"],
    }
    person = base | {"model_a": "y", "model_b": "x", "winner": "model_a", "judge": "expert_3"}
    first = read_file(written(tmp_path, [machine], "machine.jsonl"))
    assert (one(first), first.raters, first.people) == (
        [("a", "ab", None), ("tie", "ba", None)],
        ["gpt-4"],
        frozenset(),
    )
    second = read_file(written(tmp_path, [person], "people.jsonl"))
    assert second.people == {"expert_3"}
    both = audited(tmp_path / "machine.jsonl", labels=(tmp_path / "people.jsonl",))
    # y wins for the person and stands second in the judge's file; a win in one order only is a tie.
    agreement = figures(both, "gpt-4")["agreement"]
    assert (agreement.value, agreement.n) == (0, 1)


@pytest.mark.parametrize(
    ("line", "votes"),
    [
        ({"verdict": "a"}, [("a", "", None)]),
        ({"verdict": "TIE", "order": "ba"}, [("tie", "ba", None)]),
        ({"score_a": 3, "score_b": 7.5, "order": "ab"}, [("b", "ab", -4.5)]),
        ({"score_a": 3, "score_b": 3}, [("tie", "", 0.0)]),
        ({"verdict": "b", "label": "a"}, [("b", "", None), ("a", "", None)]),
        ({"label": ["a", "b"]}, [("a", "", None), ("b", "", None)]),
        ({"label": {"ann": "tie"}}, [("tie", "", None)]),
        ({"verdict": None}, [(None, "", None)]),
        ({"verdict": "neither"}, [(None, "", None)]),
        ({"score_a": 1, "score_b": float("nan")}, [(None, "", None)]),
        ({"score_a": 1}, [(None, "", None)]),
        ({"unreadable": "refused"}, [(None, "", None)]),
    ],
)
def test_the_plain_format(tmp_path: Path, line: Line, votes: list[Any]) -> None:
    source = read_file(written(tmp_path, [{"prompt_id": 1, "judge": "J", **line}]), "own")
    assert one(source) == votes
    assert all(bool(vote.unreadable) == (vote.choice is None) for vote in source.votes)


def test_a_score_that_is_not_a_number_is_unreadable_and_named(tmp_path: Path) -> None:
    lines: list[Line] = [{"id": place, "score_a": place, "score_b": 2, "label": "a"} for place in range(4)]
    lines += [{"id": 9, "score_a": float("nan"), "score_b": 2, "label": "a"}]
    found = column(audited(written(tmp_path, lines)), "judge")
    assert found.unreadable == {"a score is not a finite number": 1}
    assert value(found.figures["unreadable"]) == pytest.approx(0.2)


def test_answers_told_apart_by_model_may_stand_the_other_way_round(tmp_path: Path) -> None:
    first = [{"id": place, "model_a": "x", "model_b": "y", "verdict": "a", "judge": "J"} for place in range(3)]
    second = [{"id": place, "model_a": "y", "model_b": "x", "label": "b"} for place in range(3)]
    found = audited(written(tmp_path, first, "first.jsonl"), labels=(written(tmp_path, second, "second.jsonl"),))
    assert value(figures(found, "J")["agreement"]) == 1


def test_a_label_in_every_row_of_an_item_counts_once(tmp_path: Path) -> None:
    lines = [{"id": 1, "order": order, "verdict": "a", "label": "a"} for order in ("ab", "ba")]
    lines += [{"id": 2, "order": order, "verdict": "b", "label": "a"} for order in ("ab", "ba")]
    found = audited(written(tmp_path, lines))
    assert figures(found, "label")["unreadable"].n == 2
    assert figures(found, "judge")["agreement"].n == 2


def test_the_same_answer_to_every_prompt_is_a_canary(tmp_path: Path) -> None:
    lines = [
        {
            "instruction": f"question {place}",
            "output_1": f"an answer to {place}",
            "output_2": "I do not know.",
            "generator_1": "real",
            "generator_2": "null",
            "annotator": "J",
            "preference": 1.9 if place == 0 else 1.1,
        }
        for place in range(5)
    ]
    found = figures(audited(written(tmp_path, lines)), "J")
    assert value(found["constant_wins"]) == pytest.approx(0.2)
    assert found["longer"].value is None, "a constant answer is no pair to audit a preference with"


def test_one_judge_in_two_files_is_one_judge(tmp_path: Path) -> None:
    halves = [[{"id": place, "verdict": "a", "label": "a"} for place in some] for some in (range(3), range(3, 6))]
    files = [written(tmp_path, lines, f"{place}.jsonl") for place, lines in enumerate(halves)]
    assert figures(audited(*files), "judge")["agreement"].n == 6


def test_two_files_about_the_same_items_are_judge_against_judge(tmp_path: Path) -> None:
    first = written(tmp_path, [{"id": place, "verdict": "ab"[place % 2]} for place in range(8)], "first.jsonl")
    second = written(tmp_path, [{"id": place, "verdict": "aabb"[place % 4]} for place in range(8)], "second.jsonl")
    found = audited(first, second)
    assert found.reference == "judge (second.jsonl)"
    agreement = figures(found, "judge (first.jsonl)")["agreement"]
    assert (agreement.n, value(agreement)) == (8, 0.5)


def test_ids_that_match_in_part_are_counted_and_the_first_without_a_match_is_named(tmp_path: Path) -> None:
    judge = written(tmp_path, [{"id": f"j{place}", "verdict": "a"} for place in range(2, 8)], "judge.jsonl")
    labels = written(tmp_path, [{"id": f"j{place}", "label": "a"} for place in range(4)], "labels.jsonl")
    notes = audited(judge, labels=(labels,)).notes
    assert "2 of the 6 items of judge.jsonl and of the 4 of labels.jsonl match." in notes
    assert "The first item of judge.jsonl without a match is j4." in notes
    assert "The first item of labels.jsonl without a match is j0." in notes


def test_nothing_in_common_is_an_error_that_shows_an_id_of_each(tmp_path: Path) -> None:
    judge = written(tmp_path, [{"id": "x1", "verdict": "a"}], "judge.jsonl")
    labels = written(tmp_path, [{"id": "y1", "label": "a"}], "labels.jsonl")
    with pytest.raises(DataError, match="no item in common: the first has x1, the second y1"):
        audited(judge, labels=(labels,))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("{not json}\n", "not JSON"),
        ('{"question": 1, "reply": 2}\n', "in no format known here; its columns: question, reply"),
        ('{"verdict": "a"}\n', "nothing says what was judged"),
        ('{"id": 1, "verdict": "a", "order": "left"}\n', "\"order\" is 'left'"),
        ('{"id": 1, "verdict": "a", "constant": "c"}\n', "\"constant\" is 'c'"),
    ],
)
def test_a_file_that_cannot_be_audited_is_one_clear_error(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "judged.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_file(path)
    assert why in str(error.value)
    assert error.value.remedy


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_file(tmp_path / "none.jsonl")


def test_a_format_forced_on_other_rows_names_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 rows can be read as pandalm .*lacks 'instruction'"):
        read_file(written(tmp_path, [{"id": 1, "verdict": "a"}]), "pandalm")


def test_a_format_that_does_not_exist_is_an_error_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no format 'pandas'") as error:
        read_file(written(tmp_path, [{"id": 1, "verdict": "a"}]), "pandas")
    assert "pandalm" in error.value.remedy


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    lines = [{"id": 1, "verdict": "a"}, {"verdict": "a"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"judged.jsonl:2: nothing says what was judged"):
        read_file(path)
    path.write_text(json.dumps(lines[0]) + "\n{broken\n", encoding="utf-8")
    assert read_file(path).notes == ["1 rows of judged.jsonl cannot be used (first: judged.jsonl:2: not JSON)."]


def test_a_misspelt_key_of_the_plain_format_is_told(tmp_path: Path) -> None:
    notes = read_file(written(tmp_path, [{"id": 1, "verdict": "a", "lenght_a": 3}])).notes
    assert notes == ['Keys of judged.jsonl that the plain format does not know, and that were not read: "lenght_a".']


def test_a_reference_that_judged_nothing_is_an_error_with_the_judges_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no judge is called 'gpt-9'") as error:
        audited(written(tmp_path, [{"id": 1, "verdict": "a", "judge": "J"}]), reference="gpt-9")
    assert "Judges here: J" in error.value.remedy


@pytest.mark.parametrize(
    ("model", "kin"),
    [
        ("gpt4_1106_preview", "GPT"),
        ("text_davinci_003", "GPT"),
        ("chat_gpt", "GPT"),
        ("cerebras-gpt-6.7B", "Cerebras-GPT"),
        ("Qwen2.5-7B-Instruct", "Qwen"),
        ("vicuna-7b-v1.5", ""),
        ("gemma-2-9b-it", "Gemma"),
        ("gemini-1.5-pro", "Gemini"),
        ("optimist", ""),
    ],
)
def test_a_family_is_told_by_the_name(model: str, kin: str) -> None:
    assert family(model) == kin
