"""Verdicts of a run's judge about pairs that people have judged, as rows for `tapir audit`.

    python lab/audit/convert.py pandalm ../shared/data/agreement/pandalm_a.jsonl.gz > pandalm.jsonl
    python lab/real/judge_pairs.py pandalm.jsonl OUT --rows 60 > qwen.jsonl
    tapir audit qwen.jsonl

A sample of the labelled pairs is judged in both orders, the same for every judge; other judges' verdicts about it stand
beside. Replies stay in OUT/ledger.sqlite: a second call asks for what is missing only.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from trial import MODEL, NAMES, build_context

from tapir.config.annotators import LlmJudgeConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison
from tapir.models.judge import LlmJudge


def sample(rows: list[dict[str, Any]], size: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows about `size` pairs that have a label, by instruction id; equal prompts only once."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        text = str(row.get("instruction") or row["prompt_id"]).strip()
        rows_of = pairs.setdefault(Instruction.of(text, Origin("corpus")).id, [])
        if not rows_of or (rows_of[0]["answer_a"] == row["answer_a"] and rows_of[0]["answer_b"] == row["answer_b"]):
            rows_of.append({**row, "instruction": text})
    labelled = [name for name, about in pairs.items() if any("label" in row for row in about)]
    return {name: pairs[name] for name in random.Random(seed).sample(labelled, min(size, len(labelled)))}


def main() -> None:
    """Judge the sample and print its rows, people's and other judges' first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--recorded", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with options.pairs.open(encoding="utf-8") as file:
        pairs = sample([json.loads(line) for line in file], options.rows, options.seed)
    for about in pairs.values():
        for row in about:
            print(json.dumps(row))
    texts = {name: (rows[0]["answer_a"], rows[0]["answer_b"]) for name, rows in pairs.items()}
    context = build_context(options)
    judge = LlmJudge.build(LlmJudgeConfig(kind="llm", endpoints=NAMES), context)
    asked = [
        Comparison(Instruction.of(rows[0]["instruction"], Origin("corpus")), *texts[name])
        for name, rows in pairs.items()
    ]
    try:
        for name, verdict in judge.judge(asked):
            row = {**pairs[name][0], "judge": options.model}
            row.pop("label", None)
            if isinstance(verdict, Unscored):
                print(json.dumps({**row, "unreadable": verdict.reason}))
                continue
            for each in verdict:  # answer_a stood in the place of the reference, answer_b in that of the student
                order = "ab" if each.order == "reference-first" else "ba"
                scores = {"score_a": each.reference, "score_b": each.student, "scale": [1, 10]}
                print(json.dumps({**row, **scores, "order": order}), flush=True)
    finally:
        context.session.close()


if __name__ == "__main__":
    main()
