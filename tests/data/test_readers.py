from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tapir.data.readers import BadRow, Columns, Format, Row, read_file, read_hub
from tapir.errors import DataError, MissingExtra

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ODD = 'a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\r\nh\ri\nj "k", l\tm'

Fields = dict[str, str]


def as_lines(rows: Sequence[Fields]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_array(rows: Sequence[Fields]) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def as_pretty_array(rows: Sequence[Fields]) -> bytes:
    return json.dumps(rows, indent=4).encode()


def as_pretty_objects(rows: Sequence[Fields]) -> bytes:
    return "\n".join(json.dumps(row, indent=2) for row in rows).encode()


def as_table(rows: Sequence[Fields], separator: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["instruction", "input", "output"], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_tabbed_table(rows: Sequence[Fields]) -> bytes:
    return as_table(rows, "\t")


def as_parquet(rows: Sequence[Fields]) -> bytes:
    out = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows)), out)
    return bytes(out.getvalue())


CONTAINERS: dict[str, tuple[str, Callable[[Sequence[Fields]], bytes]]] = {
    "lines": ("corpus.jsonl", as_lines),
    "lines in .json": ("corpus.json", as_lines),
    "array": ("corpus.json", as_array),
    "pretty array": ("corpus.json", as_pretty_array),
    "array in .jsonl": ("corpus.jsonl", as_array),
    "pretty objects": ("corpus.json", as_pretty_objects),
    "csv": ("corpus.csv", as_table),
    "tsv": ("corpus.tsv", as_tabbed_table),
    "parquet": ("corpus.parquet", as_parquet),
}
TEXTS = {name: kind for name, kind in CONTAINERS.items() if name != "parquet"}
LINES_AND_TABLES = ("lines", "csv", "tsv")

any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.just(ODD)
any_rows = st.lists(
    st.fixed_dictionaries({"instruction": any_text.map("Do {}".format), "input": any_text, "output": any_text}),
    min_size=1,
    max_size=5,
)
some = settings(deadline=None, max_examples=40)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def lines(folder: Path, *rows: str | bytes) -> Path:
    return written(folder, "corpus.jsonl", b"".join((r if isinstance(r, bytes) else r.encode()) + b"\n" for r in rows))


def numbered(count: int) -> list[Fields]:
    return [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(1, count + 1)]


def good(found: Sequence[Row | BadRow]) -> list[str]:
    return [row.text for row in found if isinstance(row, Row)]


def bad(found: Sequence[Row | BadRow]) -> list[tuple[str, str]]:
    return [(row.place, row.reason) for row in found if isinstance(row, BadRow)]


def only(found: Sequence[Row | BadRow]) -> Row | BadRow:
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("container", CONTAINERS)
@some
@given(rows=any_rows)
@example([{"instruction": "Do", "input": ODD, "output": ODD}])
def test_what_was_written_is_read_back(container: str, rows: list[Fields]) -> None:
    name, write = CONTAINERS[container]
    with tempfile.TemporaryDirectory() as folder:
        found = list(read_file(written(Path(folder), name, write(rows))))
    assert bad(found) == []
    assert [row.response for row in found if isinstance(row, Row)] == [row["output"] for row in rows]
    assert all(text.startswith(row["instruction"].strip()) for text, row in zip(good(found), rows, strict=True))


