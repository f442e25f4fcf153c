"""Labels of the LLM tagger beside those of people: WizardLM's test set, 218 instructions of 29 skills.

    python lab/real/label_skills.py ../shared/data/task_types/wizardlm_testset.jsonl OUT

Replies stay in OUT/ledger.sqlite.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from sklearn.metrics import f1_score
from trial import MODEL, NAMES, build_context

from tapir.config.annotators import LlmTaggerConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers.llm import LlmTagger


def main() -> None:
    """Label every instruction; print accuracy, macro F1 and what was most often confused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--recorded", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.data.read_text("utf-8").split("\n") if line]
    labels = sorted({row["Skill"] for row in rows})
    people = {Instruction.of(row["Instruction"], Origin("corpus")).id: row["Skill"] for row in rows}
    context = build_context(options)
    tagger = LlmTagger(
        context.session,
        context.prompts,
        LlmTaggerConfig(kind="llm", endpoints=NAMES),
        Taxonomy("skills", "1", TaskDistribution.of(dict.fromkeys(labels, 1.0))),
    )
    found: dict[str, str] = {}
    try:
        for name, tag in tagger.tag(Instruction.of(row["Instruction"], Origin("corpus")) for row in rows):
            found[name] = tag.task if isinstance(tag, TaskTag) else tag.kind
    finally:
        context.session.close()
    right = sum(found.get(name) == label for name, label in people.items())
    confused = Counter((label, found[name]) for name, label in people.items() if found[name] != label)
    truth, said = zip(*((label, found[name]) for name, label in people.items()), strict=True)
    f1 = 100 * f1_score(truth, said, average="macro", labels=labels)
    print(f"{right} of {len(people)} right ({100 * right / len(people):.1f} %), macro F1 {f1:.1f}")
    print(", ".join(f"{label} taken for {other} {count}" for (label, other), count in confused.most_common(12)))


if __name__ == "__main__":
    main()
