"""Mean log-likelihood per token of the held-out answers of runs, under the student of every round, by task.

python lab/real/r2/likelihood.py STUDY [--recorded]

One row for each run, and one for the student before of each seed ("before/seed-N"), in STUDY/likelihood.jsonl; what is
there is not computed again. --recorded only prints the table.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.round import Checkpoint
from tapir.evaluation.statistics import mean_over_seeds
from tapir.models.local.loading import ModelSettings, load
from tapir.runs.build import prepare_student
from tapir.runs.session import stored_recipe

BEFORE = "before"


def main() -> None:
    """Measure every finished run, and print the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--recorded", action="store_true")
    options = parser.parse_args()
    table = options.study / "likelihood.jsonl"
    known = [json.loads(line) for line in table.read_text("utf-8").splitlines()] if table.exists() else []
    if not options.recorded:
        for run in sorted(path.parent for path in options.study.glob("*/seed-*/recipe.json")):
            for row in measure(run, {row["run"] for row in known}):
                known.append(row)
                with table.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    show(known)


def measure(run: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for the last round of a run, and for the student before it, as far as they were not measured yet."""
    store, recipe = RunStore(run), stored_recipe(run)
    rounds = recipe.curriculum.alpha().rounds
    if not (store.round(rounds) / "training.json").exists():
        return
    rows = store.read("round-0/evaluation", EvaluationRow)
    for name, number in ((f"{BEFORE}/{run.name}", 0), (f"{run.parent.name}/{run.name}", rounds)):
        if name not in done:
            path = str(store.round(number) / "checkpoint") if number else prepare_student(recipe).path
            tasks: dict[str, list[float]] = defaultdict(list)
            losses = answer_losses(Checkpoint(path, number), rows, ModelSettings.of(recipe.student))
            for row, loss in zip(rows, losses, strict=True):
                tasks[row.task].append(-loss)
            every = [value for values in tasks.values() for value in values]
            by_task = {task: [fmean(values), len(values)] for task, values in sorted(tasks.items())}
            yield {"run": name, "mean": fmean(every), "n": len(every), "tasks": by_task}


def answer_losses(checkpoint: Checkpoint, rows: Sequence[EvaluationRow], settings: ModelSettings) -> list[float]:
    """Return the mean loss per token of every expected answer after its instruction, end token included."""
    import torch
    from torch.nn.functional import cross_entropy

    model, tokenizer = load(checkpoint, settings)
    losses = []
    for row in rows:
        chat = [{"role": "user", "content": row.instruction}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        answer = tokenizer(row.expected, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
            losses.append(float(cross_entropy(logits, torch.tensor(answer))))
    return losses


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the mean over the seeds, the gain over the student before and the difference to random sampling."""
    found = {row["run"]: row["mean"] for row in rows}
    variants = sorted({name.partition("/")[0] for name in found})
    print("| variant | seeds | nats a token | against before | against random-tokens |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for variant in variants:
        own = {name.partition("/")[2]: value for name, value in found.items() if name.startswith(f"{variant}/")}
        cells = [f"{fmean(own.values()):.4f}"]
        for other in (BEFORE, "random-tokens"):
            pairs = [value - found[f"{other}/{seed}"] for seed, value in own.items() if f"{other}/{seed}" in found]
            gain = mean_over_seeds(pairs) if pairs and other != variant else None
            cells.append(f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain else "")
        print(f"| {variant} | {len(own)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
