"""The training data as files that other trainers read, with a configuration for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.export.configs import configs
from tapir.export.folder import Exported, Mark, drafted, run_id
from tapir.export.lineage import Example, chosen_rounds, examples
from tapir.export.texts import environment
from tapir.recipe import Recipe
from tapir.recipe_file import restored
from tapir.store.files import read_json, write_text
from tapir.store.rows import ContrastRow
from tapir.store.run import RunStore
from tapir.training.formats import LAYOUTS, messages, preference, write_records

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = 2048  # rows in memory at once while a table is written


def export_mixture(store: RunStore, out: Path, number: int | None = None, *, base: str = "") -> Exported:
    """Write what a round, or every round, was trained on, in the layouts messages, Alpaca and ShareGPT.

    Args:
        store: the run.
        out: folder to make.
        number: round; None for all, each example once.
        base: model that the configurations train, in place of the recipe's student.

    Raises:
        DataError: there is no such round, or none with training data.
        StoreError: the folder holds something else.
    """
    recipe = recipe_of(store)
    rounds = chosen_rounds(store, number)
    with drafted(out, Mark("mixture", run_id(store), tuple(rounds))) as draft:
        draft.mkdir()
        written = draft / "messages.jsonl"
        rows = write_records(written, map(as_record, examples(store, rounds)))
        for layout in ("alpaca", "sharegpt"):
            write_records(draft / f"{layout}.json", _in_layout(layout, written))
        write_table(draft / "messages.parquet", _records(written))
        pairs = write_records(draft / "preferences.jsonl", _preferences(store, rounds))
        if not pairs:
            (draft / "preferences.jsonl").unlink()
        texts = configs(recipe, rounds, rows, base)
        for name, text in texts.items():
            write_text(draft / name, text)
        card = environment().get_template("mixture-card.md.j2")
        write_text(draft / "README.md", card.render(rows=rows, rounds=rounds, pairs=pairs, names=sorted(texts)))
    notes = (f"{rows:,} examples of {'round' if len(rounds) == 1 else 'rounds'} {', '.join(map(str, rounds))}",)
    return Exported(out, notes)


def recipe_of(store: RunStore) -> Recipe:
    """The run's recipe.

    Raises:
        StoreError: the folder is no run directory.
        RecipeError: this version cannot read it.
    """
    return restored(read_json(store.folder / "recipe.json", "Name the folder of a run, e.g. runs/gym."))


def as_record(one: Example) -> dict[str, Any]:
    """A row of messages.jsonl: the conversation and its lineage."""
    lineage = {name: getattr(one, name) for name in one.__dataclass_fields__ if name not in {"instruction", "response"}}
    return messages(one.instruction, one.response) | lineage


def schema() -> pa.Schema:
    """Columns of messages.parquet, and of every table of the exported data set."""
    import pyarrow as pa

    text = pa.string()
    turn = pa.struct([("role", text), ("content", text)])
    return pa.schema(
        [
            ("messages", pa.list_(turn)),
            ("id", text),
            ("task", text),
            ("pool", text),
            ("origin", text),
            ("parents", pa.list_(text)),
            ("source", text),
            ("author", text),
            ("refined", pa.bool_()),
            ("refiner", text),
            ("gap", pa.float64()),
            ("rounds", pa.list_(pa.int64())),
        ]
    )


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


def _records(written: Path) -> Iterator[dict[str, Any]]:
    """The rows of messages.jsonl again: cheaper than to gather the lineage once more."""
    with written.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _in_layout(layout: str, written: Path) -> Iterator[dict[str, Any]]:
    for one in _records(written):
        prompt, answer = (turn["content"] for turn in one["messages"])
        yield LAYOUTS[layout](prompt, answer) | {"id": one["id"]}


def _preferences(store: RunStore, rounds: list[int]) -> Iterator[dict[str, Any]]:
    """What preference optimisation was given, in the layout of TRL."""
    for number in rounds:
        if store.has(f"round-{number}/contrasts"):
            for row in store.each(f"round-{number}/contrasts", ContrastRow):
                pair = preference("messages", row.instruction, row.chosen, row.rejected)
                yield pair | {"id": row.id, "gap": row.gap, "round": number}