@pytest.mark.parametrize("container", TEXTS)
@pytest.mark.parametrize("suffix", [".gz", ".GZ", ""])
def test_a_gzipped_file_is_known_by_its_content(container: str, suffix: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    plain = list(read_file(written(tmp_path, name, write(numbered(3)))))
    packed = list(read_file(written(tmp_path, name + suffix, gzip.compress(write(numbered(3))))))
    assert good(packed) == good(plain) == ["Do 1", "Do 2", "Do 3"]


@pytest.mark.parametrize("container", TEXTS)
def test_a_byte_order_mark_is_no_part_of_the_first_row(container: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    found = list(read_file(written(tmp_path, name, b"\xef\xbb\xbf" + write(numbered(2)))))
    assert (good(found), bad(found)) == (["Do 1", "Do 2"], [])


def test_places_count_lines_from_one_and_blank_lines_too(tmp_path: Path) -> None:
    path = lines(tmp_path, "", '{"instruction": "a"}', "  ", '{"instruction": "b"}\r', "\r", '{"instruction": "c"}')
    assert [row.place for row in read_file(path)] == ["corpus.jsonl:2", "corpus.jsonl:4", "corpus.jsonl:6"]


def test_the_place_in_a_table_is_the_line_where_the_row_begins(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", b'instruction,output\na,"one\ntwo"\n\nb,three\n')
    assert [row.place for row in read_file(path)] == ["c.csv:2", "c.csv:5"]


@pytest.mark.parametrize("container", ["array", "parquet"])
def test_the_place_in_an_array_or_in_parquet_is_the_number_of_the_row(container: str, tmp_path: Path) -> None:
    name, write = CONTAINERS[container]
    found = list(read_file(written(tmp_path, name, write(numbered(2)))))
    assert [row.place for row in found] == [f"{name} row 1", f"{name} row 2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nonsense}", "not JSON"),
        ('{"instruction": "a"', "not JSON"),
        ('{"instruction": "a\x00"}', "not JSON"),
        ("\x00" * 40, "not JSON"),
        ('{"instruction": ' + "[" * 100_000, "not JSON"),
        ('{"instruction": 1' + "0" * 5_000 + "}", "not JSON"),
        ("[1, 2]", "not an object"),
        ('"text"', "not an object"),
        ("17", "not an object"),
        (b'{"instruction": "caf\xe9"}', "not UTF-8"),
        (b'{"instruction": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"instruction": "\\ud800"}', "a lone surrogate"),
        ('{"instruction": "a", "output": "\\udfff b"}', "a lone surrogate"),
        ('{"instruction": "a\\u0000"}', "a NUL character"),
        ('{"instruction": 5}', "instruction is not text"),
        ('{"instruction": ["a"]}', "instruction is not text"),
        ('{"instruction": "a", "input": 5}', "input is not text"),
        ('{"instruction": "a", "output": {"b": 1}}', "response is not text"),
        ('{"instruction": "a", "output": true}', "response is not text"),
        ('{"instruction": null}', "no instruction"),
        ('{"instruction": NaN}', "no instruction"),
        ('{"instruction": " \\n"}', "no instruction"),
        ('{"other": "a"}', "no instruction"),
    ],
)
def test_a_corrupt_line_is_set_aside_and_the_rest_goes_on(line: str | bytes, reason: str, tmp_path: Path) -> None:
    found = list(read_file(lines(tmp_path, '{"instruction": "before"}', line, '{"instruction": "after"}')))
    assert good(found) == ["before", "after"]
    assert bad(found) == [("corpus.jsonl:2", reason)]


def test_a_bad_row_shows_its_beginning_as_printable_text(tmp_path: Path) -> None:
    path = lines(tmp_path, b"{\xff\x00\x1b[31m\xe2\x80\xa8 caf\xc3\xa9" + b"x" * 1_000, '{"instruction": "a"}')
    row = next(read_file(path))
    assert isinstance(row, BadRow)
    assert row.text.startswith("{\\xff\\x00\\x1b[31m\\u2028 café")
    assert len(row.text) == 500
    assert row.text.isprintable()


def test_surrogates_that_make_a_pair_are_one_character(tmp_path: Path) -> None:
    row = only(list(read_file(lines(tmp_path, '{"instruction": "\\ud83d\\ude00"}'))))
    assert isinstance(row, Row)
    assert row.text == "😀"


@pytest.mark.parametrize("ending", [",", ",  ", ",\r"])
def test_a_comma_behind_a_line_does_no_harm(ending: str, tmp_path: Path) -> None:
    found = list(read_file(lines(tmp_path, '{"instruction": "a"}' + ending, '{"instruction": "b"}')))
    assert (good(found), bad(found)) == (["a", "b"], [])


def test_a_last_line_that_is_cut_is_called_so(tmp_path: Path) -> None:
    path = written(tmp_path, "corpus.jsonl", b'{"instruction": "a"}\n{"instruction": "b')
    assert (good(list(read_file(path))), bad(list(read_file(path)))) == (["a"], [("corpus.jsonl:2", "the file is cut")])


@pytest.mark.parametrize(
    ("array", "texts", "reasons"),
    [
        ('[{"instruction": "a"}, {"instruction": "b"},]', ["a", "b"], []),
        ('[{"instruction": "a"} {"instruction": "b"}]', ["a", "b"], []),
        ('[{"instruction": "a"}, {"instruction": "b"', ["a"], ["the file is cut"]),
        ('[{"instruction": "a"}, {"instruction": "b"}', ["a", "b"], ["the file is cut"]),
        ('[{"instruction": "a"}, {"instruc"tion": "b"}, {"instruction": "c"}]', ["a", "c"], ["not JSON"]),
        ('[{"instruction": "a"}, 7, "b", null]', ["a"], ["not an object"] * 3),
        ('[{"instruction": "a"}] and more', ["a"], ["not JSON"]),
        ('[{"instruction": "\\ud800"}, {"instruction": "b"}]', ["b"], ["a lone surrogate"]),
    ],
)
def test_a_damaged_array_gives_what_can_be_read(
    array: str, texts: list[str], reasons: list[str], tmp_path: Path
) -> None:
    found = list(read_file(written(tmp_path, "corpus.json", array.encode())))
    assert good(found) == texts
    assert [reason for _, reason in bad(found)] == reasons


def test_bytes_that_are_not_utf8_spoil_only_their_row_of_an_array(tmp_path: Path) -> None:
    path = written(tmp_path, "c.json", b'[{"instruction": "caf\xe9"}, {"instruction": "b"}]')
    assert (good(list(read_file(path))), bad(list(read_file(path)))) == (["b"], [("c.json row 1", "not UTF-8")])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,b,c", "wrong number of fields"),
        (b"a", "wrong number of fields"),
        (b'"a" b,c', "broken quotes"),
        (b'"a,b', "broken quotes"),
        (b"caf\xe9,b", "not UTF-8"),
        (b"a\x00,b", "a NUL character"),
        (b",b", "no instruction"),
        (b"a\rb,c", "broken quotes"),
    ],
)
def test_a_corrupt_row_of_a_table_is_set_aside_and_the_rest_goes_on(line: bytes, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", b"instruction,output\nbefore,x\n" + line + b"\nafter,y\nlast,z\n")
    found = list(read_file(path))
    assert good(found) == ["before", "after", "last"]
    assert bad(found) == [("c.csv:3", reason)]


def test_an_open_quote_before_the_cut_does_not_swallow_the_rows_between(tmp_path: Path) -> None:
    rows = numbered(20_000)
    table = as_table(rows).replace(b"Do 7,", b'"Do 7,')
    packed = gzip.compress(table)
    found = list(read_file(written(tmp_path, "c.csv.gz", packed[: len(packed) // 2])))
    assert good(found)[:7] == [f"Do {n}" for n in (1, 2, 3, 4, 5, 6, 8)]
    assert len(good(found)) > 5_000
    assert [bad(found)[0], bad(found)[-1][1]] == [("c.csv.gz:8", "broken quotes"), "the file is cut"]


def test_a_long_field_is_no_error(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", b"instruction,output\na," + b"x" * 300_000 + b"\n")
    row = only(list(read_file(path)))
    assert isinstance(row, Row)
    assert len(row.response) == 300_000


def test_text_in_parquet_that_is_not_utf8_spoils_only_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"caf\xe9", b"c"], pa.binary())
    text = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    parquet.write_table(pa.table({"instruction": text}), tmp_path / "c.parquet")
    found = list(read_file(tmp_path / "c.parquet"))
    assert (good(found), bad(found)) == (["a", "c"], [("c.parquet row 2", "not UTF-8")])


def test_a_parquet_file_without_its_end_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "c.parquet", as_parquet(numbered(3))[:-20])
    with pytest.raises(DataError, match="cut or damaged"):
        list(read_file(path))


@pytest.mark.parametrize("container", TEXTS)
def test_a_gzipped_file_that_is_cut_gives_the_rows_before(container: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    packed = gzip.compress(write([{**row, "output": str(hash(str(row)))} for row in numbered(20_000)]))
    found = list(read_file(written(tmp_path, name + ".gz", packed[: len(packed) // 2])))
    texts = good(found)
    assert 5_000 < len(texts) < 15_000
    assert texts == [row["instruction"] for row in numbered(len(texts))]
    assert [reason for _, reason in bad(found)] == ["the file is cut"]
    assert isinstance(found[-1], BadRow)


@pytest.mark.parametrize("container", TEXTS)
def test_a_gzipped_file_with_a_wrong_checksum_is_called_damaged(container: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    packed = bytearray(gzip.compress(write(numbered(3))))
    packed[-8] ^= 1
    found = list(read_file(written(tmp_path, name + ".gz", bytes(packed))))
    assert [reason for _, reason in bad(found)] == ["the file is damaged"]


@pytest.mark.parametrize("container", [*CONTAINERS, "gzip"])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_happens_to_a_file_its_rows_are_text(container: str, data: st.DataObject) -> None:
    name, write = CONTAINERS[container if container in CONTAINERS else "lines"]
    content = bytearray(write(numbered(6)))
    if container == "gzip":
        content = bytearray(gzip.compress(bytes(content)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[place : place + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = list(read_file(written(Path(folder), name, bytes(content))))
        except DataError as error:
            assert error.remedy  # noqa: PT017
            return
    for row in found:
        text = row.text + row.place + (row.response if isinstance(row, Row) else row.reason)
        assert "\0" not in text.encode().decode()


@pytest.mark.parametrize("container", LINES_AND_TABLES)
@some
@given(st.data())
def test_damage_within_one_line_leaves_the_other_rows(container: str, data: st.DataObject) -> None:
    name, write = CONTAINERS[container]
    content = write(numbered(6)).split(b"\n")
    place = data.draw(st.integers(1, 5))
    content[place] = data.draw(st.binary(max_size=30).filter(lambda raw: b"\n" not in raw and b'"' not in raw))
    with tempfile.TemporaryDirectory() as folder:
        found = list(read_file(written(Path(folder), name, b"\n".join(content))))
    lost = f"Do {place + (container == 'lines')}"
    assert [text for text in good(found) if text.startswith("Do ")] == [
        row["instruction"] for row in numbered(6) if row["instruction"] != lost
    ]


@pytest.mark.parametrize("container", LINES_AND_TABLES)
def test_a_file_is_read_as_its_rows_are_asked_for(container: str, tmp_path: Path) -> None:
    name, write = CONTAINERS[container]
    path = written(tmp_path, name, write(numbered(20_000)))
    reader = read_file(path)
    next(reader)
    with path.open("ab") as file:
        file.write(write(numbered(1)).splitlines(keepends=True)[-1])
    assert sum(1 for _ in reader) == 20_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", b""),
        ("c.jsonl", b"\n \n"),
        ("c.jsonl", b"\xef\xbb\xbf"),
        ("c.json", b"[]"),
        ("c.json", b"[\n]\n"),
        ("c.csv", b""),
        ("c.csv", b"instruction,input,output\n"),
        ("c.json.gz", gzip.compress(b"")),
        ("c.parquet", b""),
        ("c.parquet", as_parquet(numbered(1)[:0])),
    ],
)
def test_a_file_without_rows_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows") as caught:
        list(read_file(written(tmp_path, name, content)))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.txt", b"some text", "no format known"),
        ("c.parquet", b"some text", "no format known"),
        ("c.csv", "instruction,output\na,b\n".encode("utf-16"), "UTF-16"),
        ("c.csv", b'"instruction,output\na,b\n', "no header"),
        ("c.csv", b"instruction,output,output\na,b,c\n", "two columns called 'output'"),
    ],
)
def test_a_file_that_cannot_be_a_corpus_is_one_clear_error(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        list(read_file(written(tmp_path, name, content)))
    assert caught.value.remedy


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(read_file(path))


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
