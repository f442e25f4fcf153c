"""Containers: whatever a file is and whatever happened to it, its rows are read or set aside."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tapir.data.readers import BadRow, Row, read_file
from tapir.errors import DataError
from tests.data.containers import (
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
    only,
    some,
    written,
)


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
        ("c.json.gz", gzip.compress(b"", mtime=0)),
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
