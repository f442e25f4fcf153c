"""Corpus files in every container, made from rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

from tapir.data.layouts import Row
from tapir.domain.completion import part_thought
from tapir.domain.roles import Rejected

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
    "tsv": ("corpus.tsv", partial(as_table, separator="\t")),
    "parquet": ("corpus.parquet", as_parquet),
}
TEXTS = {name: kind for name, kind in CONTAINERS.items() if name != "parquet"}
LINES_AND_TABLES = ("lines", "csv", "tsv")

any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.just(ODD)
answers = any_text.filter(lambda text: part_thought(text) == ("", text))
any_rows = st.lists(
    st.fixed_dictionaries({"instruction": any_text.map("Do {}".format), "input": any_text, "output": answers}),
    min_size=1,
    max_size=5,
)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def lines(folder: Path, *rows: str | bytes) -> Path:
    return written(folder, "corpus.jsonl", b"".join((r if isinstance(r, bytes) else r.encode()) + b"\n" for r in rows))


def numbered(count: int) -> list[Fields]:
    return [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(1, count + 1)]


def good(result: Sequence[Row | Rejected]) -> list[str]:
    return [row.text for row in result if isinstance(row, Row)]


def bad(result: Sequence[Row | Rejected]) -> list[tuple[str, str]]:
    return [(row.place, row.reason) for row in result if isinstance(row, Rejected)]
