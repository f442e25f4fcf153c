"""Layouts: what the columns of a row mean, conversations, data sets of the hub, published files."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tapir.data.readers import Columns, Format, Row, read_file, read_hub
from tapir.errors import DataError, MissingExtra
from tests.data.containers import bad, good, lines, only, written


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"prompt": "a", "context": "b", "answer": "c", "kind": "d"}')
    columns = Columns(instruction="prompt", input="context", response="answer", category="kind")
    assert list(read_file(path, columns=columns)) == [Row("a\n\nb", "c", "corpus.jsonl:1", "d")]


def test_a_column_may_be_a_path(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"instruction": "a", "instances": [{"input": "b", "output": "c"}]}', '{"instruction": "d"}')
    columns = Columns(input="instances.0.input", response="instances.0.output")
    assert [(row.text, row.response) for row in read_file(path, columns=columns) if isinstance(row, Row)] == [
        ("a\n\nb", "c"),
        ("d", ""),
    ]


def test_a_column_whose_name_has_a_dot_is_found(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"meta.instruction": "a"}')
    assert good(list(read_file(path, columns=Columns(instruction="meta.instruction")))) == ["a"]


@pytest.mark.parametrize(
    ("columns", "said", "near"),
    [
        (Columns(), "no column 'instruction'; it has Instructions, Response", "Instructions"),
        (Columns(instruction="Instructions", response="responses"), "no column 'responses'", "Response"),
        (Columns(instruction="Instructions", input="context"), "no column 'context'", ""),
        (Columns(instruction="Instructions", category="task"), "no column 'task'", ""),
        (Columns(conversation="chat"), "no column 'chat'", ""),
    ],
)
def test_a_column_that_is_not_there_is_an_error_with_the_nearest_name(
    columns: Columns, said: str, near: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.csv", b"Instructions,Response\na,b\n")
    with pytest.raises(DataError, match=said) as caught:
        list(read_file(path, columns=columns))
    assert near in caught.value.remedy


@pytest.mark.parametrize("layout", ["sharegpt", "messages"])
def test_a_layout_that_the_file_does_not_have_is_an_error(layout: Format, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column"):
        list(read_file(lines(tmp_path, '{"instruction": "a"}'), layout=layout))


def test_an_unused_column_may_hold_anything(tmp_path: Path) -> None:
    assert good(list(read_file(lines(tmp_path, '{"instruction": "a", "other": "\\ud800\\u0000"}')))) == ["a"]


def test_a_category_that_is_a_number_is_a_label(tmp_path: Path) -> None:
    row = only(list(read_file(lines(tmp_path, '{"instruction": "a", "c": 3}'), columns=Columns(category="c"))))
    assert isinstance(row, Row)
    assert row.category == "3"


@pytest.mark.parametrize(
    "given_input",
    [
        *(
            "",
            "  \n",
            "No input",
            "no input.",
            "NO INPUT",
            "Noinput",
            "<noinput>",
            "<no input>.",
            '"<noinput>"',
            "`<noinput>`",
        ),
        *(
            "\\<noinput\\>",
            "[No Input]",
            "(no input)",
            "No input required.",
            "No input needed",
            "no input provided",
            "N/A",
        ),
        *("<N/A>", "n/a", "NA", "None", "none.", "<none>", "nan", "NaN", "NULL", "-", "--", "—", ":\n<noinput>"),
    ],
)
def test_an_input_that_only_says_that_there_is_none_is_none(given_input: str, tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"instruction": "Do it", "input": given_input}))
    assert good(list(read_file(path))) == ["Do it"]


@pytest.mark.parametrize(
    "given_input",
    [
        *(
            "0",
            "None of the above is true.",
            "Na",
            "Nan",
            "No",
            "no",
            "-3",
            "...",
            "[]",
            '""',
            "+",
            "Nonetheless",
            "noinput 8",
        ),
        *(
            "No input device was found",
            "Nothing",
            "x",
            "null pointer",
            "The <noinput>",
            "---- .. -",
            "." * 200_000 + "x",
        ),
    ],
)
def test_a_real_input_is_kept(given_input: str, tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"instruction": "Do it", "input": given_input}))
    assert good(list(read_file(path))) == ["Do it\n\n" + given_input]


def test_the_first_line_of_an_input_keeps_its_indentation(tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"instruction": " Mend it: ", "input": "\n    x = 1\n    y = 2\n"}))
    assert good(list(read_file(path))) == ["Mend it:\n\n    x = 1\n    y = 2"]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("turns", "text", "response"),
    [
        ([user("a"), assistant("b")], "a", "b"),
        ([user("a"), assistant("b"), user("c"), assistant("d")], "a", "b"),
        ([{"role": "system", "content": "s"}, user("a"), assistant("b")], "s\n\na", "b"),
        ([{"role": "system", "content": ""}, user("a"), assistant("b")], "a", "b"),
        ([user("a"), user("b"), assistant("c")], "a\n\nb", "c"),
        ([user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), assistant("c")], "a\nb", "c"),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": " b "}], "a", " b "),
        (
            [{"from": "system", "value": "s"}, {"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}],
            "s\n\na",
            "b",
        ),
        ([user("a"), assistant("b"), {"role": "tool", "content": 5}], "a", "b"),
        ([user("a")], "a", ""),
        ([{"role": "system", "content": "s"}, user("a"), user("b")], "s\n\na\n\nb", ""),
    ],
)
@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_a_conversation_is_its_first_question_and_answer(
    column: str, turns: list[Any], text: str, response: str, tmp_path: Path
) -> None:
    expected = [Row(text, response, "corpus.jsonl:1")]
    assert list(read_file(lines(tmp_path, json.dumps({column: turns})))) == expected
    assert list(read_file(lines(tmp_path, json.dumps({column: json.dumps(turns)})))) == expected


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([user("a"), assistant("")], "no answer in the conversation"),
        ([user("a"), assistant(None)], "no answer in the conversation"),
        ([], "no instruction"),
        ([{"role": "system", "content": "s"}], "no instruction"),
        ([user("")], "no instruction"),
        ([assistant("b"), user("a")], "the assistant speaks first"),
        ([user(""), assistant("b")], "the assistant speaks first"),
        ([user("a"), {"role": "tool", "content": "t"}, assistant("b")], "a tool is used before the answer"),
        ([user("a"), {"role": "assistant", "content": "", "tool_calls": [1]}], "a tool is used before the answer"),
        ([user("a"), {"role": "narrator", "content": "t"}], "a turn without a known speaker"),
        ([{"content": "a"}], "a turn without a known speaker"),
        ([user(5), assistant("b")], "a turn is not text"),
        ([user([{"type": "image"}]), assistant("b")], "a turn is not text"),
        ([user("\ud800"), assistant("b")], "a lone surrogate"),
        (["a", "b"], "a turn is not an object"),
        ("a", "the conversation is not a list"),
        (7, "the conversation is not a list"),
        (None, "no conversation"),
    ],
)
def test_a_conversation_that_gives_no_pair_is_set_aside(turns: Any, reason: str, tmp_path: Path) -> None:
    found = list(read_file(lines(tmp_path, json.dumps({"messages": turns}))))
    assert bad(found) == [("corpus.jsonl:1", reason)]


def test_the_layout_can_be_named_where_a_file_has_several(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b", "messages": [user("c"), assistant("d")]}
    path = lines(tmp_path, json.dumps(row))
    assert good(list(read_file(path))) == ["a"]
    assert good(list(read_file(path, layout="messages"))) == ["c"]
    assert good(list(read_file(path, columns=Columns(conversation="messages")))) == ["c"]


def test_conversations_in_parquet_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a", "role": None}, {"from": None, "value": "b", "role": "assistant"}]
    parquet.write_table(pa.Table.from_pylist([{"conversations": turns}]), tmp_path / "c.parquet")
    assert list(read_file(tmp_path / "c.parquet")) == [Row("a", "b", "c.parquet row 1")]


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "data-set"
    folder.mkdir()
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": None, "input": "", "output": "d"}]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


def test_a_data_set_folder_is_read_like_one_of_the_hub(data_set: Path) -> None:
    found = list(read_hub(str(data_set)))
    assert good(found) == ["a\n\nb"]
    assert bad(found) == [(f"{data_set}/train row 2", "no instruction")]


def test_a_split_that_is_not_there_is_an_error_that_names_the_others(data_set: Path) -> None:
    with pytest.raises(DataError, match="train") as caught:
        list(read_hub(str(data_set), split="tran"))
    assert caught.value.remedy


def test_a_data_set_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(read_hub(str(tmp_path / "nothing")))


def test_a_column_that_a_data_set_lacks_is_an_error(data_set: Path) -> None:
    with pytest.raises(DataError, match="no column 'prompt'; it has instruction, input, output"):
        list(read_hub(str(data_set), columns=Columns(instruction="prompt")))


def test_a_hub_without_its_library_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets") as caught:
        list(read_hub("somebody/something"))
    assert "pip install" in caught.value.remedy


DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def shared(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    return DATA / name


def test_the_seed_corpus_is_read_whole() -> None:
    path = shared("seed/alpaca_data.json.gz")
    found = list(read_file(path))
    raw = json.loads(gzip.decompress(path.read_bytes()))
    assert bad(found) == []
    assert [row.response for row in found if isinstance(row, Row)] == [row["output"] for row in raw]
    assert len(found) == 52_002
    assert sum(text != row["instruction"].strip() for text, row in zip(good(found), raw, strict=True)) == 20_006


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
    found = list(read_file(shared(name), columns=columns))
    assert Counter(reason for _, reason in bad(found)) == {}
    assert len(found) == count
    if answered is not None:
        assert sum(bool(row.response.strip()) for row in found if isinstance(row, Row)) == answered
