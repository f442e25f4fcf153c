"""Containers: whatever a file is and whatever happened to it, its rows are read or rejected."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from support.containers import (
    CONTAINERS,
    LINES_AND_TABLES,
    ODD,
    TEXTS,
    Fields,
    any_rows,
    as_parquet,
    as_table,
    bad,
    good,
    lines,
    numbered,
    written,
)
from tapir.data.layouts import Columns, Row
from tapir.data.readers import read_file
from tapir.domain.errors import DataError
from tapir.domain.roles import Rejected


@pytest.mark.parametrize("container", CONTAINERS)
@given(rows=any_rows)
@example([{"instruction": "Do", "input": ODD, "output": ODD}])
def test_what_was_written_is_read_back(container: str, rows: list[Fields]) -> None:
    name, write = CONTAINERS[container]
    with tempfile.TemporaryDirectory() as folder:
        result = list(read_file(written(Path(folder), name, write(rows))))
    assert bad(result) == []
    assert [row.response for row in result if isinstance(row, Row)] == [row["output"] for row in rows]
    assert all(text.startswith(row["instruction"].strip()) for text, row in zip(good(result), rows, strict=True))


@pytest.mark.parametrize("container", TEXTS)
@pytest.mark.parametrize("suffix", [".gz", ".GZ", ""])
def test_a_gzipped_file_and_a_byte_order_mark_are_known_by_their_content(
    container: str, suffix: str, tmp_path: Path
) -> None:
    name, write = TEXTS[container]
    plain = list(read_file(written(tmp_path, name, b"\xef\xbb\xbf" + write(numbered(3)))))
    packed = list(read_file(written(tmp_path, name + suffix, gzip.compress(write(numbered(3))))))
    twice = written(tmp_path, name + suffix, gzip.compress(gzip.compress(write(numbered(3)))))
    assert good(list(read_file(twice))) == good(packed) == good(plain) == ["Do 1", "Do 2", "Do 3"]


def test_the_place_is_the_line_where_a_row_begins_or_the_number_of_the_row(tmp_path: Path) -> None:
    path = lines(tmp_path, "", '{"instruction": "a"}', "  ", '{"instruction": "b"}\r', "\r", '{"instruction": "c"}')
    assert [row.place for row in read_file(path)] == ["corpus.jsonl:2", "corpus.jsonl:4", "corpus.jsonl:6"]
    table = written(tmp_path, "c.csv", b'instruction,output\na,"one\ntwo"\n\nb,' + b"three" * 60_000 + b"\n")
    assert [row.place for row in read_file(table)] == ["c.csv:2", "c.csv:5"]
    for name, write in (CONTAINERS["array"], CONTAINERS["parquet"]):
        rows = read_file(written(tmp_path, name, write(numbered(2))))
        assert [row.place for row in rows] == [f"{name} row 1", f"{name} row 2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nonsense}", "not JSON"),
        ('{"instruction": "a\x00"}', "not JSON"),
        ("\x00" * 40, "not JSON"),
        ('{"instruction": ' + "[" * 100_000, "not JSON"),
        ('{"instruction": 1' + "0" * 5_000 + "}", "not JSON"),
        ("[1, 2]", "not an object"),
        (b'{"instruction": "caf\xe9"}', "not UTF-8"),
        (b'{"instruction": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"instruction": "\\ud800"}', "a lone surrogate"),
        ('{"instruction": "a\\u0000"}', "a NUL character"),
        ('{"instruction": 5}', "instruction is not text"),
        ('{"instruction": "a", "input": 5}', "input is not text"),
        ('{"instruction": "a", "output": {"b": 1}}', "response is not text"),
        ('{"instruction": null}', "no instruction"),
        ('{"instruction": NaN}', "no instruction"),
        ('{"instruction": " \\n"}', "no instruction"),
    ],
)
def test_a_corrupt_line_is_rejected_and_the_rest_goes_on(line: str | bytes, reason: str, tmp_path: Path) -> None:
    result = list(read_file(lines(tmp_path, '{"instruction": "before"}', line, '{"instruction": "after"}')))
    assert good(result) == ["before", "after"]
    assert bad(result) == [("corpus.jsonl:2", reason)]


def test_a_bad_row_shows_its_beginning_as_printable_text(tmp_path: Path) -> None:
    path = lines(tmp_path, b"{\xff\x00\x1b[31m\xe2\x80\xa8 caf\xc3\xa9" + b"x" * 1_000, '{"instruction": "a"}')
    row = next(read_file(path))
    assert isinstance(row, Rejected)
    assert row.text.startswith("{\\xff\\x00\\x1b[31m\\u2028 café")
    assert len(row.text) == 500
    assert row.text.isprintable()


def test_lines_may_have_a_comma_and_escaped_pairs_of_surrogates_and_the_last_may_be_cut(tmp_path: Path) -> None:
    rows = ['{"instruction": "a"},', '{"instruction": "b"},  ', '{"instruction": "\\ud83d\\ude00"},\r']
    result = list(read_file(lines(tmp_path, *rows)))
    assert (good(result), bad(result)) == (["a", "b", "\N{GRINNING FACE}"], [])
    result = list(read_file(written(tmp_path, "corpus.jsonl", b'{"instruction": "a"}\n{"instruction": "b')))
    assert (good(result), bad(result)) == (["a"], [("corpus.jsonl:2", "the file is cut")])


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
        ('[{"instruction": "a"}]\n[]\n[{"instruction": "b"},\n 7]\n', ["a", "b"], ["not an object"]),
        ('["a", "b"]\n["c", "d"]', [], ["not an object"] * 4),
        ('[{"instruction": "\\ud800"}, {"instruction": "b"}]', ["b"], ["a lone surrogate"]),
    ],
)
def test_a_damaged_array_gives_what_can_be_read(
    array: str, texts: list[str], reasons: list[str], tmp_path: Path
) -> None:
    result = list(read_file(written(tmp_path, "corpus.json", array.encode())))
    assert good(result) == texts
    assert [reason for _, reason in bad(result)] == reasons


def test_a_broken_row_of_an_array_is_shown_alone_with_its_line(tmp_path: Path) -> None:
    array = b'[\n{"instruction": "a"},\n {"instruction": "b},\n\n{"instruction": "c"},\n{"instruction" "d"}, {}, 7]'
    broken, *_ = rows = [row for row in read_file(written(tmp_path, "c.json", array)) if isinstance(row, Rejected)]
    assert (broken.place, broken.reason) == ("c.json row 2 (line 3)", "not JSON")
    assert [row.text for row in rows] == ['{"instruction": "b}', '{"instruction" "d"}', "{}", "7"]
    whole = written(tmp_path, "d.json", b'[{"instruction": 1, ' + b"x" * 900 + b'}, {"instruction": "b"}]')
    assert [len(row.text) for row in read_file(whole)] == [500, 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,b,c", "wrong number of fields"),
        (b'"a" b,c', "broken quotes"),
        (b"caf\xe9,b", "not UTF-8"),
        (b"a\x00,b", "a NUL character"),
        (b",b", "no instruction"),
        (b"a\rb,c", "a carriage return outside quotes"),
        (b"a,b,,c", "wrong number of fields"),
    ],
)
def test_a_corrupt_row_of_a_table_is_rejected_and_the_rest_goes_on(line: bytes, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", b"instruction,output\nbefore,x\n" + line + b"\nafter,y\nlast,z\n")
    result = list(read_file(path))
    assert good(result) == ["before", "after", "last"]
    assert bad(result) == [("c.csv:3", reason)]


@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize(("name", "separator"), [("c.csv", ","), ("c.tsv", "\t"), ("semicolon.csv", ";")])
def test_a_field_that_is_too_long_is_one_bad_row_and_what_stands_in_it_is_none(
    name: str, separator: str, quote: str, tmp_path: Path
) -> None:
    inner = "".join(f"Do {n}{separator}{separator}Done {n}\n" for n in range(70_000)) if quote else "x" * 1_300_000
    rows = [("instruction", "input", "output"), ("Do", f"{quote}{inner}{quote}", "Done"), ("Do 2", "", "Done 2")]
    table = "".join(separator.join(row) + "\n" for row in rows)
    result = list(read_file(written(tmp_path, name, table.encode())))
    assert (good(result), bad(result)) == (["Do 2"], [(f"{name}:2", "field too long")])


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (r'"Say \"hi\", please.",hi|Count to 2.,"1, 2"', [('Say "hi", please.', "hi"), ("Count to 2.", "1, 2")]),
        (r'a\"b,C:\new|"a \"","1 \\ 2 \n ""3"""', [('a"b', r"C:\new"), ('a "', r'1 \ 2 \n "3"')]),
        (r'"C:\",x|"say ""\"" or",\"', [("C:\\", "x"), (r'say "\" or', r"\"")]),
    ],
    ids=["backslashes", "backslashes before others too", "doubled quotes"],
)
def test_quotes_are_read_as_the_whole_table_writes_them(
    table: str, rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    path = written(tmp_path, "c.csv", f"instruction,output|{table}|".replace("|", "\n").encode())
    assert [(row.text, row.response) for row in read_file(path) if isinstance(row, Row)] == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", b"instruction,output,,\nDo 1,x,,\nDo 2,x,,\n"),  # as spreadsheets write columns that were emptied
        ("c.csv", b"instruction,output\nDo 1,x,\nDo 2,x,,\n"),
        ("c.csv", b'[{"instruction": "Do 1"}, {"instruction": "Do 2"}]'),
        ("c.tsv", b'{"instruction": "Do 1"}\n{"instruction": "Do 2"}\n'),
        ("c.jsonl", b'{"instruction": "Do 1"}\n\xef\xbb\xbf{"instruction": "Do 2"}'),  # two files that were joined
    ],
)
def test_what_other_programs_leave_behind_costs_no_row(name: str, content: bytes, tmp_path: Path) -> None:
    result = list(read_file(written(tmp_path, name, content)))
    assert (good(result), bad(result)) == (["Do 1", "Do 2"], [])


