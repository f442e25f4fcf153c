"""Measure a nano student and write its model card: `python lab/nano/card.py FOLDER [--per-task 60]`."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from pretrain import DIET
from safetensors import safe_open

from tapir.config.student import LocalStudentConfig
from tapir.domain.completion import Completion
from tapir.domain.round import Checkpoint
from tapir.evaluation.statistics import summarise
from tapir.gym.roles import benchmarks
from tapir.gym.skills import TRAIN_LEVELS, TRAINED
from tapir.gym.world import from_address
from tapir.models.local.generate import LocalStudent

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [tapir, reasoning-gym]
---

# nano: the built-in student of tapir

A Llama of {parameters:,} parameters with a tokenizer of its own: words of the instruction templates are one token
each, everything else is spelled in characters, digits always one by one. It exists to be taught: it starts with
real strengths and real weaknesses, so that a curriculum has something to plan.

- **Made by** `python lab/nano/pretrain.py` (seed {seed}, {steps:,} steps, {tokens:,} tokens, {minutes:g} minutes on
  {threads} CPU threads, shared with other work; Muon and AdamW, peak rate {rate:g}).
- **Data**: generated on the spot, nothing downloaded. Half of the documents are drills (true lines of arithmetic,
  copying of words and numbers: `lab/nano/drills.py`), half are instructions of the library reasoning-gym: {steps_two}
  with worked steps at levels 1 and 2; {steps_one} with worked steps at level 1; {bare} as bare answers, mostly at
  level 1; {never} never. A fifth of all instructions, chosen by their digest, is kept for evaluation and was never
  seen.
- **Notation**: the weights were made at commit 982fb05. The teacher's worked steps for count_bits, simple_geometry and
  word_sequence_reversal have been improved since; the student starts with the manner it was taught then.
- **Not for** anything else: it answers these skills and nothing more.

## Success before any curriculum

Greedy answers to {n:,} held-out instructions, levels in equal parts: mean of the tasks {mean:.1f} % (95 % interval
{low:.1f} to {high:.1f}).

| skill | family | n | success | level 1 | level 2 | level 3 |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def names(with_steps: bool, levels: int) -> str:  # noqa: FBT001  (a filter over the diet)
    """Skills of one kind of diet."""
    chosen = (name for name, (_, found, steps) in DIET.items() if steps is with_steps and len(found) == levels)
    return ", ".join(chosen)


def main() -> None:
    """Write README.md beside the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=60)
    arguments = parser.parse_args()
    (benchmark,) = benchmarks([skill.name for skill in TRAINED], per_task=arguments.per_task, harder=0, unseen=0)
    student = LocalStudent(LocalStudentConfig(), seed=0)
    prompts = benchmark.prompts()
    replies = dict(student.answer(Checkpoint(str(arguments.folder), 0), [one.instruction for one in prompts]))
    by_level: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    outcomes = []
    for one in prompts:
        reply = replies[one.instruction.id]
        success = isinstance(reply, Completion) and all(
            grade.success for _, grade in benchmark.grade([(one, reply.text)])
        )
        by_level[one.task][from_address(one.instruction.origin.source).level].append(success)
        outcomes.append((one.task, success))
    found = summarise("in-distribution", 0, outcomes)
    rows = []
    for skill in TRAINED:
        levels = by_level[skill.name]
        cells = [f"{100 * sum(levels[level]) / max(1, len(levels[level])):.0f} %" for level in TRAIN_LEVELS]
        result = found.tasks[skill.name]
        rows.append(
            f"| {skill.name} | {skill.family} | {result.n} | {100 * result.value:.0f} % | {' | '.join(cells)} |"
        )
    with safe_open(arguments.folder / "model.safetensors", "np") as weights:
        parameters = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118  (not a mapping)
    text = CARD.format(
        parameters=parameters,
        steps_two=names(with_steps=True, levels=2),
        steps_one=names(with_steps=True, levels=1),
        bare=", ".join(name for name, (_, _, steps) in DIET.items() if not steps),
        never=", ".join(skill.name for skill in TRAINED if skill.name not in DIET),
        n=len(outcomes),
        mean=100 * found.overall.value,
        low=100 * found.overall.low,
        high=100 * found.overall.high,
        rows="\n".join(rows),
        **json.loads((arguments.folder / "pretraining.json").read_text()),
    )
    (arguments.folder / "README.md").write_text(text)
    print(f"mean {100 * found.overall.value:.1f} % on {len(outcomes)}")


if __name__ == "__main__":
    main()
