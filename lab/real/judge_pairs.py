"""Verdicts of a run's judge about pairs that people have judged, as rows for `tapir audit`.

    python lab/audit/convert.py pandalm ../shared/data/agreement/pandalm_a.jsonl.gz > pandalm.jsonl
    python lab/real/judge_pairs.py pandalm.jsonl OUT --rows 60 > qwen.jsonl
    tapir audit qwen.jsonl

A sample of the labelled pairs is judged, the same for every judge; other judges' verdicts about it stand beside. The
judges are the modes of `judge.mode` (pairwise asks in both orders), each with a rationale and, as "terse", with scores
alone; each is read as written and, as "expected", over the score's log-probabilities. What each took goes to the
standard error. Replies stay in OUT/ledger.sqlite: a second call asks for what is missing only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trial import MODEL, NAMES, build_context

from tapir.config.annotators import LlmJudgeConfig
from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison
from tapir.models.judge import LlmJudge
from tapir.models.replies import Scores, read_scores

JUDGES = ("pairwise", "pairwise-terse", "single", "single-terse")


class Judge(LlmJudge):
    """A judge whose scores may be read as written, though it asked for their log-probabilities."""

    as_written = False

    def read(self, reply: Completion, rationale: str = "") -> Scores | Unscored:
        """Return the scores of a reply."""
        if self.as_written:
            return read_scores(reply.text, self.names, self.style)
        return super().read(reply, rationale)


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
    """Judge the sample and print the rows, those of people and of other judges first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--judges", default=",".join(JUDGES))
    parser.add_argument("--max-tokens", type=int, default=512, help="longest verdict")
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
    for kind in options.judges.split(","):
        for as_written in (True, False):
            for row in judge_all(pairs, options, kind, as_written=as_written):
                print(json.dumps(row), flush=True)


def judge_all(
    pairs: dict[str, list[dict[str, Any]]], options: argparse.Namespace, kind: str, *, as_written: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one judge, which asks for log-probabilities however it is read."""
    mode, _, form = kind.partition("-")
    context, begun = build_context(options), time.monotonic()
    section = LlmJudgeConfig.model_validate(
        {
            "kind": "llm",
            "endpoints": NAMES,
            "mode": mode,
            "rationale": form != "terse",
            "expected_score": True,
            "max_tokens": options.max_tokens,
        }
    )
    judge = Judge.build(section, context)
    judge.as_written = as_written
    name = f"{kind} {'written' if as_written else 'expected'}"
    asked = [
        Comparison(Instruction.of(rows[0]["instruction"], Origin("corpus")), rows[0]["answer_a"], rows[0]["answer_b"])
        for rows in pairs.values()
    ]
    try:
        for item, verdict in judge.judge(asked):
            row = {key: value for key, value in pairs[item][0].items() if key != "label"} | {"judge": name}
            if isinstance(verdict, Unscored):
                yield {**row, "unreadable": verdict.reason}
                continue
            for each in verdict:  # answer_a stood in the place of the reference, answer_b in that of the student's
                order = {"reference-first": {"order": "ab"}, "student-first": {"order": "ba"}}.get(each.order, {})
                yield {**row, "score_a": each.reference, "score_b": each.student, "scale": [1, 10], **order}
    finally:
        context.session.close()
        report(name, context.session.counts, time.monotonic() - begun)  # type: ignore[attr-defined]


def report(name: str, counts: dict[str, int], seconds: float) -> None:
    """Say what a judge took."""
    tokens: Sequence[str] = [f"{counts[key]} tokens {key}" for key in ("read", "written")]
    print(f"{name}: {counts['calls']} calls, {', '.join(tokens)}, {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
