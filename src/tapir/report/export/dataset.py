"""Training data of a run as files that other trainers and `datasets` read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.data.files import write_json
from tapir.data.formats import LAYOUTS, messages, preference, write_records
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.completion import after_thought
from tapir.domain.instruction import Turn
from tapir.report.export.cards import facts, write_card
from tapir.report.export.folder import Mark, draft_folder
from tapir.report.export.lineage import ExportedExample, examples

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = 2048  # rows in memory at once while a table is written
_LINEAGE = [field.name for field in fields(ExportedExample) if field.name not in {"instruction", "response", "context"}]
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def export_mixture(store: RunStore, out: Path, number: int | None = None) -> list[str]:
    """Write the examples of a round, or of all rounds once each, as messages, Alpaca and ShareGPT; return remarks."""
    run = RunReader(store)
    rounds = run.choose(run.rounds("mixture"), number, "training data")
    with draft_folder(out, Mark.of(run, "mixture", rounds)) as draft:
        draft.mkdir()
        jsonl = draft / "messages.jsonl"
        rows = write_records(jsonl, map(as_record, examples(run, rounds)))
        for layout in ("alpaca", "sharegpt"):
            write_records(draft / f"{layout}.json", _convert(layout, jsonl))
        write_table(draft / "messages.parquet", _records(jsonl))
        pairs = write_records(draft / "preferences.jsonl", _preferences(run, rounds))
        if not pairs:
            (draft / "preferences.jsonl").unlink()
        write_json(draft / "dataset_info.json", _dataset_info(jsonl))
        write_card(draft, "mixture-card.md.j2", rows=rows, rounds=rounds, pairs=pairs)
    plural = "s" * (len(rounds) > 1)
    return [f"{rows:,} examples of round{plural} {', '.join(map(str, rounds))}"]


def _dataset_info(jsonl: Path) -> dict[str, Any]:
    """Return what LLaMA-Factory has to know of the files; it takes only columns that are there for granted."""
    shipped = resources.files("tapir.report.export") / "dataset_info.json"
    info: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    rows = [[turn["role"] for turn in record["messages"]] for record in _records(jsonl)]
    systems, pairs = any(roles[0] == "system" for roles in rows), any(roles.count("user") > 1 for roles in rows)
    there = {"system": "system"} if systems else {}
    info["tapir_alpaca"]["columns"] |= there | ({"history": "history"} if pairs else {})
    return info


def as_record(example: ExportedExample) -> dict[str, Any]:
    """Return a row of messages.jsonl: the conversation and its lineage."""
    answer = after_thought(example.thought, example.response)
    return messages(example.instruction, answer, example.context) | {name: getattr(example, name) for name in _LINEAGE}


def schema() -> pa.Schema:
    """Return the columns of messages.parquet, and of every table of the exported data set."""
    import pyarrow as pa

    text = pa.string()
    turn = pa.struct([("role", text), ("content", text)])
    columns = dict.fromkeys(["messages", *_LINEAGE], text)
    columns |= {"messages": pa.list_(turn), "parents": pa.list_(text), "rounds": pa.list_(pa.int64())}
    return pa.schema(list((columns | {"refined": pa.bool_(), "gap": pa.float64()}).items()))


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write records of `as_record` as Parquet, few of them in memory at once; returns how many there were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, count, source = schema(), 0, iter(rows)
    with pq.ParquetWriter(path, columns, compression="zstd") as table:
        while group := list(islice(source, _GROUP)):
            table.write_table(pa.Table.from_pylist(group, schema=columns))
            count += len(group)
    return count


def _records(jsonl: Path) -> Iterator[dict[str, Any]]:
    """Read messages.jsonl again: cheaper than to gather the lineage once more."""
    with jsonl.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _convert(layout: str, jsonl: Path) -> Iterator[dict[str, Any]]:
    for record in _records(jsonl):
        *context, prompt, answer = (Turn(**turn) for turn in record["messages"])
        yield LAYOUTS[layout](prompt.content, answer.content, context) | {"id": record["id"]}


def _preferences(run: RunReader, rounds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the pairs of the preference optimisation in the layout of TRL."""
    for number in rounds:
        for row in run.contrasts(number):
            pair = preference("messages", row.instruction, row.chosen, row.rejected, row.context)
            thoughts = {"thought": row.thought, "rejected_thought": row.rejected_thought}
            yield pair | thoughts | {"id": row.id, "gap": row.gap, "round": number}


def export_dataset(store: RunStore, out: Path, number: int | None = None) -> list[str]:
    """Write the examples of a round, or of every round, as Parquet with a data card; return remarks.

    The folder loads as it is: `load_dataset(folder)` gives each distinct example once, and
    `load_dataset(folder, "rounds")` what each round trained on.
    """
    run = RunReader(store)
    rounds = run.choose(run.rounds("mixture"), number, "training data")
    with draft_folder(out, Mark.of(run, "dataset", rounds)) as draft:
        data = draft / "data"
        data.mkdir(parents=True)
        rows = write_table(data / "train.parquet", map(as_record, examples(run, rounds)))
        sizes = [
            (each, write_table(data / f"round-{each}.parquet", map(as_record, examples(run, [each]))))
            for each in rounds
        ]
        size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
        card = facts(run, rounds[-1], rounds)
        write_card(draft, "data-card.md.j2", f=card, title=out.name, sizes=sizes, size=size)
    return [f"{rows:,} distinct examples of {len(rounds)} round{'s' * (len(rounds) > 1)}"]
