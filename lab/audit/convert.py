"""Convert judged pairs of other benchmarks to the pair format of `tapir audit` (docs/audit.md).

    python lab/audit/convert.py pandalm pandalm_a.jsonl.gz > pandalm.jsonl
    tapir audit pandalm.jsonl

Formats: pandalm (PandaLM's test set), llmbar (LLMBar's dataset.json or result.json), tulu (Open-Instruct's human
evaluation), mt-bench (FastChat's pairwise judgements and human votes).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tapir.data.readers import records
from tapir.data.records import Record

Row: TypeAlias = dict[str, Any]

_NUMBERS = {"1": "a", "2": "b", "0": "tie", "tie": "tie"}
_TULU = {"a-is-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -2}
_POSITIONS = {
    "ab": {"a": "a", "b": "b", "tie": "tie", "c": "tie"},
    "ba": {"a": "b", "b": "a", "tie": "tie", "c": "tie"},
}
_MODELS = {"model_1": "a", "model_2": "b", "model_a": "a", "model_b": "b", "tie": "tie"}
_HUMAN = ("author_", "expert_", "human")


def pandalm(row: Row) -> Iterator[Row]:
    """Three annotators, and judges in columns that end in `_result`; the id is `idx`."""
    models = str(row.get("cmp_key") or "").split("_")
    pair = {
        "id": str(row["idx"]),
        "prompt_id": f"{row['instruction']}\n{row.get('input') or ''}",
        "answer_a": str(row["response1"]),
        "answer_b": str(row["response2"]),
        **(dict(zip(("model_a", "model_b"), models, strict=True)) if len(models) == 2 else {}),
    }
    label = {key: _verdict(value, _NUMBERS) for key, value in row.items() if key.startswith("annotator")}
    yield pair | {"label": label}
    for key, value in row.items():
        if key.endswith("_result"):
            yield pair | {"judge": key.removesuffix("_result"), "verdict": _verdict(value, _NUMBERS), "order": "ab"}


def llmbar(row: Row) -> Iterator[Row]:
    """One label by people, and in `result.json` the verdicts of a judge in both orders."""
    pair = {"instruction": row["input"], "answer_a": row["output_1"], "answer_b": row["output_2"]}
    yield pair | {"label": _verdict(row["label"], _NUMBERS)}
    for result in row.get("results") or ():
        for key, order in (("swap = False", "ab"), ("swap = True", "ba")):
            if key in result:  # the winner is named by the output's place in the file, not by the position shown
                yield pair | {"verdict": _verdict(result[key].get("winner"), _NUMBERS), "order": order}


def tulu(row: Row) -> Iterator[Row]:
    """Several people's preferences in five steps, as scores.

    The order shown is random, so which answer is `a` goes by the model: κ depends on it.
    """
    first, second = ("a", "b") if row["model_a"] <= row["model_b"] else ("b", "a")
    lead = _TULU.get(str(row.get("preference")))
    verdict: Row = {"verdict": row.get("preference")}
    if lead is not None:
        verdict = {"score_a": lead if first == "a" else -lead, "score_b": 0}
    yield {
        "instruction": row["prompt"],
        "answer_a": row[f"completion_{first}"],
        "answer_b": row[f"completion_{second}"],
        "model_a": row[f"model_{first}"],
        "model_b": row[f"model_{second}"],
        "order": first + second,
        "judge": row["evaluator"],
        "human": True,
        **verdict,
    }


def mt_bench(row: Row) -> Iterator[Row]:
    """Comparisons judged in both orders (`winner_ab` names the position, A or B), or votes of people."""
    models = str(row.get("model_a", row.get("model_1"))), str(row.get("model_b", row.get("model_2")))
    judge = row.get("judge_id", row.get("judge", "judge"))
    rater = str(judge[0] if isinstance(judge, list) else judge)
    pair = {
        "id": "/".join((str(row["question_id"]), str(row.get("turn", "")), *sorted(models))),
        "prompt_id": str(row["question_id"]),
        "model_a": models[0],
        "model_b": models[1],
        "judge": rater,
    }
    if "winner_ab" in row:
        for order, names in _POSITIONS.items():
            yield pair | {"verdict": _verdict(row[f"winner_{order}"], names), "order": order}
    elif "g1_winner" in row:
        for key, order in (("g1_winner", "ab"), ("g2_winner", "ba")):
            yield pair | {"verdict": _verdict(row.get(key), _MODELS), "order": order}
    else:
        verdict = _verdict(row.get("winner"), _MODELS | {"tie (inconsistent)": "tie"})
        yield pair | {"verdict": verdict, "human": rater.startswith(_HUMAN)}


CONVERTERS: Mapping[str, Callable[[Row], Iterator[Row]]] = {
    "pandalm": pandalm,
    "llmbar": llmbar,
    "tulu": tulu,
    "mt-bench": mt_bench,
}


def convert(name: str, path: Path) -> Iterator[Row]:
    """Convert every row of a file."""
    for row in records(path):
        if not isinstance(row, Record):
            sys.exit(f"{row.place}: {row.reason}")
        yield from CONVERTERS[name](row.fields)


def _verdict(value: object, names: Mapping[str, str]) -> object:
    """Return the verdict, or the value as it is where it is none: the audit counts it as unreadable."""
    return names.get(str(value).strip().casefold(), value)


def main() -> None:
    """Write the converted lines to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=CONVERTERS)
    parser.add_argument("file", type=Path, help="JSON, JSON Lines, CSV or Parquet, plain or gzipped")
    given = parser.parse_args()
    for line in convert(given.format, given.file):
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
