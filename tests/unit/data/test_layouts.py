"""Layouts: what the columns of a row mean, conversations, data sets of the hub, published files."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from support.containers import bad, good, lines, written
from support.paths import SHARED
from tapir.data.corpus import pairs
from tapir.data.layouts import Columns, Row
from tapir.data.readers import read_file, read_hub
from tapir.domain.errors import DataError, MissingExtra
from tapir.domain.instruction import Pair, Turn


def test_columns_may_have_other_names_be_a_path_or_have_a_dot_in_their_name(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"prompt": "a", "context": "b", "answer": "c", "kind": 3, "other": "\\ud800\\u0000"}')
    columns = Columns(instruction="prompt", input="context", response="answer", category="kind")
    assert list(read_file(path, columns=columns)) == [Row("a\n\nb", "c", "corpus.jsonl:1", "3")]
    path = lines(tmp_path, '{"instruction": "a", "instances": [{"input": "b", "output": "c"}]}', '{"instruction": "d"}')
    rows = read_file(path, columns=Columns(input="instances.0.input", response="instances.0.output"))
    assert [(row.text, row.response) for row in rows if isinstance(row, Row)] == [("a\n\nb", "c"), ("d", "")]
    path = lines(tmp_path, '{"meta.instruction": "a"}')
    assert good(list(read_file(path, columns=Columns(instruction="meta.instruction")))) == ["a"]


@pytest.mark.parametrize(
    ("columns", "message", "near"),
    [
        (Columns(), "no column 'instruction'; it has Instructions, Response", "Instructions"),
        (Columns(instruction="Instructions", response="responses"), "no column 'responses'", "Response"),
        (Columns(instruction="Instructions", input="context"), "no column 'context'", ""),
        (Columns(instruction="Instructions", category="task"), "no column 'task'", ""),
        (Columns(conversation="chat"), "no column 'chat'", ""),
        (Columns(instruction="Instructions", system="respons"), "no column 'respons'", "Response"),
    ],
)
def test_a_column_that_is_not_there_is_an_error_with_the_nearest_name(
    columns: Columns, message: str, near: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.csv", b"Instructions,Response\na,b\n")
    with pytest.raises(DataError, match=message) as caught:
        list(read_file(path, columns=columns))
    assert near in caught.value.remedy
    with pytest.raises(DataError, match="no column"):
        list(read_file(path, layout="sharegpt"))


def test_columns_named_in_the_recipe_decide_the_layout_and_one_without_effect_is_an_error(tmp_path: Path) -> None:
    row = {"question": "a", "response": "b", "best": "e", "messages": TALK, "past": [["x", "y"]]}
    path = lines(tmp_path, json.dumps(row))
    assert good(list(read_file(path))) == ["c"]
    named = Columns(instruction="question")
    assert list(read_file(path, columns=named)) == [Row("a", "b", "corpus.jsonl:1")]
    (found,) = read_file(path, columns=Columns(response="best"))
    assert isinstance(found, Row)
    assert (found.text, found.response) == ("a", "e")
    opened = lines(tmp_path, json.dumps({"messages": TALK[:4], "best": "e", "past": []}))
    (found,) = read_file(opened, columns=Columns(response="best"))
    assert isinstance(found, Row)
    assert (found.text, found.response) == ("c", "e")
    with pytest.raises(DataError, match=r"columns\.history = 'past' has no effect on .*, whose layout is messages"):
        list(read_file(opened, columns=Columns(history="past")))
    with pytest.raises(DataError, match=r"columns\.response = 'best' has no effect"):
        list(read_file(opened, layout="messages", columns=Columns(response="best")))


@pytest.mark.parametrize("row", [{"prompt": "a", "completion": "b"}, {"instruction": "a"}, {"conversation": ["a"]}])
def test_answers_need_not_be_read(row: dict[str, Any], tmp_path: Path) -> None:
    assert list(read_file(lines(tmp_path, json.dumps(row)), columns=Columns(response=""))) == [
        Row("a", "", "corpus.jsonl:1")
    ]


@pytest.mark.parametrize("named", [{"system": "sys_promt"}, {"history": "passt"}, {"thought": "reasonng"}])
def test_a_column_that_few_rows_have_may_be_any_row_s_but_is_an_error_where_none_has_it(
    named: dict[str, str], tmp_path: Path
) -> None:
    row = {"instruction": "a", "output": "b"}
    last = row | {"sys_prompt": "s", "past": [["x", "y"]], "reasoning": "t"}
    path = lines(tmp_path, *[json.dumps(row)] * 100, json.dumps(last))
    *_, found = read_file(path, columns=Columns(system="sys_prompt", history="past", thought="reasoning"))
    assert found == Row("a", "b", "corpus.jsonl:101", context=turns_of("s:s|u:x|a:y"), thought="t")
    with pytest.raises(DataError, match=f"no column '{next(iter(named.values()))}'"):
        list(read_file(path, columns=Columns(**named)))


NO_INPUTS = (
    '|  \n|No input|no input.|NO INPUT|Noinput|<noinput>|<no input>.|"<noinput>"|`<noinput>`|\\<noinput\\>|[No Input]'
    "|(no input)|No input required.|No input needed|no input provided|N/A|<N/A>|n/a|NA|None|none.|<none>|nan|NaN|NULL"
    "|-|--|\u2014|:\n<noinput>"
)
INPUTS = (
    '0|None of the above is true.|Na|Nan|No|no|-3|...|[]|""|+|Nonetheless|noinput 8|No input device was found|Nothing|x'
    "|null pointer|The <noinput>|---- .. -"
)


@pytest.mark.parametrize("text", [*NO_INPUTS.split("|"), *INPUTS.split("|"), "." * 200_000 + "x"])
def test_an_input_that_only_says_that_there_is_none_is_none(text: str, tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"instruction": "Do it", "input": text}))
    assert good(list(read_file(path))) == ["Do it" if text in NO_INPUTS.split("|") else "Do it\n\n" + text]


def test_the_first_line_of_an_input_keeps_its_indentation(tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"instruction": " Fix it: ", "input": "\n    x = 1\n    y = 2\n"}))
    assert good(list(read_file(path))) == ["Fix it:\n\n    x = 1\n    y = 2"]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def turns_of(text: str) -> tuple[Turn, ...]:
    """Return a context from "s:system prompt|u:a|a:b"."""
    roles: dict[str, Any] = {"s": "system", "u": "user", "a": "assistant"}
    return tuple(Turn(roles[turn[0]], turn[2:]) for turn in text.split("|") if turn)


HH = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
TALK = [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), assistant("d")]


@pytest.mark.parametrize(
    ("turns", "context", "text", "response"),
    [
        ([user("a"), assistant("b")], "", "a", "b"),
        (TALK, "s:s|u:a|a:b", "c", "d"),
        ([*TALK, user("e")], "s:s|u:a|a:b", "c", "d"),
        ([{"role": "system", "content": ""}, user("a"), assistant("b")], "", "a", "b"),
        ([{"role": "system", "content": "s"}, {"role": "developer", "content": "t"}, user("a")], "s:s\n\nt", "a", ""),
        ([user("a"), user("b"), assistant("c")], "", "a\n\nb", "c"),
        ([user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), assistant("c")], "", "a\nb", "c"),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": " b "}], "", "a", " b "),
        ([user("a"), assistant("b"), {"role": "tool", "content": 5}], "", "a", "b"),
        ([user("a"), assistant("b") | {"weight": 0}, user("c"), assistant("d") | {"weight": 1}], "u:a|a:b", "c", "d"),
        ([user("a"), assistant("")], "", "a", ""),
        ([user("a")], "", "a", ""),
        ([TALK[0], *TALK[:3]], "s:s", "a", "b"),
        ([user("a"), assistant("b"), assistant("c")], "", "a", "b\n\nc"),
        ([user("a"), assistant(""), assistant(" b")], "", "a", " b"),
        ([user("a"), assistant("<think>t</think>\nb"), user("c"), assistant("d")], "u:a|a:b", "c", "d"),
        ([{"role": "Human:", "text": "a"}, {"from": "AI", "value": "b", "tool_calls": "[]"}], "", "a", "b"),
        ([["a", "b"], ["c", "d"]], "u:a|a:b", "c", "d"),
        ([{"input": "a", "output": "b"}, {"human": "c", "assistant": "d"}, ["", None]], "u:a|a:b", "c", "d"),
        ([user("a"), assistant("b"), user(""), assistant(None), user(""), user("c")], "", "a", "b"),
        ([user("a"), assistant(""), user(""), assistant("b")], "", "a", "b"),
        ([user("a"), assistant("b"), user(""), user("c"), assistant("d")], "u:a|a:b", "c", "d"),
        (
            [user("a") | {"images": []}, assistant("b") | {"loss": True, "train_detail": [{"train": True}]}],
            "",
            "a",
            "b",
        ),
    ],
)
@pytest.mark.parametrize("column", ["conversations", "messages", "conversation"])
def test_the_last_answer_of_a_conversation_is_learnt_and_all_before_it_is_its_context(
    column: str, turns: list[Any], context: str, text: str, response: str, tmp_path: Path
) -> None:
    expected = [Row(text, response, "corpus.jsonl:1", context=turns_of(context))]
    assert list(read_file(lines(tmp_path, json.dumps({column: turns})))) == expected
    assert list(read_file(lines(tmp_path, json.dumps({column: json.dumps(turns)})))) == expected


def test_of_a_conversation_the_first_answer_or_all_can_be_learnt_each_after_what_stands_before_it(
    tmp_path: Path,
) -> None:
    unlearnt = [*TALK, user("e"), assistant("f") | {"train": False}, user("g"), assistant("")]
    path = lines(tmp_path, json.dumps({"messages": unlearnt}))
    place = "corpus.jsonl:1"
    assert list(read_file(path, turns="first")) == [Row("a", "b", place, context=turns_of("s:s"))]
    every = list(read_file(path, turns="all"))
    assert every[:2] == [
        Row("a", "b", f"{place} turn 1", context=turns_of("s:s")),
        Row("c", "d", f"{place} turn 2", context=turns_of("s:s|u:a|a:b")),
    ]
    assert bad(every) == [(f"{place} turn 3", "an answer of weight 0")]
    assert every[3] == Row("g", "", f"{place} turn 4", context=turns_of("s:s|u:a|a:b|u:c|a:d|u:e|a:f"))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([assistant("<tool_call>{}</tool_call>"), {"role": "tool", "content": "5"}, assistant("d")], "a tool is used"),
        ([assistant("d"), user(""), assistant("e")], "an answer to a blank turn"),
        ([assistant("d"), {"role": "system", "content": "s"}, assistant("e")], "a system prompt in the middle"),
    ],
)
def test_of_a_conversation_that_goes_wrong_the_answers_before_are_learnt(
    turns: list[Any], reason: str, tmp_path: Path
) -> None:
    path = lines(
        tmp_path, json.dumps({"messages": [user("a"), assistant("b"), user("c"), *turns, user("f"), turns[0]]})
    )
    called = reason == "a tool is used"  # by the text of the second answer
    every = list(read_file(path, turns="all"))
    assert good(every) == (["a"] if called else ["a", "c"])
    assert len(every) == 4
    assert all(why.startswith(reason) for _, why in bad(every))
    assert good(list(read_file(path, turns="first"))) == ["a"]
    assert bad(list(read_file(path)))[0][1].startswith(reason)


@pytest.mark.parametrize(
    ("row", "context", "text", "response"),
    [
        ({"instruction": "a", "output": "b", "system": "s", "history": []}, "s:s", "a", "b"),
        ({"instruction": "a", "output": "", "system_prompt": "s"}, "s:s", "a", ""),
        ({"instruction": "c", "input": "i", "output": "d", "history": [["a", "b"]]}, "u:a|a:b", "c\n\ni", "d"),
        ({"conversations": [user("a"), assistant("b")], "system": "s", "tools": "[]"}, "s:s", "a", "b"),
        ({"prompt": "a", "completion": "b"}, "", "a", "b"),
        ({"prompt": TALK[:4], "completion": [TALK[4]]}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "", "a", "b"),
        ({"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": []}, "", "a", "b"),
        ({"chosen": TALK, "rejected": TALK[:-1]}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": " a\n", "chosen": TALK[:3]}, "s:s", "a", "b"),
        ({"prompt": TALK[:4], "chosen": TALK}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": TALK[:4], "chosen": TALK[3:]}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": TALK[:1], "chosen": TALK[1:3]}, "s:s", "a", "b"),
        ({"prompt": "a", "completion": "b", "label": True}, "", "a", "b"),
        ({"instruction": "a", "output": "b", "system": float("nan"), "history": float("nan")}, "", "a", "b"),
        ({"instruction": "a", "output": "b", "history": " "}, "", "a", "b"),
        ({"instruction": "c", "output": "d", "history": TALK[1:3]}, "u:a|a:b", "c", "d"),
        ({"system_prompt": "s", "conversations": TALK}, "s:s|u:a|a:b", "c", "d"),
        ({"messages": None, "conversation": TALK[1:3]}, "", "a", "b"),
        ({"prompt": "a", "completion": "b", "conversation": "no. 7"}, "", "a", "b"),
        ({"id": "1", "data": ["a", "b", "c", "d"]}, "u:a|a:b", "c", "d"),
        ({"conversations": ["a", "b", "c"]}, "", "a", "b"),
        ({"chosen": HH + "d", "rejected": HH + "e"}, "u:a|a:b", "c", "d"),
        ({"prompt": HH, "chosen": " d", "rejected": " e"}, "u:a|a:b", "c", " d"),
        ({"prompt": "Human: is it?", "chosen": "b", "rejected": "c"}, "", "Human: is it?", "b"),
        ({"question": "a", "answer": "b", "id": 1}, "", "a", "b"),
        ({"query": "a", "response": "b", "type": "x"}, "", "a", "b"),
        ({"problem": "a", "solution": "b", "answer": "7"}, "", "a", "b"),
        ({"prompt": "a", "response": "b"}, "", "a", "b"),
        ({"instruction": "a", "context": "c", "response": "b"}, "", "a\n\nc", "b"),
        ({"instruction": "a", "context": [], "output": "b", "answer": "c"}, "", "a", "b"),
        ({"data": [{"question": "a", "answer": "b"}], "version": 2}, "", "a", "b"),
        ({"prompt": TALK[:2], "ground_truth": "b"}, "s:s", "a", ""),
        ({"input": TALK[:4], "output": "d", "reasoning": "on"}, "s:s|u:a|a:b", "c", "d"),
        ({"input": "a", "output": "b", "category": "math"}, "", "a", "b"),
        ({"inputs": "a", "targets": "b"}, "", "a", "b"),
        ({"problem": "a", "answer": 72}, "", "a", ""),
        ({"system": "s", "question": "a", "chosen": "b", "rejected": "c"}, "s:s", "a", "b"),
        ({"system": "s", "input": "a", "chosen": "b", "rejected": "c"}, "s:s", "a", "b"),
        ({"prompt": json.dumps(TALK[:2])}, "", json.dumps(TALK[:2]), ""),
        ({"messages": TALK, "question": "a", "answer": "b"}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": "c", "chosen": TALK}, "s:s|u:a|a:b", "c", "d"),
        ({"prompt": "<|user|>\na\n<|assistant|>\n", "system": "s", "chosen": TALK[1:3]}, "s:s", "a", "b"),
        ({"prompt": [TALK[0], user("a ?")], "chosen": [user("a?"), assistant("b")]}, "s:s", "a?", "b"),
        ({"prompt": "a", "chosen": [assistant("b"), user("c"), assistant("d")]}, "u:a|a:b", "c", "d"),
        ({"messages": TALK[:4], "chosen": "d", "rejected": "e"}, "s:s|u:a|a:b", "c", "d"),
        ({"messages": TALK[1:2], "chosen": "d"}, "", "a", "d"),
        ({"conversations": TALK[:4], "chosen": [assistant("d")]}, "s:s|u:a|a:b", "c", "d"),
        ({"conversations": TALK[:4], "chosen": TALK, "score": 2}, "s:s|u:a|a:b", "c", "d"),
        ({"messages": TALK, "chosen": "e"}, "s:s|u:a|a:b", "c", "d"),
        ({"messages": TALK[:4], "chosen": 1}, "s:s", "a", "b"),
        ({"instruction": "e", "output": "f", "messages": TALK[:4], "chosen": "d"}, "", "e", "f"),
        ({"question": "a", "response": "b", "system": "", "system_prompt": "s"}, "s:s", "a", "b"),
    ],
)
def test_context_is_found_in_every_usual_layout(
    row: dict[str, Any], context: str, text: str, response: str, tmp_path: Path
) -> None:
    (found,) = read_file(lines(tmp_path, json.dumps(row)))
    assert isinstance(found, Row)
    assert (found.text, found.response, found.context) == (text, response, turns_of(context))


@pytest.mark.parametrize(
    ("row", "context", "text"),
    [
        ({"system_prompt": "s", "context": "c"}, "s:s", "a\n\nc"),
        ({"input": "i", "context": "c"}, "", "a\n\ni"),
        ({"context": ["c"]}, "", "a"),
    ],
)
@pytest.mark.parametrize("usual", [{"instruction": "x", "output": "y"}, {"question": "x", "response": "y"}])
def test_a_system_prompt_and_an_input_are_read_in_whichever_row_they_appear_first(
    usual: dict[str, str], row: dict[str, Any], context: str, text: str, tmp_path: Path
) -> None:
    asked, answered = usual
    late = json.dumps({asked: "a", answered: "b"} | row)
    *_, last = read_file(lines(tmp_path, *[json.dumps(usual)] * 100, late))
    assert last == Row(text, "b", "corpus.jsonl:101", context=turns_of(context))
    rows = [{"system_prompt": "s", "context": "c"}, {"system": "t", "input": "i"}]
    *_, last = read_file(lines(tmp_path, *(json.dumps(usual | each) for each in rows)))
    assert last == Row("x\n\ni", "y", "corpus.jsonl:2", context=turns_of("s:t"))


@pytest.mark.parametrize(
    ("turns", "text", "response"),
    [
        ([*TALK, user("e")], "e", ""),
        ([*TALK, user("e"), user("f")], "e\n\nf", ""),
        (["a", "b", "c"], "c", ""),
        (TALK, "c", "d"),
        ([*TALK, user(" ")], "c", "d"),
        ([user("a")], "a", ""),
    ],
)
def test_a_question_at_the_end_of_a_conversation_is_a_row_where_answers_are_still_to_come(
    turns: list[Any], text: str, response: str, tmp_path: Path
) -> None:
    path = lines(tmp_path, json.dumps({"messages": turns}))
    (row,) = read_file(path, unanswered=True)
    assert isinstance(row, Row)
    assert (row.text, row.response) == (text, response)
    for row in read_file(path, unanswered=True, turns="first"):
        assert isinstance(row, Row)
        assert row.text.startswith("a")
    every = list(read_file(path, unanswered=True, turns="all"))
    assert [row.text for row in every if isinstance(row, Row)][-1] == text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tools": '[{"name": "f"}]'}, "it has tools"),
        ({"image": "a.jpg"}, "it has image"),
        ({"images": ["a.jpg"]}, "it has images"),
        ({"history": [["a"]]}, "a turn is no object and no pair"),
        ({"history": 5}, "the history is not a list"),
        ({"history": [["a", ""]]}, "no answer in the conversation"),
        ({"functions": [{"name": "f"}]}, "it has functions"),
    ],
)
def test_a_row_that_is_more_than_text_is_dropped_with_what_it_has(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = lines(tmp_path, json.dumps({"instruction": "c", "output": "d"} | row))
    assert bad(list(read_file(path))) == [("corpus.jsonl:1", reason)]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([user("a"), assistant(""), user("b"), assistant("c")], "no answer in the conversation"),
        ([*TALK[:4], TALK[0], assistant("d")], "a system prompt in the middle of the conversation"),
        ([], "no instruction"),
        ([{"role": "system", "content": "s"}], "no instruction"),
        ([assistant("b"), user("a")], "the assistant speaks first"),
        ([user("a"), {"role": "tool", "content": "t"}, assistant("b")], "a tool is used"),
        ([user("a"), {"role": "assistant", "content": "", "tool_calls": [1]}], "a tool is used"),
        ([{"role": "system", "content": "s", "functions": '[{}, {"name": 1}]'}, *TALK[1:3]], "a tool is used"),
        (
            [user("a"), assistant("") | {"function_calls": "f()"}, {"role": "environment", "content": 1}],
            "a tool is used",
        ),
        ([user("a"), assistant("<think>t"), user("b"), assistant("c")], "no answer in the conversation"),
        ([user("a"), assistant("b") | {"weight": "0.0"}], "an answer of weight 0"),
        ([user("a"), assistant("b") | {"train": "False"}], "an answer of weight 0"),
        ([user("a"), assistant("b") | {"weight": 0}, assistant("c")], "an answer of weight 0"),
        ([user("a"), assistant("b") | {"loss": False}], "an answer of weight 0"),
        ([user("a"), assistant("b") | {"loss": 0.0}], "an answer of weight 0"),
        (
            [user("a"), assistant("b") | {"train_detail": [{"begin_offset": 0, "end_offset": 0, "train": False}]}],
            "an answer of weight 0",
        ),
        ([user("a") | {"images": ["a.png"]}, assistant("b")], "it has images"),
        ([user("a"), assistant("b"), user(" "), assistant("c")], "an answer to a blank turn"),
        ([user("a"), {"role": "assistant", "parts": ["b"]}], "a turn without content"),
        ([user([{"type": "image_url", "text": ""}]), assistant("b")], "a turn is not text"),
        ([user("a"), {"role": "narrator", "content": "t"}], "a turn without a known speaker"),
        ([user(5), assistant("b")], "a turn is not text"),
        ([user([{"type": "image"}]), assistant("b")], "a turn is not text"),
        ([user("\ud800"), assistant("b")], "a lone surrogate"),
        (["a", 5], "a turn is no object and no pair"),
        ([["a", "b", "c"]], "a turn is no object and no pair"),
        (7, "the conversation is not a list"),
        (None, "no instruction"),
    ],
)
def test_a_conversation_that_gives_no_pair_is_dropped(turns: Any, reason: str, tmp_path: Path) -> None:
    result = list(read_file(lines(tmp_path, json.dumps({"messages": turns}))))
    assert bad(result) == [("corpus.jsonl:1", reason)]


@pytest.mark.parametrize(
    "nothing", [None, float("nan"), "", "[]", "{}", "null", "None", [], {}, [None], [{}], [[]], {"a": None}]
)
def test_tools_and_images_that_say_there_are_none_are_none(nothing: Any, tmp_path: Path) -> None:
    row = {"messages": [user("a"), assistant("b") | {"tool_calls": nothing}], "tools": nothing, "images": nothing}
    assert good(list(read_file(lines(tmp_path, json.dumps(row))))) == ["a"]


@pytest.mark.parametrize(
    "answer",
    [
        assistant("<think>t</think>\n\nb"),
        *(assistant("b") | {name: "t\n"} for name in ("reasoning_content", "reasoning", "thinking")),
        assistant([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "b"}]),
        assistant([{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"text": "b"}]),
        assistant([{"type": "reasoning", "text": "t"}, {"type": "output_text", "text": "b"}]),
    ],
)
def test_a_thought_is_apart_from_the_answer_wherever_it_stands(answer: Any, tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"messages": [user("a"), answer, user("c"), answer]}))
    first, second = read_file(path, turns="all")
    assert first == Row("a", "b", "corpus.jsonl:1 turn 1", thought="t")
    assert second == Row("c", "b", "corpus.jsonl:1 turn 2", context=turns_of("u:a|a:b"), thought="t")


def test_what_an_assistant_says_on_a_channel_before_the_final_one_is_its_thought(tmp_path: Path) -> None:
    said = [assistant("t") | {"channel": "analysis"}, assistant("b") | {"channel": "final"}]
    path = lines(tmp_path, json.dumps({"messages": [user("a"), *said, user("c"), *said]}))
    (row,) = read_file(path)
    assert row == Row("c", "b", "corpus.jsonl:1", context=turns_of("u:a|a:b"), thought="t")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": TALK, "thought": " t\n"}, Columns()),
        ({"messages": [*TALK[:4], assistant("<think>t</think>d")], "thought": "another"}, Columns()),
        ({"instruction": "c", "output": "d", "thought": "t"}, Columns()),
        ({"Question": "c", "CoT": "t", "A": "d"}, Columns(instruction="Question", response="A", thought="CoT")),
        ({"prompt": "c", "completion": "d", "thought": "t"}, Columns()),
    ],
)
def test_a_thought_in_a_column_of_its_own_is_that_of_the_last_answer(
    row: dict[str, Any], columns: Columns, tmp_path: Path
) -> None:
    notes: list[str] = []
    found = list(read_file(lines(tmp_path, json.dumps(row)), columns=columns, turns="all", notes=notes))
    told = [(each.text, each.response, each.thought) for each in found if isinstance(each, Row)]
    assert told[-1] == ("c", "d", "t")
    assert not any(thought for _, _, thought in told[:-1])
    assert notes == []


def test_an_answer_whose_thought_stands_apart_is_taken_as_it_is(tmp_path: Path) -> None:
    answer = assistant("<think> is a tag") | {"reasoning_content": "t"}
    (row,) = read_file(lines(tmp_path, json.dumps({"messages": [user("a"), answer]})))
    assert isinstance(row, Row)
    assert (row.response, row.thought) == ("<think> is a tag", "t")
    (pair,) = pairs([row], "c")
    assert isinstance(pair, Pair)
    assert (pair.response.text, pair.response.thought) == ("<think> is a tag", "t")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b", "label": False},
        {"prompt": "a", "completion": "b", "label": 0},
        {"prompt": "a", "completion": "b", "label": "False"},  # as a CSV has it
        {"instruction": "a", "output": "b", "kto_tag": False},
        {"conversations": TALK, "kto_tag": False},
        {"messages": TALK, "label": False},
        {"prompt": "a", "response": "b", "label": False},
        {"instruction": "a", "output": "b", "label": False},
    ],
)
def test_a_completion_that_its_label_rejects_is_not_learnt(row: dict[str, Any], tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps(row))
    assert bad(list(read_file(path))) == [("corpus.jsonl:1", "a completion that its label rejects")]


@pytest.mark.parametrize("label", [True, None, 0, "False", "negative"])
def test_a_label_of_what_is_no_completion_rejects_only_where_it_is_false(label: Any, tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b", "label": label}, {"messages": TALK[1:3], "label": label}]
    for row in rows:
        assert good(list(read_file(lines(tmp_path, json.dumps(row))))) == ["a"]
        labelled = lines(tmp_path, json.dumps(row | {"label": False}))
        assert good(list(read_file(labelled, columns=Columns(category="label")))) == ["a"]


def test_the_layout_can_be_named_where_a_file_has_several_and_is_found_in_parquet(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b", "messages": [user("c"), assistant("d")]}
    path = lines(tmp_path, json.dumps(row))
    assert good(list(read_file(path))) == ["a"]
    assert good(list(read_file(path, layout="messages"))) == ["c"]
    assert good(list(read_file(path, columns=Columns(conversation="messages")))) == ["c"]
    row = {"messages": [user("a")], "chosen": "b"}
    assert list(read_file(lines(tmp_path, json.dumps(row)), layout="preference")) == [Row("a", "b", "corpus.jsonl:1")]
    row = {"messages": [user("a"), assistant("c")], "chosen": [user("a"), assistant("b")]}
    assert list(read_file(lines(tmp_path, json.dumps(row)), layout="preference")) == [Row("a", "b", "corpus.jsonl:1")]
    turns = [{"from": "human", "value": "a", "role": None}, {"from": None, "value": "b", "role": "assistant"}]
    parquet.write_table(pa.Table.from_pylist([{"conversations": turns}]), tmp_path / "c.parquet")
    assert list(read_file(tmp_path / "c.parquet")) == [Row("a", "b", "c.parquet row 1")]


@pytest.mark.parametrize(
    ("row", "columns", "unread"),
    [
        ({"instruction": "a", "output": "b", "input": ""}, Columns(), []),
        ({"instruction": "a", "system": "s", "history": [], "more": 1}, Columns(), ["columns not read: more"]),
        ({"id": 1, "conversations": [], "tools": "[]"}, Columns(), ["columns not read: id"]),
        ({"instruction": "a", "b": [{"c": "d"}], "k": ""}, Columns(response="b.0.c", category="k"), []),
    ],
)
def test_columns_that_are_not_read_are_named(row: Any, columns: Columns, unread: list[str], tmp_path: Path) -> None:
    notes: list[str] = []
    list(read_file(lines(tmp_path, json.dumps(row), json.dumps(row)), columns=columns, notes=notes))
    assert notes == unread


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "data-set"
    folder.mkdir()
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": None, "input": "", "output": "d"}]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


def test_a_data_set_folder_is_read_like_one_of_the_hub_and_what_is_not_there_is_an_error(
    data_set: Path, tmp_path: Path
) -> None:
    result = list(read_hub(str(data_set)))
    assert good(result) == ["a\n\nb"]
    assert bad(result) == [(f"{data_set}/train row 2", "no instruction")]
    with pytest.raises(DataError, match="train") as caught:
        list(read_hub(str(data_set), split="tran"))
    assert caught.value.remedy
    with pytest.raises(DataError, match="cannot be read"):
        list(read_hub(str(tmp_path / "nothing")))
    with pytest.raises(DataError, match="no column 'prompt'; it has instruction, input, output"):
        list(read_hub(str(data_set), columns=Columns(instruction="prompt")))


def test_turns_that_differ_in_their_keys_are_the_same_in_json_on_the_hub_and_in_its_parquet(tmp_path: Path) -> None:
    """`datasets` holds such turns, and contents of several types, as JSON."""
    unlearnt, called = assistant("b") | {"weight": 0}, assistant("b") | {"tool_calls": [{"function": {"name": "f"}}]}
    texts = [{"type": "text", "text": "e"}, {"type": "text", "text": "f"}]
    rows: list[dict[str, Any]] = [
        {"messages": [user("a"), assistant('"b"')], "system": "s"},
        {"messages": [user("a"), unlearnt, user("c"), assistant("d")], "system": "s\nt"},
        {"messages": [user("a"), called], "system": "s"},
        {"messages": [user(texts), unlearnt], "system": {"text": "s"}},
        {"messages": [user(texts), assistant("d")], "system": None},
    ]
    plain = [{"messages": [user(each), assistant("d")]} for each in ("a", texts)]
    for content, readable in ((rows, 3), (plain, 2)):
        folder = tmp_path / str(readable)
        folder.mkdir()
        path = lines(folder, *map(json.dumps, content))
        datasets.load_dataset(str(folder), split="train").to_parquet(tmp_path / "c.parquet")
        found = [list(read) for read in (read_file(path), read_hub(str(folder)), read_file(tmp_path / "c.parquet"))]
        assert len(good(found[0])) == readable  # one calls a tool, the system prompt of another is no text
        for other in found[1:]:
            assert [row._replace(place="") for row in other if isinstance(row, Row)] == [
                row._replace(place="") for row in found[0] if isinstance(row, Row)
            ]
            assert [reason for _, reason in bad(other)] == [reason for _, reason in bad(found[0])]


def test_json_that_is_broken_spoils_only_its_row_of_parquet(tmp_path: Path) -> None:
    said = pa.array(['[["a", "b"]]', "[[", None], pa.string())
    column = pa.ExtensionArray.from_storage(pa.json_(), said)
    parquet.write_table(pa.table({"messages": column}), path := tmp_path / "c.parquet")
    result = list(read_file(path))
    reasons = [reason for _, reason in bad(result)]
    assert (good(result), reasons) == (["a"], ["the value in messages cannot be read", "no instruction"])


def test_a_hub_without_its_library_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets") as caught:
        list(read_hub("somebody/something"))
    assert "pip install" in caught.value.remedy


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    return SHARED / name


def test_the_seed_corpus_is_read_whole() -> None:
    path = shared("seed/alpaca_data.json.gz")
    result = list(read_file(path))
    raw = json.loads(gzip.decompress(path.read_bytes()))
    assert bad(result) == []
    assert [row.response for row in result if isinstance(row, Row)] == [row["output"] for row in raw]
    assert len(result) == 52_002
    assert sum(text != row["instruction"].strip() for text, row in zip(good(result), raw, strict=True)) == 20_006


@pytest.mark.parametrize(
    ("name", "columns", "count", "answered"),
    [
        ("teacher/alpaca_gpt4_answers_999.json.gz", Columns(), 999, 999),
        ("seed/alpaca_libre_tasks.jsonl.gz", Columns(), 5_860, None),
        ("seed/seed_tasks.jsonl.gz", Columns(input="instances.0.input", response="instances.0.output"), 175, 175),
        ("task_types/dolly_3k.jsonl.gz", Columns(category="category"), 2_697, None),
        ("task_types/wizardlm_testset.jsonl", Columns(instruction="Instruction", category="Skill"), 218, 0),
        ("mt_bench/question.jsonl", Columns(instruction="turns.0", category="category"), 80, 0),
        ("eval/gsm8k_test.jsonl.gz", Columns(instruction="question", response="answer"), 1_319, 1_319),
        ("eval/HumanEval.jsonl.gz", Columns(instruction="prompt", response="canonical_solution"), 164, 164),
        ("eval/bbh.jsonl.gz", Columns(instruction="input", input="", response="target", category="task"), 6_511, 6_511),
        ("alpaca_eval/model_outputs/gpt4.json.gz", Columns(), 805, 805),
    ],
)
def test_published_files_are_read_whole(name: str, columns: Columns, count: int, answered: int | None) -> None:
    result = list(read_file(shared(name), columns=columns))
    assert Counter(reason for _, reason in bad(result)) == {}
    assert len(result) == count
    if answered is not None:
        assert sum(bool(row.response.strip()) for row in result if isinstance(row, Row)) == answered
