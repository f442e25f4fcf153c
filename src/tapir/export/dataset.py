"""The data set of a run, as `datasets` loads it, with its card."""

from __future__ import annotations

from pathlib import Path

from tapir.export.facts import facts
from tapir.export.folder import Exported, Mark, drafted, run_id
from tapir.export.lineage import chosen_rounds, examples
from tapir.export.mixture import as_record, write_table
from tapir.export.texts import environment
from tapir.store.files import write_text
from tapir.store.run import RunStore

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def export_dataset(store: RunStore, out: Path, number: int | None = None) -> Exported:
    """Write the examples of a round, or of every round, as Parquet with a data card.

    The folder loads as it is: `load_dataset(folder)` gives each distinct example once, and
    `load_dataset(folder, "rounds")` what each round trained on.

    Args:
        store: the run.
        out: folder to make.
        number: round; None for all.

    Raises:
        DataError: there is no such round, or none with training data.
        StoreError: the folder holds something else.
    """
    rounds = chosen_rounds(store, number)
    with drafted(out, Mark("dataset", run_id(store), tuple(rounds))) as draft:
        data = draft / "data"
        data.mkdir(parents=True)
        rows = write_table(data / "train.parquet", map(as_record, examples(store, rounds)))
        sizes = [
            (one, write_table(data / f"round-{one}.parquet", map(as_record, examples(store, [one])))) for one in rounds
        ]
        card = environment().get_template("data-card.md.j2")
        size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
        text = card.render(f=facts(store, rounds[-1], rounds), title=out.name, sizes=sizes, size=size)
        write_text(draft / "README.md", text.lstrip("\n"))
    return Exported(out, (f"{rows:,} distinct examples of {len(rounds)} {'round' if len(rounds) == 1 else 'rounds'}",))