def test_a_last_line_that_is_closed_and_no_json_was_not_cut(tmp_path: Path) -> None:
    result = list(read_file(written(tmp_path, "c.jsonl", b"{\"instruction\": \"Do\"}\n{'instruction': 'Do'}")))
    assert bad(result) == [("c.jsonl:2", "not JSON")]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
@pytest.mark.parametrize(
    "table", ["instruction;output\na;b, c\n", "instruction\toutput\na\tb, c\n", "sep=|\ninstruction|output\na|b, c\n"]
)
def test_a_table_with_another_separator_is_read_by_it(name: str, table: str, tmp_path: Path) -> None:
    assert [
        (row.text, row.response) for row in read_file(written(tmp_path, name, table.encode())) if isinstance(row, Row)
    ] == [("a", "b, c")]


@pytest.mark.parametrize(
    "content",
    [
        {"version": "1", "data": numbered(2)},
        {"columns": [{"name": "instruction"}], "train": numbered(2), "test": numbered(1)},
        {"features": [{"name": "instruction"}], "rows": [{"row_idx": 0, "row": row} for row in numbered(2)]},
        {"my_rows": numbered(2), "people": [{"name": "x"}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_under_a_key_are_read(content: dict[str, object], indent: int | None, tmp_path: Path) -> None:
    path = written(tmp_path, "c.json", json.dumps(content, indent=indent).encode())
    assert [(row.text, row.place) for row in read_file(path)] == [("Do 1", "c.json row 1"), ("Do 2", "c.json row 2")]
    row = {"instruction": "a", "data": numbered(2)}
    assert good(list(read_file(written(tmp_path, "c.json", json.dumps(row, indent=indent).encode())))) == ["a"]


def test_rows_under_one_key_are_read_and_the_lists_under_others_are_named(tmp_path: Path) -> None:
    rows = [{"instruction": "Do 1", "output": "x"}]
    content = {"test": rows, "train": rows * 2, "version": 1}
    notes: list[str] = []
    result = list(read_file(written(tmp_path, "c.json", json.dumps(content).encode()), notes=notes))
    assert (len(good(result)), notes) == (2, ["rows read: those under train, not under test"])


def test_a_value_that_cannot_be_read_matters_only_where_its_column_is_in_use(tmp_path: Path) -> None:
    dates = pa.array([0, 10**18], pa.timestamp("ms"))
    table = pa.table({"instruction": ["a", "b"], "output": ["c", "d"], "made": dates})
    parquet.write_table(table, path := tmp_path / "c.parquet")
    notes: list[str] = []
    assert good(list(read_file(path, notes=notes))) == ["a", "b"]
    assert notes == ["columns not read: made"]
    result = list(read_file(path, columns=Columns(input="made"), notes=notes))
    assert bad(result) == [
        ("c.parquet row 1", "input is not text"),
        ("c.parquet row 2", "the value in made cannot be read"),
    ]
    written(tmp_path, "c.parquet.gz", gzip.compress(path.read_bytes()))
    assert good(list(read_file(tmp_path / "c.parquet.gz"))) == ["a", "b"]


def test_an_open_quote_before_the_cut_does_not_swallow_the_rows_between(tmp_path: Path) -> None:
    rows = numbered(20_000)
    table = as_table(rows).replace(b"Do 7,", b'"Do 7,')
    packed = gzip.compress(table)
    result = list(read_file(written(tmp_path, "c.csv.gz", packed[: len(packed) // 2])))
    assert good(result)[:7] == [f"Do {n}" for n in (1, 2, 3, 4, 5, 6, 8)]
    assert len(good(result)) > 5_000
    assert [bad(result)[0], bad(result)[-1][1]] == [("c.csv.gz:8", "broken quotes"), "the file is cut"]


def test_text_that_is_not_utf8_spoils_only_its_row_of_an_array_or_of_parquet(tmp_path: Path) -> None:
    result = list(read_file(written(tmp_path, "c.json", b'[{"instruction": "caf\xe9"}, {"instruction": "b"}]')))
    assert (good(result), bad(result)) == (["b"], [("c.json row 1", "not UTF-8")])
    raw = pa.array([b"a", b"caf\xe9", b"c"], pa.binary())
    text = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    parquet.write_table(pa.table({"instruction": text}), tmp_path / "c.parquet")
    result = list(read_file(tmp_path / "c.parquet"))
    assert (good(result), bad(result)) == (["a", "c"], [("c.parquet row 2", "not UTF-8")])


@pytest.mark.parametrize("container", TEXTS)
def test_a_gzipped_file_that_is_cut_gives_the_rows_before(container: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    packed = gzip.compress(write([{**row, "output": str(hash(str(row)))} for row in numbered(20_000)]))
    result = list(read_file(written(tmp_path, name + ".gz", packed[: len(packed) // 2])))
    texts = good(result)
    assert 5_000 < len(texts) < 15_000
    assert texts == [row["instruction"] for row in numbered(len(texts))]
    (place, reason) = bad(result)[0]
    assert (len(bad(result)), reason) == (1, "the file is cut")
    assert re.fullmatch(
        rf"(after )?{re.escape(name)}\.gz(:| row )({len(texts)}|{len(texts) + 1})( \(line \d+\))?", place
    )
    assert isinstance(result[-1], Rejected)


@pytest.mark.parametrize("container", TEXTS)
def test_a_gzipped_file_with_a_wrong_checksum_is_called_damaged(container: str, tmp_path: Path) -> None:
    name, write = TEXTS[container]
    packed = bytearray(gzip.compress(write(numbered(3))))
    packed[-8] ^= 1
    result = list(read_file(written(tmp_path, name + ".gz", bytes(packed))))
    assert [reason for _, reason in bad(result)] == ["the file is damaged"]


@pytest.mark.parametrize("container", [*CONTAINERS, "gzip"])
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
            result = list(read_file(written(Path(folder), name, bytes(content))))
        except DataError as error:
            assert error.remedy  # noqa: PT017
            return
    for row in result:
        text = row.text + row.place + (row.response if isinstance(row, Row) else row.reason)
        assert "\0" not in text.encode().decode()


@pytest.mark.parametrize("container", LINES_AND_TABLES)
@given(st.data())
def test_damage_within_one_line_leaves_the_other_rows(container: str, data: st.DataObject) -> None:
    name, write = CONTAINERS[container]
    content = write(numbered(6)).split(b"\n")
    place = data.draw(st.integers(1, 5))
    content[place] = data.draw(st.binary(max_size=30).filter(lambda raw: b"\n" not in raw and b'"' not in raw))
    with tempfile.TemporaryDirectory() as folder:
        result = list(read_file(written(Path(folder), name, b"\n".join(content))))
    lost = f"Do {place + (container == 'lines')}"
    assert [text for text in good(result) if text.startswith("Do ")] == [
        row["instruction"] for row in numbered(6) if row["instruction"] != lost
    ]


def test_the_text_of_an_array_is_in_memory_once(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {number}", "output": "So it is. " * 1_000} for number in range(100)]
    rows[0]["output"] += "\U0001f600"  # four bytes for every character then
    content = json.dumps(rows, ensure_ascii=False).encode() + b"\n"
    path = written(tmp_path, "rows.json", content)
    tracemalloc.start()
    try:
        assert sum(isinstance(row, Row) for row in read_file(path)) == 100
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6.5 * len(content)  # the bytes, and the text made of them


@pytest.mark.parametrize("container", LINES_AND_TABLES)
def test_a_file_is_read_as_its_rows_are_asked_for(container: str, tmp_path: Path) -> None:
    name, write = CONTAINERS[container]
    path = written(tmp_path, name, write(numbered(20_000)))
    reader = read_file(path)
    next(reader)
    with path.open("ab") as file:
        file.write(write(numbered(1)).splitlines(keepends=True)[-1])
    assert sum(1 for _ in reader) == 20_000


HEADER = b"instruction,input,output\n"
EMPTY = {
    "c.jsonl": [b"", b"\n \n", b"\xef\xbb\xbf"],
    "c.json": [b"[]", b"[\n]\n"],
    "c.csv": [b"", HEADER],
    "c.json.gz": [gzip.compress(b"", mtime=0)],
    "c.parquet": [b"", as_parquet(numbered(1)[:0])],
}
UNUSABLE = [
    ("c.txt", b"some text", "no format known"),
    ("c.parquet", b"some text", "no format known"),
    ("c.parquet", as_parquet(numbered(3))[:-20], "cut or damaged"),
    ("c.csv", "instruction,output\na,b\n".encode("utf-16"), "UTF-16"),
    ("c.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ("c.json", b"\n<!DOCTYPE html>\n<html></html>", "web page"),
    ("c.csv", b"PK\x03\x04rest", "ZIP archive"),
    ("c.jsonl", b"\x28\xb5\x2f\xfdrest", "compressed"),
    ("c.csv", b'"instruction,output\na,b\n', "no header"),
    ("c.csv", b"instruction,output\ra,b\r", "no header"),
    ("packed.csv.gz", gzip.compress(b"\xff\xfei\0", mtime=0), "packed.csv.gz is UTF-16"),
    ("c.csv", b"instruction,output,output\na,b,c\n", "two columns called 'output'"),
    *((name, content, "holds no rows") for name, contents in EMPTY.items() for content in contents),
]


@pytest.mark.parametrize(("name", "content", "message"), UNUSABLE)
def test_a_file_that_cannot_be_a_corpus_is_one_clear_error(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_file(written(tmp_path, name, content)))
    assert caught.value.remedy
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(read_file(path))
