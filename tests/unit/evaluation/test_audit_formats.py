"""Formats of judged pairs: detected from their columns; what cannot be used is an error or is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.audits import audited, column, convert, metrics, recorded, value, write_lines
from tapir.domain.errors import DataError
from tapir.evaluation.audit.biases import model_family
from tapir.evaluation.audit.readers import read_file
from tapir.evaluation.audit.records import Recording

Line = dict[str, Any]


def votes_of(source: Recording) -> list[tuple[str | None, str, float | None]]:
    return [(vote.choice, vote.order, vote.lead) for vote in source.votes]


@pytest.mark.parametrize(
    ("name", "weighted"),
    [("alpaca_eval/annotations/alpaca-7b.json.gz", True), ("judge/gpt4_ranked_pairs.jsonl.gz", False)],
)
def test_a_format_is_detected_from_the_columns(name: str, *, weighted: bool) -> None:
    source = read_file(recorded(name))
    assert {vote.lead is not None for vote in source.votes} == {weighted}
    assert not source.notes


def test_what_is_no_answer_is_not_compared_and_a_chat_ends_with_one(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "four"}]
    lines: list[Line] = [
        {"prompt": "Add.", "chosen": chat, "rejected": "5"},
        {"prompt": "Sort.", "chosen": "a", "rejected": None},
    ]
    source = read_file(write_lines(tmp_path, lines))
    assert [sorted((pair.length_a or 0, pair.length_b or 0)) for pair in source.pairs.values()] == [[1, 4]]
    (note,) = source.notes
    assert "rejected is not text" in note


def test_llmbar_results_hold_a_judge_in_both_orders(tmp_path: Path) -> None:
    """The winner is named by its place in the file, so `1` and `2` for the two orders is a preference for the first."""
    results = {"swap = False": {"winner": "1"}, "swap = True": {"winner": "2"}}
    line = {"input": "Add 2 and 2.", "output_1": "4", "output_2": "5", "label": 1, "results": [results]}
    path = write_lines(tmp_path, convert("llmbar", write_lines(tmp_path, [line], "llmbar.jsonl")))
    source = read_file(path, judge="GPT-4")
    assert votes_of(source) == [("a", "", None), ("a", "ab", None), ("b", "ba", None)]
    assert source.raters == ["label", "GPT-4"]
    assert metrics(audited(path), "judge")["favours_first"].value == 1


def test_fastchat_comparisons_and_people_are_converted(tmp_path: Path) -> None:
    base = {"question_id": 81, "turn": 1}
    judged = {"model_1": "x", "model_2": "y", "g1_winner": "model_1", "g2_winner": "tie", "judge": ["gpt-4", "v2"]}
    voted = {"model_a": "y", "model_b": "x", "winner": "model_a", "judge": "expert_3"}
    machine, people = (
        write_lines(
            tmp_path, convert("mt-bench", write_lines(tmp_path, [base | line], f"{name}.json")), f"{name}.jsonl"
        )
        for name, line in (("machine", judged), ("people", voted))
    )
    first, second = read_file(machine), read_file(people)
    assert (votes_of(first), first.raters) == ([("a", "ab", None), ("tie", "ba", None)], ["gpt-4"])
    assert not first.humans
    assert second.humans == {"expert_3"}
    # y wins for the person and stands second in the judge's file; a win in one order only is a tie.
    agreement = metrics(audited(machine, labels=(people,)), "gpt-4")["agreement"]
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
        ({"score_a": "7", "score_b": "8.5"}, [("b", "", -1.5)]),  # as a table of texts holds them
        ({"score_a": "7/10", "score_b": [8]}, [(None, "", None)]),
        ({"unreadable": "refused"}, [(None, "", None)]),
    ],
)
def test_the_format_of_pairs(tmp_path: Path, line: Line, votes: list[Any]) -> None:
    source = read_file(write_lines(tmp_path, [{"prompt_id": 1, "judge": "J", **line}]))
    assert votes_of(source) == votes
    assert all(bool(vote.unreadable) == (vote.choice is None) for vote in source.votes)


@pytest.mark.parametrize(
    ("scores", "scale", "unreadable"),
    [
        (
            [(7, 0), (-1, 8), (9, 3)],
            None,
            {"score 0 is not between 1 and 10": 1, "score -1 is not between 1 and 10": 1},
        ),
        ([(1, 0), (0, 1), (1, 1)], None, {}),  # yes and no
        ([(2, 0), (-2, 0), (-1, 0)], None, {}),  # steps around nothing
        ([(0.7, 0), (85, 0)], None, {}),
        ([(7, 0), (5, 10)], [0, 10], {}),
        ([(7, 0), (5, 11)], [0, 10], {"score 11 is not between 0 and 10": 1}),
    ],
)
def test_a_score_that_is_not_on_the_scale_is_none(
    tmp_path: Path, scores: list[tuple[float, float]], scale: list[float] | None, unreadable: dict[str, int]
) -> None:
    more = {"scale": scale} if scale else {}
    lines = [{"id": str(name), "score_a": a, "score_b": b, **more} for name, (a, b) in enumerate(scores)]
    path = write_lines(tmp_path, [*lines, {"id": "0", "label": "a"}])
    assert not read_file(path).notes
    assert column(audited(path), "judge").unreadable == unreadable


def test_a_person_who_rated_a_pair_again_is_compared_rating_by_rating(tmp_path: Path) -> None:
    ratings = {"x": (1, 0), "y": (0, 1), "z": (1, 1)}  # whether the first answer is better, said twice
    lines = [
        {"id": name, "judge": "ann", "human": True, "score_a": said, "score_b": 1 - said}
        for name, twice in ratings.items()
        for said in twice
    ]
    path = write_lines(tmp_path, [*lines, *({"id": name, "verdict": "ab"[name == "y"]} for name in ratings)])
    figures = metrics(audited(path), "judge")
    assert (figures["agreement"].n, figures["agreement_one"].n) == (3, 6)
    assert value(figures["agreement"]) == pytest.approx(1 / 3)
    assert value(figures["agreement_one"]) == pytest.approx(4 / 6)
    assert value(figures["kappa_one"]) == pytest.approx(0.25)


def test_answers_told_apart_by_model_may_stand_the_other_way_round(tmp_path: Path) -> None:
    first = [{"id": place, "model_a": "x", "model_b": "y", "verdict": "a", "judge": "J"} for place in range(3)]
    second = [{"id": place, "model_a": "y", "model_b": "x", "label": "b"} for place in range(3)]
    result = audited(
        write_lines(tmp_path, first, "first.jsonl"), labels=(write_lines(tmp_path, second, "second.jsonl"),)
    )
    assert value(metrics(result, "J")["agreement"]) == 1


def test_a_judge_is_compared_with_the_majority_of_several_people_and_with_each(tmp_path: Path) -> None:
    for people, agreement, one in (("x", 2 / 4, None), ("xyz", 1 / 4, 4 / 12)):
        labels = [dict(zip(people, given, strict=False)) for given in ("aab", "abb", "bab", "bbb")]
        lines = [{"id": place, "verdict": "a", "judge": "J", "label": label} for place, label in enumerate(labels)]
        found = metrics(audited(write_lines(tmp_path, lines, f"{people}.jsonl")), "J")
        assert value(found["agreement"]) == agreement
        assert (one and value(found["agreement_one"])) == one


def test_a_label_in_every_row_of_an_item_counts_once(tmp_path: Path) -> None:
    lines = [{"id": 1, "order": order, "verdict": "a", "label": "a"} for order in ("ab", "ba")]
    lines += [{"id": 2, "order": order, "verdict": "b", "label": "a"} for order in ("ab", "ba")]
    result = audited(write_lines(tmp_path, lines))
    assert metrics(result, "label")["unreadable"].n == 2
    assert metrics(result, "judge")["agreement"].n == 2


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
    result = metrics(audited(write_lines(tmp_path, lines)), "J")
    assert value(result["constant_wins"]) == pytest.approx(0.2)
    assert result["longer"].value is None, "a constant answer is no pair to audit a preference with"


def test_one_judge_in_two_files_is_one_judge(tmp_path: Path) -> None:
    halves = [[{"id": place, "verdict": "a", "label": "a"} for place in places] for places in (range(3), range(3, 6))]
    files = [write_lines(tmp_path, lines, f"{place}.jsonl") for place, lines in enumerate(halves)]
    assert metrics(audited(*files), "judge")["agreement"].n == 6


def test_two_files_about_the_same_items_are_judge_against_judge(tmp_path: Path) -> None:
    first = write_lines(tmp_path, [{"id": place, "verdict": "ab"[place % 2]} for place in range(8)], "first.jsonl")
    second = write_lines(tmp_path, [{"id": place, "verdict": "aabb"[place % 4]} for place in range(8)], "second.jsonl")
    result = audited(first, second)
    assert result.reference == "judge (second.jsonl)"
    agreement = metrics(result, "judge (first.jsonl)")["agreement"]
    assert (agreement.n, value(agreement)) == (8, 0.5)


def test_nothing_in_common_is_an_error_that_shows_an_id_of_each(tmp_path: Path) -> None:
    judge = write_lines(tmp_path, [{"id": "x1", "verdict": "a"}], "judge.jsonl")
    labels = write_lines(tmp_path, [{"id": "y1", "label": "a"}], "labels.jsonl")
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


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    lines = [{"id": 1, "verdict": "a"}, {"verdict": "a"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"judged.jsonl:2: nothing says what was judged"):
        read_file(path)
    path.write_text(json.dumps(lines[0]) + "\n{broken\n", encoding="utf-8")
    assert read_file(path).notes == ["1 rows of judged.jsonl cannot be used (first: judged.jsonl:2: not JSON)."]


def test_a_misspelt_key_is_reported(tmp_path: Path) -> None:
    notes = read_file(write_lines(tmp_path, [{"id": 1, "verdict": "a", "lenght_a": 3}])).notes
    assert notes == ['Unknown keys of judged.jsonl were not read: "lenght_a".']


def test_a_reference_that_judged_nothing_is_an_error_with_the_judges_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no judge is called 'gpt-9'") as error:
        audited(write_lines(tmp_path, [{"id": 1, "verdict": "a", "judge": "J"}]), reference="gpt-9")
    assert "Judges here: J" in error.value.remedy


@pytest.mark.parametrize(
    ("model", "family"),
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
def test_a_family_is_read_off_the_name(model: str, family: str) -> None:
    assert model_family(model) == family
