"""Labels of the LLM tagger beside those of people, on a set of benchmarks/taggers.py.

    PYTHONPATH=benchmarks python lab/real/label_skills.py wizardlm OUT
    PYTHONPATH=benchmarks python lab/real/label_skills.py dolly OUT --rows 250     drawn with seed 7

Replies stay in OUT/ledger.sqlite.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score
from taggers import SETS, interval, shuffled
from trial import MODEL, NAMES, build_context

from tapir.config.annotators import LlmTaggerConfig
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers.llm import LlmTagger


def main() -> None:
    """Label every instruction; print accuracy, macro F1 and what was most often confused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rows", type=int, help="so many, drawn with seed 7 (default: all)")
    parser.add_argument("--recorded", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = shuffled(SETS[options.set]()[0], 7)[: options.rows]
    labels = sorted({label for _, label in rows})
    people = {one.id: label for one, label in rows}
    context = build_context(options)
    tagger = LlmTagger(
        context.session,
        context.prompts,
        LlmTaggerConfig(kind="llm", endpoints=NAMES),
        Taxonomy("skills", "1", TaskDistribution.of(dict.fromkeys(labels, 1.0))),
    )
    found: dict[str, str] = {}
    try:
        for name, tag in tagger.tag(one for one, _ in rows):
            found[name] = tag.task if isinstance(tag, TaskTag) else tag.kind
    finally:
        context.session.close()
    truth, said = (
        np.array(column) for column in zip(*((label, found[name]) for name, label in people.items()), strict=True)
    )
    draws = np.random.default_rng(0).integers(len(rows), size=(1_000, len(rows)))
    score = partial(f1_score, average="macro", labels=labels, zero_division=0)
    right = interval((truth == said).mean(), (truth == said)[draws].mean(axis=1))
    f1 = interval(score(truth, said), np.array([score(truth[draw], said[draw]) for draw in draws]))
    print(f"{options.set}: {len(rows)} instructions, {len(labels)} labels; {right} % right, macro F1 {f1}")
    confused = Counter((label, other) for label, other in zip(truth, said, strict=True) if label != other)
    print(", ".join(f"{label} taken for {other} {count}" for (label, other), count in confused.most_common(12)))


if __name__ == "__main__":
    main()
