"""Training data of a run as files that other trainers and `datasets` read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.config.toml import parse, without_idle
from tapir.data.files import write_json
from tapir.data.formats import LAYOUTS, preference, write_records
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.data.run.tables import read_rows, write_rows
from tapir.report.estimators import read_scale
from tapir.report.export.cards import facts, write_card
from tapir.report.export.folder import Mark, draft_folder
from tapir.report.export.lineage import ExportedExample, examples

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def export_mixture(store: RunStore, out: Path, number: int | None = None) -> list[str]:
    """Write the examples of a round, or of all rounds once each, as messages, Alpaca and ShareGPT; return remarks."""
    run = RunReader(store)
    rounds = run.choose(run.rounds("mixture"), number, "training data")
    with draft_folder(out, Mark.of(run, "mixture", rounds)) as draft:
        draft.mkdir()
        table = draft / "messages.parquet"  # read again below: cheaper than to gather the lineage once more
        rows = write_rows(table, ExportedExample, examples(run, rounds))
        write_records(draft / "messages.jsonl", map(_as_record, read_rows(table, ExportedExample)))
        for layout in ("alpaca", "sharegpt"):
            write_records(draft / f"{layout}.json", _convert(layout, read_rows(table, ExportedExample)))
        pairs = write_records(draft / "preferences.jsonl", _preferences(run, rounds))
        if not pairs:
            (draft / "preferences.jsonl").unlink()
        write_json(draft / "dataset_info.json", _dataset_info(read_rows(table, ExportedExample)))
        scale = read_scale(run, parse(without_idle(run.recipe)).curriculum)
        write_card(draft, "mixture-card.md.j2", rows=rows, rounds=rounds, pairs=pairs, scale=scale)
    plural = "s" * (len(rounds) > 1)
    return [f"{rows:,} examples of round{plural} {', '.join(map(str, rounds))}"]


def _dataset_info(rows: Iterable[ExportedExample]) -> dict[str, Any]:
    """Return what LLaMA-Factory has to know of the files; it takes only columns that are there for granted."""
    shipped = resources.files("tapir.report.export") / "dataset_info.json"
    info: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    chats = [[turn.role for turn in example.messages] for example in rows]
    systems, pairs = any(roles[0] == "system" for roles in chats), any(roles.count("user") > 1 for roles in chats)
    there = {"system": "system"} if systems else {}
    info["tapir_alpaca"]["columns"] |= there | ({"history": "history"} if pairs else {})
    return info


def _as_record(example: ExportedExample) -> dict[str, Any]:
    return asdict(example) | {"messages": [turn._asdict() for turn in example.messages]}


def _convert(layout: str, rows: Iterable[ExportedExample]) -> Iterator[dict[str, Any]]:
    for example in rows:
        *context, prompt, answer = example.messages
        yield LAYOUTS[layout](prompt.content, answer.content, context) | {"id": example.id}


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
        rows = write_rows(data / "train.parquet", ExportedExample, examples(run, rounds))
        sizes = [
            (each, write_rows(data / f"round-{each}.parquet", ExportedExample, examples(run, [each])))
            for each in rounds
        ]
        size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
        card = facts(run, rounds[-1], rounds)
        write_card(draft, "data-card.md.j2", f=card, title=out.name, sizes=sizes, size=size)
    return [f"{rows:,} distinct examples of {len(rounds)} round{'s' * (len(rounds) > 1)}"]
